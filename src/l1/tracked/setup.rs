//! Whether a server's pushes can be relied on: asked on each new connection, without I/O.
//!
//! Versions and products whose pushes are known not to come in the order of the replies are told by name.
//! Of all others a *canary* is asked for: a key that is read and then written must be pushed behind the
//! reply to the write and before that of the next command.

use std::collections::VecDeque;

use super::cutter::Cutter;
use super::push::{Invalidated, invalidated};
use super::{Broken, CACHING, MAX_SMALL, PING, desync, words};
use crate::l1::config::{Config, Mode, Verb};
use crate::resp::encode;
use crate::resp::reply::ReplyKind;
use crate::upstream::facts::Identity;

/// What the configuration makes of a tracked connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Some keys are to be kept coherent by pushes.
    pub tracks: bool,
    /// Some may be kept for a time without.
    pub times: bool,
}

impl Plan {
    /// What the rules and the default ask for.
    pub fn new(config: &Config) -> Self {
        let rules = config.rules.iter().filter(|rule| rule.verb == Verb::Cache);
        let modes = rules.map(|rule| (rule.mode.unwrap_or(config.mode), rule.ttl.is_some()));
        let default = (config.default == Verb::Cache).then_some((config.mode, false));
        let mut plan = Self {
            tracks: false,
            times: false,
        };
        for (mode, has_ttl) in modes.chain(default) {
            plan.tracks |= matches!(mode, Mode::Auto | Mode::Tracking);
            plan.times |= has_ttl && matches!(mode, Mode::Auto | Mode::Ttl);
        }
        plan
    }
}

/// What has been found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Pushes can be relied on.
    Tracking,
    /// They cannot.
    Without {
        /// Why, in words.
        reason: String,
        /// The server may say otherwise soon.
        passing: bool,
    },
}

impl Verdict {
    /// There are no pushes in RESP2.
    pub fn resp2() -> Self {
        without("the server does not speak RESP3".to_owned())
    }
}

/// What a reply is expected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Info,
    LastInfo,
    Tracking,
    Caching,
    Read,
    Write,
    Fence,
    Life,
    Unlink,
}

/// The questions to one server.
#[derive(Debug)]
pub struct Setup {
    cutter: Cutter,
    canary: Vec<u8>,
    said: VecDeque<Said>,
    out: Vec<u8>,
    commands: u64,
    /// The push has come, at its place.
    pushed: bool,
    /// What was wrong first.
    wrong: Option<Verdict>,
}

impl Setup {
    /// The first questions; `nonce` must differ between connections.
    ///
    /// # Errors
    /// There is no need to ask.
    pub fn new(identity: &Identity, nonce: u64) -> Result<Self, Verdict> {
        if let Some(reason) = name_speaks_against(identity) {
            return Err(without(reason));
        }
        let mut setup = Self {
            cutter: Cutter::default(),
            canary: format!("nearkey:canary:{nonce:016x}").into_bytes(),
            said: VecDeque::new(),
            out: Vec::new(),
            commands: 0,
            pushed: false,
            wrong: None,
        };
        setup.say(Said::Info, &[b"INFO", b"server"]);
        // KeyDB says its name in a section of its own alone.
        setup.say(Said::LastInfo, &[b"INFO", b"keydb"]);
        Ok(setup)
    }

    /// What to send; empty again afterwards.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// How many commands that was so far.
    pub fn commands(&self) -> u64 {
        self.commands
    }

    /// Takes what the server has sent; the verdict, once it is known and nothing more is owed.
    ///
    /// # Errors
    /// The connection must be closed.
    pub fn handle_input(&mut self, mut input: &[u8]) -> Result<Option<Verdict>, Broken> {
        while !input.is_empty() {
            let cut = self.cutter.cut(&mut input, MAX_SMALL);
            let Some((kind, frame)) = cut.map_err(|e| Broken::Protocol(e.0))? else {
                break;
            };
            let frame = frame.ok_or_else(|| desync("too long a reply"))?;
            if kind == ReplyKind::Push {
                self.handle_push(&frame);
            } else if let Some(verdict) = self.handle_reply(kind == ReplyKind::Error, &frame)? {
                return Ok(Some(verdict));
            }
        }
        Ok(None)
    }

    fn handle_push(&mut self, frame: &[u8]) {
        let mut named = false;
        let what = invalidated(frame, |key| named |= key == self.canary);
        let in_place = self.said.front() == Some(&Said::Fence);
        self.pushed |= in_place && named && matches!(what, Invalidated::Keys(_));
    }

    fn handle_reply(&mut self, is_error: bool, frame: &[u8]) -> Result<Option<Verdict>, Broken> {
        let Some(said) = self.said.pop_front() else {
            return Err(desync("a reply that nothing asked for"));
        };
        match said {
            // A user who may not ask is no reason to do without: the canary decides.
            Said::Info | Said::LastInfo => {
                if let (None, Some(product)) = (&self.wrong, product_in(frame)) {
                    self.wrong = Some(without(out_of_order(product)));
                }
                if said == Said::LastInfo {
                    if self.wrong.is_some() {
                        return Ok(self.wrong.take());
                    }
                    self.say(Said::Tracking, &[b"CLIENT", b"TRACKING", b"ON", b"OPTIN"]);
                }
            }
            Said::Tracking if is_error => return Ok(Some(refused("CLIENT TRACKING", frame))),
            Said::Tracking => self.release_canary(),
            Said::Caching if is_error => self.note(refused("CLIENT CACHING", frame)),
            Said::Read if is_error => self.note(refused("EXISTS", frame)),
            Said::Write if is_error => self.note(refused("SET", frame)),
            Said::Life if is_error => self.note(refused("PTTL", frame)),
            Said::Fence if !self.pushed => self.note(without(
                "no push came for a key that was read and then written".to_owned(),
            )),
            // If it cannot be removed, it goes by itself soon.
            Said::Unlink => return Ok(Some(self.wrong.take().unwrap_or(Verdict::Tracking))),
            Said::Caching | Said::Read | Said::Write | Said::Fence | Said::Life => {}
        }
        Ok(None)
    }

    fn release_canary(&mut self) {
        let canary = self.canary.clone();
        self.said.push_back(Said::Caching);
        self.out.extend_from_slice(CACHING);
        self.say(Said::Read, &[b"EXISTS", &canary]);
        self.say(Said::Write, &[b"SET", &canary, b"1", b"PX", b"1000"]);
        self.said.push_back(Said::Fence);
        self.out.extend_from_slice(PING);
        self.commands += 2;
        self.say(Said::Life, &[b"PTTL", &canary]);
        self.say(Said::Unlink, &[b"UNLINK", &canary]);
    }

    fn say(&mut self, said: Said, command: &[&[u8]]) {
        encode::command(&mut self.out, command);
        self.said.push_back(said);
        self.commands += 1;
    }

    fn note(&mut self, wrong: Verdict) {
        self.wrong.get_or_insert(wrong);
    }
}

fn without(reason: String) -> Verdict {
    Verdict::Without {
        reason,
        passing: false,
    }
}

fn refused(what: &str, error: &[u8]) -> Verdict {
    let error = words(error);
    let passing = [
        "READONLY",
        "LOADING",
        "MASTERDOWN",
        "BUSY",
        "CLUSTERDOWN",
        "OOM",
        "NOREPLICAS",
        "MISCONF",
    ]
    .iter()
    .any(|word| error.starts_with(word));
    let hint = if error.starts_with("NOPERM") {
        "; the user needs client|tracking, client|caching, exists, set, pttl, unlink and ping, and the \
         keys nearkey:canary:*"
    } else {
        ""
    };
    Verdict::Without {
        reason: format!("the server refused {what}: {error}{hint}"),
        passing,
    }
}

fn out_of_order(product: &str) -> String {
    format!("{product} does not push invalidations in the order of its replies")
}

/// What HELLO says against tracking, if anything.
fn name_speaks_against(identity: &Identity) -> Option<String> {
    let server = identity.server.to_ascii_lowercase();
    let version = &identity.version;
    if server.contains("dragonfly") || version.starts_with("df-") {
        return Some(out_of_order("Dragonfly"));
    }
    if server.contains("keydb") {
        return Some(out_of_order("KeyDB"));
    }
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().ok());
    let major = numbers.next().flatten()?;
    let minor = numbers.next().flatten().unwrap_or(0);
    let patch = numbers.next().flatten().unwrap_or(0);
    let known = (major, minor, patch);
    if (major, minor) == (6, 3) {
        return Some(out_of_order("KeyDB")); // Redis has had no such version
    }
    let is_old = known < (6, 2, 11) || ((7, 0, 0)..(7, 0, 10)).contains(&known);
    is_old.then(|| {
        format!(
            "invalidations of {server} {version} cannot be relied on; 6.2.11, 7.0.10 and newer can"
        )
    })
}

/// A product whose INFO this is, if it is one of those that push out of order.
fn product_in(info: &[u8]) -> Option<&'static str> {
    let text = String::from_utf8_lossy(info).to_ascii_lowercase();
    // In every line that could be somebody else's, such as a path, the name alone proves nothing.
    let has = |field: &str| text.lines().any(|line| line.starts_with(field));
    if has("dragonfly_version:") {
        Some("Dragonfly")
    } else if has("mvcc_depth:") || has("features:cluster_mget") {
        Some("KeyDB")
    } else {
        None
    }
}
