//! AUTH, HELLO, SELECT and RESET: what a connection is, kept in the session alone.

use std::task::Poll;

use super::{Env, ReplyMode, Router, Session, Verdict, errors};
use crate::resp::{Protocol, encode};
use crate::upstream::facts::{Facts, Identity};
use crate::upstream::{IdentityId, LaneKey};

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

    pub(super) fn auth(&mut self, args: &[&[u8]], reply: &mut Vec<u8>, env: &Env<'_>) {
        let (user, password) = match args {
            [_, password] => (&b"default"[..], *password),
            [_, user, password] => (*user, *password),
            _ => return encode::error(reply, errors::SYNTAX),
        };
        if self.check_password(user, password, env) {
            encode::simple(reply, "OK");
        } else {
            encode::error(reply, errors::WRONGPASS);
        }
    }

    /// Without a password to ask for, whatever a configured client presents is accepted.
    fn check_password(&mut self, user: &[u8], password: &[u8], env: &Env<'_>) -> bool {
        let accepted = is_accepted(user, password, env);
        if accepted {
            self.authenticated = true;
        } else {
            env.counters.auth_failures.add(1);
        }
        accepted
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
        // Before anything is asked of the server: it is not for strangers to open connections.
        if let Some((user, password)) = hello.auth
            && !is_accepted(user, password, env)
        {
            env.counters.auth_failures.add(1);
            encode::error(reply, errors::WRONGPASS);
            return Verdict::Done;
        }
        if self.is_pinned() && hello.protocol.is_some_and(|p| p != self.key.protocol) {
            encode::error(reply, errors::NO_PROTOCOL_CHANGE);
            return Verdict::Done;
        }
        let wants_resp3 = hello.protocol == Some(Protocol::Resp3);
        if wants_resp3 && self.key.protocol != Protocol::Resp3 {
            match router.poll_resp3(LaneKey {
                protocol: Protocol::Resp3,
                ..self.key
            }) {
                Poll::Pending => return Verdict::Hold,
                Poll::Ready(true) => {}
                Poll::Ready(false) => {
                    encode::error(reply, errors::NOPROTO);
                    return Verdict::Done;
                }
            }
        }
        let protocol = hello.protocol.unwrap_or(self.key.protocol);
        let key = LaneKey {
            protocol,
            ..self.key
        };
        let facts = match router.poll_facts(key) {
            Poll::Pending => return Verdict::Hold,
            Poll::Ready(facts) => facts,
        };
        if hello.auth.is_some() {
            self.authenticated = true;
        }
        if let Some(name) = hello.name {
            self.set_name(name);
        }
        if let Some(protocol) = hello.protocol {
            self.set_key(LaneKey {
                protocol,
                ..self.key
            });
        }
        self.write_hello(reply, facts.as_deref(), env.id);
        Verdict::Done
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

    pub(super) fn reset(&mut self, reply: &mut Vec<u8>, env: &Env<'_>) {
        self.labels = None;
        self.no_evict = false;
        self.no_touch = false;
        self.reply_mode = ReplyMode::On;
        self.authenticated = env.settings.password.is_none();
        self.set_key(LaneKey {
            db: env.settings.database,
            protocol: Protocol::Resp2,
            identity: IdentityId::OWN,
        });
        encode::simple(reply, "RESET");
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
