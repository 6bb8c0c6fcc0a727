//! `load tx ADDRESS CLIENTS [CA.pem]` and `load fanout ADDRESS SUBSCRIBERS PUBLISHER [CA.pem]`: the load that
//! redis-benchmark cannot make.
//!
//! It connects, prints `ready` and then answers each line of its input, a number of seconds, with one line of JSON:
//! what it did in that time. So whoever started it can read clocks and counters while the connections are open. Every
//! byte that comes back is compared with what must come; anything else ends the program with `{"error":...}`.
//!
//! - `tx`: each client sends MULTI, INCR, SET, GET, EXEC in one write, waits for the whole answer and goes on. The
//!   counter is the client's own, so EXEC must give the next number each time: once, whole and in order.
//! - `fanout`: a publisher, connected to another address than the subscribers (the server itself), sends a message
//!   once all subscribers have the one before it. Latency is from before PUBLISH is sent until a subscriber has it all.

use std::{
    cell::{Cell, RefCell},
    env,
    fmt::Display,
    io::{self, BufRead, Write},
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    runtime::Runtime,
    sync::Notify,
    task::LocalSet,
};

mod tls;
use tls::Tls;

type Answer<T> = Result<T, String>;

const CHANNEL: &str = "bench:fanout";
const VALUE: usize = 64;

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// One connection, and how much it has read.
struct Connection {
    stream: Box<dyn Stream>,
    buf: Vec<u8>,
    filled: usize,
    total: usize,
}

impl Connection {
    async fn open(address: &str, tls: Option<&Tls>) -> Answer<Self> {
        let tcp = TcpStream::connect(address).await.map_err(text)?;
        tcp.set_nodelay(true).map_err(text)?;
        let stream: Box<dyn Stream> = match tls {
            Some(tls) => Box::new(tls.connect(tcp).await.map_err(text)?),
            None => Box::new(tcp),
        };
        Ok(Self {
            stream,
            buf: vec![0; 2 << 10],
            filled: 0,
            total: 0,
        })
    }

    async fn send(&mut self, bytes: &[u8]) -> Answer<()> {
        self.stream.write_all(bytes).await.map_err(text)?;
        self.stream.flush().await.map_err(text)
    }

    /// Reads until `done` says so of everything read since the last call.
    async fn read_until(&mut self, done: impl Fn(&[u8]) -> bool) -> Answer<&[u8]> {
        self.filled = 0;
        while !done(&self.buf[..self.filled]) {
            if self.filled == self.buf.len() {
                return Err(surprise(&self.buf));
            }
            match self.stream.read(&mut self.buf[self.filled..]).await {
                Ok(0) => return Err(format!("closed, {}", surprise(&self.buf[..self.filled]))),
                Ok(n) => (self.filled, self.total) = (self.filled + n, self.total + n),
                Err(e) => return Err(text(e)),
            }
        }
        Ok(&self.buf[..self.filled])
    }

    /// Reads exactly this. An error that comes instead of it is told whole lines long.
    async fn expect(&mut self, expected: &[u8]) -> Answer<()> {
        let done = |got: &[u8]| {
            let common = got.len().min(expected.len());
            got.len() >= expected.len()
                || got[..common] != expected[..common] && got.ends_with(b"\n")
        };
        let got = self.read_until(done).await?;
        (got == expected).then_some(()).ok_or_else(|| surprise(got))
    }
}

/// What came instead: the first error in it, or its beginning.
fn surprise(got: &[u8]) -> String {
    let shown = String::from_utf8_lossy(got);
    let error = shown.lines().find(|line| line.starts_with('-'));
    let shown = error.unwrap_or(&shown).replace("\r\n", " ");
    format!("answered: {}", shown.chars().take(160).collect::<String>())
}

fn text(error: impl Display) -> String {
    error.to_string()
}

fn command(args: &[&str]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", args.len());
    for arg in args {
        out += &format!("${}\r\n{arg}\r\n", arg.len());
    }
    out.into_bytes()
}

/// What one run of `secs` seconds gave.
#[derive(Default)]
struct Tally {
    /// Transactions or messages.
    units: usize,
    /// Microseconds of each transaction or delivery.
    times: Vec<u32>,
    /// Microseconds until the last subscriber had a message.
    last: Vec<u32>,
}

impl Tally {
    fn json(mut self, secs: f64, publisher_bytes: usize) -> String {
        let units = self.units;
        let (p50, p99) = (quantile(&mut self.times, 50), quantile(&mut self.times, 99));
        let last = quantile(&mut self.last, 50);
        format!(
            r#"{{"units":{units},"secs":{secs:.6},"p50_us":{p50},"p99_us":{p99},"last_us":{last},"publisher_bytes":{publisher_bytes}}}"#
        )
    }
}

fn quantile(times: &mut [u32], percent: usize) -> u32 {
    if times.is_empty() {
        return 0;
    }
    let at = (times.len() * percent / 100).min(times.len() - 1);
    *times.select_nth_unstable(at).1
}

fn micros(since: Instant) -> u32 {
    u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX)
}

/// Runs one task for each and gives the first failure.
async fn all<T: 'static>(tasks: Vec<impl Future<Output = Answer<T>> + 'static>) -> Answer<Vec<T>> {
    let local = LocalSet::new();
    let tasks: Vec<_> = tasks.into_iter().map(|t| local.spawn_local(t)).collect();
    let joined = async {
        let mut out = Vec::new();
        for task in tasks {
            out.push(task.await.map_err(text)??);
        }
        Ok(out)
    };
    local.run_until(joined).await
}

// ------------------------------------------------------------ transactions
/// One client and its own counter.
struct Client {
    connection: Connection,
    unit: Vec<u8>,
    count: u64,
}

impl Client {
    async fn open(address: &str, tls: Option<&Tls>, number: usize) -> Answer<Self> {
        let mut connection = Connection::open(address, tls).await?;
        let (counter, value) = (format!("tx:{number}:count"), format!("tx:{number}:value"));
        connection.send(&command(&["SET", &counter, "0"])).await?;
        connection.expect(b"+OK\r\n").await?;
        let unit = [
            command(&["MULTI"]),
            command(&["INCR", &counter]),
            command(&["SET", &value, &"x".repeat(VALUE)]),
            command(&["GET", &counter]),
            command(&["EXEC"]),
        ];
        Ok(Self {
            connection,
            unit: unit.concat(),
            count: 0,
        })
    }

    /// Transactions until `end`; gives itself back.
    async fn run(mut self, end: Instant) -> Answer<(Self, Tally)> {
        let mut tally = Tally::default();
        while Instant::now() < end {
            let n = (self.count + 1).to_string();
            let expected = format!(
                "+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n*3\r\n:{n}\r\n+OK\r\n${}\r\n{n}\r\n",
                n.len()
            );
            let sent = Instant::now();
            self.connection.send(&self.unit).await?;
            self.connection.expect(expected.as_bytes()).await?;
            tally.times.push(micros(sent));
            tally.units += 1;
            self.count += 1;
        }
        Ok((self, tally))
    }
}

async fn transactions(clients: &mut Vec<Client>, secs: f64) -> Answer<Tally> {
    let end = Instant::now() + Duration::from_secs_f64(secs);
    let runs = clients.drain(..).map(|c| c.run(end)).collect();
    let mut sum = Tally::default();
    for (client, tally) in all(runs).await? {
        clients.push(client);
        sum.units += tally.units;
        sum.times.extend(tally.times);
    }
    Ok(sum)
}

// ------------------------------------------------------------ fan-out
/// The message that every subscriber waits for now, and who has it.
struct Message {
    number: Cell<u64>,
    frame: RefCell<Vec<u8>>,
    sent: Cell<Instant>,
    missing: Cell<usize>,
    times: RefCell<Vec<u32>>,
    failure: RefCell<Option<String>>,
    /// All have it, or there is a failure.
    news: Notify,
}

impl Message {
    fn payload(number: u64) -> String {
        format!("{number:0VALUE$}")
    }

    /// The PUBLISH of the next one.
    fn next(&self, subscribers: usize) -> Vec<u8> {
        self.number.set(self.number.get() + 1);
        let payload = Self::payload(self.number.get());
        *self.frame.borrow_mut() = command(&["message", CHANNEL, &payload]);
        self.missing.set(subscribers);
        self.sent.set(Instant::now());
        command(&["PUBLISH", CHANNEL, &payload])
    }

    fn has_come(&self) {
        self.times.borrow_mut().push(micros(self.sent.get()));
        self.missing.set(self.missing.get() - 1);
        if self.missing.get() == 0 {
            self.news.notify_one();
        }
    }
}

/// Reads one message after the other until something is wrong.
#[expect(
    clippy::await_holding_refcell_ref,
    reason = "nobody else borrows the connection while this runs"
)]
async fn subscriber(connection: Rc<RefCell<Connection>>, message: Rc<Message>, mut seen: u64) {
    let connection = &mut *connection.borrow_mut();
    let length = message.frame.borrow().len();
    let failure = loop {
        match connection.read_until(|got| got.len() >= length).await {
            Ok(got) if seen == message.number.get() => {
                break format!("a message too many, {}", surprise(got));
            }
            Ok(got) if got != *message.frame.borrow() => break surprise(got),
            Ok(_) => message.has_come(),
            Err(e) => break e,
        }
        seen += 1;
    };
    *message.failure.borrow_mut() = Some(failure);
    message.news.notify_one();
}

struct Fanout {
    subscribers: Vec<Rc<RefCell<Connection>>>,
    publisher: Connection,
    published: u64,
}

impl Fanout {
    async fn open(address: &str, tls: Option<&Tls>, count: usize, publisher: &str) -> Answer<Self> {
        let mut subscribers = Vec::new();
        let confirmation = format!(
            "*3\r\n$9\r\nsubscribe\r\n${}\r\n{CHANNEL}\r\n:1\r\n",
            CHANNEL.len()
        );
        for _ in 0..count {
            let mut connection = Connection::open(address, tls).await?;
            connection.send(&command(&["SUBSCRIBE", CHANNEL])).await?;
            connection.expect(confirmation.as_bytes()).await?;
            connection.buf = vec![0; 512];
            subscribers.push(Rc::new(RefCell::new(connection)));
        }
        let publisher = Connection::open(publisher, None).await?;
        Ok(Self {
            subscribers,
            publisher,
            published: 0,
        })
    }

    async fn run(&mut self, secs: f64) -> Answer<Tally> {
        let message = Rc::new(Message {
            number: Cell::new(self.published),
            frame: RefCell::new(command(&["message", CHANNEL, &Message::payload(0)])),
            sent: Cell::new(Instant::now()),
            missing: Cell::new(0),
            times: RefCell::default(),
            failure: RefCell::default(),
            news: Notify::new(),
        });
        let local = LocalSet::new();
        for connection in &self.subscribers {
            let (connection, message) = (Rc::clone(connection), Rc::clone(&message));
            local.spawn_local(subscriber(connection, message, self.published));
        }
        let end = Instant::now() + Duration::from_secs_f64(secs);
        let count = self.subscribers.len();
        let publishing = publish(&mut self.publisher, count, &message, end);
        let tally = local.run_until(publishing).await;
        self.published = message.number.get();
        tally
    }
}

/// One message after the other until `end`, each once all `subscribers` have the one before it.
async fn publish(
    publisher: &mut Connection,
    subscribers: usize,
    message: &Message,
    end: Instant,
) -> Answer<Tally> {
    let mut tally = Tally::default();
    while Instant::now() < end {
        publisher.send(&message.next(subscribers)).await?;
        let reply = publisher.read_until(|got| got.ends_with(b"\r\n")).await?;
        if reply[0] != b':' {
            return Err(surprise(reply));
        }
        message.news.notified().await;
        if let Some(failure) = message.failure.take() {
            return Err(failure);
        }
        tally.last.push(micros(message.sent.get()));
        tally.units += 1;
    }
    tally.times = message.times.take();
    Ok(tally)
}

// ------------------------------------------------------------ the program
enum Load {
    Transactions(Vec<Client>),
    Fanout(Fanout),
}

impl Load {
    async fn open(args: &[String]) -> Answer<Self> {
        let count = args[3].parse().expect("a number of connections");
        if args[1] == "fanout" {
            let tls = args.get(5).map(|ca| Tls::new(ca));
            let fanout = Fanout::open(&args[2], tls.as_ref(), count, &args[4]).await?;
            return Ok(Self::Fanout(fanout));
        }
        let tls = args.get(4).map(|ca| Tls::new(ca));
        let mut clients = Vec::new();
        for number in 0..count {
            clients.push(Client::open(&args[2], tls.as_ref(), number).await?);
        }
        Ok(Self::Transactions(clients))
    }

    /// One line of JSON.
    async fn run(&mut self, secs: f64) -> Answer<String> {
        let started = Instant::now();
        let (tally, publisher_bytes) = match self {
            Self::Transactions(clients) => (transactions(clients, secs).await?, 0),
            Self::Fanout(fanout) => {
                let before = fanout.publisher.total;
                let tally = fanout.run(secs).await?;
                (tally, fanout.publisher.total - before)
            }
        };
        Ok(tally.json(started.elapsed().as_secs_f64(), publisher_bytes))
    }
}

fn answer_each_line(runtime: &Runtime, args: &[String]) -> Answer<()> {
    let mut load = runtime.block_on(Load::open(args))?;
    say("ready")?;
    for line in io::stdin().lock().lines() {
        let secs = line.map_err(text)?.trim().parse().map_err(text)?;
        say(&runtime.block_on(load.run(secs))?)?;
    }
    Ok(())
}

fn say(line: &str) -> Answer<()> {
    let mut out = io::stdout();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(text)
}

fn main() -> io::Result<()> {
    let args: Vec<String> = env::args().collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    if let Err(e) = answer_each_line(&runtime, &args) {
        println!(r#"{{"error":{:?}}}"#, printable(&e));
        std::process::exit(1);
    }
    Ok(())
}

/// What a JSON string can hold as it is, but for quotes and backslashes.
fn printable(text: &str) -> String {
    text.replace(|c: char| !(' '..='~').contains(&c), "?")
}
