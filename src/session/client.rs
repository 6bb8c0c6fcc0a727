//! The CLIENT command over this proxy's own clients.

use std::task::Poll;
use std::time::Duration;

use super::connection::{INVALID_NAME, is_valid_label, parse_int};
use super::local::{answer_query, help};
use super::special::Pin;
use super::{Env, Labels, ReplyMode, Router, Session, Verdict, errors};
use crate::commands::Spec;
use crate::l1::hot::By;
use crate::l1::touched::Touched;
use crate::resp::encode;

/// A question that one session cannot answer alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// `CLIENT LIST`.
    List(ListFilter),
    /// `CLIENT INFO`: the asking client's own line.
    Own,
    /// `CLIENT KILL`.
    Kill(KillFilter),
    /// What the server calls the connection on which the client with this id blocks: its decimal
    /// digits, or nothing if there is no such client.
    Blocked(u64),
    /// The `# Nearkey` section of INFO.
    ProxyInfo,
    /// `NEARKEY HOTKEYS`.
    HotKeys {
        /// What they are sorted by.
        by: By,
        /// How many.
        count: usize,
    },
    /// `NEARKEY STATS`.
    CacheStats,
    /// `NEARKEY KEY`: what L1 holds of this key for the asking client.
    CacheKey(Vec<u8>),
    /// `NEARKEY FLUSH`, of all keys or of those that match a pattern.
    CacheFlush(Option<Vec<u8>>),
    /// `NEARKEY PAUSE`: hold commands for at most this long; those that only read go on if `writes`.
    Pause {
        /// Only what may write is held.
        writes: bool,
        /// For how long.
        limit: Duration,
    },
    /// `NEARKEY RESUME`.
    Resume,
    /// `NEARKEY RELOAD`.
    Reload,
}

/// `TYPE` of `CLIENT LIST` and `CLIENT KILL`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientType {
    /// Not asked for.
    #[default]
    Any,
    /// `normal`: without subscriptions.
    Normal,
    /// `pubsub`: with subscriptions.
    PubSub,
    /// Masters and replicas: none of ours are.
    Other,
}

impl ClientType {
    /// Whether a client is of this type.
    pub fn matches(self, session: &Session) -> bool {
        match self {
            Self::Any => true,
            Self::Normal => !session.is_subscriber(),
            Self::PubSub => session.is_subscriber(),
            Self::Other => false,
        }
    }
}

/// Which clients `CLIENT LIST` shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListFilter {
    /// Only these ids; empty for all.
    pub ids: Vec<u64>,
    /// `TYPE`.
    pub client_type: ClientType,
}

/// Which clients `CLIENT KILL` closes: all conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KillFilter {
    /// The old form `CLIENT KILL addr:port`: replies OK or an error, and never spares the caller.
    pub by_address_only: bool,
    /// `ID`.
    pub id: Option<u64>,
    /// `ADDR`.
    pub address: Option<String>,
    /// `LADDR`.
    pub local_address: Option<String>,
    /// `USER`.
    pub user: Option<String>,
    /// `MAXAGE` in seconds.
    pub max_age: Option<u64>,
    /// `SKIPME`: spare the caller.
    pub skip_me: bool,
    /// `TYPE`.
    pub client_type: ClientType,
}

const HELP: &[&str] = &[
    "CLIENT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "GETNAME",
    "    Return the name of the current connection.",
    "ID",
    "    Return the ID of the current connection.",
    "INFO",
    "    Return information about the current client connection.",
    "KILL <ip:port> | <option> <value> [<option> <value> ...]",
    "    Kill connections made to this proxy.",
    "LIST [TYPE <type>] [ID <id> ...]",
    "    Return information about connections made to this proxy.",
    "NO-EVICT (ON|OFF) | NO-TOUCH (ON|OFF)",
    "    Noted for this connection only.",
    "REPLY (ON|OFF|SKIP)",
    "    Control the replies sent to the current connection.",
    "SETNAME <name> | SETINFO <LIB-NAME|LIB-VER> <value>",
    "    Name the current connection or its library.",
    "UNBLOCK <clientid> [TIMEOUT|ERROR]",
    "    Unblock the specified blocked client of this proxy.",
];

impl Session {
    /// Gives the connection a name; an empty one takes it away.
    pub(super) fn set_name(&mut self, name: &[u8]) {
        self.labels_mut().name = name.to_vec();
    }

    fn labels_mut(&mut self) -> &mut Labels {
        self.labels.get_or_insert_default()
    }

    pub(super) fn client<R: Router>(
        &mut self,
        spec: &Spec,
        args: &[&[u8]],
        reply: &mut Vec<u8>,
        env: &Env<'_>,
        router: &mut R,
    ) -> Verdict {
        let Some(sub) = env.table.subcommand(spec, args[1]) else {
            encode::error(reply, errors::unknown_subcommand("CLIENT", args[1]));
            return Verdict::Done;
        };
        if !sub.accepts(args.len()) {
            encode::error(reply, errors::wrong_arity(&sub.name));
            return Verdict::Done;
        }
        self.last_command = sub.id();
        match &*sub.name {
            "CLIENT|ID" => encode::integer(reply, env.id.cast_signed()),
            "CLIENT|GETNAME" => match &self.labels {
                Some(labels) if !labels.name.is_empty() => encode::bulk(reply, &labels.name),
                _ => encode::null(reply, self.key.protocol),
            },
            "CLIENT|SETNAME" if !is_valid_label(args[2]) => encode::error(reply, INVALID_NAME),
            "CLIENT|SETNAME" => {
                self.set_name(args[2]);
                encode::simple(reply, "OK");
            }
            "CLIENT|SETINFO" => self.set_info(args, reply),
            "CLIENT|NO-EVICT" => self.no_evict = switch(args[2], reply).unwrap_or(self.no_evict),
            "CLIENT|NO-TOUCH" => self.no_touch = switch(args[2], reply).unwrap_or(self.no_touch),
            "CLIENT|REPLY" => self.set_reply_mode(args[2], reply),
            "CLIENT|GETREDIR" => encode::integer(reply, -1),
            "CLIENT|TRACKINGINFO" => self.tracking_info(reply),
            "CLIENT|UNBLOCK" => return self.unblock(sub, args, reply, router),
            "CLIENT|HELP" => help(reply, HELP),
            _ => return self.client_query(sub, args, reply, router),
        }
        Verdict::Done
    }

    /// LIST, INFO and KILL are about other sessions: what was said before them comes first.
    fn client_query<R: Router>(
        &mut self,
        sub: &Spec,
        args: &[&[u8]],
        reply: &mut Vec<u8>,
        router: &mut R,
    ) -> Verdict {
        let query = match &*sub.name {
            "CLIENT|INFO" => Ok(Query::Own),
            "CLIENT|LIST" => parse_list(&args[2..]).map(Query::List),
            "CLIENT|KILL" => parse_kill(&args[2..]).map(Query::Kill),
            _ => Err(errors::denied(sub, args)),
        };
        match query {
            Ok(_) if self.pending.owed() > 0 => Verdict::Hold,
            Ok(query) => match answer_query(&query, reply, router) {
                Verdict::Done if router.is_killed() => Verdict::Close,
                verdict => verdict,
            },
            Err(text) => {
                encode::error(reply, &text);
                Verdict::Done
            }
        }
    }

    /// The ids of clients are this proxy's: the server is told its own. What it answers is the reply.
    fn unblock<R: Router>(
        &mut self,
        sub: &Spec,
        args: &[&[u8]],
        reply: &mut Vec<u8>,
        router: &mut R,
    ) -> Verdict {
        let id = match parse_unblock(args) {
            Ok(id) => id,
            Err(text) => {
                encode::error(reply, &text);
                return Verdict::Done;
            }
        };
        if self.pending.owed() > 0 {
            return Verdict::Hold;
        }
        let query = Query::Blocked(u64::try_from(id).unwrap_or_default());
        let Poll::Ready(server_id) = router.poll_query(&query) else {
            return Verdict::Hold;
        };
        if server_id.is_empty() {
            encode::integer(reply, 0);
            return Verdict::Done;
        }
        let mut command = Vec::new();
        let mut words: Vec<&[u8]> = vec![b"CLIENT", b"UNBLOCK", &server_id];
        words.extend(args.get(3));
        encode::command(&mut command, &words);
        if self.has_pin(Pin::Monitor) {
            // What comes on its own connection are lines.
            let terms = self.handling().into();
            self.forward(&command, 1, terms, router);
            return Verdict::Done;
        }
        self.send(sub, &command, Touched::default(), router)
    }

    fn set_info(&mut self, args: &[&[u8]], reply: &mut Vec<u8>) {
        let (attribute, value) = (args[2], args[3]);
        let shown = String::from_utf8_lossy(attribute).to_ascii_lowercase();
        let valid = is_valid_label(value);
        let field = match shown.as_str() {
            "lib-name" => &mut self.labels_mut().lib_name,
            "lib-ver" => &mut self.labels_mut().lib_version,
            _ => {
                let shown = String::from_utf8_lossy(attribute);
                let text = format!("ERR Unrecognized option '{}'", shown.escape_debug());
                return encode::error(reply, &text);
            }
        };
        if !valid {
            let text =
                format!("ERR {shown} cannot contain spaces, newlines or special characters.");
            return encode::error(reply, &text);
        }
        *field = value.to_vec();
        encode::simple(reply, "OK");
    }

    /// OFF and SKIP have no reply themselves, and SKIP covers the one command after it.
    fn set_reply_mode(&mut self, word: &[u8], reply: &mut Vec<u8>) {
        if word.eq_ignore_ascii_case(b"on") {
            self.reply_mode = ReplyMode::On;
            encode::simple(reply, "OK");
        } else if word.eq_ignore_ascii_case(b"off") {
            self.reply_mode = ReplyMode::Off;
        } else if word.eq_ignore_ascii_case(b"skip") {
            if self.reply_mode != ReplyMode::Off {
                self.reply_mode = ReplyMode::SkipThis;
            }
        } else {
            encode::error(reply, errors::SYNTAX);
        }
    }

    fn tracking_info(&self, reply: &mut Vec<u8>) {
        encode::map_header(reply, 3, self.key.protocol);
        encode::bulk(reply, b"flags");
        encode::set_header(reply, 1, self.key.protocol);
        encode::bulk(reply, b"off");
        encode::bulk(reply, b"redirect");
        encode::integer(reply, -1);
        encode::bulk(reply, b"prefixes");
        encode::array_header(reply, 0);
    }
}

/// ON or OFF, answered.
fn switch(word: &[u8], reply: &mut Vec<u8>) -> Option<bool> {
    let on = word.eq_ignore_ascii_case(b"on");
    if on || word.eq_ignore_ascii_case(b"off") {
        encode::simple(reply, "OK");
        Some(on)
    } else {
        encode::error(reply, errors::SYNTAX);
        None
    }
}

/// The id that CLIENT UNBLOCK names, or an error in Redis's words.
fn parse_unblock(args: &[&[u8]]) -> Result<i64, String> {
    if args.len() > 4 {
        return Err(errors::subcommand_syntax("CLIENT", args[1]));
    }
    let is_reason =
        |how: &&[u8]| how.eq_ignore_ascii_case(b"timeout") || how.eq_ignore_ascii_case(b"error");
    if !args.get(3).is_none_or(is_reason) {
        return Err("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR".to_owned());
    }
    parse_int(args[2]).ok_or_else(|| errors::NOT_AN_INTEGER.to_owned())
}

fn parse_list(args: &[&[u8]]) -> Result<ListFilter, String> {
    let mut filter = ListFilter::default();
    match args {
        [] => {}
        [option, kind] if option.eq_ignore_ascii_case(b"TYPE") => {
            filter.client_type = parse_type(kind)?;
        }
        [option, ids @ ..] if option.eq_ignore_ascii_case(b"ID") && !ids.is_empty() => {
            for id in ids {
                filter
                    .ids
                    .push(parse_list_id(id).ok_or("ERR Invalid client ID")?);
            }
        }
        _ => return Err(errors::SYNTAX.to_owned()),
    }
    Ok(filter)
}

fn parse_kill(args: &[&[u8]]) -> Result<KillFilter, String> {
    let mut filter = KillFilter {
        skip_me: true,
        ..KillFilter::default()
    };
    if let [address] = args {
        filter.by_address_only = true;
        filter.skip_me = false;
        filter.address = Some(text(address));
        return Ok(filter);
    }
    if !args.len().is_multiple_of(2) {
        return Err(errors::SYNTAX.to_owned());
    }
    for option in args.chunks_exact(2) {
        let (name, value) = (option[0].to_ascii_uppercase(), option[1]);
        match name.as_slice() {
            b"ID" => {
                let id = parse_id(value).ok_or("ERR client-id should be greater than 0")?;
                filter.id = Some(id);
            }
            b"TYPE" => filter.client_type = parse_type(value)?,
            b"ADDR" => filter.address = Some(text(value)),
            b"LADDR" => filter.local_address = Some(text(value)),
            b"USER" => filter.user = Some(text(value)),
            b"MAXAGE" => {
                let age = parse_int(value).and_then(|age| u64::try_from(age).ok());
                filter.max_age = Some(age.ok_or(errors::NOT_AN_INTEGER)?);
            }
            b"SKIPME" if value.eq_ignore_ascii_case(b"yes") => filter.skip_me = true,
            b"SKIPME" if value.eq_ignore_ascii_case(b"no") => filter.skip_me = false,
            _ => return Err(errors::SYNTAX.to_owned()),
        }
    }
    Ok(filter)
}

/// CLIENT LIST asks for any number, CLIENT KILL for a positive one.
fn parse_list_id(id: &[u8]) -> Option<u64> {
    parse_int(id).map(|id| u64::try_from(id).unwrap_or(0))
}

fn parse_id(id: &[u8]) -> Option<u64> {
    parse_int(id)
        .and_then(|id| u64::try_from(id).ok())
        .filter(|id| *id > 0)
}

fn parse_type(kind: &[u8]) -> Result<ClientType, String> {
    match kind.to_ascii_lowercase().as_slice() {
        b"normal" => Ok(ClientType::Normal),
        b"pubsub" => Ok(ClientType::PubSub),
        b"master" | b"replica" | b"slave" => Ok(ClientType::Other),
        _ => Err(format!(
            "ERR Unknown client type '{}'",
            text(kind).escape_debug()
        )),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
