//! A model of everything L1's coherence rests on.
//!
//! Real sessions, the real reader, stamps, store and tracked connections, and real pipes of shared
//! connections, around a simulated server, without sockets and without the time. A seed decides what
//! happens next; each reply is judged by what was true at the server, and when. Left without any one of
//! its [rules](super::Rule), L1 must be caught. `docs/coherence.md` tells the rest.

mod client;
mod events;
mod exhaustive;
mod link;
mod proxy;
mod rest;
mod rng;
mod server;
mod truth;
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;

use self::rng::Rng;
use self::truth::Fault;
use self::world::{Mood, Setting, World};
use super::Rule;
use crate::commands::CommandTable;

/// Things that happen in one run.
const STEPS: usize = 4_000;

/// What became of one run.
struct Outcome {
    fault: Option<Fault>,
    /// At which step.
    step: usize,
    counts: BTreeMap<&'static str, u64>,
}

fn setting(table: &Arc<CommandTable>, seed: u64, rule: Option<Rule>) -> Setting {
    let moods = [
        Mood::Even,
        Mood::LatePushes,
        Mood::LateReplies,
        Mood::Stormy,
    ];
    Setting {
        table: table.clone(),
        rule,
        swaps: seed % 16 == 9,
        stops_mono: seed.is_multiple_of(2),
        pipelines: seed.is_multiple_of(3),
        mood: moods[(seed / 2 % 4) as usize],
    }
}

fn run(table: &Arc<CommandTable>, seed: u64, rule: Option<Rule>) -> Outcome {
    let mut rng = Rng::new(seed);
    let mut world = World::new(setting(table, seed, rule));
    let traces = std::env::var("NEARKEY_MODEL_TRACE").is_ok();
    if traces {
        (world.log, world.server.log) = (Some(Vec::new()), Some(Vec::new()));
    }
    let (mut step, mut fault) = (0, None);
    while fault.is_none() && step < STEPS {
        fault = events::step(&mut world, &mut rng).err();
        if let (Some(log), Some(executed)) = (&mut world.log, &mut world.server.log) {
            log.append(executed);
        }
        step += 1;
    }
    let fault = fault.or_else(|| world.rest().err());
    if let (Some(log), Some(_)) = (&world.log, &fault) {
        println!("{}", log[log.len().saturating_sub(150)..].join("\n"));
    }
    Outcome {
        fault,
        step,
        counts: count(world),
    }
}

/// How often what happened, to the world and to L1.
fn count(world: World) -> BTreeMap<&'static str, u64> {
    let mut counts = world.counts;
    let counters = &world.stats.counters;
    for (name, n) in [
        ("fills", counters.l1_fills.get()),
        ("fills that came too late", counters.l1_fills_moved.get()),
        ("reads that joined a fetch", counters.l1_joins.get()),
        ("reads behind others", counters.l1_bypass_pipeline.get()),
        ("reads not worth a fetch", counters.l1_bypass_waste.get()),
        ("reads without a connection", counters.l1_bypass_down.get()),
        ("pushes", counters.l1_pushes.get()),
        ("null pushes", counters.l1_flushes.get()),
        ("reads judged", world.judge.reads),
    ] {
        counts.insert(name, n);
    }
    counts
}

fn table() -> Arc<CommandTable> {
    Arc::new(CommandTable::builtin())
}

fn number_in(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// `NEARKEY_MODEL_SEEDS` says how many; `NEARKEY_MODEL_SEED` picks one, and `NEARKEY_MODEL_TRACE` tells its
/// story if it ends badly.
#[test]
fn no_reply_is_wrong_while_all_rules_are_kept() {
    let (table, mut counts) = (table(), BTreeMap::new());
    let seeds = match number_in("NEARKEY_MODEL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number_in("NEARKEY_MODEL_SEEDS").unwrap_or(400),
    };
    let all = seeds.end - seeds.start;
    for seed in seeds {
        let outcome = run(&table, seed, None);
        if let Some((wrong, text)) = outcome.fault {
            panic!("seed {seed}, step {}: {wrong:?}: {text}", outcome.step);
        }
        for (name, n) in outcome.counts {
            *counts.entry(name).or_insert(0) += n;
        }
    }
    println!("{all} seeds: {counts:#?}");
    if all < 100 {
        return; // too few for everything to happen
    }
    for name in events::names().chain(RARE) {
        assert!(counts.get(name).is_some_and(|n| *n > 0), "never: {name}");
    }
    let of = |name| counts.get(name).copied().unwrap_or(0);
    assert!(of("hits") * 5 >= of("reads asked of L1"), "too few hits");
}

/// What must have happened beside the events, or the runs prove nothing.
const RARE: [&str; 18] = [
    "a rush",
    "a client selects another database",
    "a client swaps databases",
    "a script writes what it does not name",
    "a transaction",
    "another changes a key",
    "another flushes",
    "another swaps databases",
    "the machine freezes",
    "fills",
    "fills that came too late",
    "reads that joined a fetch",
    "reads behind others",
    "reads not worth a fetch",
    "reads ordered in advance",
    "reads that showed nothing new",
    "pushes",
    "null pushes",
];

/// All rules, and whether L1 must be caught without them. What a write touches when it is sent is touched
/// again when it is answered, and that covers it: `docs/coherence.md` says why.
const RULES: [(Rule, bool); 13] = [
    (Rule::Stamps, true),
    (Rule::Pushes, true),
    (Rule::NullPushes, true),
    (Rule::SentWrites, false),
    (Rule::AnsweredWrites, true),
    (Rule::UnknownWrites, true),
    (Rule::StrictPipeline, true),
    (Rule::VersionedJoin, true),
    (Rule::Shown, true),
    (Rule::Lease, true),
    (Rule::LostLink, true),
    (Rule::Expiry, true),
    (Rule::Scope, true),
];

/// Up to this many seeds must be enough. Hashes differ from run to run, and with them what a seed tells: seldom are more
/// than a hundred needed.
const ENOUGH: u64 = 3000;

#[test]
fn l1_is_caught_without_any_of_its_rules() {
    let table = table();
    let asked = number_in("NEARKEY_MODEL_SEEDS");
    for (rule, is_needed) in RULES {
        let (mut caught, mut wrongs) = (0, BTreeMap::new());
        // Without being asked for figures, the first proof is enough; that there is none needs a few.
        let usual = if is_needed { ENOUGH } else { 40 };
        let mut all = 0;
        while all < asked.unwrap_or(usual) && (asked.is_some() || caught == 0) {
            if let Some((wrong, _)) = run(&table, all, Some(rule)).fault {
                caught += 1;
                *wrongs.entry(wrong).or_insert(0) += 1;
            }
            all += 1;
        }
        println!("without {rule:?}: {caught} of {all} seeds: {wrongs:?}");
        assert_eq!(caught > 0, is_needed, "{rule:?} in {all} seeds");
    }
}
