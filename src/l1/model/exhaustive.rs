//! Every order in which a few things can happen.

use std::sync::Arc;

use super::client::Ask;
use super::truth::{Fault, Seen};
use super::world::{KEYS, World};
use crate::commands::CommandTable;
use crate::l1::{L1, Rule};

/// What two clients say, each one thing behind the reply to the other, and what others write meanwhile.
#[derive(Clone, Copy)]
struct Story {
    /// L1 holds `a`; then this happens, one thing after the other, before it begins: what the first client
    /// says, or `others` do.
    before: &'static [&'static str],
    /// The two clients: of one worker, or of two; each has a shared connection of its own.
    clients: [usize; 2],
    first: &'static [&'static str],
    second: &'static [&'static str],
    foreign: &'static [&'static str],
}

const STORIES: [Story; 7] = [
    Story {
        before: &[],
        clients: [0, 2],
        first: &["GET a", "GET a", "GET a"],
        second: &["SET a 1"],
        foreign: &["SET a 9"],
    },
    Story {
        before: &["others SET a 00"],
        clients: [0, 1],
        first: &["GET a", "GET a"],
        second: &["SET a 1", "GET a"],
        foreign: &[],
    },
    Story {
        before: &["others SET a 00"],
        clients: [0, 2],
        first: &["GET a", "GET a"],
        second: &["EVAL w 0 a 1"],
        foreign: &["SET a 9"],
    },
    Story {
        before: &[],
        clients: [0, 2],
        first: &["DEL b; EXISTS a", "GET a"],
        second: &["GET a", "GET a"],
        foreign: &["DEL a"],
    },
    Story {
        before: &["others SET a 00"],
        clients: [0, 2],
        first: &["GET a", "GET a"],
        second: &["GET a"],
        foreign: &["FLUSHDB"],
    },
    // A reply past L1 that was given before, and another was acknowledged since.
    Story {
        before: &["others DEL a", "DEL b; GET a", "SET a 1"],
        clients: [0, 1],
        first: &["DEL b; GET a", "GET a"],
        second: &["GET a"],
        foreign: &["DEL a"],
    },
    // The same, where another read has told of the change.
    Story {
        before: &["DEL b; EXISTS a", "others DEL a"],
        clients: [0, 1],
        first: &["GET a", "DEL b; EXISTS a", "GET a"],
        second: &["GET a"],
        foreign: &["SET a 9"],
    },
];

/// One way through all choices, and the way to the next.
#[derive(Default)]
struct Path {
    /// What was chosen, of how many.
    chosen: Vec<(usize, usize)>,
    at: usize,
}

impl Path {
    fn choose(&mut self, n: usize) -> usize {
        if self.at == self.chosen.len() {
            self.chosen.push((0, n));
        }
        self.at += 1;
        self.chosen[self.at - 1].0
    }

    /// Turns to a way that was not taken; false if there is none.
    fn turn(&mut self) -> bool {
        self.at = 0;
        while let Some((choice, n)) = self.chosen.pop() {
            if choice + 1 < n {
                self.chosen.push((choice + 1, n));
                return true;
            }
        }
        false
    }
}

/// One thing that can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    Say(usize),
    Foreign,
    LaneUp(usize),
    LaneDown(usize),
    TrackUp,
    TrackDown,
}

struct Stage {
    world: World,
    said: [usize; 2],
    written: usize,
}

impl Stage {
    /// One L1 serves for all orders of a story, forgetting what it held: to build it takes long.
    fn new(table: &Arc<CommandTable>, story: &Story, l1: &mut Arc<L1>) -> Result<Self, Fault> {
        Arc::get_mut(l1)
            .expect("the last world is gone")
            .forget(&KEYS);
        let mut world = World::around(l1.clone(), super::setting(table, 0, None));
        world.open_track(0);
        world.server.foreign(0, &["SET", "a", "0"]);
        let [first, second] = story.clients;
        for who in [first, second, second] {
            say(&mut world, who, "GET a");
            world.settle()?;
        }
        for text in story.before {
            match text.strip_prefix("others ") {
                Some(text) => {
                    let words: Vec<&str> = text.split(' ').collect();
                    world.server.foreign(0, &words);
                }
                None => say(&mut world, first, text),
            }
            world.settle()?;
        }
        Ok(Self {
            world,
            said: [0, 0],
            written: 0,
        })
    }

    fn moves(&self, story: &Story) -> Vec<Move> {
        let world = &self.world;
        let mut moves = Vec::new();
        for (at, script) in [story.first, story.second].iter().enumerate() {
            let is_free = world.clients[story.clients[at]].records.is_empty();
            if is_free && self.said[at] < script.len() {
                moves.push(Move::Say(at));
            }
        }
        if self.written < story.foreign.len() {
            moves.push(Move::Foreign);
        }
        for (at, lane) in world.lanes.iter().enumerate() {
            let Some(link) = &lane.link else { continue };
            if link.up() > 0 {
                moves.push(Move::LaneUp(at));
            }
            if link.down(&world.server) > 0 {
                moves.push(Move::LaneDown(at));
            }
        }
        if let Some(link) = &world.tracks[0].link {
            if link.up() > 0 {
                moves.push(Move::TrackUp);
            }
            if link.down(&world.server) > 0 {
                moves.push(Move::TrackDown);
            }
        }
        moves
    }

    fn make(&mut self, story: &Story, chosen: Move) -> Result<(), Fault> {
        let world = &mut self.world;
        world.pass(10);
        match chosen {
            Move::Say(at) => {
                let script = [story.first, story.second][at];
                say(world, story.clients[at], script[self.said[at]]);
                self.said[at] += 1;
            }
            Move::Foreign => {
                let words: Vec<&str> = story.foreign[self.written].split(' ').collect();
                world.server.foreign(0, &words);
                self.written += 1;
            }
            Move::LaneUp(at) => {
                if let Some(link) = &mut world.lanes[at].link {
                    link.serve(link.up(), &mut world.server, &mut world.executed);
                }
            }
            Move::TrackUp => {
                if let Some(link) = &mut world.tracks[0].link {
                    link.serve(link.up(), &mut world.server, &mut world.executed);
                }
            }
            Move::LaneDown(at) => world.receive(at, usize::MAX)?,
            Move::TrackDown => world.hear(0, usize::MAX)?,
        }
        while !world.orders.is_empty() || !world.answers.is_empty() {
            world.pass_order();
            world.pass_answer();
        }
        for who in story.clients {
            world.feed(who);
            world.check(who)?;
        }
        Ok(())
    }
}

/// A client says one thing, or several at once, of which the later ones get no hit.
fn say(world: &mut World, who: usize, text: &str) {
    for command in text.split("; ") {
        let words: Vec<&str> = command.split(' ').collect();
        let key = |at: usize| (0, words[at].to_owned());
        let ask = match words[0] {
            "GET" => Ask::Get(key(1)),
            "EXISTS" => Ask::Exists(key(1)),
            "EVAL" => Ask::Write(world.writes, vec![key(3)]),
            _ => Ask::Write(world.writes, vec![key(1)]),
        };
        world.writes += 1;
        world.say(who, ask, &words);
    }
    world.feed(who);
}

/// An L1 that has seen the reads of all stories often: each is worth a fetch, in every play alike.
fn l1(table: &Arc<CommandTable>, rule: Option<Rule>) -> Result<Arc<L1>, Fault> {
    let l1 = L1::without(super::world::config(), table, rule);
    let mut world = World::around(l1.clone(), super::setting(table, 0, None));
    for value in ["0", "1", "2", "3", "4", "5", "6", "7"] {
        for read in ["GET a", "EXISTS a"] {
            world.server.foreign(0, &["SET", "a", value]);
            say(&mut world, 0, read);
            world.settle()?;
        }
    }
    Ok(l1)
}

/// Plays one story in every order; how many there are, or what was wrong and how it came to be.
fn play(
    table: &Arc<CommandTable>,
    story: &Story,
    rule: Option<Rule>,
) -> Result<u64, (Fault, Vec<Move>)> {
    let (mut path, mut orders) = (Path::default(), 0);
    let mut l1 = l1(table, rule).map_err(|fault| (fault, Vec::new()))?;
    loop {
        let mut made = Vec::new();
        let played = play_once(table, story, &mut l1, &mut path, &mut made);
        played.map_err(|fault| (fault, made))?;
        orders += 1;
        if !path.turn() {
            return Ok(orders);
        }
    }
}

fn play_once(
    table: &Arc<CommandTable>,
    story: &Story,
    l1: &mut Arc<L1>,
    path: &mut Path,
    made: &mut Vec<Move>,
) -> Result<(), Fault> {
    let mut stage = Stage::new(table, story, l1)?;
    loop {
        let moves = stage.moves(story);
        if moves.is_empty() {
            return stage.world.rest();
        }
        let chosen = moves[path.choose(moves.len())];
        made.push(chosen);
        stage.make(story, chosen)?;
    }
}

#[test]
fn no_order_of_a_few_things_goes_wrong() {
    let table = super::table();
    let mut all = 0;
    for (at, story) in STORIES.iter().enumerate() {
        match play(&table, story, None) {
            Ok(orders) => {
                println!("story {at}: {orders} orders");
                all += orders;
            }
            Err((fault, made)) => panic!("story {at}: {fault:?} by {made:?}"),
        }
    }
    println!("{all} orders");
    assert!(all > 500, "only {all}");
}

#[test]
fn some_order_goes_wrong_without_a_rule_that_it_needs() {
    let table = super::table();
    for (rule, story) in [
        (Rule::Stamps, 0),
        (Rule::AnsweredWrites, 1),
        (Rule::VersionedJoin, 1),
        (Rule::UnknownWrites, 2),
        (Rule::Shown, 3),
        (Rule::Shown, 5),
        (Rule::Shown, 6),
        (Rule::Pushes, 3),
        (Rule::NullPushes, 4),
    ] {
        let played = play(&table, &STORIES[story], Some(rule));
        let caught = played.err().map(|((wrong, _), made)| (wrong, made));
        println!("without {rule:?}: {caught:?}");
        assert!(caught.is_some(), "{rule:?} in story {story}");
    }
    let covered = play(&table, &STORIES[1], Some(Rule::SentWrites));
    assert!(covered.is_ok(), "{covered:?}");
}

#[test]
fn versions_are_told_apart() {
    let mut world = World::new(super::setting(&super::table(), 0, None));
    world.server.foreign(0, &["SET", "a", "1"]);
    let seen = Seen::Value(Some("1".to_owned()));
    let key = (0, "a".to_owned());
    assert_eq!(world.server.truth.meant(&key, &seen).len(), 1);
    assert!(world.server.truth.meant(&(1, key.1), &seen).is_empty());
}
