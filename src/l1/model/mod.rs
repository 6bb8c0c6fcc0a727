//! A model of everything L1's coherence rests on.
//!
//! Real sessions, the real reader, stamps, store and tracked connections, and real pipes of shared
//! connections, around a simulated server, without sockets and without the time. A seed decides what
//! happens next; each reply is judged by what was true at the server, and when. Left without any one of
//! its [rules](super::Rule), L1 must be caught. `docs/coherence.md` tells the rest.

mod client;
mod events;
mod link;
mod proxy;
mod rng;
mod server;
mod truth;
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;

use self::rng::Rng;
use self::truth::{Fault, Wrong};
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

fn run(table: &Arc<CommandTable>, seed: u64, rule: Option<Rule>) -> Outcome {
    let mut rng = Rng::new(seed);
    let setting = Setting {
        table: table.clone(),
        rule,
        swaps: seed % 16 == 9,
        stops_mono: seed % 2 == 0,
        mood: [
            Mood::Even,
            Mood::LatePushes,
            Mood::LateReplies,
            Mood::Stormy,
        ][(seed / 2 % 4) as usize],
    };
    let mut world = World::new(setting);
    let mut outcome = Outcome {
        fault: None,
        step: 0,
        counts: BTreeMap::new(),
    };
    let traces = std::env::var("NEARKEY_MODEL_TRACE").is_ok();
    if traces {
        (world.log, world.server.log) = (Some(Vec::new()), Some(Vec::new()));
    }
    for step in 0..STEPS {
        outcome.step = step;
        if traces {
            let executed = world.server.log.as_mut().map(std::mem::take);
            let log = world.log.get_or_insert_default();
            log.extend(executed.unwrap_or_default());
        }
        if let Err(fault) = events::step(&mut world, &mut rng) {
            outcome.fault = Some(fault);
            break;
        }
    }
    if outcome.fault.is_none() {
        outcome.fault = world.rest().err();
    }
    if let (Some(log), Some(_)) = (&world.log, &outcome.fault) {
        let first = log.len().saturating_sub(150);
        println!("{}", log[first..].join("\n"));
    }
    let counters = &world.stats.counters;
    for (name, counter) in [
        ("fills", &counters.l1_fills),
        ("fills that came too late", &counters.l1_fills_moved),
        ("reads that joined a fetch", &counters.l1_joins),
        (
            "reads that bypassed a pipeline",
            &counters.l1_bypass_pipeline,
        ),
        ("pushes", &counters.l1_pushes),
        ("null pushes", &counters.l1_flushes),
    ] {
        world.counts.insert(name, counter.get());
    }
    world.counts.insert("reads judged", world.judge.reads);
    outcome.counts = world.counts;
    outcome
}

fn table() -> Arc<CommandTable> {
    Arc::new(CommandTable::builtin())
}

fn seeds(usual: u64) -> u64 {
    let asked = std::env::var("NEARKEY_MODEL_SEEDS").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(usual)
}

#[test]
fn no_reply_is_wrong_while_all_rules_are_kept() {
    let table = table();
    let mut counts = BTreeMap::new();
    let first = std::env::var("NEARKEY_MODEL_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    for seed in first.unwrap_or(0)..first.map_or(seeds(40), |first: u64| first + 1) {
        let outcome = run(&table, seed, None);
        if let Some((wrong, text)) = outcome.fault {
            panic!("seed {seed}, step {}: {wrong:?}: {text}", outcome.step);
        }
        for (name, n) in outcome.counts {
            *counts.entry(name).or_insert(0) += n;
        }
    }
    println!("{counts:#?}");
    for name in events::names() {
        assert!(counts.get(name).is_some_and(|n| *n > 0), "never: {name}");
    }
    let of = |name| counts.get(name).copied().unwrap_or(0);
    assert!(of("hits") * 5 >= of("reads asked of L1"), "too few hits");
}

/// All rules, and what goes wrong first without them; nothing where another rule covers it.
const WITHOUT: [(Rule, &[Wrong]); 13] = [
    (Rule::Stamps, &[]),
    (Rule::Pushes, &[]),
    (Rule::NullPushes, &[]),
    (Rule::SentWrites, &[]),
    (Rule::AnsweredWrites, &[]),
    (Rule::UnknownWrites, &[]),
    (Rule::StrictPipeline, &[]),
    (Rule::VersionedJoin, &[]),
    (Rule::Shown, &[]),
    (Rule::Lease, &[]),
    (Rule::LostLink, &[]),
    (Rule::Expiry, &[]),
    (Rule::Scope, &[]),
];

#[test]
fn each_rule_left_out_is_convicted() {
    let table = table();
    let all = seeds(300);
    for (rule, _) in WITHOUT {
        let (mut failed, mut kinds) = (0, BTreeMap::new());
        for seed in 0..all {
            if let Some((wrong, text)) = run(&table, seed, Some(rule)).fault {
                failed += 1;
                let known = kinds.entry(wrong).or_insert((0, seed, text));
                known.0 += 1;
            }
        }
        let kinds: Vec<_> = kinds
            .iter()
            .map(|(w, (n, seed, _))| format!("{w:?} {n} (seed {seed})"))
            .collect();
        println!("{rule:?}: {failed} of {all}: {kinds:?}");
    }
}
