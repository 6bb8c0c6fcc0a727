//! A session between any client and any upstream.
//!
//! The client's bytes are said twice: command by command, each answered before the next is said, and in
//! any chunks, with replies that come when they like. What the client reads must be the same, byte for
//! byte. Where connections fail on the second way, as many replies as on the first must come, in their
//! order, or the close.

mod judge;
mod outside;
mod play;

use std::sync::{Arc, OnceLock};

use nearkey::commands::{CommandTable, DEFAULT_DENY};
use nearkey::l1::L1;
use nearkey::l1::config::{Config, Verb};
use nearkey::resp::request::{Kind, Limits, RequestScanner, Scan};
use nearkey::secret::Secret;
use nearkey::session::Settings;
use nearkey::stats::Counters;

use self::judge::{count_frames, is_plain};
use self::play::{End, Play};
use super::input::{Input, expand};

/// Clients must say it in the runs that ask for a password.
const PASSWORD: &[u8] = b"pw";

/// So large that no request is: everything is held whole.
const NEVER: usize = usize::MAX >> 1;

/// What holds for one run, told by its first bytes.
#[derive(Clone, Copy)]
struct Terms {
    password: bool,
    passthrough: bool,
    /// Requests of some length are streamed.
    streams: bool,
    /// No leased connection is to be had.
    no_lease: bool,
    no_resp3: bool,
    no_multi: bool,
    no_facts: bool,
    with_l1: bool,
    /// Connections are lost, replies come too late.
    fails: bool,
}

impl Terms {
    fn new(input: &mut Input<'_>) -> Self {
        let (who, what) = (input.next(), input.next());
        let passthrough = who & 3 == 2;
        let streams = what & 3 == 1;
        Self {
            password: who & 3 == 1,
            passthrough,
            streams,
            no_lease: who & 16 != 0 && !streams,
            no_resp3: who & 32 != 0,
            no_multi: who & 64 != 0,
            no_facts: who & 128 != 0,
            with_l1: what & 4 != 0,
            fails: what & 8 != 0,
        }
    }
}

/// What is the same in all runs, and too large to be made for each.
struct World {
    table: CommandTable,
    known: Arc<CommandTable>,
    counters: Counters,
    l1: Arc<L1>,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let config = Config {
            default: Verb::Cache,
            max_bytes: 1 << 20,
            ..Config::default()
        };
        let table = CommandTable::builtin();
        let denied = table.clone().with_denied(DEFAULT_DENY);
        World {
            l1: L1::new(config, &table).expect("it is of use"),
            known: Arc::new(table),
            table: denied.expect("these are names"),
            counters: Counters::default(),
        }
    })
}

/// One run.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let terms = Terms::new(&mut input);
    let body = expand(input.body);
    input.body = &body;
    let settings = Settings {
        password: terms.password.then(|| Secret::new(PASSWORD)),
        passthrough: terms.passthrough,
        database: 0,
        large_request: if terms.streams { 64 } else { NEVER },
        limits: Limits::default(),
        pressed: std::sync::Arc::default(),
    };
    let calm = calmly(&body, terms, &settings);
    let wild = wildly(input, terms, &settings);
    judge::compare(&calm, &wild, terms, &body);
}

/// Command by command.
fn calmly(body: &[u8], terms: Terms, settings: &Settings) -> Play {
    let mut play = Play::new(settings, terms, None);
    let mut plain = true;
    for command in commands(body) {
        let before = play.out.len();
        play.say(command, settings);
        play.answer_all(settings);
        let whole = RequestScanner::new().scan(command, &Limits::default());
        if let (true, None, Ok(Scan::Complete { kind, .. })) = (plain, play.end, whole) {
            plain = is_plain(command, kind);
            let replies = count_frames(&play.out[before..]);
            if plain {
                let wanted = usize::from(is_answered(command, kind));
                let said = String::from_utf8_lossy(command);
                assert_eq!(replies, wanted, "one reply to {said:?}");
            }
        }
        if play.end.is_some() {
            break;
        }
    }
    play.finish();
    play
}

/// A blank line is no command, nor is a line of quotes around nothing... that one is.
fn is_answered(command: &[u8], kind: Kind) -> bool {
    kind != Kind::Empty
        && (kind == Kind::Multibulk || command.iter().any(|byte| !byte.is_ascii_whitespace()))
}

/// In chunks, with events in between.
fn wildly(mut input: Input<'_>, terms: Terms, settings: &Settings) -> Play {
    let mut play = Play::new(settings, terms, Some(input.next()));
    let mut rest = input.body;
    while !rest.is_empty() && play.end.is_none() {
        if input.is_done() {
            play.say(rest, settings);
            break;
        }
        match input.next() {
            step if step < 128 => {
                let (chunk, behind) = rest.split_at(input.chunk(rest.len()));
                play.say(chunk, settings);
                rest = behind;
            }
            step if step < 176 => play.answer_some(usize::from(step & 7) + 1, settings),
            step if step < 192 => play.answer_partly(usize::from(step & 15) + 1),
            step if step < 208 => play.resume(settings),
            step if step < 224 => play.answer_all(settings),
            step if !terms.fails => play.hesitate(step),
            step if step < 240 => play.time_out(settings),
            step if step < 248 => play.lose_shared(settings),
            _ => play.lose_leased(settings),
        }
    }
    play.stop_failing();
    play.answer_all(settings);
    if play.end == Some(End::Drop) {
        return play;
    }
    play.finish();
    play
}

/// The commands of a client, and what remains.
fn commands(body: &[u8]) -> Vec<&[u8]> {
    let (mut scanner, mut found, mut rest) = (RequestScanner::new(), Vec::new(), body);
    while let Ok(Scan::Complete { consumed, .. }) = scanner.scan(rest, &Limits::default()) {
        let (command, behind) = rest.split_at(consumed);
        found.push(command);
        rest = behind;
    }
    if !rest.is_empty() {
        found.push(rest);
    }
    found
}
