//! AUTH, HELLO, SELECT and RESET: what a connection is, kept in the session alone.

use std::task::{Poll, ready};

use super::special::Pin;
use super::{Env, ReplyMode, Router, Session, Verdict, errors};
use crate::resp::{Protocol, encode};
use crate::upstream::facts::{Facts, Identity};
use crate::upstream::{IdentityId, LaneKey};

/// The first failed login after which a client has to wait.
const FREE_LOGINS: u8 = 3;

/// What HELLO asked for.
#[derive(Default)]
struct Hello<'a> {
    protocol: Option<Protocol>,
    auth: Option<(&'a [u8], &'a [u8])>,
    name: Option<&'a [u8]>,
}

impl Session {
    /// Moves to other shared connections; what is in flight on the old ones comes first.
    fn set_key(&mut self, key: LaneKey) {
        if self.key != key {
            self.key = key;
            self.must_drain = self.pending.owed() > 0;
        }
    }

    pub(super) fn select<R: Router>(
        &mut self,
        args: &[&[u8]],
        reply: &mut Vec<u8>,
        router: &mut R,
    ) -> Verdict {
        let Some(index) = parse_int(args[1]) else {
            encode::error(reply, errors::NOT_AN_INTEGER);
            return Verdict::Done;
        };
        let Ok(db) = u32::try_from(index) else {
            encode::error(reply, errors::DB_RANGE);
            return Verdict::Done;
        };
        let key = LaneKey { db, ..self.key };
        match router.poll_select(key) {
            Poll::Pending => return Verdict::Hold,
            Poll::Ready(Ok(())) => {
                self.set_key(key);
                encode::simple(reply, "OK");
            }
            Poll::Ready(Err(text)) => encode::error(reply, &text),
        }
        Verdict::Done
    }

    pub(super) fn auth<R: Router>(
        &mut self,
        args: &[&[u8]],
        reply: &mut Vec<u8>,
        env: &Env<'_>,
        router: &mut R,
    ) -> Verdict {
        let presented = match args {
            [_, password] => (&b"default"[..], *password),
            [_, user, password] => (*user, *password),
            _ => {
                encode::error(reply, errors::SYNTAX);
                return Verdict::Done;
            }
        };
        match self.poll_auth(presented, self.key, env, router) {
            Poll::Pending => return Verdict::Hold,
            Poll::Ready(Ok(key)) => {
                self.enter(key, router);
                encode::simple(reply, "OK");
            }
            Poll::Ready(Err(text)) => {
                self.note_failed_login(&text);
                encode::error(reply, &text);
            }
        }
        Verdict::Done
    }

    /// Who has tried several wrong passwords waits after each further one.
    fn note_failed_login(&mut self, text: &str) {
        if errors::is_own(text) {
            return; // it was not judged
        }
        self.failed_logins = self.failed_logins.saturating_add(1);
        self.paused = self.failed_logins >= FREE_LOGINS;
    }

    /// Which connections a client may use instead of those of `key` that presents this user and
    /// password, or the error to give. Nothing has changed yet.
    ///
    /// Without a password to ask for, whatever a configured client presents is accepted.
    fn poll_auth<R: Router>(
        &self,
        (user, password): (&[u8], &[u8]),
        key: LaneKey,
        env: &Env<'_>,
        router: &mut R,
    ) -> Poll<Result<LaneKey, String>> {
        if !env.settings.passthrough {
            return Poll::Ready(if is_accepted(user, password, env) {
                Ok(key)
            } else {
                env.counters.auth_failures.add(1);
                Err(errors::WRONGPASS.to_owned())
            });
        }
        if self.pending.owed() > 0 {
            return Poll::Pending; // what came before may change the very password
        }
        let asked = router.poll_identity(key, user, password);
        asked.map(|verdict| match verdict {
            Ok(identity) if identity != self.key.identity && self.holds_connection() => {
                router.settle_identity(self.key.identity);
                Err(errors::AUTH_LEASED.to_owned())
            }
            Ok(identity) => Ok(LaneKey { identity, ..key }),
            Err(text) => {
                let refused = !errors::is_own(&text);
                env.counters.auth_failures.add(refused.into());
                Err(text)
            }
        })
    }

    /// Something on the server stands for this session in its present name.
    fn holds_connection(&self) -> bool {
        self.needs_lease() || self.subscriptions().iter().any(|count| *count > 0)
    }

    /// The client has proven who it is.
    fn enter<R: Router>(&mut self, key: LaneKey, router: &mut R) {
        self.authenticated = true;
        router.settle_identity(key.identity);
        self.set_key(key);
    }

    pub(super) fn hello<R: Router>(
        &mut self,
        args: &[&[u8]],
        reply: &mut Vec<u8>,
        env: &Env<'_>,
        router: &mut R,
    ) -> Verdict {
        let hello = match parse_hello(args) {
            Ok(hello) => hello,
            Err(text) => {
                encode::error(reply, &text);
                return Verdict::Done;
            }
        };
        if hello.auth.is_none() && !self.authenticated {
            encode::error(reply, errors::HELLO_NOAUTH);
            return Verdict::Done;
        }
        let key = match self.poll_hello(&hello, env, router) {
            Poll::Pending => return Verdict::Hold,
            Poll::Ready(Ok(key)) => key,
            Poll::Ready(Err(text)) => {
                if hello.auth.is_some() && text == errors::WRONGPASS {
                    self.note_failed_login(&text);
                }
                encode::error(reply, &text);
                return Verdict::Done;
            }
        };
        let facts = match router.poll_facts(key) {
            Poll::Pending => return Verdict::Hold,
            Poll::Ready(facts) => facts,
        };
        if let Some(name) = hello.name {
            self.set_name(name);
        }
        if self.is_pinned() && key.protocol != self.key.protocol {
            self.switch_lease(key.protocol, router);
        }
        self.enter(key, router);
        self.write_hello(reply, facts.as_deref(), env.id);
        Verdict::Done
    }

    /// Which connections the session would use after HELLO, or the error to give.
    fn poll_hello<R: Router>(
        &self,
        hello: &Hello<'_>,
        env: &Env<'_>,
        router: &mut R,
    ) -> Poll<Result<LaneKey, String>> {
        let mut key = LaneKey {
            protocol: hello.protocol.unwrap_or(self.key.protocol),
            ..self.key
        };
        if self.has_pin(Pin::Monitor) && key.protocol != self.key.protocol {
            return Poll::Ready(Err(errors::NO_PROTOCOL_CHANGE.to_owned()));
        }
        // Before anything else is asked of the server: it is not for strangers to open connections.
        if let Some(presented) = hello.auth {
            match ready!(self.poll_auth(presented, key, env, router)) {
                Ok(known) => key = known,
                Err(text) => return Poll::Ready(Err(text)),
            }
        }
        let is_new = key.protocol != self.key.protocol;
        if is_new && key.protocol == Protocol::Resp3 && !ready!(router.poll_resp3(key)) {
            router.settle_identity(self.key.identity);
            return Poll::Ready(Err(errors::NOPROTO.to_owned()));
        }
        Poll::Ready(Ok(key))
    }

    fn write_hello(&self, reply: &mut Vec<u8>, facts: Option<&Facts>, id: u64) {
        let protocol = self.key.protocol;
        let unknown = Identity::default();
        let facts = facts.map_or(&unknown, |facts| &facts.identity);
        encode::map_header(reply, 7, protocol);
        let text = |reply: &mut Vec<u8>, key: &str, value: &str| {
            encode::bulk(reply, key.as_bytes());
            encode::bulk(reply, value.as_bytes());
        };
        text(reply, "server", &facts.server);
        text(reply, "version", &facts.version);
        encode::bulk(reply, b"proto");
        encode::integer(reply, if protocol == Protocol::Resp3 { 3 } else { 2 });
        encode::bulk(reply, b"id");
        encode::integer(reply, id.cast_signed());
        text(reply, "mode", &facts.mode);
        text(reply, "role", &facts.role);
        encode::bulk(reply, b"modules");
        encode::array_header(reply, 0);
    }

    pub(super) fn reset<R: Router>(
        &mut self,
        reply: &mut Vec<u8>,
        env: &Env<'_>,
        router: &mut R,
    ) -> Verdict {
        if env.settings.passthrough && self.pending.owed() > 0 {
            return Verdict::Hold; // it is still answered in the former name
        }
        if self.leave_all(router).is_pending() {
            return Verdict::Hold;
        }
        self.leave_states(router);
        self.labels = None;
        self.no_evict = false;
        self.no_touch = false;
        self.reply_mode = ReplyMode::On;
        self.authenticated = env.settings.lets_everybody_in();
        router.settle_identity(IdentityId::OWN);
        self.set_key(LaneKey {
            db: env.settings.database,
            protocol: Protocol::Resp2,
            identity: IdentityId::OWN,
        });
        encode::simple(reply, "RESET");
        Verdict::Done
    }
}

fn is_accepted(user: &[u8], password: &[u8], env: &Env<'_>) -> bool {
    match &env.settings.password {
        None => true,
        Some(secret) => user == b"default" && secret.matches(password),
    }
}

fn parse_hello<'a>(args: &[&'a [u8]]) -> Result<Hello<'a>, String> {
    let mut hello = Hello::default();
    let Some(version) = args.get(1) else {
        return Ok(hello);
    };
    hello.protocol = match parse_int(version) {
        Some(2) => Some(Protocol::Resp2),
        Some(3) => Some(Protocol::Resp3),
        Some(_) => return Err(errors::NOPROTO.to_owned()),
        None => {
            return Err("ERR Protocol version is not an integer or out of range".to_owned());
        }
    };
    let mut rest = &args[2..];
    while let Some((option, more)) = rest.split_first() {
        if option.eq_ignore_ascii_case(b"AUTH") && more.len() >= 2 {
            hello.auth = Some((more[0], more[1]));
            rest = &more[2..];
        } else if option.eq_ignore_ascii_case(b"SETNAME") && !more.is_empty() {
            if !is_valid_label(more[0]) {
                return Err(INVALID_NAME.to_owned());
            }
            hello.name = Some(more[0]);
            rest = &more[1..];
        } else {
            let shown: String = String::from_utf8_lossy(option)
                .escape_debug()
                .take(64)
                .collect();
            return Err(format!("ERR Syntax error in HELLO option '{shown}'"));
        }
    }
    Ok(hello)
}

/// A name with characters that would break CLIENT LIST.
pub(super) const INVALID_NAME: &str =
    "ERR Client names cannot contain spaces, newlines or special characters.";

/// Printable and without spaces, as Redis asks of client names.
pub(super) fn is_valid_label(label: &[u8]) -> bool {
    label.iter().all(|byte| (b'!'..=b'~').contains(byte))
}

/// An integer by Redis's strict rule: no sign but `-`, no leading zero, no space.
pub(super) fn parse_int(text: &[u8]) -> Option<i64> {
    let value: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (value.to_string().as_bytes() == text).then_some(value)
}
