//! What the server says of itself: its version and the commands it has.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use crate::commands::{CommandTable, ServerCommand};
use crate::resp::reply::Value;

/// What HELLO tells a client about the server behind the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `redis`, `valkey`...
    pub server: String,
    /// Version of the server.
    pub version: String,
    /// `standalone`, `sentinel` or `cluster`.
    pub mode: String,
    /// `master` or `replica`.
    pub role: String,
    /// The id of the connection that HELLO was said on.
    pub connection: Option<u64>,
}

impl Default for Identity {
    fn default() -> Self {
        Self {
            server: "redis".to_owned(),
            version: "7.0.0".to_owned(),
            mode: "standalone".to_owned(),
            role: "master".to_owned(),
            connection: None,
        }
    }
}

impl Identity {
    /// Reads the reply of HELLO; what it does not tell keeps its default.
    pub fn from_hello(reply: &Value) -> Self {
        let mut identity = Self::default();
        let text = |key: &str| {
            reply
                .get(key)
                .and_then(Value::as_bytes)
                .map(|v| String::from_utf8_lossy(v).into_owned())
        };
        for (key, field) in [
            ("server", &mut identity.server),
            ("version", &mut identity.version),
            ("mode", &mut identity.mode),
            ("role", &mut identity.role),
        ] {
            if let Some(value) = text(key) {
                *field = value;
            }
        }
        identity.connection = reply.get("id").and_then(connection_id);
        identity
    }
}

/// A connection's id, as HELLO and CLIENT ID tell it.
pub fn connection_id(value: &Value) -> Option<u64> {
    value.as_int().and_then(|id| u64::try_from(id).ok())
}

/// Everything known of the server.
#[derive(Debug)]
pub struct Facts {
    /// Its name and version.
    pub identity: Identity,
    /// It answered COMMAND: what is not in `table` does not exist.
    pub lists_commands: bool,
    /// The user who asked may not ask; another one may.
    pub denied: bool,
    /// The command table, extended by what the server has.
    pub table: Arc<CommandTable>,
}

/// The rows of a COMMAND reply; rows that are not understood are left out.
pub fn command_rows(reply: &Value) -> Vec<ServerCommand> {
    reply
        .as_array()
        .map(|rows| rows.iter().filter_map(command_row).collect())
        .unwrap_or_default()
}

fn command_row(row: &Value) -> Option<ServerCommand> {
    let row = row.as_array()?;
    let number = |i: usize| row.get(i).and_then(Value::as_int).unwrap_or_default();
    let small = |i: usize| i32::try_from(number(i)).unwrap_or_default();
    let name = row.first()?.as_bytes()?;
    let flags = row.get(2)?.as_array()?;
    Some(ServerCommand {
        name: String::from_utf8_lossy(name).into_owned(),
        arity: i16::try_from(number(1)).unwrap_or_default(),
        flags: flags
            .iter()
            .filter_map(Value::as_bytes)
            .map(|flag| String::from_utf8_lossy(flag).into_owned())
            .collect(),
        first_key: small(3),
        last_key: small(4),
        step: small(5),
        subcommands: row.get(9).map(command_rows).unwrap_or_default(),
    })
}

/// Where all threads look for the facts, and wait for them.
#[derive(Debug, Default)]
pub struct FactsCell {
    state: Mutex<State>,
    /// Grows with every change, so that threads notice new facts without taking the lock.
    version: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    facts: Option<Arc<Facts>>,
    asking: bool,
    failed_at: Option<Instant>,
    waiting: Vec<Waker>,
}

/// After a failure nobody waits for the facts for this long.
const RETRY_AFTER: Duration = Duration::from_secs(1);

impl FactsCell {
    /// The facts; `Ready(None)` if they could not be had just now. `Pending` registers the waker.
    pub fn poll(&self, waker: &Waker) -> Poll<Option<Arc<Facts>>> {
        let mut state = self.lock();
        if let Some(facts) = &state.facts {
            return Poll::Ready(Some(facts.clone()));
        }
        if state.failed_at.is_some_and(|at| at.elapsed() < RETRY_AFTER) {
            return Poll::Ready(None);
        }
        state.waiting.push(waker.clone());
        Poll::Pending
    }

    /// The facts, if known.
    pub fn get(&self) -> Option<Arc<Facts>> {
        self.lock().facts.clone()
    }

    /// Changes whenever [`FactsCell::get`] would.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// True for the one connection that shall ask the server; it must then call `set` or `fail`.
    pub fn begin(&self) -> bool {
        let mut state = self.lock();
        let open = state.facts.as_ref().is_none_or(|facts| facts.denied);
        let begin = open && !state.asking;
        state.asking |= begin;
        begin
    }

    /// A connection is asking the server.
    pub fn is_asking(&self) -> bool {
        self.lock().asking
    }

    /// The server has answered.
    pub fn set(&self, facts: Facts) {
        let mut state = self.lock();
        state.facts = Some(Arc::new(facts));
        state.asking = false;
        self.version.fetch_add(1, Ordering::Release);
        wake_all(state);
    }

    /// The server could not be asked.
    pub fn fail(&self) {
        let mut state = self.lock();
        state.asking = false;
        state.failed_at = Some(Instant::now());
        wake_all(state);
    }

    /// What is known is not true of the server that is asked next.
    pub fn forget(&self) {
        let mut state = self.lock();
        state.facts = None;
        state.failed_at = None;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wake_all(mut state: MutexGuard<'_, State>) {
    let waiting = std::mem::take(&mut state.waiting);
    drop(state);
    waiting.into_iter().for_each(Waker::wake);
}
