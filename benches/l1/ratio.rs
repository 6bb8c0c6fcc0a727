//! Which share of reads is answered, and what a scan does to it.

use super::policies;
use super::world::{World, zipf};

const KEYS: u32 = 1_000_000;
const WARM: usize = 3_000_000;
const READS: usize = 5_000_000;
const VALUE: usize = 100;

/// Makes a variant of a world, whose bound is given.
type Change = fn(&mut World, usize);

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
    let variants: [(&str, Change); 6] = [
        ("**L1, as it is**", |_, _| {}),
        ("its store without fronts", |world, _| {
            world.has_front = false
        }),
        (
            "fronts that keep their hits to themselves",
            World::make_deaf,
        ),
        ("always on second sight", |world, _| {
            world.threshold = Some(1)
        }),
        (
            "the same, and fronts that keep their hits to themselves",
            |world, bytes| {
                world.threshold = Some(1);
                world.make_deaf(bytes);
            },
        ),
        ("always on first sight", |world, _| {
            world.threshold = Some(0)
        }),
    ];
    for (name, change) in variants {
        let cells = shares.map(|capacity| l1(&trace, capacity, change));
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
fn l1(trace: &[u32], capacity: usize, change: Change) -> String {
    let max_bytes = capacity * World::weight(VALUE);
    let mut world = World::new(max_bytes, VALUE);
    change(&mut world, max_bytes);
    for id in &trace[..WARM] {
        world.read(*id);
    }
    world.fills = 0;
    let hits = trace[WARM..].iter().filter(|id| world.read(**id)).count();
    let reads = READS as f64;
    let (ratio, fills) = (hits as f64 / reads, world.fills as f64 / reads);
    format!("{ratio:.3} | {fills:.3} | {:.3}", 1.0 - ratio + 2.0 * fills)
}

/// All keys become others at once: how soon the new hot ones are answered.
pub fn shift() {
    const PART: usize = 250_000;
    println!("\nHit ratio at 1% after all keys became others, for each {PART} reads\n");
    println!("| | before | 1st | 2nd | 3rd | 4th | 8th |");
    println!("|---|---|---|---|---|---|---|");
    let trace = zipf(KEYS, 0.99, WARM + 8 * PART);
    for (name, threshold) in [("as it is", None), ("always on second sight", Some(1))] {
        let capacity = KEYS as usize / 100;
        let mut world = World::new(capacity * World::weight(VALUE), VALUE);
        world.threshold = threshold;
        let mut part = |reads: &[u32], offset: u32| {
            let hits = reads.iter().filter(|id| world.read(**id + offset)).count();
            hits as f64 / reads.len() as f64
        };
        part(&trace[..WARM - PART], 0);
        let before = part(&trace[WARM - PART..WARM], 0);
        let after: Vec<f64> = trace[WARM..]
            .chunks(PART)
            .map(|reads| part(reads, KEYS))
            .collect();
        print!("| {name} | {before:.3} |");
        for at in [0, 1, 2, 3, 7] {
            print!(" {:.3} |", after[at]);
        }
        println!();
    }
}

/// A million keys read once each, after and between reads of a hot set that fills a fifth of L1.
pub fn scan() {
    const HOT: u32 = 2_000;
    println!("\nA scan of 1,000,000 cold keys past a hot set of {HOT}; room for 10,000\n");
    println!("| reads of the hot set meanwhile | of it held before | after | cold keys admitted |");
    println!("|---|---|---|---|");
    for between in [None, Some(100), Some(10)] {
        let mut world = World::new(10_000 * World::weight(VALUE), VALUE);
        let hot = zipf(HOT, 0.99, 400_000);
        for id in &hot {
            world.read(*id);
        }
        world.store.settle();
        let held = |world: &World| (0..HOT).filter(|id| world.holds(*id)).count();
        let before = held(&world);
        world.fills = 0;
        let mut admitted = 0;
        for cold in 0..1_000_000 {
            world.read(HOT + cold);
            admitted += std::mem::take(&mut world.fills);
            if between.is_some_and(|between| cold % between == 0) {
                world.read(hot[cold as usize % hot.len()]);
                world.fills = 0;
            }
        }
        world.store.settle();
        let after = held(&world);
        let reads = between.map_or("none".to_owned(), |n| format!("one to {n}"));
        let share = admitted as f64 / 1e4;
        println!("| {reads} | {before} | {after} | {admitted} ({share:.2}%) |");
    }
}
