//! Nanoseconds of each step.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nearkey::l1::clock::Clock;
use nearkey::l1::entry::Read;
use nearkey::l1::hot::{Event, Hot, Reason};
use nearkey::l1::sketch::Sketch;

use super::world::{Prepared, Random, World};

/// The least of five rounds, in nanoseconds for each of `n` calls.
fn least(n: u32, mut round: impl FnMut()) -> f64 {
    let times = (0..5).map(|_| {
        let start = Instant::now();
        round();
        start.elapsed().as_nanos() as f64 / f64::from(n)
    });
    times.fold(f64::INFINITY, f64::min)
}

fn filled(keys: u32) -> World {
    let mut world = World::new(1 << 30, 100);
    world.threshold = Some(0);
    for id in 0..keys {
        world.read(id);
    }
    world.store.settle();
    world
}

/// Prints them.
pub fn run() {
    println!("\n| step | ns |\n|---|---|");
    for keys in [1, 100, 1_000] {
        let world = filled(keys);
        let ns = look_up(&world, keys, |read| world.front.get(read).is_some());
        println!("| front hit, {keys} keys | {ns:.1} |");
    }
    for keys in [1_000, 100_000] {
        let world = filled(keys);
        let ns = look_up(&world, keys, |read| world.store.get(read).is_some());
        println!("| store hit, {keys} keys | {ns:.0} |");
    }
    let mut random = Random(1);
    let hashes: Vec<u64> = (0..1_000_000).map(|_| random.next()).collect();
    for (mask, what) in [(0xfff, "4096 keys"), (usize::MAX, "a million keys")] {
        let (sketch, now) = (Sketch::default(), Clock::default().now());
        let ns = least(1_000_000, || {
            for at in 0..hashes.len() {
                black_box(sketch.see(hashes[at & mask], now));
            }
        });
        println!("| sketch, {what} | {ns:.1} |");
    }
    note(&hashes, 0xfff, "hot keys, 4096 keys");
    note(&hashes, usize::MAX, "hot keys, a million keys");
    stalls();
}

fn note(hashes: &[u64], mask: usize, what: &str) {
    let hot = Hot::new(false);
    let ns = least(1_000_000, || {
        for at in 0..hashes.len() {
            let hash = hashes[at & mask];
            let event = if hash & 1 == 0 {
                Event::Hit
            } else {
                Event::Bypass(Reason::NoRule)
            };
            hot.note(b"user:1234567:name", hash, event, 100);
        }
    });
    println!("| {what} | {ns:.1} |");
}

/// A million look-ups of reads in random order, less what it takes to make them.
fn look_up(world: &World, keys: u32, what: impl Fn(&Read<'_>) -> bool) -> f64 {
    let prepared: Vec<Prepared> = (0..keys).map(|id| world.prepare(id)).collect();
    let each = |what: &dyn Fn(&Read<'_>) -> bool| {
        least(1_000_000, || {
            let mut random = Random(3);
            for _ in 0..1_000_000 {
                let at = random.next() as usize % prepared.len();
                black_box(what(&prepared[at].read()));
            }
        })
    };
    each(&what) - each(&|read| black_box(read).args.is_empty())
}

/// The slowest look-ups and inserts of a worker while another inserts all the time into a full store.
fn stalls() {
    let mut writer = World::new(64 << 20, 1000);
    for id in 0..60_000 {
        writer.read(id);
        writer.read(id);
    }
    let stop = AtomicBool::new(false);
    let (mut gets, mut puts) = (Vec::new(), Vec::new());
    let reads: Vec<Prepared> = (0..1_000_000).map(|id| writer.prepare(id)).collect();
    let store = writer.store.clone();
    std::thread::scope(|scope| {
        let (stop, puts, reads) = (&stop, &mut puts, &reads);
        scope.spawn(move || {
            let mut random = Random(9);
            while !stop.load(Ordering::Relaxed) {
                let read = reads[random.next() as usize % reads.len()].read();
                let entry = writer.entry(&read);
                let start = Instant::now();
                writer.store.insert(entry);
                puts.push(start.elapsed().as_nanos() as u64);
                std::thread::sleep(Duration::from_micros(50));
            }
        });
        let mut random = Random(11);
        let end = Instant::now() + Duration::from_secs(8);
        while Instant::now() < end {
            let read = reads[random.next() as usize % reads.len()].read();
            let start = Instant::now();
            black_box(store.get(&read));
            gets.push(start.elapsed().as_nanos() as u64);
            std::thread::sleep(Duration::from_micros(20));
        }
        stop.store(true, Ordering::Relaxed);
    });
    println!("\n| beside inserts into a full store, us | median | p99 | p99.9 | worst |");
    println!("|---|---|---|---|---|");
    for (name, times) in [("store look-up", &mut gets), ("store insert", &mut puts)] {
        times.sort_unstable();
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize] as f64 / 1e3;
        let (median, p99, p999, worst) = (at(0.5), at(0.99), at(0.999), at(1.0));
        println!("| {name} | {median:.1} | {p99:.1} | {p999:.1} | {worst:.0} |");
    }
    println!("\n{:?}", store.counts());
}
