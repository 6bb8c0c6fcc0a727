//! Everything at one moment, and all that can happen next.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::client::{Ask, Client, Judge, Record};
use super::link::{Executed, Link};
use super::proxy::{Lane, Route, Track, Who};
use super::server::{DATABASES, Server};
use super::truth::{Fault, Key, Wrong};
use crate::commands::CommandTable;
use crate::l1::clock::Now;
use crate::l1::config::{Config, Mode, Verb};
use crate::l1::entry::Scope;
use crate::l1::fetch::{Answer, Order};
use crate::l1::reader::Reader;
use crate::l1::tracked::Tracked;
use crate::l1::tracker::Standing;
use crate::l1::{L1, Rule};
use crate::resp::Protocol;
use crate::resp::request::Limits;
use crate::session::{Env, Session, Settings};
use crate::stats::WorkerStats;
use crate::upstream::OnLostReply;
use crate::upstream::loss;
use crate::upstream::pipe::{Run, ShownReads};
use crate::upstream::reply_to::Owner;

/// Names of keys; the first are the hottest.
pub const KEYS: [&str; 3] = ["a", "b", "c"];

/// What a client reads whose command got no reply.
const LOST: &str = "LOST";

/// For how long a command is waited for.
const PATIENCE: u64 = 2_000_000;

/// What is slow or fails more often than the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Nothing.
    Even,
    /// The tracked connections are slow.
    LatePushes,
    /// The shared connections are slow.
    LateReplies,
    /// Connections break and fall silent.
    Stormy,
}

/// What does not change while a world lives.
#[derive(Debug)]
pub struct Setting {
    pub table: Arc<CommandTable>,
    pub rule: Option<Rule>,
    /// Others may exchange databases, of which nobody is told.
    pub swaps: bool,
    /// A client does not wait for replies.
    pub pipelines: bool,
    /// What is slow or fails more often than the rest.
    pub mood: Mood,
    /// A frozen machine's monotonic clock stands still; else its wall clock is set back.
    pub stops_mono: bool,
}

/// Everything at one moment.
#[derive(Debug)]
pub struct World {
    pub setting: Setting,
    pub settings: Settings,
    pub server: Server,
    pub now: Now,
    pub l1: Arc<L1>,
    pub stats: Arc<WorkerStats>,
    pub readers: Vec<Reader>,
    pub lanes: Vec<Lane>,
    pub tracks: Vec<Track>,
    pub clients: Vec<Client>,
    /// Connections that the proxy has given up; the server may not have heard all of what was said.
    pub zombies: Vec<Link>,
    /// From worker 1, whose tracked connections worker 0 has, and back.
    pub orders: VecDeque<Order>,
    pub answers: VecDeque<(u64, Answer)>,
    pub executed: Executed,
    pub judge: Judge,
    pub writes: usize,
    /// So many reads of one key are to come in a row.
    pub rush: (usize, &'static str),
    /// What happened, step by step, where somebody wants to know.
    pub log: Option<Vec<String>>,
    /// How often what happened.
    pub counts: BTreeMap<&'static str, u64>,
}

/// Settings of L1 for a world: short enough for everything to happen in a few seconds.
pub fn config() -> Config {
    use std::time::Duration;
    Config {
        mode: Mode::Tracking,
        default: Verb::Cache,
        lease: Duration::from_millis(400),
        max_age: Duration::from_secs(4),
        absent_age: Duration::from_millis(700),
        max_bytes: 1 << 20,
        ..Config::default()
    }
}

impl World {
    pub fn new(setting: Setting) -> Self {
        let l1 = L1::without(config(), &setting.table, setting.rule);
        Self::around(l1, setting)
    }

    /// A world around an L1 that nothing relies on.
    pub fn around(l1: Arc<L1>, setting: Setting) -> Self {
        let (config, start) = (l1.config().clone(), 1_700_000_000_000_000);
        let micros = crate::l1::clock::micros;
        let judge = Judge {
            floors: BTreeMap::new(),
            lease: micros(config.lease),
            max_age: micros(config.max_age),
            mixed: false,
            reads: 0,
        };
        let stats = Arc::new(WorkerStats::default());
        let settings = Settings {
            password: None,
            passthrough: false,
            database: 0,
            large_request: 1 << 20,
            limits: Limits::default(),
            pressed: Arc::default(),
        };
        let track = |db| Track {
            tracker: l1.tracker(Scope {
                db,
                ..Scope::default()
            }),
            tracked: None,
            link: None,
            wanted: false,
        };
        let reader = |_| Reader::new(l1.clone(), stats.clone());
        let client = |(worker, lane)| Client::new(Session::new(&settings), worker, lane);
        let mut world = Self {
            server: Server::new(start),
            now: Now {
                mono: 1_000_000,
                wall: start + 77,
            },
            readers: (0..2).map(reader).collect(),
            lanes: Vec::new(),
            tracks: (0..DATABASES).map(track).collect(),
            clients: [(0, 0), (0, 0), (1, 1), (1, 0)].map(client).into(),
            zombies: Vec::new(),
            orders: VecDeque::new(),
            answers: VecDeque::new(),
            executed: Executed::new(),
            writes: 0,
            rush: (0, KEYS[0]),
            log: None,
            counts: BTreeMap::new(),
            stats,
            settings,
            setting,
            judge,
            l1,
        };
        world.introduce();
        world
    }

    /// Clients 1 and 3 speak RESP3; 3 uses the other database; 1 may not wait for replies.
    fn introduce(&mut self) {
        self.clients[1].pipelines = self.setting.pipelines;
        for (who, hello) in [(1, "HELLO 3"), (3, "HELLO 3"), (3, "SELECT 1")] {
            self.clients[who].input = encode(&hello.split(' ').collect::<Vec<_>>());
            self.feed(who);
            self.clients[who].out.clear();
        }
        self.clients[3].db = 1;
    }

    /// Notes what happens, where somebody wants to know.
    pub fn note(&mut self, what: impl FnOnce(&Self) -> String) {
        if self.log.is_some() {
            let line = format!("{:>9} {}", self.server.now % 1_000_000_000, what(self));
            self.log.get_or_insert_default().push(line);
        }
    }

    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// A client says something.
    pub fn say(&mut self, who: usize, ask: Ask, words: &[&str]) {
        self.note(|_| format!("client {who} says {words:?}"));
        let client = &mut self.clients[who];
        client.input.extend(encode(words));
        if let Ask::Write(number, _) | Ask::Exec(number, _) = &ask {
            client.unsent.push_back(*number);
        }
        client.records.push_back(Record {
            ask,
            begun: self.server.now,
            floors: self.judge.floors.clone(),
        });
    }

    /// The proxy reads what a client has said, or looks again at what it holds.
    pub fn feed(&mut self, who: usize) {
        let client = &mut self.clients[who];
        let mut route = Route {
            who,
            worker: client.worker,
            lane: client.lane,
            now: self.now,
            l1: &self.l1,
            reader: &self.readers[client.worker],
            server: &mut self.server,
            lanes: &mut self.lanes,
            tracks: &mut self.tracks,
            orders: &mut self.orders,
            awaited: &mut client.awaited,
            unsent: &mut client.unsent,
            counts: &mut self.counts,
        };
        let env = Env {
            paused: crate::control::Paused::No,
            id: who as u64 + 1,
            settings: &self.settings,
            table: &self.setting.table,
            counters: &self.stats.counters,
            hot: None,
            l1: Some(&self.l1),
        };
        let session = &mut client.session;
        let fed = session.feed(&client.input, &mut client.out, &env, &mut route);
        client.input.drain(..fed.consumed);
    }

    /// Judges what a client has been given.
    pub fn check(&mut self, who: usize) -> Result<(), Fault> {
        self.note(|world| {
            let out = String::from_utf8_lossy(&world.clients[who].out).into_owned();
            format!("client {who} hears {out:?}")
        });
        let truth = &mut self.server.truth;
        self.clients[who].check(truth, &mut self.judge, &self.executed)
    }

    /// Bytes of a shared connection reach the proxy.
    pub fn receive(&mut self, lane: usize, n: usize) -> Result<(), Fault> {
        let lane = &mut self.lanes[lane];
        let Some(link) = &lane.link else {
            return Ok(());
        };
        lane.input.extend(link.take(n, &mut self.server));
        let (l1, clients, input) = (&self.l1, &mut self.clients, &lane.input);
        let mut heard = Vec::new();
        let mut repeated = 0;
        let deliver = |run: Option<&Run<Owner<Who>>>, piece: crate::upstream::pipe::Piece| {
            let Some(run) = run else { return };
            let (terms, protocol) = (&run.terms, lane.key.protocol);
            let reply = &input[piece.range.clone()];
            if let (ShownReads::One(_), [place]) = (&terms.reads, terms.touched.places()) {
                let was_armed = l1.stamps.is_armed(*place);
                terms.note_answered(l1, protocol, &piece, reply);
                repeated += u64::from(was_armed && l1.stamps.is_armed(*place));
            } else if !terms.touched.is_nothing() {
                terms.note_answered(l1, protocol, &piece, reply);
            }
            if let Some(Owner::Client(who)) = &run.owner {
                let client = &mut clients[who.0];
                client.out.extend_from_slice(&input[piece.range]);
                let out = &mut client.out;
                client.session.handle_replies(piece.completed, out);
                heard.push(who.0);
            }
        };
        let pipe = &mut lane.pipe;
        let done = pipe.handle_input(input, lane.scanned, &mut lane.outbox, deliver);
        let (end, _) = done.map_err(|e| (Wrong::Order, e.to_string()))?;
        lane.input.drain(..end);
        lane.scanned = lane.input.len();
        *self
            .counts
            .entry("reads that showed nothing new")
            .or_default() += repeated;
        heard.into_iter().try_for_each(|who| self.check(who))
    }

    /// Commands get no reply, or none in time.
    fn fail(&mut self, run: &Run<Owner<Who>>) -> Result<(), Fault> {
        if !run.terms.touched.is_nothing() {
            self.l1.note_answered(&run.terms.touched);
        }
        let Some(Owner::Client(Who(who))) = run.owner else {
            return Ok(());
        };
        let client = &mut self.clients[who];
        let out = &mut client.out;
        client
            .session
            .handle_failure(run.visible(), LOST, true, out);
        self.check(who)
    }

    /// A shared connection is lost: what was on its way to the server may still arrive.
    pub fn lose_lane(&mut self, lane: usize) -> Result<(), Fault> {
        let lane = &mut self.lanes[lane];
        let Some(mut link) = lane.link.take() else {
            return Ok(());
        };
        self.server.close(link.conn);
        link.silent = false;
        self.zombies.push(link);
        lane.input.clear();
        lane.scanned = 0;
        let (streaming, written) = (lane.pipe.is_streaming(), lane.outbox.unanswered_written());
        let bytes = lane.outbox.unanswered().to_vec();
        let runs = lane.pipe.take();
        for run in &runs {
            self.l1.note_answered(&run.terms.touched);
        }
        lane.outbox.reset(Vec::new());
        let reads = Some(&*self.setting.table);
        let lost = OnLostReply::Error;
        let (kept, failed) = loss::sort(runs, &bytes, written, streaming, reads, lost);
        for (run, bytes) in kept {
            lane.numbers.extend((0..run.owed).map(|_| None));
            lane.outbox.push(&bytes);
            lane.pipe.push(run);
        }
        failed.iter().try_for_each(|(run, _)| self.fail(run))
    }

    /// The proxy has a connection again.
    pub fn open_lane(&mut self, lane: usize) {
        let lane = &mut self.lanes[lane];
        let (db, protocol) = (lane.key.db, lane.key.protocol);
        lane.link = Some(Link::new(self.server.open(db, protocol, false)));
        lane.write();
    }

    /// Waits no more for what has taken too long.
    pub fn expire(&mut self) -> Result<(), Fault> {
        let mut late = Vec::new();
        for lane in &mut self.lanes {
            for run in lane.pipe.iter_mut() {
                // An exchange of databases that nobody waits for is like one by others.
                let is_late = self.now.mono.saturating_sub(run.since) > PATIENCE
                    && !run.terms.touched.is_everything();
                if !is_late {
                    break;
                }
                if let Some(owner) = run.owner.take() {
                    late.push(Run {
                        owner: Some(owner),
                        terms: run.terms.clone(),
                        ..*run
                    });
                }
            }
        }
        late.iter().try_for_each(|run| self.fail(run))?;
        let limit = self.l1.lease();
        for track in 0..self.tracks.len() {
            if let Some(tracked) = &mut self.tracks[track].tracked {
                tracked.expire(self.now, limit);
            }
            self.tell(track);
        }
        Ok(())
    }

    /// A tracked connection is up.
    pub fn open_track(&mut self, at: usize) {
        let track = &mut self.tracks[at];
        let (tracker, standing) = (track.tracker.clone(), Standing::Tracking);
        let conn = self.server.open(tracker.scope.db, Protocol::Resp3, true);
        track.link = Some(Link::new(conn));
        track.wanted = false;
        tracker.renew(self.now);
        track.tracked = Some(Tracked::new(
            self.l1.clone(),
            self.stats.clone(),
            tracker.clone(),
            standing,
            Protocol::Resp3,
        ));
        tracker.set_standing(standing, None);
    }

    /// A tracked connection is lost.
    pub fn lose_track(&mut self, at: usize) {
        let track = &mut self.tracks[at];
        let Some(mut link) = track.link.take() else {
            return;
        };
        self.server.close(link.conn);
        link.silent = false;
        self.zombies.push(link);
        track.tracker.set_standing(Standing::Closed, None);
        if let Some(tracked) = &mut track.tracked {
            tracked.lose();
        }
        self.tell(at);
        self.tracks[at].tracked = None;
    }

    /// Bytes of a tracked connection reach the proxy.
    pub fn hear(&mut self, at: usize, n: usize) -> Result<(), Fault> {
        let track = &mut self.tracks[at];
        if let (Some(tracked), Some(link)) = (&mut track.tracked, &track.link) {
            let bytes = link.take(n, &mut self.server);
            if let Some(log) = &mut self.log {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                log.push(format!("          tracked connection {at} hears {text:?}"));
            }
            let heard = tracked.handle_input(&bytes);
            heard.map_err(|e| (Wrong::Order, format!("{e:?}")))?;
            self.tell(at);
        }
        Ok(())
    }

    /// The answers of a tracked connection go to the workers that ordered them.
    fn tell(&mut self, at: usize) {
        let Some(tracked) = &mut self.tracks[at].tracked else {
            return;
        };
        for (worker, ticket, answer) in tracked.take_told() {
            match worker {
                0 => self.readers[0].handle_answer(ticket, answer),
                _ => self.answers.push_back((ticket, answer)),
            }
        }
    }

    /// An order of worker 1 reaches worker 0.
    pub fn pass_order(&mut self) {
        if let Some(order) = self.orders.pop_front()
            && let Err(ticket) = self.tracks[order.tracker.scope.db as usize].accept(1, order)
        {
            self.answers.push_back((ticket, None));
        }
    }

    /// An answer reaches worker 1.
    pub fn pass_answer(&mut self) {
        if let Some((ticket, answer)) = self.answers.pop_front() {
            self.readers[1].handle_answer(ticket, answer);
        }
    }

    /// Time passes, everywhere alike.
    pub fn pass(&mut self, micros: u64) {
        self.server.pass(micros);
        self.now.mono += micros;
        self.now.wall += micros;
    }

    /// Time passes while the proxy's machine is frozen.
    pub fn freeze(&mut self, micros: u64) {
        self.server.pass(micros);
        if self.setting.stops_mono {
            self.now.wall += micros;
        } else {
            self.now.mono += micros;
            self.now.wall -= micros / 3;
        }
    }

    /// The key of this name in the database of a client.
    pub fn key(&self, who: usize, name: &str) -> Key {
        (self.clients[who].db, name.to_owned())
    }
}

/// A command.
pub fn encode(words: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    crate::resp::encode::command(&mut out, &words);
    out
}
