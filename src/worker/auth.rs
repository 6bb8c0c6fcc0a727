//! Clients that come with users of the server's own (`upstream.auth = "passthrough"`).
//!
//! The server judges every AUTH. Where no connection is open in this name, opening one is the question;
//! where one is, it is asked again there: the same AUTH on it either changes nothing or is refused,
//! and so a password that was changed meanwhile does not let anybody in.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::sleep;

use super::client::Client;
use super::lanes::{self, Lane, LaneId};
use super::route::Attached;
use super::{Mail, Worker};
use crate::resp::encode;
use crate::session::{Query, errors};
use crate::upstream::logins::{Form, Login, Verdict};
use crate::upstream::status::State;
use crate::upstream::{IdentityId, LaneKey};

/// How often connections and hubs are looked for that nobody can use any more.
const SWEEP: Duration = Duration::from_secs(1);

/// A question that was lost with its connection is asked so many times.
const MAX_ASKED: u32 = 3;

/// A user and password that a client has presented.
#[derive(Debug)]
pub struct Presented {
    login: Arc<Login>,
    /// The connection that shall answer.
    key: LaneKey,
    step: Step,
    asked: u32,
}

#[derive(Debug)]
enum Step {
    /// A connection is being opened; if nobody else began it, that is the answer.
    Opening { began: bool },
    /// The server was asked on a connection that was open.
    Asked(Form, oneshot::Receiver<Verdict>),
    /// The server knows the client.
    Accepted,
}

/// Asks the server about a user and password; see [`crate::session::Router::poll_identity`].
pub fn poll_identity(
    client: &Client,
    attached: &mut Attached,
    key: LaneKey,
    user: &[u8],
    password: &[u8],
) -> Poll<Result<IdentityId, String>> {
    let worker = &client.worker;
    let extra = attached.extra_mut();
    let known = extra.presented.take_if(|presented| {
        presented.login.is_of(user, password)
            && (presented.key.db, presented.key.protocol) == (key.db, key.protocol)
    });
    let begun = known.map_or_else(|| begin(worker, key, user, password), Ok);
    let result = begun.map(|mut presented| (presented.poll(client), presented));
    match result {
        Ok((Poll::Pending, presented)) => {
            extra.presented = Some(presented);
            Poll::Pending
        }
        Ok((Poll::Ready(Ok(())), presented)) => {
            let id = presented.login.id();
            extra.presented = Some(presented);
            Poll::Ready(Ok(id))
        }
        Ok((Poll::Ready(Err(text)), _)) | Err(text) => {
            extra.presented = None;
            attached.trim();
            Poll::Ready(Err(text))
        }
    }
}

fn begin(
    worker: &Rc<Worker>,
    key: LaneKey,
    user: &[u8],
    password: &[u8],
) -> Result<Presented, String> {
    let logins = &worker.link.dialer.logins;
    let login = logins.intern(user, password).ok_or(errors::NO_IDENTITY)?;
    if let Some((text, _)) = logins.refusal(&login, key) {
        return Err(text);
    }
    let identity = login.id();
    let key = LaneKey { identity, ..key };
    let lane = lanes::find(worker, LaneId { key, index: 0 });
    let began = lane.status().state() == State::Idle;
    Ok(Presented {
        login,
        key,
        step: Step::Opening { began },
        asked: 0,
    })
}

impl Presented {
    fn poll(&mut self, client: &Client) -> Poll<Result<(), String>> {
        loop {
            match &mut self.step {
                Step::Accepted => return Poll::Ready(Ok(())),
                Step::Opening { began } => {
                    let began = *began;
                    match self.poll_open(client) {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(Err(text)) => return Poll::Ready(Err(text)),
                        Poll::Ready(Ok(())) if began => self.step = Step::Accepted,
                        Poll::Ready(Ok(())) => self.ask(client, Form::User),
                    }
                }
                Step::Asked(form, answer) => {
                    let form = *form;
                    let waker = client.waker();
                    match Pin::new(answer).poll(&mut Context::from_waker(&waker)) {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(Ok(Verdict::Yes)) => self.step = Step::Accepted,
                        // The server is one that knows passwords only.
                        Poll::Ready(Ok(Verdict::No(text)))
                            if form == Form::User && text.contains("wrong number of arguments") =>
                        {
                            self.ask(client, Form::PasswordAlone);
                        }
                        Poll::Ready(Ok(Verdict::No(text))) => return Poll::Ready(Err(text)),
                        Poll::Ready(Err(_)) if self.asked < MAX_ASKED => {
                            self.step = Step::Opening { began: false };
                        }
                        Poll::Ready(Ok(Verdict::Late) | Err(_)) => {
                            return Poll::Ready(Err(errors::UNJUDGED.to_owned()));
                        }
                    }
                }
            }
        }
    }

    fn poll_open(&self, client: &Client) -> Poll<Result<(), String>> {
        let worker = &client.worker;
        let lane = lanes::find(worker, self.lane());
        let opened = lane
            .status()
            .poll_open(&client.waker(), || lane.open(worker));
        opened.map_err(|failure| super::deliver::error_text(&failure))
    }

    fn ask(&mut self, client: &Client, form: Form) {
        let (send, receive) = oneshot::channel();
        self.asked += 1;
        self.step = Step::Asked(form, receive);
        if let Some(command) = self.login.request(form) {
            ask(&client.worker, self.lane(), command, send);
        }
    }

    fn lane(&self) -> LaneId {
        LaneId {
            key: self.key,
            index: 0,
        }
    }
}

/// Asks the server something on a shared connection, whoever owns it.
pub fn ask(worker: &Rc<Worker>, id: LaneId, command: Vec<u8>, answer: oneshot::Sender<Verdict>) {
    match lanes::find(worker, id) {
        Lane::Local(lane) => lane.conn.ask(&command, answer),
        Lane::Remote(lane) => {
            let visit = Mail::Visit(Box::new(move |worker| {
                if let Lane::Local(lane) = lanes::find(worker, id) {
                    lane.conn.ask(&command, answer);
                }
            }));
            worker.send(lane.owner(), visit);
        }
    }
}

/// Asks whether the client's user may look at other clients, or close them: the proxy knows them, the
/// server knows who may. `None` where everybody may.
pub fn ask_permission(
    client: &Client,
    attached: &Attached,
    query: &Query,
) -> Option<oneshot::Receiver<Verdict>> {
    // Forms that do nothing, for there is no such client.
    let harmless: &[&[u8]] = match query {
        Query::List(_) => &[b"CLIENT", b"LIST", b"ID", b"0"],
        Query::Kill(_) => &[b"CLIENT", b"KILL", b"ID", b"0"],
        Query::Blocked(_) => &[b"CLIENT", b"UNBLOCK", b"0"],
        // Who may not see other clients may not see which keys they use; nor may who cannot close them
        // take away what is kept for them.
        Query::HotKeys { .. } => &[b"CLIENT", b"LIST", b"ID", b"0"],
        Query::CacheFlush(_) => &[b"CLIENT", b"KILL", b"ID", b"0"],
        // Who may not hold the server's clients may not hold those of the proxy, nor steer it.
        Query::Pause { .. } => &[b"CLIENT", b"PAUSE", b"0"],
        Query::Resume => &[b"CLIENT", b"UNPAUSE"],
        Query::Reload => &[b"CONFIG", b"GET", b"maxclients"],
        Query::Own | Query::ProxyInfo | Query::CacheStats | Query::CacheKey(_) => return None,
    };
    let identity = attached.extra.as_ref()?.login.as_ref()?.id();
    let worker = &client.worker;
    let lane = attached.lane.as_ref().map(Lane::id);
    let lane = lane.filter(|id| id.key.identity == identity);
    let key = LaneKey {
        identity,
        ..worker.default_key()
    };
    let (send, receive) = oneshot::channel();
    let mut command = Vec::new();
    encode::command(&mut command, harmless);
    let lane = lane.unwrap_or(LaneId { key, index: 0 });
    ask(worker, lane, command, send);
    Some(receive)
}

/// What [`ask_permission`] has found out, or the error to give.
pub fn poll_permission(
    client: &Client,
    answer: &mut oneshot::Receiver<Verdict>,
) -> Poll<Result<(), String>> {
    let waker = client.waker();
    let verdict = ready!(Pin::new(answer).poll(&mut Context::from_waker(&waker)));
    Poll::Ready(match verdict {
        Ok(Verdict::No(text)) if text.starts_with("NO") => Err(text), // NOPERM, NOAUTH
        Ok(Verdict::Yes | Verdict::No(_)) => Ok(()),
        Ok(Verdict::Late) | Err(_) => Err(errors::UNJUDGED.to_owned()),
    })
}

/// See [`crate::session::Router::settle_identity`].
pub fn settle_identity(attached: &mut Attached, identity: IdentityId) {
    let Some(extra) = attached.extra.as_deref_mut() else {
        return;
    };
    let presented = extra.presented.take().map(|presented| presented.login);
    let candidates = [presented, extra.login.take()].into_iter().flatten();
    extra.login = candidates.into_iter().find(|login| login.id() == identity);
    attached.trim();
}

/// Forgets, as long as there are any, connections, tracked ones too, and hubs of identities that nobody uses any more.
pub async fn sweep(worker: Rc<Worker>) {
    while worker.forget_dead() {
        sleep(SWEEP).await;
    }
    worker.sweeping.set(false);
}

impl Worker {
    /// A lane of somebody's own is there: it will have to go some day.
    pub(super) fn note_lane(self: &Rc<Self>, key: LaneKey) {
        self.note_identity(key.identity);
    }

    /// Something of somebody's own is there.
    pub(super) fn note_identity(self: &Rc<Self>, identity: IdentityId) {
        if identity != IdentityId::OWN && !self.sweeping.replace(true) {
            tokio::task::spawn_local(sweep(self.clone()));
        }
    }

    /// Forgets what belongs to identities that nobody uses; false if there are no others either.
    fn forget_dead(&self) -> bool {
        let logins = &self.link.dialer.logins;
        let mut lanes = self.lanes.borrow_mut();
        let dead: Vec<LaneId> = lanes
            .iter()
            .filter(|(id, lane)| !logins.is_alive(id.key.identity) && lane.is_quiet())
            .map(|(id, _)| *id)
            .collect();
        let gone: Vec<Option<Lane>> = dead.iter().map(|id| lanes.remove(id)).collect();
        let others = lanes.keys().any(|id| id.key.identity != IdentityId::OWN);
        drop(lanes);
        drop(gone); // with nothing borrowed: what hangs on a lane may look around
        for id in &dead {
            self.directory.forget(*id);
        }
        self.outlets
            .borrow_mut()
            .retain(|(id, _), _| logins.is_alive(id.key.identity));
        self.leases.retain(|key| logins.is_alive(key.identity));
        let hubs = self.pubsub.forget_hubs(|id| logins.is_alive(id));
        let tracked = self.tracked.forget(|id| logins.is_alive(id));
        if let Some(reader) = &self.reader {
            reader.forget_trackers(|id| logins.is_alive(id));
        }
        others || hubs || tracked
    }
}
