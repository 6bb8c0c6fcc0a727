//! What L1 makes of a RESP3 reply for a RESP2 client is, byte for byte, what a real server sends to one: for
//! all reads that L1 holds, with their options, on keys of every type. The reads are those of
//! tests/clients/harness/l1_reads.json, which the client tests send through Nearkey as well.
//!
//! Without a redis-server to start there is nothing to compare with; `./test` installs one.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nearkey::commands::CommandTable;
use nearkey::l1::render::render_reply;
use nearkey::l1::shape::{Shape, Shapes};
use nearkey::resp::Protocol::{Resp2, Resp3};
use nearkey::resp::{ReplyScan, ReplyScanner, encode};
use serde_json::Value;

type Call = Vec<Vec<u8>>;

/// A redis-server that listens on a socket in a folder of its own, until it is dropped.
struct Server {
    process: Child,
    folder: PathBuf,
}

impl Server {
    /// `None` if there is none to start.
    fn start(name: &str) -> Option<Self> {
        let folder = std::env::temp_dir().join(format!("nearkey-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for the server");
        let process = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no"])
            .args([
                "--unixsocket",
                "redis.sock",
                "--enable-debug-command",
                "yes",
            ])
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        match process {
            Ok(process) => Some(Self { process, folder }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                eprintln!("skipped: there is no redis-server");
                std::fs::remove_dir_all(&folder).expect("the folder is still there");
                None
            }
            Err(error) => panic!("redis-server does not start: {error}"),
        }
    }

    fn connect(&self) -> Client {
        let end = Instant::now() + Duration::from_secs(20);
        let stream = loop {
            match UnixStream::connect(self.folder.join("redis.sock")) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > end => {
                    panic!("redis-server does not listen: {error}")
                }
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a timeout");
        Client { stream }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

struct Client {
    stream: UnixStream,
}

impl Client {
    /// Sends a command and gives its reply, as the bytes that came.
    fn ask(&mut self, call: &[Vec<u8>]) -> Vec<u8> {
        let args: Vec<&[u8]> = call.iter().map(Vec::as_slice).collect();
        let mut request = Vec::new();
        encode::command(&mut request, &args);
        self.stream
            .write_all(&request)
            .expect("the server takes it");
        let (mut scanner, mut reply, mut piece) = (ReplyScanner::new(), Vec::new(), [0; 65536]);
        loop {
            let read = self.stream.read(&mut piece).expect("the server answers");
            assert!(read > 0, "the server has closed after {}", shown(call));
            reply.extend_from_slice(&piece[..read]);
            if let ReplyScan::Complete { consumed, .. } =
                scanner.scan(&piece[..read]).expect("a reply")
            {
                assert_eq!(consumed, read, "one reply to {}", shown(call));
                return reply;
            }
        }
    }
}

/// The reads that L1 may hold.
struct Vocabulary {
    data: Vec<Call>,
    calls: Vec<Call>,
}

impl Vocabulary {
    fn read() -> Self {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/clients/harness/l1_reads.json"
        );
        let text = std::fs::read_to_string(path).expect(path);
        let file: Value = serde_json::from_str(&text).expect("JSON");
        let mut calls = Vec::new();
        for (kind, reads) in file["reads"].as_object().expect("reads") {
            let mut keys: BTreeSet<Vec<u8>> = words(&file["others"]).into_iter().collect();
            keys.extend(words(&file["keys"][kind]));
            for read in list(reads) {
                for key in &keys {
                    let mut call = words(read);
                    assert_eq!(call[1], b"@");
                    call[1].clone_from(key);
                    calls.push(call);
                }
            }
        }
        let data = list(&file["data"]).iter().map(words).collect();
        Self { data, calls }
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn words(value: &Value) -> Call {
    list(value).iter().map(word).collect()
}

/// Each character is one byte.
fn word(value: &Value) -> Vec<u8> {
    let text = value.as_str().expect("a string");
    text.chars()
        .map(|c| u8::try_from(u32::from(c)).expect("up to U+00FF"))
        .collect()
}

fn shown(call: &[Vec<u8>]) -> String {
    let words: Vec<String> = call
        .iter()
        .map(|word| word.escape_ascii().to_string())
        .collect();
    words.join(" ")
}

/// The two clients of a server that has the data of the vocabulary.
fn clients(server: &Server, data: &[Call]) -> (Client, Client) {
    let (mut two, mut three) = (server.connect(), server.connect());
    for call in data {
        let reply = two.ask(call);
        assert_ne!(reply[0], b'-', "{}: {}", shown(call), reply.escape_ascii());
    }
    let hello = three.ask(&[b"HELLO".to_vec(), b"3".to_vec()]);
    assert_eq!(hello[0], b'%', "{}", hello.escape_ascii());
    (two, three)
}

fn rendered(reply: &[u8], shape: Shape) -> Vec<u8> {
    let mut out = Vec::new();
    render_reply(reply, shape, Resp3, Resp2, &mut out);
    out
}

#[test]
fn rendered_replies_are_what_the_server_sends_to_a_resp2_client() {
    let Some(server) = Server::start("l1-render") else {
        return;
    };
    let vocabulary = Vocabulary::read();
    let (mut two, mut three) = clients(&server, &vocabulary.data);
    let table = CommandTable::builtin();
    let shapes = Shapes::new(&table);
    let mut wrong = Vec::new();
    // Replies that are no errors, by command, and how many of them have what RESP2 does not.
    let mut answered: BTreeMap<String, usize> = BTreeMap::new();
    let mut marks: BTreeMap<&str, usize> = BTreeMap::new();
    for call in &vocabulary.calls {
        let spec = table.lookup(&call[0]).expect("a known command");
        let shape = shapes.of(spec, call.len() as u32);
        let shape = shape.unwrap_or_else(|| panic!("L1 does not hold {}", shown(call)));
        let (expected, reply) = (two.ask(call), three.ask(call));
        let got = rendered(&reply, shape);
        if got != expected {
            wrong.push(format!(
                "{}: {} is {} and not {}",
                shown(call),
                reply.escape_ascii(),
                expected.escape_ascii(),
                got.escape_ascii()
            ));
        }
        if reply[0] != b'-' {
            *answered.entry(spec.name.to_string()).or_default() += 1;
            for mark in ["_\r\n", ",", "%", "~"] {
                let inside = format!("\r\n{mark}");
                let is_there = reply.starts_with(mark.as_bytes())
                    || reply
                        .windows(inside.len())
                        .any(|part| part == inside.as_bytes());
                *marks.entry(mark).or_default() += usize::from(is_there);
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong: {:#?}",
        wrong.len(),
        &wrong[..wrong.len().min(5)]
    );
    let held = table.iter().filter(|spec| {
        let argc = u32::from(spec.arity.unsigned_abs());
        shapes.of(spec, argc).is_some()
    });
    let held: BTreeSet<String> = held.map(|spec| spec.name.to_string()).collect();
    assert_eq!(
        held,
        answered.into_keys().collect(),
        "all reads have an answer"
    );
    assert!(marks.values().all(|count| *count > 3), "{marks:?}");
}

#[test]
fn values_of_every_type_are_rendered_as_the_server_would() {
    let Some(server) = Server::start("l1-types") else {
        return;
    };
    let (mut two, mut three) = clients(&server, &[]);
    for kind in [
        "string", "integer", "double", "null", "array", "set", "map", "verbatim", "true", "false",
        "bignum",
    ] {
        let call = ["DEBUG", "PROTOCOL", kind].map(|word| word.as_bytes().to_vec());
        let (expected, reply) = (two.ask(&call), three.ask(&call));
        assert_ne!(reply[0], b'-', "{}", reply.escape_ascii());
        assert_eq!(
            rendered(&reply, Shape::Plain).escape_ascii().to_string(),
            expected.escape_ascii().to_string(),
            "{kind}"
        );
    }
}
