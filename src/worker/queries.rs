//! Questions about the whole process and its clients: CLIENT LIST, INFO, KILL and UNBLOCK, NEARKEY.
//!
//! Every worker answers for its own clients; the asking client waits until all have.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::rc::Rc;

use super::client::Client;
use super::{Mail, Worker, info, inspect};
use crate::control::Paused;
use crate::downstream::stream::Stream;
use crate::resp::{Protocol, encode};
use crate::session::{KillFilter, ListFilter, Query};

/// An answer on its way together.
#[derive(Debug, Default)]
pub struct Gathering {
    reply: RefCell<Option<Vec<u8>>>,
}

impl Gathering {
    /// The reply, once.
    pub fn take(&self) -> Option<Vec<u8>> {
        self.reply.borrow_mut().take()
    }
}

/// One worker's share of an answer.
#[derive(Debug, Default)]
struct Share {
    lines: Vec<(u64, String)>,
    killed: i64,
    blocked: Option<u64>,
}

/// Asks all workers; the client is woken when the answer is there.
pub fn ask(client: &Rc<Client>, query: &Query) -> Rc<Gathering> {
    let gathering = Rc::new(Gathering::default());
    let worker = client.worker.clone();
    // What a client is has just been borrowed by its own feed, so even the own share is taken later.
    let (client, query, answer) = (client.clone(), query.clone(), gathering.clone());
    tokio::task::spawn_local(async move {
        let protocol = client.inner.borrow().session.lane_key().protocol;
        let reply = match &query {
            Query::ProxyInfo => info::reply_of(&worker, protocol),
            Query::Own => text_reply(&line(&client), protocol),
            Query::HotKeys { by, count } => inspect::hot_keys(&worker, *by, *count, protocol),
            Query::CacheStats => inspect::stats(&worker, protocol),
            Query::CacheKey(key) => inspect::key(&client, key.clone()).await,
            Query::CacheFlush(pattern) => inspect::flush(&worker, pattern.clone()).await,
            Query::Pause { writes, limit } => {
                let scope = if *writes { Paused::Writes } else { Paused::All };
                worker.pause(scope, *limit).await
            }
            Query::Resume => status_reply(&Ok(match worker.resume(None) {
                true => "OK".to_owned(),
                false => "OK commands were not held".to_owned(),
            })),
            Query::Reload => {
                let reloaded = worker.control.reload().await;
                status_reply(&reloaded.map(|text| format!("OK {text}")))
            }
            Query::List(_) | Query::Kill(_) | Query::Blocked(_) => {
                let share = gather(&worker, client.id(), &query).await;
                render(&query, share, protocol)
            }
        };
        *answer.reply.borrow_mut() = Some(reply);
        client.wake();
    });
    gathering
}

/// What became of an order.
fn status_reply(outcome: &Result<String, String>) -> Vec<u8> {
    let mut reply = Vec::new();
    match outcome {
        Ok(text) => encode::simple(&mut reply, text),
        Err(text) => encode::error(&mut reply, format!("ERR {text}")),
    }
    reply
}

/// How many commands of all workers block. All have had a turn when this is known.
pub(super) async fn blocked(worker: &Rc<Worker>) -> u64 {
    let count = |worker: &Worker| {
        let clients = worker.all_clients().into_iter();
        let owed = clients.map(|client| {
            let session = &client.inner.borrow().session;
            let blocked = session.is_blocked();
            if blocked { session.pending().owed() } else { 0 }
        });
        owed.map(u64::from).sum::<u64>()
    };
    let mut answers = Vec::new();
    for peer in 0..worker.peers() {
        let (send, receive) = tokio::sync::oneshot::channel();
        let visit = move |worker: &Rc<Worker>| {
            // Who asked may be gone.
            let _ = send.send(count(worker));
        };
        worker.send(peer, Mail::Visit(Box::new(visit)));
        answers.push(receive);
    }
    let mut total = 0;
    for answer in answers {
        total += answer.await.unwrap_or_default();
    }
    total
}

async fn gather(worker: &Rc<Worker>, asking: u64, query: &Query) -> Share {
    let mut total = own_share(worker, asking, query);
    let mut answers = Vec::new();
    for peer in (0..worker.peers()).filter(|peer| *peer != worker.index) {
        let (send, receive) = tokio::sync::oneshot::channel();
        let query = query.clone();
        worker.send(
            peer,
            Mail::Visit(Box::new(move |worker| {
                // The asking client may be gone meanwhile; nobody misses the answer then.
                let _ = send.send(own_share(worker, asking, &query));
            })),
        );
        answers.push(receive);
    }
    for answer in answers {
        if let Ok(share) = answer.await {
            total.lines.extend(share.lines);
            total.killed += share.killed;
            total.blocked = total.blocked.or(share.blocked);
        }
    }
    total
}

fn own_share(worker: &Worker, asking: u64, query: &Query) -> Share {
    let mut share = Share::default();
    for client in worker.all_clients() {
        match query {
            Query::List(filter) if listed(filter, &client) => {
                share.lines.push((client.id(), line(&client)));
            }
            Query::Kill(filter) if doomed(filter, &client, asking) => {
                share.killed += 1;
                // The caller still gets its reply.
                client.killed.set(true);
                client.kill(client.id() == asking);
            }
            Query::Blocked(id) if client.id() == *id => share.blocked = client.blocked_as(),
            _ => {}
        }
    }
    share
}

fn listed(filter: &ListFilter, client: &Client) -> bool {
    (filter.ids.is_empty() || filter.ids.contains(&client.id()))
        && filter.client_type.matches(&client.inner.borrow().session)
}

fn doomed(filter: &KillFilter, client: &Client, asking: u64) -> bool {
    let (peer, own) = addresses(client);
    let age = client.worker.link.now().saturating_sub(client.since) / 1_000_000;
    !(!filter.client_type.matches(&client.inner.borrow().session)
        || filter.skip_me && client.id() == asking
        || filter.id.is_some_and(|id| id != client.id())
        || filter
            .address
            .as_ref()
            .is_some_and(|address| *address != peer)
        || filter
            .local_address
            .as_ref()
            .is_some_and(|address| *address != own)
        || filter
            .user
            .as_ref()
            .is_some_and(|user| *user != user_of(client))
        || filter.max_age.is_some_and(|most| age < most))
}

fn render(query: &Query, mut share: Share, protocol: Protocol) -> Vec<u8> {
    let mut reply = Vec::new();
    match query {
        Query::Kill(filter) if filter.by_address_only && share.killed == 0 => {
            encode::error(&mut reply, "ERR No such client");
        }
        Query::Kill(filter) if filter.by_address_only => encode::simple(&mut reply, "OK"),
        Query::Kill(_) => encode::integer(&mut reply, share.killed),
        Query::Blocked(_) => {
            return share
                .blocked
                .map_or(reply, |id| id.to_string().into_bytes());
        }
        _ => {
            share.lines.sort();
            let text: String = share.lines.into_iter().map(|(_, line)| line).collect();
            return text_reply(&text, protocol);
        }
    }
    reply
}

fn text_reply(text: &str, protocol: Protocol) -> Vec<u8> {
    let mut reply = Vec::new();
    encode::verbatim(&mut reply, protocol, "txt", text.as_bytes());
    reply
}

/// The client's user on the server.
fn user_of(client: &Client) -> String {
    let inner = client.inner.borrow();
    let user = inner.attached.user().unwrap_or(b"default");
    String::from_utf8_lossy(user).into_owned()
}

/// Peer and own address as CLIENT LIST shows them.
fn addresses(client: &Client) -> (String, String) {
    let tcp = |stream: &tokio::net::TcpStream| {
        let text = |address: std::io::Result<std::net::SocketAddr>| {
            address.map_or_else(|_| "?:0".to_owned(), |address| address.to_string())
        };
        (text(stream.peer_addr()), text(stream.local_addr()))
    };
    match &client.stream {
        Stream::Tcp(stream) => tcp(&stream.borrow()),
        Stream::Tls(stream) => tcp(stream.borrow().get_ref().0),
        Stream::Unix(_) => {
            let path = client.worker.limits.unix_path.clone();
            (format!("{path}:0"), format!("{path}:0"))
        }
    }
}

/// The client's line of CLIENT LIST, in Redis's field order.
fn line(client: &Client) -> String {
    let now = client.worker.link.now();
    let seconds = |since: u64| now.saturating_sub(since) / 1_000_000;
    let (peer, own) = addresses(client);
    let inner = client.inner.borrow();
    let session = &inner.session;
    let key = session.lane_key();
    let table = client.worker.table();
    let command = table.get(session.last_command());
    let command = command.map_or_else(|| "NULL".to_owned(), |spec| spec.name.to_lowercase());
    let label = |pick: fn(&crate::session::Labels) -> &Vec<u8>| {
        session
            .labels()
            .map(|l| String::from_utf8_lossy(pick(l)).into_owned())
            .unwrap_or_default()
    };
    let mut text = format!("id={} addr={peer} laddr={own} fd=-1", client.id());
    let _ = write!(text, " name={}", label(|l| &l.name));
    let _ = write!(text, " age={}", seconds(client.since));
    let _ = write!(text, " idle={}", seconds(client.last_active.get()));
    let _ = write!(text, " flags={} db={}", session.flags(), key.db);
    let [channels, patterns, shards] = session.subscriptions();
    let _ = write!(text, " sub={channels} psub={patterns} ssub={shards}");
    let queued = session.queued().map_or(-1, i64::from);
    let _ = write!(text, " multi={queued} watch=0");
    let _ = write!(
        text,
        " qbuf={} qbuf-free=0 argv-mem=0 multi-mem=0",
        inner.input.len()
    );
    let _ = write!(
        text,
        " rbs=0 rbp=0 obl={} oll=0 omem=0",
        inner.output.len() - inner.written
    );
    let _ = write!(text, " tot-mem=0 events=r cmd={}", command);
    let _ = write!(text, " user={} redir=-1", user_of(client));
    let _ = write!(
        text,
        " resp={}",
        if key.protocol == Protocol::Resp3 {
            3
        } else {
            2
        }
    );
    let _ = write!(
        text,
        " lib-name={} lib-ver={}",
        label(|l| &l.lib_name),
        label(|l| &l.lib_version)
    );
    text.push('\n');
    text
}
