//! What is said on a new connection before it carries traffic.
//!
//! Strictly one request at a time, and at the end a PING with a nonce that must come back: some server
//! versions drop the reply to a failing AUTH when it is pipelined, and a connection that is one reply
//! off must never be used.

use super::{IdentityId, LaneKey};
use crate::resp::reply::Value;
use crate::resp::{Protocol, encode};
use crate::secret::Secret;
use crate::stats::ConnectFailure;

use super::facts::{Identity, connection_id};

/// The name that the server's CLIENT LIST shows for our connections.
pub const CLIENT_NAME: &[u8] = b"nearkey";

/// What to prove and ask for on a new connection.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// ACL user.
    pub username: Option<Vec<u8>>,
    /// Password or token.
    pub password: Option<Secret>,
}

/// Why a handshake failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The class of failure.
    pub cause: ConnectFailure,
    /// A sentence for logs and clients.
    pub message: String,
    /// The server works; only this database, protocol or identity is not to be had.
    pub only_this_key: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Hello,
    Auth,
    SetName,
    Id,
    Select,
    Multi,
    Discard,
    Ping,
    Done,
}

/// The state of one handshake.
#[derive(Debug)]
pub struct Handshake {
    step: Step,
    key: LaneKey,
    credentials: Credentials,
    nonce: u64,
    identity: Identity,
    denies_transactions: bool,
    complaint: Option<String>,
}

impl Handshake {
    /// A handshake that ends in `key`; `nonce` must differ between connections.
    pub fn new(key: LaneKey, credentials: Credentials, nonce: u64) -> Self {
        Self {
            step: Step::Hello,
            key,
            credentials,
            nonce,
            identity: Identity::default(),
            denies_transactions: false,
            complaint: None,
        }
    }

    /// What to send now; `None` once the connection is ready.
    pub fn poll_request(&self) -> Option<Vec<u8>> {
        let mut request = Vec::new();
        match self.step {
            Step::Hello => self.write_hello(&mut request),
            Step::Auth => self.write_auth(&mut request),
            Step::SetName => encode::command(&mut request, &[b"CLIENT", b"SETNAME", CLIENT_NAME]),
            Step::Id => encode::command(&mut request, &[b"CLIENT", b"ID"]),
            Step::Select => {
                let db = self.key.db.to_string();
                encode::command(&mut request, &[b"SELECT", db.as_bytes()]);
            }
            Step::Multi => encode::command(&mut request, &[b"MULTI"]),
            Step::Discard => encode::command(&mut request, &[b"DISCARD"]),
            Step::Ping => encode::command(&mut request, &[b"PING", self.nonce_text().as_bytes()]),
            Step::Done => return None,
        }
        Some(request)
    }

    /// What the server said of itself.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The user may not use MULTI: commands sent behind it would run one by one.
    pub fn denies_transactions(&self) -> bool {
        self.denies_transactions
    }

    /// What the server said of its state instead of the nonce.
    pub fn complaint(&self) -> Option<&str> {
        self.complaint.as_deref()
    }

    /// Takes the reply to the request that was sent.
    ///
    /// # Errors
    /// The connection must be closed.
    pub fn handle_reply(&mut self, reply: &Value) -> Result<(), Refusal> {
        let error = reply
            .as_error()
            .map(|e| String::from_utf8_lossy(e).into_owned());
        self.step = match (self.step, error) {
            (Step::Hello, None) => {
                self.identity = Identity::from_hello(reply);
                self.after_name()
            }
            (Step::Hello, Some(error)) => self.handle_hello_error(&error)?,
            (Step::Auth, None) => Step::SetName,
            // A name is a courtesy: servers that do not know it are as good.
            (Step::SetName, _) => Step::Id,
            (Step::Id, _) => {
                self.identity.connection = connection_id(reply);
                self.after_name()
            }
            (Step::Select, None) => self.after_select(),
            (Step::Multi, None) => Step::Discard,
            (Step::Multi, Some(_)) => {
                self.denies_transactions = true;
                Step::Ping
            }
            (Step::Discard, None) => Step::Ping,
            (Step::Ping, None) if reply.as_bytes() == Some(self.nonce_text().as_bytes()) => {
                Step::Done
            }
            (Step::Ping, None) => return Err(mismatch()),
            // A client's user may be denied even this; the error tells as well what it answers.
            (Step::Ping, Some(error))
                if !self.is_own() && error.starts_with("NOPERM") && error.contains("ping") =>
            {
                Step::Done
            }
            // It is there and answers in step: what it says of itself is for each client to hear.
            (Step::Ping, Some(error)) if is_passing(&error) => {
                self.complaint = Some(error);
                Step::Done
            }
            (_, Some(error)) => return Err(self.refuse(&error)),
            (Step::Done, None) => return Err(mismatch()),
        };
        Ok(())
    }

    fn after_name(&self) -> Step {
        if self.key.db == 0 {
            self.after_select()
        } else {
            Step::Select
        }
    }

    /// A user with a name of its own may have been denied transactions.
    fn after_select(&self) -> Step {
        match self.credentials.username.as_deref() {
            None | Some(b"default") => Step::Ping,
            Some(_) => Step::Multi,
        }
    }

    /// Servers before 6 and some providers do not know HELLO; RESP2 does without.
    fn handle_hello_error(&self, error: &str) -> Result<Step, Refusal> {
        let unknown = error.starts_with("ERR unknown command") || error.starts_with("NOPERM");
        match self.key.protocol {
            Protocol::Resp2 if unknown && self.credentials.password.is_some() => Ok(Step::Auth),
            Protocol::Resp2 if unknown => Ok(Step::SetName),
            Protocol::Resp3 if unknown || error.starts_with("NOPROTO") => Err(Refusal {
                cause: ConnectFailure::Protocol,
                message: format!(
                    "NOPROTO the upstream does not speak RESP3: {}",
                    without_arguments(error)
                ),
                only_this_key: true,
            }),
            _ => Err(self.refuse(error)),
        }
    }

    fn write_hello(&self, request: &mut Vec<u8>) {
        let version: &[u8] = if self.key.protocol == Protocol::Resp3 {
            b"3"
        } else {
            b"2"
        };
        let mut args: Vec<&[u8]> = vec![b"HELLO", version];
        if let Some(password) = &self.credentials.password {
            let user = self.credentials.username.as_deref().unwrap_or(b"default");
            args.extend([&b"AUTH"[..], user, password.expose_bytes()]);
        }
        args.extend([&b"SETNAME"[..], CLIENT_NAME]);
        encode::command(request, &args);
    }

    fn write_auth(&self, request: &mut Vec<u8>) {
        let mut args: Vec<&[u8]> = vec![b"AUTH"];
        args.extend(self.credentials.username.as_deref());
        args.extend(self.credentials.password.as_ref().map(Secret::expose_bytes));
        encode::command(request, &args);
    }

    fn nonce_text(&self) -> String {
        format!("nearkey-{:016x}", self.nonce)
    }

    fn refuse(&self, error: &str) -> Refusal {
        let has = |prefixes: &[&str]| prefixes.iter().any(|prefix| error.starts_with(prefix));
        let cause = if has(&[
            "ERR max number of clients",
            "ERR max concurrent connections",
        ]) {
            ConnectFailure::MaxClients
        } else if has(&[
            "WRONGPASS",
            "NOAUTH",
            "NOPERM",
            "ERR invalid password",
            "ERR AUTH",
            "DENIED",
        ]) {
            ConnectFailure::Auth
        } else if has(&["LOADING"]) {
            ConnectFailure::Loading
        } else if has(&["MASTERDOWN"]) {
            ConnectFailure::MasterDown
        } else if has(&["BUSY", "CLUSTERDOWN", "TRYAGAIN"]) {
            ConnectFailure::NotReady
        } else {
            ConnectFailure::Protocol
        };
        let personal = matches!(cause, ConnectFailure::Auth | ConnectFailure::Protocol);
        let only_this_key = self.step == Step::Select && cause == ConnectFailure::Protocol
            || personal && !self.is_own();
        Refusal {
            cause,
            message: without_arguments(error).to_owned(),
            only_this_key,
        }
    }

    fn is_own(&self) -> bool {
        self.key.identity == IdentityId::OWN
    }
}

/// A server that loads its data, or has lost its master, still does some of what it is asked.
fn is_passing(error: &str) -> bool {
    error.starts_with("LOADING ") || error.starts_with("MASTERDOWN ")
}

/// Redis repeats the arguments of a command that it does not know: in a handshake, the password.
fn without_arguments(error: &str) -> &str {
    error
        .split_once(", with args beginning with")
        .map_or(error, |(what, _)| what)
}

fn mismatch() -> Refusal {
    Refusal {
        cause: ConnectFailure::Protocol,
        message: "the reply to the closing PING of the handshake was not its nonce".to_owned(),
        only_this_key: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handshake(db: u32, protocol: Protocol, password: Option<&str>) -> Handshake {
        let credentials = Credentials {
            username: None,
            password: password.map(Secret::new),
        };
        let key = LaneKey {
            db,
            protocol,
            identity: crate::upstream::IdentityId::OWN,
        };
        Handshake::new(key, credentials, 7)
    }

    fn request(handshake: &Handshake) -> String {
        let request = handshake.poll_request().expect("not done");
        let words: Vec<_> = crate::resp::request::args(&request)
            .map(|arg| String::from_utf8_lossy(arg).into_owned())
            .collect();
        words.join(" ")
    }

    fn ok() -> Value {
        Value::Simple(b"OK".to_vec())
    }

    #[test]
    fn every_request_waits_for_the_reply_before_it_and_a_nonce_ends_it() {
        let mut h = handshake(3, Protocol::Resp3, Some("pw"));
        assert_eq!(request(&h), "HELLO 3 AUTH default pw SETNAME nearkey");
        h.handle_reply(&Value::Map(Vec::new())).expect("hello");
        assert_eq!(request(&h), "SELECT 3");
        h.handle_reply(&ok()).expect("select");
        assert_eq!(request(&h), "PING nearkey-0000000000000007");
        h.handle_reply(&Value::Bulk(b"nearkey-0000000000000007".to_vec()))
            .expect("ping");
        assert!(h.poll_request().is_none());
    }

    #[test]
    fn an_old_server_is_greeted_with_auth_alone() {
        let mut h = handshake(0, Protocol::Resp2, Some("pw"));
        h.handle_reply(&Value::Error(b"ERR unknown command `HELLO`".to_vec()))
            .expect("fallback");
        assert_eq!(request(&h), "AUTH pw");
        h.handle_reply(&ok()).expect("auth");
        assert_eq!(request(&h), "CLIENT SETNAME nearkey");
        h.handle_reply(&Value::Error(b"ERR unknown command".to_vec()))
            .expect("courtesy");
        assert_eq!(request(&h), "CLIENT ID");
        h.handle_reply(&Value::Int(12)).expect("id");
        assert!(request(&h).starts_with("PING"));
        assert_eq!(h.identity().connection, Some(12));
    }

    fn of_a_client(protocol: Protocol) -> Handshake {
        let credentials = Credentials {
            username: Some(b"al\xffce".to_vec()),
            password: Some(Secret::new(&b"p\x00w"[..])),
        };
        let key = LaneKey {
            db: 0,
            protocol,
            identity: IdentityId(5),
        };
        Handshake::new(key, credentials, 7)
    }

    #[test]
    fn a_clients_refusal_is_its_own_and_its_credentials_are_any_bytes() {
        let mut h = of_a_client(Protocol::Resp2);
        let request = h.poll_request().expect("not done");
        let args: Vec<&[u8]> = crate::resp::request::args(&request).collect();
        assert_eq!(args[3..5], [&b"al\xffce"[..], b"p\x00w"]);
        let refusal = h
            .handle_reply(&Value::Error(b"WRONGPASS invalid".to_vec()))
            .expect_err("refused");
        assert!(refusal.only_this_key);
        assert_eq!(refusal.cause, ConnectFailure::Auth);
        let refusal = of_a_client(Protocol::Resp2)
            .handle_reply(&Value::Error(b"LOADING Redis is loading".to_vec()))
            .expect_err("not yet");
        assert!(!refusal.only_this_key, "that is for all to wait for");
    }

    #[test]
    fn a_user_who_may_not_even_ping_gets_a_connection() {
        let mut h = of_a_client(Protocol::Resp2);
        h.handle_reply(&ok()).expect("hello");
        let denied = b"NOPERM this user has no permissions to run the 'ping' command".to_vec();
        h.handle_reply(&Value::Error(denied.clone()))
            .expect("multi");
        assert!(h.denies_transactions());
        h.handle_reply(&Value::Error(denied.clone())).expect("ping");
        assert!(h.poll_request().is_none());
        let mut own = handshake(0, Protocol::Resp2, Some("pw"));
        own.handle_reply(&ok()).expect("hello");
        assert!(own.handle_reply(&Value::Error(denied)).is_err());
    }

    #[test]
    fn a_user_with_a_name_is_asked_for_transactions_and_they_are_ended() {
        let mut h = of_a_client(Protocol::Resp2);
        h.handle_reply(&ok()).expect("hello");
        for request in [&b"MULTI"[..], b"DISCARD"] {
            let sent = h.poll_request().expect("not done");
            assert_eq!(crate::resp::request::args(&sent).next(), Some(request));
            h.handle_reply(&ok()).expect("allowed");
        }
        assert!(!h.denies_transactions());
    }

    #[test]
    fn no_refusal_repeats_the_password() {
        let unknown = "ERR unknown command `HELLO`, with args beginning with: `3`, `c4n4ry`";
        for protocol in [Protocol::Resp3, Protocol::Resp2] {
            let mut h = of_a_client(protocol);
            if protocol == Protocol::Resp2 {
                h.handle_reply(&Value::Error(unknown.into()))
                    .expect("fallback");
            }
            let refusal = h
                .handle_reply(&Value::Error(unknown.into()))
                .expect_err("refused");
            assert!(!refusal.message.contains("c4n4ry"), "{}", refusal.message);
        }
    }

    #[test]
    fn a_wrong_nonce_or_an_error_is_fatal_and_classified() {
        let mut h = handshake(0, Protocol::Resp2, None);
        h.handle_reply(&ok()).expect("hello");
        assert!(
            h.handle_reply(&Value::Bulk(b"something else".to_vec()))
                .is_err()
        );
        for (text, cause) in [
            (
                "ERR max number of clients reached",
                ConnectFailure::MaxClients,
            ),
            ("WRONGPASS invalid", ConnectFailure::Auth),
            ("LOADING Redis is loading", ConnectFailure::Loading),
        ] {
            let mut h = handshake(0, Protocol::Resp2, Some("pw"));
            let refusal = h
                .handle_reply(&Value::Error(text.into()))
                .expect_err("refused");
            assert_eq!(refusal.cause, cause);
        }
        let mut h = handshake(99, Protocol::Resp2, None);
        h.handle_reply(&ok()).expect("hello");
        let refusal = h
            .handle_reply(&Value::Error(b"ERR DB index is out of range".to_vec()))
            .expect_err("range");
        assert!(refusal.only_this_key);
    }
}
