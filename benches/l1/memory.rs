//! Memory really used, beside the bound.

use std::process::Command;
use std::time::Duration;

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

/// How often the store's thread has gone to sleep so far.
fn sleeps() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    let folders = tasks.flatten().map(|task| task.path());
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    let stores = folders.filter(|task| read(task.join("comm")).trim() == "l1-store");
    let counts = stores.filter_map(|task| {
        let status = read(task.join("status"));
        let line = status.lines().find(|line| line.starts_with("voluntary"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    counts.sum()
}

/// What the store's thread does while nobody reads.
pub fn idle() {
    let mut world = World::new(64 << 20, 100);
    world.threshold = Some(0);
    for id in 0..10_000 {
        world.read(id);
    }
    let wakes = |world: &World| {
        world.store.settle();
        // It rests once more after work.
        std::thread::sleep(Duration::from_millis(100));
        let before = sleeps();
        std::thread::sleep(Duration::from_secs(5));
        sleeps() - before
    };
    let full = wakes(&world);
    world.store.flush(None);
    let empty = wakes(&world);
    println!("\nThe thread woke {full} times in 5 s with 10,000 entries, {empty} times with none");
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
