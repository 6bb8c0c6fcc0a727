//! Which share of reads is answered, and what a scan does to it.

use super::policies;
use super::world::{World, zipf};

const KEYS: u32 = 1_000_000;
const WARM: usize = 3_000_000;
const READS: usize = 5_000_000;
const VALUE: usize = 100;

/// Zipf 0.99 over a million keys, at 1% and 5% of them.
pub fn run() {
    let trace = zipf(KEYS, 0.99, WARM + READS);
    println!("\nHit ratio, Zipf 0.99, {KEYS} keys, {READS} reads after {WARM}");
    println!(
        "server commands: for each read, with 3 for a fill and 1 for any other miss; 1 without L1\n"
    );
    println!("| | 1% | fills | server commands | 5% | fills | server commands |");
    println!("|---|---|---|---|---|---|---|");
    let shares = [KEYS as usize / 100, KEYS as usize / 20];
    for (name, threshold) in [
        ("**L1, as it is**", None),
        ("L1, always on second sight", Some(1)),
        ("L1, always on first sight", Some(0)),
    ] {
        let cells = shares.map(|capacity| l1(&trace, capacity, threshold));
        println!("| {name} | {} | {} |", cells[0], cells[1]);
    }
    type Policy = fn(&[u32], usize, usize) -> u64;
    let policies: [(&str, Policy); 4] = [
        ("LRU", policies::lru),
        ("moka alone", policies::moka),
        ("static best", policies::static_best),
        ("Belady", policies::belady),
    ];
    for (name, policy) in policies {
        let cells = shares.map(|capacity| {
            let ratio = policy(&trace, capacity, WARM) as f64 / READS as f64;
            if name == "static best" {
                return format!("{ratio:.3} | 0 | {:.3}", 1.0 - ratio);
            }
            format!(
                "{ratio:.3} | {:.3} | {:.3}",
                1.0 - ratio,
                3.0 * (1.0 - ratio)
            )
        });
        println!("| {name} | {} | {} |", cells[0], cells[1]);
    }
}

/// `max_bytes` is what so many entries take: fronts and queue come out of it.
fn l1(trace: &[u32], capacity: usize, threshold: Option<u8>) -> String {
    let mut world = World::new(capacity * World::weight(VALUE), VALUE);
    world.threshold = threshold;
    for id in &trace[..WARM] {
        world.read(*id);
    }
    world.fills = 0;
    let hits = trace[WARM..].iter().filter(|id| world.read(**id)).count();
    let reads = READS as f64;
    let (ratio, fills) = (hits as f64 / reads, world.fills as f64 / reads);
    eprintln!(
        "{:?} threshold {}",
        world.store.counts(),
        world.store.threshold()
    );
    format!("{ratio:.3} | {fills:.3} | {:.3}", 1.0 - ratio + 2.0 * fills)
}

/// A million keys read once each, between reads of a hot set that fills a fifth of L1.
pub fn scan() {
    const HOT: u32 = 2_000;
    let mut world = World::new(10_000 * World::weight(VALUE), VALUE);
    let hot = zipf(HOT, 0.99, 400_000);
    for id in &hot {
        world.read(*id);
    }
    let hit = |world: &mut World, from: usize| {
        let part = &hot[from..from + 100_000];
        let hits = part.iter().filter(|id| world.read(**id)).count();
        hits as f64 / 100_000.0
    };
    let before = hit(&mut world, 0);
    world.fills = 0;
    for id in HOT..HOT + 1_000_000 {
        world.read(id);
    }
    let admitted = world.fills;
    let after = hit(&mut world, 100_000);
    println!("\nA scan of 1,000,000 cold keys past a hot set of {HOT}\n");
    println!("| hot set answered before | after | cold keys admitted |\n|---|---|---|");
    println!(
        "| {before:.4} | {after:.4} | {admitted} ({:.2}%) |",
        admitted as f64 / 1e4
    );
}
