//! What happens next, by the seed.

use super::client::Ask;
use super::link::Link;
use super::rng::Rng;
use super::server::DATABASES;
use super::truth::{Fault, Key};
use super::world::{KEYS, Mood, World};

/// What can happen, and how often of all.
const EVENTS: [(&str, usize); 18] = [
    ("a client speaks", 34),
    ("a session looks again", 18),
    ("bytes reach the server", 40),
    ("bytes reach the proxy", 48),
    ("an order passes between workers", 8),
    ("an answer passes between workers", 8),
    ("another writes", 2),
    ("time passes", 9),
    ("much time passes", 1),
    ("a ping is due", 8),
    ("expired keys are noticed", 2),
    ("the tracking table is full", 1),
    ("a connection is lost", 1),
    ("a tracked connection is lost", 1),
    ("a connection opens", 12),
    ("a connection falls silent", 1),
    ("a connection is heard again", 6),
    ("a stamp is given up", 1),
];

/// All connections that carry bytes.
#[derive(Clone, Copy, Debug)]
enum Wire {
    Lane(usize),
    Track(usize),
    Zombie(usize),
}

/// Lets one thing happen.
pub fn step(world: &mut World, rng: &mut Rng) -> Result<(), Fault> {
    let weights = EVENTS.map(|(_, weight)| weight);
    let (event, _) = EVENTS[rng.weighted(&weights)];
    world.pass(rng.below(30) as u64);
    let storm = match world.setting.mood {
        Mood::Stormy => 3,
        _ => 1,
    };
    let happened = match event {
        "a client speaks" => return speak(world, rng),
        "a session looks again" => {
            let who = rng.below(world.clients.len());
            let waits = !world.clients[who].input.is_empty();
            if waits {
                world.feed(who);
                world.check(who)?;
            }
            waits
        }
        "bytes reach the server" => serve(world, rng),
        "bytes reach the proxy" => receive(world, rng)?,
        "an order passes between workers" => {
            let any = !world.orders.is_empty();
            world.pass_order();
            any
        }
        "an answer passes between workers" => {
            let any = !world.answers.is_empty();
            world.pass_answer();
            any
        }
        "another writes" => foreign(world, rng),
        "time passes" => {
            world.pass(rng.below(20_000) as u64);
            world.expire()?;
            true
        }
        "much time passes" => rng.percent(40) && freeze(world, rng)?,
        "a ping is due" => ping(world, rng),
        "expired keys are noticed" => world.server.reap(),
        "the tracking table is full" => world.server.evict(),
        "a connection is lost" => lose_lane(world, rng, storm)?,
        "a tracked connection is lost" => {
            let at = rng.below(world.tracks.len());
            let any = world.tracks[at].link.is_some() && rng.percent(30 * storm);
            if any {
                world.lose_track(at);
                foreign(world, rng); // what nobody is told of
            }
            any
        }
        "a connection opens" => open(world),
        "a stamp is given up" => give_up(world, rng),
        "a connection falls silent" => silence(world, rng, true),
        _ => silence(world, rng, false),
    };
    if happened {
        world.note(|_| format!("-- {event}"));
        world.count(event);
    }
    Ok(())
}

fn lose_lane(world: &mut World, rng: &mut Rng, storm: usize) -> Result<bool, Fault> {
    let at = rng.below(world.lanes.len().max(1));
    let lane = world.lanes.get(at);
    let any = lane.is_some_and(|lane| lane.link.is_some()) && rng.percent(30 * storm);
    if any {
        world.lose_lane(at)?;
    }
    Ok(any)
}

/// The place of a key is no longer watched, whatever relies on it.
fn give_up(world: &World, rng: &mut Rng) -> bool {
    let stamps = &world.l1.stamps;
    let key = KEYS[rng.below(KEYS.len())];
    stamps.retire(stamps.place(stamps.hash(key.as_bytes())));
    true
}

/// The names of all events.
pub fn names() -> impl Iterator<Item = &'static str> {
    EVENTS.iter().map(|(name, _)| *name)
}

fn wires(world: &World) -> Vec<Wire> {
    let lanes = (0..world.lanes.len()).map(Wire::Lane);
    let tracks = (0..world.tracks.len()).map(Wire::Track);
    let zombies = (0..world.zombies.len()).map(Wire::Zombie);
    tracks.chain(lanes).chain(zombies).collect()
}

fn link(world: &mut World, wire: Wire) -> Option<&mut Link> {
    match wire {
        Wire::Lane(at) => world.lanes[at].link.as_mut(),
        Wire::Track(at) => world.tracks[at].link.as_mut(),
        Wire::Zombie(at) => Some(&mut world.zombies[at]),
    }
}

/// One of these, or none if that one is slow in this world.
fn choose(world: &World, rng: &mut Rng, wires: &[Wire]) -> Option<Wire> {
    let wire = *wires.get(rng.below(wires.len().max(1)))?;
    let slow = match wire {
        Wire::Track(_) => world.setting.mood == Mood::LatePushes,
        Wire::Lane(_) => world.setting.mood == Mood::LateReplies,
        Wire::Zombie(_) => true,
    };
    (!slow || rng.percent(30)).then_some(wire)
}

/// Often all of it, else a part.
fn part(rng: &mut Rng, all: usize) -> usize {
    match rng.percent(70) {
        true => all,
        false => 1 + rng.below(all),
    }
}

fn serve(world: &mut World, rng: &mut Rng) -> bool {
    let mut wires = wires(world);
    wires.retain(|wire| link(world, *wire).is_some_and(|link| link.up() > 0));
    let Some(wire) = choose(world, rng, &wires) else {
        return false;
    };
    if let Wire::Zombie(at) = wire
        && rng.percent(20)
    {
        world.zombies.remove(at);
        return true;
    }
    let mut taken = match wire {
        Wire::Lane(at) => world.lanes[at].link.take(),
        Wire::Track(at) => world.tracks[at].link.take(),
        Wire::Zombie(at) => Some(world.zombies.remove(at)),
    };
    if let Some(link) = &mut taken {
        let n = part(rng, link.up());
        link.serve(n, &mut world.server, &mut world.executed);
    }
    match wire {
        Wire::Lane(at) => world.lanes[at].link = taken,
        Wire::Track(at) => world.tracks[at].link = taken,
        Wire::Zombie(_) => world.zombies.extend(taken),
    }
    true
}

fn receive(world: &mut World, rng: &mut Rng) -> Result<bool, Fault> {
    let mut down = Vec::new();
    for wire in wires(world) {
        let server = &world.server;
        let link = match wire {
            Wire::Lane(at) => world.lanes[at].link.as_ref(),
            Wire::Track(at) => world.tracks[at].link.as_ref(),
            Wire::Zombie(_) => None,
        };
        let n = link.map_or(0, |link| link.down(server));
        if n > 0 {
            down.push(wire);
        }
    }
    let server = &world.server;
    match choose(world, rng, &down) {
        Some(Wire::Lane(at)) => {
            let n = world.lanes[at]
                .link
                .as_ref()
                .map_or(0, |link| link.down(server));
            world.receive(at, part(rng, n))?;
        }
        Some(Wire::Track(at)) => {
            let n = world.tracks[at]
                .link
                .as_ref()
                .map_or(0, |link| link.down(server));
            world.hear(at, part(rng, n))?;
        }
        Some(Wire::Zombie(_)) | None => return Ok(false),
    }
    Ok(true)
}

fn open(world: &mut World) -> bool {
    if let Some(at) = world.lanes.iter().position(|lane| lane.link.is_none()) {
        world.open_lane(at);
        return true;
    }
    let wanted = world.tracks.iter().position(|track| track.wanted);
    if let Some(at) = wanted {
        world.open_track(at);
    }
    wanted.is_some()
}

fn silence(world: &mut World, rng: &mut Rng, silent: bool) -> bool {
    let wires = wires(world);
    let wire = wires[rng.below(wires.len())];
    // The tracked connections are those whose silence must be noticed.
    let spared = silent && matches!(wire, Wire::Lane(_)) && rng.percent(60);
    match link(world, wire) {
        Some(link) if link.silent != silent && !spared => {
            link.silent = silent;
            if silent {
                foreign(world, rng); // what is not heard of
            }
            true
        }
        _ => false,
    }
}

fn ping(world: &mut World, rng: &mut Rng) -> bool {
    let at = rng.below(world.tracks.len());
    let track = &mut world.tracks[at];
    let due = track.tracker.take_ping() || rng.percent(5);
    let Some(tracked) = &mut track.tracked else {
        return false;
    };
    if due {
        tracked.ping(world.now);
        track.write();
    }
    due
}

/// The proxy's machine stands still; the world does not.
fn freeze(world: &mut World, rng: &mut Rng) -> Result<bool, Fault> {
    if rng.percent(50) {
        world.pass(rng.below(900_000) as u64);
    } else {
        for _ in 0..2 {
            world.freeze(rng.below(500_000) as u64);
            foreign(world, rng);
            serve(world, rng);
        }
        world.count("the machine freezes");
    }
    world.expire()?;
    Ok(true)
}

fn name(rng: &mut Rng) -> &'static str {
    KEYS[rng.weighted(&[5, 3, 2])]
}

/// A value that no other write writes.
fn fresh(world: &mut World, db: u32, name: &str) -> String {
    world.writes += 1;
    format!("{db}.{name}.{}", world.writes)
}

fn foreign(world: &mut World, rng: &mut Rng) -> bool {
    let db = rng.below(DATABASES as usize) as u32;
    let name = name(rng);
    let value = fresh(world, db, name);
    let life = (5 + rng.below(600)).to_string();
    let swaps = if world.setting.swaps { 6 } else { 0 };
    let what = rng.weighted(&[50, 24, 10, 3, 5, 5, 3, swaps]);
    let server = &mut world.server;
    match what {
        0 => server.foreign(db, &["SET", name, &value]),
        1 => server.foreign(db, &["SET", name, &value, "PX", &life]),
        2 => server.foreign(db, &["DEL", name]),
        3 => server.foreign(db, &["FLUSHDB"]),
        4 => server.foreign(db, &["RENAME", name, KEYS[rng.below(3)]]),
        5 => server.foreign(db, &["PERSIST", name]),
        6 => server.foreign(db, &["LPUSH", name]),
        _ => {
            server.foreign(db, &["SWAPDB", "0", "1"]);
            world.judge.mixed = true;
        }
    }
    world.note(|_| format!("another, in {db}: {what} {name} {value} {life}"));
    world.count(match what {
        3 => "another flushes",
        7 => "another swaps databases",
        _ => "another changes a key",
    });
    true
}

fn speak(world: &mut World, rng: &mut Rng) -> Result<(), Fault> {
    let who = rng.below(world.clients.len());
    let client = &world.clients[who];
    let room = match client.pipelines {
        true => 6usize.saturating_sub(client.records.len()),
        false => 1usize.saturating_sub(client.records.len()),
    };
    if room == 0 {
        return Ok(());
    }
    let commands = match client.pipelines && rng.percent(25) {
        true => 1 + rng.below(room.min(4)),
        false => 1,
    };
    for _ in 0..commands {
        command(world, rng, who);
    }
    world.count("a client speaks");
    world.feed(who);
    world.check(who)
}

fn command(world: &mut World, rng: &mut Rng, who: usize) {
    // Much of the time all read one key again and again, and seldom do anything else.
    world.rush.0 = world.rush.0.saturating_sub(1);
    if world.rush.0 == 0 && rng.percent(5) {
        world.rush = (20 + rng.below(120), name(rng));
        world.count("a rush");
    }
    if world.rush.0 > 0 && rng.percent(93) {
        let name = world.rush.1;
        let key = world.key(who, name);
        return world.say(who, Ask::Get(key), &["GET", name]);
    }
    let name = name(rng);
    let key = world.key(who, name);
    let (db, number) = (key.0, world.writes);
    world.writes += 1;
    let all = |db: u32| KEYS.map(|name| (db, name.to_owned()));
    let write = |keys: Vec<Key>| Ask::Write(number, keys);
    match rng.weighted(&[760, 90, 16, 36, 10, 10, 6, 4, 4, 16, 20, 8]) {
        0 => world.say(who, Ask::Get(key), &["GET", name]),
        1 => {
            let other = KEYS[rng.below(3)];
            let keys = vec![key, (db, other.to_owned())];
            world.say(who, Ask::Mget(keys), &["MGET", name, other]);
        }
        2 => world.say(who, Ask::Exists(key), &["EXISTS", name]),
        3 => {
            let value = fresh(world, db, name);
            let life = (5 + rng.below(600)).to_string();
            let words = ["SET", name, &value, "PX", &life];
            let n = if rng.percent(35) { 5 } else { 3 };
            world.say(who, write(vec![key]), &words[..n]);
        }
        4 => world.say(who, write(vec![key]), &["DEL", name]),
        5 => {
            let value = fresh(world, db, name);
            world.say(who, write(vec![key]), &["EVAL", "w", "0", name, &value]);
            world.count("a script writes what it does not name");
        }
        6 => {
            let other = KEYS[rng.below(3)];
            let keys = vec![key, (db, other.to_owned())];
            world.say(who, write(keys), &["RENAME", name, other]);
        }
        7 => world.say(who, write(all(db).into()), &["FLUSHDB"]),
        8 => {
            let keys = all(0).into_iter().chain(all(1)).collect();
            world.say(who, write(keys), &["SWAPDB", "0", "1"]);
            world.count("a client swaps databases");
            world.judge.mixed = true;
        }
        9 => transaction(world, rng, who),
        10 => world.say(who, Ask::Fixed("PONG"), &["PING"]),
        _ => select(world, who),
    }
}

/// Client 2 goes to and fro between databases.
fn select(world: &mut World, who: usize) {
    if who == 2 {
        let db = 1 - world.clients[who].db;
        world.say(who, Ask::Fixed("OK"), &["SELECT", &db.to_string()]);
        world.clients[who].db = db;
        world.count("a client selects another database");
    }
}

fn transaction(world: &mut World, rng: &mut Rng, who: usize) {
    world.say(who, Ask::Fixed("OK"), &["MULTI"]);
    let mut parts = Vec::new();
    for _ in 0..1 + rng.below(2) {
        let name = name(rng);
        let key = world.key(who, name);
        if rng.percent(50) {
            let value = fresh(world, key.0, name);
            world.say(who, Ask::Fixed("QUEUED"), &["SET", name, &value]);
            parts.push(Ask::Write(0, vec![key]));
        } else {
            world.say(who, Ask::Fixed("QUEUED"), &["GET", name]);
            parts.push(Ask::Get(key));
        }
    }
    let number = world.writes;
    world.writes += 1;
    world.say(who, Ask::Exec(number, parts), &["EXEC"]);
    world.count("a transaction");
}
