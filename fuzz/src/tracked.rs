//! A tracked connection: each answer is that of its own order, whatever the server sends; chunks change
//! nothing; each order is told of once.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nearkey::commands::CommandTable;
use nearkey::l1::L1;
use nearkey::l1::clock::Now;
use nearkey::l1::config::{Config, Verb};
use nearkey::l1::entry::{Name, Scope};
use nearkey::l1::fetch::Order;
use nearkey::l1::shape::Shape;
use nearkey::l1::tracked::{Setup, Tracked};
use nearkey::l1::tracker::Standing;
use nearkey::resp::Protocol;
use nearkey::resp::reply::{ReplyKind, ReplyScan, ReplyScanner};
use nearkey::stats::WorkerStats;
use nearkey::upstream::facts::Identity;

use super::input::{Input, expand};

const MAX_VALUE: usize = 4096;

struct World {
    l1: Arc<L1>,
    stats: Arc<WorkerStats>,
    table: CommandTable,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let table = CommandTable::builtin();
        let config = Config {
            default: Verb::Cache,
            max_value: MAX_VALUE,
            max_bytes: 1 << 20,
            ..Config::default()
        };
        let l1 = L1::new(config, &table).expect("it is of use");
        World {
            l1,
            stats: Arc::default(),
            table,
        }
    })
}

/// What became of the orders: the replies that were given, by ticket, in order.
type Told = Vec<(u64, Option<Vec<u8>>)>;

/// One run.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let body = expand(input.body);
    input.body = &body;
    let (switches, orders) = (input.next(), u64::from(input.next() & 15));
    let standing = match switches & 1 {
        0 => Standing::Tracking,
        _ => Standing::Timed,
    };
    let whole = converse(standing, orders, [&body[..]], None);
    let limit = switches & 2 != 0;
    let cut = converse(
        standing,
        orders,
        input.chunks(),
        limit.then_some(switches >> 2),
    );
    if !limit {
        assert_eq!(cut, whole, "chunks change nothing");
    }
    check_owners(standing, &body, &whole.0);
    check_setup(&body, input);
}

fn now(mono: u64) -> Now {
    Now {
        mono,
        wall: mono + 1_000_000,
    }
}

/// Says all orders, then hears the server; `expires` gives up on some in between.
fn converse<'a>(
    standing: Standing,
    orders: u64,
    chunks: impl IntoIterator<Item = &'a [u8]>,
    expires: Option<u8>,
) -> (Told, bool) {
    let World { l1, stats, .. } = world();
    let tracker = l1.tracker(Scope::default());
    let mut tracked = Tracked::new(
        l1.clone(),
        stats.clone(),
        tracker,
        standing,
        Protocol::Resp3,
    );
    for ticket in 0..orders {
        tracked.enqueue(1, order(ticket));
    }
    if orders == 0 {
        tracked.ping(now(1));
    }
    tracked.take_output();
    let (mut told, mut broken) = (Vec::new(), false);
    let mut take = |tracked: &mut Tracked| {
        for (from, ticket, answer) in tracked.take_told() {
            assert_eq!(from, 1);
            told.push((ticket, answer.map(|entry| entry.reply().to_vec())));
        }
    };
    for chunk in chunks {
        if tracked.handle_input(chunk).is_err() {
            broken = true;
            break;
        }
        take(&mut tracked);
        if let Some(age) = expires {
            tracked.expire(now(100 + u64::from(age)), Duration::from_micros(8));
        }
    }
    take(&mut tracked);
    tracked.lose();
    take(&mut tracked);
    let mut tickets: Vec<u64> = told.iter().map(|(ticket, _)| *ticket).collect();
    tickets.sort_unstable();
    assert!(
        tickets.into_iter().eq(0..orders),
        "each order is told of once"
    );
    (told, broken)
}

fn order(ticket: u64) -> Order {
    let World { l1, table, .. } = world();
    let key = format!("k{ticket}");
    let args = format!("${}\r\n{key}\r\n", key.len());
    let at = u32::try_from(args.len() - key.len() - 2).expect("short");
    let tracker = l1.tracker(Scope::default());
    Order {
        name: Name {
            hash: ticket,
            scope: Scope::default(),
            command: table.lookup(b"GET").expect("it is built in").id(),
            shape: Shape::Plain,
            args: args.as_bytes().into(),
            key: (at, at + u32::try_from(key.len()).expect("short")),
        },
        command: format!("*2\r\n$3\r\nGET\r\n{args}").into_bytes().into(),
        stamp: l1
            .stamps
            .arm(l1.stamps.place(l1.stamps.hash(key.as_bytes()))),
        link: tracker.link(),
        tracker,
        terms: l1.rules().of(key.as_bytes()).clone(),
        since: now(100 + ticket),
        waste: 0,
        ticket,
    }
}

/// The answer to the n-th order is the n-th read's reply, found by counting.
fn check_owners(standing: Standing, body: &[u8], told: &Told) {
    let (mut scanner, mut replies, mut rest) = (ReplyScanner::new(), Vec::new(), body);
    while let (false, Ok(ReplyScan::Complete { consumed, kind })) =
        (rest.is_empty(), scanner.scan(rest))
    {
        if kind != ReplyKind::Push {
            replies.push(&rest[..consumed]);
        }
        rest = &rest[consumed..];
    }
    let (each, at) = match standing {
        Standing::Tracking => (3, 1),
        _ => (2, 0),
    };
    for (ticket, reply) in told {
        let Some(reply) = reply.as_deref().filter(|reply| !reply.is_empty()) else {
            continue;
        };
        let wanted = replies.get(usize::try_from(*ticket).expect("few") * each + at);
        assert_eq!(Some(&reply), wanted, "an answer is that of its order");
        assert!(reply.len() <= MAX_VALUE || reply.starts_with(b"-"));
    }
}

/// The questions to a new server end, whatever it answers.
fn check_setup(body: &[u8], mut input: Input<'_>) {
    let identity = Identity {
        version: "8.0.0".to_owned(),
        ..Identity::default()
    };
    let Ok(mut setup) = Setup::new(&identity, 7) else {
        return;
    };
    setup.take_output();
    let mut rest = body;
    while !rest.is_empty() {
        let (chunk, behind) = rest.split_at(input.chunk(rest.len()));
        rest = behind;
        match setup.handle_input(chunk) {
            Ok(None) => drop(setup.take_output()),
            Ok(Some(_)) | Err(_) => return,
        }
    }
}
