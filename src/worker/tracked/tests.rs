//! Tests of tracked connections against servers: a real one, and scripted ones that do what a real one
//! does rarely.
//!
//! Where no `redis-server` is installed the tests against a real one pass without a word.

use std::cell::Cell;
use std::future::poll_fn;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::mpsc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::unbounded_channel;

use super::*;
use crate::commands::CommandTable;
use crate::hub::Census;
use crate::l1::L1;
use crate::l1::config::{Config, Mode, Rule, Verb};
use crate::l1::entry::{Entry, Read};
use crate::l1::reader::{Outcome, Reader};
use crate::l1::shape::Shape;
use crate::l1::tracker::Standing;
use crate::resp::request::{RequestScanner, Scan};
use crate::resp::{Limits as Wire, Protocol, args};
use crate::session::Settings;
use crate::stats::{Counters, UpstreamStats, WorkerStats};
use crate::upstream::dial::Dialer;
use crate::upstream::link::Link;
use crate::upstream::{Address, Auth, OnLostReply};
use crate::worker::{Budget, Directory, Limits, Parts};

const SCOPE: Scope = Scope {
    db: 0,
    identity: IdentityId::OWN,
};

/// All tests wait for this long at most, which none comes near.
const PATIENCE: Duration = Duration::from_secs(20);

fn upstream(address: SocketAddr) -> crate::upstream::Config {
    crate::upstream::Config {
        address: Address::Tcp {
            host: address.ip().to_string(),
            port: address.port(),
        },
        tls: None,
        auth: Auth::Own,
        username: None,
        password: None,
        password_file: None,
        database: 0,
        max_connections: 4,
        connections: 1,
        connect_timeout: Duration::from_secs(5),
        command_timeout: Duration::from_secs(5),
        queue_timeout: Duration::from_secs(1),
        queue_commands: 10_000,
        max_in_flight: 10_000,
        lease_timeout: Duration::from_secs(1),
        idle_timeout: Duration::from_secs(60),
        keepalive: Duration::from_secs(30),
        stall_timeout: Duration::from_secs(30),
        opens_per_second: 1000,
        backoff_min: Duration::from_millis(1),
        backoff_max: Duration::from_millis(20),
        large_request: 1 << 20,
        on_lost_reply: OnLostReply::Close,
        retry_reads: true,
    }
}

fn cache() -> Config {
    Config {
        default: Verb::Cache,
        ..Config::default()
    }
}

fn with_ttl(mode: Mode) -> Config {
    let rule = Rule {
        pattern: b"*".to_vec(),
        verb: Verb::Cache,
        mode: None,
        ttl: Some(Duration::from_secs(30)),
        max_age: None,
        max_value: None,
        stale_if_down: None,
    };
    Config {
        mode,
        rules: vec![rule],
        ..Config::default()
    }
}

/// The workers of one process, all on this thread.
struct Process {
    workers: Vec<Rc<Worker>>,
    l1: Arc<L1>,
    dialer: Arc<Dialer>,
    table: CommandTable,
}

impl Process {
    fn new(count: usize, upstream: crate::upstream::Config, cache: Config) -> Self {
        let table = CommandTable::builtin();
        let l1 = L1::new(cache, &table).expect("a use for L1");
        let stats = Arc::new(UpstreamStats::default());
        let builtin = Arc::new(CommandTable::builtin());
        let dialer = Arc::new(Dialer::new(upstream, None, builtin, stats, 1));
        let all_stats: Vec<_> = (0..count)
            .map(|_| Arc::new(WorkerStats::default()))
            .collect();
        let (mailboxes, receivers): (Vec<_>, Vec<_>) =
            (0..count).map(|_| unbounded_channel()).unzip();
        let settings = Arc::new(Settings {
            password: None,
            passthrough: false,
            database: 0,
            large_request: 1 << 20,
            limits: Wire::default(),
            pressed: Arc::default(),
        });
        let parts = |index: usize| Parts {
            index,
            settings: settings.clone(),
            limits: Limits {
                client_output: (1 << 20).into(),
                on_lost_reply: OnLostReply::Close.into(),
                unix_path: String::new(),
            },
            budget: Budget::default(),
            link: Link {
                dialer: dialer.clone(),
                stats: all_stats[index].clone(),
                started: Instant::now(),
                gaps: Default::default(),
                l1: Some(l1.clone()),
            },
            directory: Arc::new(Directory::default()),
            census: Arc::new(Census::default()),
            mailboxes: mailboxes.clone(),
            all_stats: all_stats.clone(),
            loads: (0..count).map(|_| AtomicUsize::new(0)).collect(),
            control: Arc::default(),
        };
        let workers: Vec<_> = (0..count).map(|index| Worker::new(parts(index))).collect();
        for (worker, mailbox) in workers.iter().zip(receivers) {
            tokio::task::spawn_local(worker.clone().read_mail(mailbox));
        }
        Self {
            workers,
            l1,
            dialer,
            table,
        }
    }

    fn tracker(&self) -> Arc<Tracker> {
        self.l1.tracker(SCOPE)
    }

    fn owner(&self) -> usize {
        self.workers[0].tracker_owner(SCOPE)
    }

    /// A counter of the owner.
    fn count(&self, which: impl Fn(&Counters) -> u64) -> u64 {
        which(self.workers[self.owner()].counters())
    }

    /// What becomes of `GET key` at a worker.
    fn read(&self, worker: usize, key: &str) -> Outcome {
        let worker = &self.workers[worker];
        let reader: &Reader = worker.reader.as_ref().expect("an L1");
        let args = format!("${}\r\n{key}\r\n", key.len());
        let at = args.len() - key.len() - 2;
        let spec = self.table.lookup(b"GET").expect("a command");
        let key_hash = self.l1.stamps.hash(key.as_bytes());
        let read = Read {
            scope: SCOPE,
            protocol: Protocol::Resp2,
            command: spec.id(),
            shape: Shape::Plain,
            call: ("GET", 2),
            args: args.as_bytes(),
            key: &args.as_bytes()[at..at + key.len()],
            key_hash,
            place: self.l1.stamps.place(key_hash),
            hash: key_hash,
        };
        reader.read(&read, self.l1.clock.now(), &mut || true, &mut Gate(worker))
    }

    /// Reads until the key is fetched or known, as clients do.
    async fn get(&self, worker: usize, key: &str) -> Arc<Entry> {
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < PATIENCE, "no answer for {key}");
            match self.read(worker, key) {
                Outcome::Hit(entry) => return entry,
                Outcome::Pass => {}
                waits => {
                    if let Some(entry) = answer(waits).await {
                        return entry;
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn is_hit(&self, worker: usize, key: &str) -> bool {
        matches!(self.read(worker, key), Outcome::Hit(_))
    }

    /// Waits until something holds.
    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            assert!(begun.elapsed() < PATIENCE, "not so: {what}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Wants the connection until it stands so.
    async fn stand(&self, standing: Standing) {
        let key = Cell::new(0);
        self.until(&format!("{standing:?}"), |process| {
            // A new key each time: what is known needs no connection.
            let name = format!("wanted{}", key.replace(key.get() + 1));
            let _ = process.read(0, &name);
            let _ = process.read(0, &name);
            process.tracker().standing() == standing
        })
        .await;
    }
}

/// The answer to what was asked.
async fn answer(outcome: Outcome) -> Answer {
    let Outcome::Wait(fetch) = outcome else {
        panic!("not fetched: {outcome:?}")
    };
    poll_fn(|cx| fetch.poll(cx.waker()).map_or(Poll::Pending, Poll::Ready)).await
}

/// Runs a test as a worker's thread would.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .expect("a runtime");
    runtime.block_on(test);
}

/// A redis-server of this test's own.
struct Redis {
    child: Child,
    address: SocketAddr,
}

impl Redis {
    fn start() -> Option<Self> {
        for _ in 0..5 {
            let free = TcpListener::bind("127.0.0.1:0").expect("a port");
            let address = free.local_addr().expect("an address");
            drop(free);
            let port = address.port().to_string();
            let child = Command::new("redis-server")
                .args(["--port", &port, "--save", "", "--appendonly", "no"])
                .args(["--bind", "127.0.0.1", "--dir", "/tmp"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .ok()?;
            let mut redis = Self { child, address };
            let begun = Instant::now();
            while begun.elapsed() < PATIENCE && redis.child.try_wait().is_ok_and(|s| s.is_none()) {
                if TcpStream::connect(address).is_ok() {
                    return Some(redis);
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        panic!("redis-server does not start");
    }

    /// Says something over a connection of its own; what comes back.
    fn say(&self, line: &str) -> String {
        let mut stream = TcpStream::connect(self.address).expect("the server");
        write!(stream, "{line}\r\nQUIT\r\n").expect("the server");
        let mut reply = String::new();
        stream.read_to_string(&mut reply).expect("the server");
        reply.trim_end_matches("+OK\r\n").to_owned()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_real_server_passes_the_canary_and_its_pushes_end_entries() {
    let Some(redis) = Redis::start() else { return };
    run(async {
        let process = Process::new(1, upstream(redis.address), cache());
        redis.say("SET k one");
        let entry = process.get(0, "k").await;
        assert_eq!(entry.reply(), b"$3\r\none\r\n");
        assert!(entry.age > 0 && !entry.timed);
        assert_eq!(process.tracker().standing(), Standing::Tracking);
        assert_eq!(process.tracker().reason(), "");
        assert!(process.is_hit(0, "k"));
        redis.say("SET k two");
        process.until("a push", |p| !p.is_hit(0, "k")).await;
        assert_eq!(process.get(0, "k").await.reply(), b"$3\r\ntwo\r\n");
        redis.say("FLUSHALL");
        process
            .until("a null push", |p| p.count(|c| c.l1_flushes.get()) > 0)
            .await;
        let entry = process.get(0, "k").await;
        assert_eq!((entry.reply(), entry.absent), (&b"_\r\n"[..], true));
        assert_eq!(redis.say("KEYS nearkey:*"), "*0\r\n", "the canary is gone");
    });
}

#[test]
fn workers_share_one_connection() {
    let Some(redis) = Redis::start() else { return };
    run(async {
        let process = Process::new(2, upstream(redis.address), cache());
        let other = 1 - process.owner();
        process.stand(Standing::Tracking).await;
        for i in 0..200 {
            redis.say(&format!("SET key:{i} {i}"));
            assert!(matches!(
                process.read(other, &format!("key:{i}")),
                Outcome::Pass
            ));
        }
        // The sketch may have forgotten the first sight of a few.
        let ask = |key: String| {
            let mut outcomes = (0..10).map(|_| process.read(other, &key));
            outcomes.find(|outcome| !matches!(outcome, Outcome::Pass))
        };
        let ask = |i| (i, ask(format!("key:{i}")).expect("worth a fetch"));
        let gets = (0..200).map(ask);
        for (i, outcome) in gets.collect::<Vec<_>>() {
            let entry = answer(outcome).await.expect("an answer");
            let text = i.to_string();
            assert_eq!(
                entry.reply(),
                format!("${}\r\n{text}\r\n", text.len()).as_bytes()
            );
            assert!(entry.age > 0);
        }
        assert!(process.is_hit(other, "key:7"));
        process
            .until("the store", |p| p.is_hit(p.owner(), "key:7"))
            .await;
        assert_eq!(process.dialer.stats.connections.load(Relaxed), 1);
    });
}

#[test]
fn hits_keep_the_lease_and_without_them_nothing_is_sent() {
    let Some(redis) = Redis::start() else { return };
    run(async {
        let lease = Duration::from_millis(300);
        let process = Process::new(1, upstream(redis.address), Config { lease, ..cache() });
        redis.say("SET k one");
        process.get(0, "k").await;
        let before = process.count(|c| c.l1_overhead_commands.get());
        let heard = process.tracker().heard();
        process
            .until("pings", |p| {
                let _ = p.is_hit(0, "k");
                p.tracker().heard().mono > heard.mono + 3 * 300_000
            })
            .await;
        let fetched = process.count(|c| c.l1_fetches.get());
        assert!(process.count(|c| c.l1_overhead_commands.get()) > before);
        tokio::time::sleep(lease * 2).await;
        let quiet = process.tracker().heard();
        tokio::time::sleep(lease * 3).await;
        assert_eq!(process.tracker().heard(), quiet, "idle costs nothing");
        assert_eq!(process.count(|c| c.l1_fetches.get()), fetched);
        assert!(!process.is_hit(0, "k"), "the lease has lapsed");
    });
}

#[test]
fn a_killed_connection_ends_its_entries_and_comes_back() {
    let Some(redis) = Redis::start() else { return };
    run(async {
        let process = Process::new(1, upstream(redis.address), cache());
        redis.say("SET k one");
        process.get(0, "k").await;
        let link = process.tracker().link();
        redis.say("CLIENT KILL TYPE normal SKIPME yes");
        process
            .until("the loss", |p| p.tracker().link() > link)
            .await;
        assert!(!process.is_hit(0, "k"));
        redis.say("SET k two");
        let entry = process.get(0, "k").await;
        assert_eq!(entry.reply(), b"$3\r\ntwo\r\n");
        assert_eq!(entry.link, process.tracker().link());
        // The same by our own wish, as often as there is one.
        process.until("a hit", |p| p.is_hit(0, "k")).await;
        let connects = process.dialer.stats.connects.load(Relaxed);
        process.l1.lose_all();
        assert!(!process.is_hit(0, "k"));
        let entry = process.get(0, "k").await;
        assert!(entry.link > link + 1);
        process
            .until("another connection", |p| {
                p.dialer.stats.connects.load(Relaxed) > connects
            })
            .await;
    });
}

#[test]
fn no_entry_is_older_than_the_newest_round_trip() {
    let Some(redis) = Redis::start() else { return };
    let address = redis.address;
    run(async {
        let process = Process::new(2, upstream(address), cache());
        process.stand(Standing::Tracking).await;
        let mut writer = TcpStream::connect(address).expect("the server");
        let mut ok = [0; 5];
        for round in 0..300 {
            let key = format!("k{}", round % 3);
            // Fills and the write are on their way at once.
            let early: Vec<_> = (0..4)
                .map(|i| process.read(i % 2, &key))
                .filter(|outcome| matches!(outcome, Outcome::Wait(_)))
                .collect();
            tokio::task::yield_now().await;
            let set = format!("SET {key} {round:04}\r\n");
            writer.write_all(set.as_bytes()).expect("the server");
            for outcome in early {
                let _ = answer(outcome).await;
            }
            writer.read_exact(&mut ok).expect("the server");
            let written = process.l1.clock.now();
            let begun = Instant::now();
            while process.tracker().heard().mono <= written.mono {
                assert!(begun.elapsed() < PATIENCE);
                let _ = process.read(0, &format!("other{round}"));
                let _ = process.read(1, &format!("other{round}"));
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
            for worker in 0..2 {
                if let Outcome::Hit(entry) = process.read(worker, &key) {
                    let value = format!("$4\r\n{round:04}\r\n");
                    assert_eq!(entry.reply(), value.as_bytes(), "a stale hit");
                }
            }
            let entry = process.get(round % 2, &key).await;
            assert_eq!(entry.reply(), format!("$4\r\n{round:04}\r\n").as_bytes());
        }
        assert!(process.count(|c| c.l1_fills.get()) > 300);
        assert!(process.count(|c| c.l1_pushes.get()) > 100);
    });
}

#[test]
fn a_user_who_may_not_track_is_told_what_is_missing() {
    let Some(redis) = Redis::start() else { return };
    run(async {
        redis.say("ACL SETUSER default -client|tracking");
        let process = Process::new(1, upstream(redis.address), with_ttl(Mode::Auto));
        let entry = process.get(0, "k").await;
        assert!(entry.timed && entry.age > 0);
        let reason = process.tracker().reason();
        assert!(
            reason.contains("NOPERM") && reason.contains("nearkey:canary:*"),
            "{reason}"
        );
    });
}

#[test]
fn a_key_ends_when_it_expires_whatever_is_pushed() {
    let Some(redis) = Redis::start() else { return };
    run(async {
        let process = Process::new(1, upstream(redis.address), cache());
        process.stand(Standing::Tracking).await;
        redis.say("SET k one PX 400");
        let entry = process.get(0, "k").await;
        assert!(entry.age <= 400_000, "{}", entry.age);
        process
            .until("its end", |_| redis.say("EXISTS k") == ":0\r\n")
            .await;
        // Our deadline is the earlier one; no push has been looked at since.
        if let Outcome::Hit(entry) = process.read(0, "k") {
            assert!(entry.absent, "a hit past the key's end");
        }
        assert_eq!(process.get(0, "k").await.reply(), b"_\r\n");
    });
}

#[test]
fn somebody_who_waits_for_a_connection_gets_this_one() {
    let Some(redis) = Redis::start() else { return };
    run(async {
        let mut config = upstream(redis.address);
        config.max_connections = 1;
        let process = Process::new(1, config, cache());
        process.stand(Standing::Tracking).await;
        let permit = tokio::time::timeout(PATIENCE, process.dialer.budget.acquire());
        let permit = permit.await.expect("in time").expect("a permit");
        assert_ne!(process.tracker().standing(), Standing::Tracking);
        assert!(!process.is_hit(0, "wanted"));
        process
            .until("a reason", |p| {
                let _ = p.read(0, "wanted");
                p.tracker().reason().contains("max_connections")
            })
            .await;
        drop(permit);
        process.stand(Standing::Tracking).await;
    });
}

#[test]
fn an_unused_connection_is_closed() {
    let Some(redis) = Redis::start() else { return };
    run(async {
        let mut config = upstream(redis.address);
        config.idle_timeout = Duration::from_millis(200);
        let process = Process::new(1, config, cache());
        process.stand(Standing::Tracking).await;
        process
            .until("closed", |p| {
                p.tracker().standing() == Standing::Closed
                    && p.dialer.stats.connections.load(Relaxed) == 0
            })
            .await;
        process.stand(Standing::Tracking).await;
    });
}

/// A server that says what a function says to each command; `None` closes.
fn scripted(
    answer: impl Fn(&[String]) -> Option<String> + Send + Sync + 'static,
) -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let (heard, log) = mpsc::channel();
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (answer, heard) = (answer.clone(), heard.clone());
            std::thread::spawn(move || converse(stream, &*answer, &heard));
        }
    });
    (address, log)
}

fn converse(
    mut stream: TcpStream,
    answer: &dyn Fn(&[String]) -> Option<String>,
    heard: &mpsc::Sender<String>,
) {
    let (mut input, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut chunk) {
            Ok(n) if n > 0 => input.extend_from_slice(&chunk[..n]),
            _ => return,
        }
        loop {
            let scan = RequestScanner::default().scan(&input, &Wire::default());
            let Ok(Scan::Complete { consumed, .. }) = scan else {
                break;
            };
            let command: Vec<u8> = input.drain(..consumed).collect();
            let words: Vec<String> = args(&command)
                .map(|arg| String::from_utf8_lossy(arg).into_owned())
                .collect();
            let _ = heard.send(words.join(" "));
            let Some(reply) = answer(&words) else { return };
            if stream.write_all(reply.as_bytes()).is_err() {
                return;
            }
        }
    }
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

/// What a server without anything special says.
fn ordinary(words: &[String]) -> String {
    let word = |i: usize| words.get(i).map_or("", String::as_str);
    match word(0) {
        "HELLO" if word(1) == "3" => {
            "%3\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n\
             $5\r\nproto\r\n:3\r\n"
                .to_owned()
        }
        "HELLO" => {
            "*4\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n".to_owned()
        }
        "PING" if words.len() == 2 => bulk(word(1)),
        "PING" => "+PONG\r\n".to_owned(),
        "INFO" => bulk(""),
        "GET" => bulk("v"),
        "PTTL" => ":-1\r\n".to_owned(),
        "EXISTS" | "UNLINK" => ":0\r\n".to_owned(),
        "SET" if word(1).starts_with("nearkey:canary:") => {
            format!("+OK\r\n>2\r\n$10\r\ninvalidate\r\n*1\r\n{}", bulk(word(1)))
        }
        _ => "+OK\r\n".to_owned(),
    }
}

#[test]
fn a_server_without_tracking_is_used_for_what_has_a_ttl_and_else_left_alone() {
    let deny = |words: &[String]| {
        Some(match words.get(1).map(String::as_str) {
            Some("TRACKING") => "-ERR unknown subcommand 'tracking'\r\n".to_owned(),
            _ => ordinary(words),
        })
    };
    run(async {
        let (address, _log) = scripted(deny);
        let process = Process::new(1, upstream(address), with_ttl(Mode::Auto));
        let entry = process.get(0, "k").await;
        assert!(entry.timed && entry.age > 0 && entry.protocol == Protocol::Resp3);
        assert_eq!(process.tracker().standing(), Standing::Timed);
        assert!(process.tracker().reason().contains("unknown subcommand"));
        assert!(process.is_hit(0, "k"));

        let (address, log) = scripted(deny);
        let process = Process::new(1, upstream(address), cache());
        process
            .until("a reason", |p| {
                let _ = p.read(0, "k");
                p.tracker().reason().contains("unknown subcommand")
                    && p.tracker().standing() == Standing::Closed
            })
            .await;
        // It is not asked again at once.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(200) {
            let _ = process.read(0, "k");
            tokio::time::sleep(Duration::from_millis(4)).await;
        }
        let hellos = log.try_iter().filter(|said| said.starts_with("HELLO"));
        let hellos = hellos.count();
        assert!(hellos == 1 || begun.elapsed() > Duration::from_secs(1));
    });
}

#[test]
fn where_pushes_are_not_to_be_had_for_now_they_are_asked_for_again() {
    run(async {
        let demoted = Arc::new(AtomicBool::new(true));
        let shown = demoted.clone();
        let (address, _log) = scripted(move |words| {
            Some(match words[0].as_str() {
                "SET" if shown.load(Relaxed) => "-READONLY You can't\r\n".to_owned(),
                _ => ordinary(words),
            })
        });
        let process = Process::new(1, upstream(address), with_ttl(Mode::Auto));
        let entry = process.get(0, "k").await;
        assert!(entry.timed && process.is_hit(0, "k"));
        demoted.store(false, Relaxed);
        process.stand(Standing::Tracking).await;
        assert!(process.is_hit(0, "k"), "it needed no pushes");
        assert!(!process.get(0, "other").await.timed);
    });
}

#[test]
fn in_mode_ttl_nothing_is_asked_and_resp2_will_do() {
    run(async {
        let (address, log) = scripted(|words| {
            Some(match words[0].as_str() {
                "HELLO" => "-ERR unknown command `HELLO`\r\n".to_owned(),
                "GET" => "$-1\r\n".to_owned(),
                _ => ordinary(words),
            })
        });
        let process = Process::new(1, upstream(address), with_ttl(Mode::Ttl));
        let entry = process.get(0, "k").await;
        assert_eq!(
            (entry.reply(), entry.protocol),
            (&b"$-1\r\n"[..], Protocol::Resp2)
        );
        assert!(entry.timed);
        let said: Vec<String> = log.try_iter().collect();
        assert!(
            !said
                .iter()
                .any(|said| said.contains("TRACKING") || said.contains("INFO"))
        );
        assert!(!said.iter().any(|said| said.contains("CACHING")));
    });
}

#[test]
fn a_master_that_has_become_a_replica_is_left() {
    run(async {
        let demoted = Arc::new(AtomicBool::new(false));
        let shown = demoted.clone();
        let (address, _log) = scripted(move |words| {
            let is_demoted = shown.load(Relaxed);
            Some(match words[0].as_str() {
                "PTTL" if is_demoted => "-READONLY You can't\r\n".to_owned(),
                "SET" if is_demoted => "-READONLY You can't\r\n".to_owned(),
                _ => ordinary(words),
            })
        });
        let process = Process::new(1, upstream(address), cache());
        process.get(0, "k").await;
        assert!(process.is_hit(0, "k"));
        demoted.store(true, Relaxed);
        let _ = process.read(0, "other");
        let _ = process.read(0, "other");
        process
            .until("another canary, and its reason", |p| {
                let _ = p.read(0, "other");
                p.tracker().reason().contains("READONLY")
            })
            .await;
        assert!(!process.is_hit(0, "k"));
        demoted.store(false, Relaxed);
        process.stand(Standing::Tracking).await;
    });
}

#[test]
fn a_server_that_falls_silent_holds_nobody_for_longer_than_the_lease() {
    run(async {
        let silent = Arc::new(AtomicBool::new(false));
        let shown = silent.clone();
        let (address, _log) = scripted(move |words| {
            let is_silent = shown.load(Relaxed);
            Some(if is_silent && words[0] != "HELLO" {
                String::new()
            } else {
                ordinary(words)
            })
        });
        let lease = Duration::from_millis(100);
        let process = Process::new(1, upstream(address), Config { lease, ..cache() });
        process.get(0, "k").await;
        let link = process.tracker().link();
        silent.store(true, Relaxed);
        let _ = process.read(0, "other");
        assert!(answer(process.read(0, "other")).await.is_none());
        assert_eq!(process.tracker().link(), link, "given up, not yet lost");
        assert!(
            matches!(process.read(0, "other"), Outcome::Pass),
            "it is stuck"
        );
        process
            .until("the loss", |p| p.tracker().link() > link)
            .await;
        silent.store(false, Relaxed);
        process.stand(Standing::Tracking).await;
    });
}

#[test]
fn a_ping_without_an_answer_ends_the_connection() {
    run(async {
        let silent = Arc::new(AtomicBool::new(false));
        let shown = silent.clone();
        let (address, _log) = scripted(move |words| {
            Some(if shown.load(Relaxed) {
                String::new()
            } else {
                ordinary(words)
            })
        });
        let lease = Duration::from_millis(300);
        let process = Process::new(1, upstream(address), Config { lease, ..cache() });
        process.get(0, "k").await;
        let (link, heard) = (process.tracker().link(), process.tracker().heard().mono);
        // So long that no clock runs for the fetch any more.
        process
            .until("pings alone", |p| {
                let _ = p.is_hit(0, "k");
                p.tracker().heard().mono > heard + 4 * 300_000
            })
            .await;
        let said = process.count(|c| c.l1_overhead_commands.get());
        silent.store(true, Relaxed);
        process
            .until("a ping", |p| {
                let _ = p.is_hit(0, "k");
                p.count(|c| c.l1_overhead_commands.get()) > said
            })
            .await;
        // Nobody asks for anything from here on.
        process
            .until("the loss", |p| p.tracker().link() > link)
            .await;
    });
}

#[test]
fn a_stream_out_of_step_is_closed_and_counted() {
    run(async {
        let (address, _log) = scripted(|words| {
            Some(match words[0].as_str() {
                "GET" if words[1] == "bad" => format!("{}+OK\r\n", bulk("v")),
                _ => ordinary(words),
            })
        });
        let process = Process::new(1, upstream(address), cache());
        process.get(0, "good").await;
        let _ = process.read(0, "bad");
        assert!(answer(process.read(0, "bad")).await.is_none());
        assert_eq!(process.count(|c| c.desyncs.get()), 1);
        process.stand(Standing::Tracking).await;
    });
}
