//! Memory really used, beside the bound.

use std::process::Command;

use super::world::World;

/// Bytes of resident memory of this process.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<usize>().ok());
    pages.unwrap_or(0) * 4096
}

/// Each case in a process of its own: what is freed is not given back.
pub fn run() {
    println!("\nResident memory of a full store, MiB");
    println!(
        "\n| max_bytes | value | entries | by its own count | resident | of the bound | flushed and filled again |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (bound, value) in [(64, 50), (64, 1_000), (64, 20_000), (256, 50), (256, 1_000)] {
        let exe = std::env::current_exe().unwrap_or_default();
        let case = [bound.to_string(), value.to_string()];
        let done = Command::new(exe).arg("memory-of").args(case).status();
        if done.is_err() {
            println!("| {bound} | {value} | failed |");
        }
    }
}

/// One case: the bound in MiB and the length of values.
pub fn measure(case: &[String]) {
    let number = |at: usize| {
        case.get(at)
            .and_then(|n| n.parse::<usize>().ok())
            .unwrap_or(64)
    };
    let (bound, value) = (number(0) << 20, number(1));
    let mut world = World::new(bound, value);
    world.threshold = Some(0);
    // The sketch and what else does not grow with entries.
    world.read(0);
    world.store.settle();
    let before = resident();
    let keys = (bound / (value + 400) * 3) as u32;
    for id in 1..keys {
        world.read(id);
    }
    world.store.settle();
    let (after, counts) = (resident() - before, world.store.counts());
    // What is freed stays with the process; it must do for the next entries.
    world.store.flush(None);
    world.store.settle();
    for id in keys..2 * keys {
        world.read(id);
    }
    world.store.settle();
    let again = resident() - before;
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    println!(
        "| {} | {value} | {} | {:.1} | {:.1} | {:.2} | {:.2} |",
        number(0),
        counts.entries,
        mib(counts.bytes as usize),
        mib(after),
        after as f64 / bound as f64,
        again as f64 / bound as f64,
    );
}
