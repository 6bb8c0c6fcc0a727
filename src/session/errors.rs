//! Every error text that a client can get from the proxy itself.

use std::time::Duration;

use crate::commands::Spec;

/// A command before AUTH where a password is required.
pub const NOAUTH: &str = "NOAUTH Authentication required.";

/// A wrong password.
pub const WRONGPASS: &str = "WRONGPASS invalid username-password pair or user is disabled.";

/// AUTH of a session that has a connection of its own under its former name.
pub const AUTH_LEASED: &str = "ERR Nearkey: AUTH as another user is not carried while WATCH, \
    CLIENT TRACKING or a subscription stands for this client on the server; RESET ends them";

/// The connection on which the server was asked was lost, or does not answer.
pub const UNJUDGED: &str = "LOADING Nearkey: the upstream did not say whether this client may";

/// More users and passwords were presented than there are numbers.
pub const NO_IDENTITY: &str = "ERR Nearkey: too many users and passwords were presented";

/// HELLO without AUTH where a password is required.
pub const HELLO_NOAUTH: &str = "NOAUTH HELLO must be called with the client already authenticated, \
    otherwise the HELLO AUTH <user> <pass> option can be used to authenticate the client and \
    select the RESP protocol version at the same time";

/// HELLO with a protocol that is neither 2 nor 3.
pub const NOPROTO: &str = "NOPROTO unsupported protocol version";

/// Arguments that no form of the command has.
pub const SYNTAX: &str = "ERR syntax error";

/// Not a number.
pub const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";

/// A COUNT of nothing.
pub const COUNT_TOO_LOW: &str = "ERR count should be greater than 0";

/// A database that the server does not have.
pub const DB_RANGE: &str = "ERR DB index is out of range";

/// One client too many.
pub const MAX_CLIENTS: &str = "ERR max number of clients reached";

/// A request above `upstream.large_request` that cannot be streamed.
pub const TOO_LARGE: &str = "ERR Nearkey: a request of this size can only be a command that \
    Nearkey passes on unchanged (upstream.large_request)";

/// A request that is not taken in while memory is short.
pub const NO_MEMORY: &str = "OOM Nearkey: too little memory is left for a request of this size, \
    try again later (process.memory_limit)";

/// A client from beyond loopback in protected mode, in the spirit of Redis's own refusal.
pub const PROTECTED: &str = "DENIED Nearkey is running in protected mode because listen.protected_mode \
    is on and no listen.password is set. In this mode connections are only accepted from the loopback \
    interface. To accept this client, set listen.password, or listen.protected_mode = false if \
    everything that can reach this port may use the Redis behind it.";

/// A request that came too slowly.
pub fn too_slow(limit: Duration) -> String {
    let limit = human(limit);
    format!(
        "ERR Nearkey: a request was begun and has not come within {limit} (listen.request_timeout)"
    )
}

/// A malformed request.
pub fn protocol(what: &str) -> String {
    format!("ERR Protocol error: {what}")
}

/// The wrong number of arguments for `name`, `CONTAINER|SUB` for subcommands.
pub fn wrong_arity(name: &str) -> String {
    format!(
        "ERR wrong number of arguments for '{}' command",
        name.to_ascii_lowercase()
    )
}

/// A container command without such a subcommand.
pub fn unknown_subcommand(container: &str, sub: &[u8]) -> String {
    let container = container.to_ascii_uppercase();
    format!(
        "ERR unknown subcommand '{}'. Try {container} HELP.",
        excerpt(sub, 128)
    )
}

/// A subcommand with more arguments than it takes.
pub fn subcommand_syntax(container: &str, sub: &[u8]) -> String {
    format!(
        "ERR unknown subcommand or wrong number of arguments for '{}'. Try {container} HELP.",
        excerpt(sub, 128)
    )
}

/// A command that neither the table nor the server knows, as Redis words it: in raw bytes.
pub fn unknown(args: &[&[u8]]) -> Vec<u8> {
    let quoted = |text: &mut Vec<u8>, bytes: &[u8], most: usize| {
        text.push(b'\'');
        // Redis prints C strings: they end at a zero.
        let shown = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        text.extend_from_slice(&shown[..shown.len().min(most)]);
        text.push(b'\'');
    };
    let mut list = Vec::new();
    for arg in &args[1..] {
        if list.len() >= 128 {
            break;
        }
        let room = 128 - list.len();
        quoted(&mut list, arg, room);
        list.push(b' ');
    }
    let mut text = b"ERR unknown command ".to_vec();
    quoted(&mut text, args[0], 128);
    text.extend_from_slice(b", with args beginning with: ");
    text.extend_from_slice(&list);
    text
}

/// A command that `commands.deny` names.
pub fn denied(spec: &Spec, args: &[&[u8]]) -> String {
    format!(
        "ERR Nearkey: '{}' is refused by the setting commands.deny",
        shown(spec, args)
    )
}

/// A command that would change the connection which carries a transaction, or needs the session.
pub fn not_in_multi(spec: &Spec, args: &[&[u8]]) -> String {
    format!(
        "ERR Nearkey: '{}' is not carried inside MULTI: a transaction travels on a connection that \
         others use too",
        shown(spec, args)
    )
}

/// A command of a client that runs MONITOR.
pub fn under_monitor(spec: &Spec, args: &[&[u8]]) -> String {
    format!(
        "ERR Nearkey: '{}' is not carried while this connection runs MONITOR; RESET ends it",
        shown(spec, args)
    )
}

/// A command's name as a client writes it.
fn shown(spec: &Spec, args: &[&[u8]]) -> String {
    match args.get(1) {
        Some(sub) if spec.is_container() => format!("{} {}", spec.name, excerpt(sub, 64)),
        _ => spec.name.replace('|', " "),
    }
    .to_ascii_uppercase()
}

/// A command that a RESP2 client with subscriptions must not say.
pub fn subscribed(name: &str) -> String {
    let code = match name {
        "EXEC" => "EXECABORT Transaction discarded because of:",
        _ => "ERR",
    };
    format!(
        "{code} Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET \
         are allowed in this context",
        name.to_ascii_lowercase()
    )
}

/// MULTI for a user who may not use it.
pub const NO_TRANSACTIONS: &str = "NOPERM this user has no permissions to run the 'multi' command";

/// MULTI inside MULTI.
pub const NESTED_MULTI: &str = "ERR MULTI calls can not be nested";

/// WATCH inside MULTI.
pub const WATCH_IN_MULTI: &str = "ERR WATCH inside MULTI is not allowed";

/// EXEC after a command that was refused.
pub const EXECABORT: &str = "EXECABORT Transaction discarded because of previous errors.";

/// EXEC with arguments.
pub fn exec_arity() -> String {
    "EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command"
        .to_owned()
}

/// EXEC or DISCARD without MULTI.
pub fn without_multi(name: &str) -> String {
    format!("ERR {name} without MULTI")
}

/// A command that Redis takes in no transaction.
pub const NO_MULTI: &str = "ERR Command not allowed inside a transaction";

/// A transaction that would not fit.
pub fn transaction_too_large() -> String {
    let most = super::transaction::MAX_TRANSACTION / 1024 / 1024;
    format!("ERR Nearkey: a transaction may have {most} MiB, which are held until EXEC")
}

/// CLIENT CACHING without CLIENT TRACKING.
pub const NO_CACHING: &str = "ERR CLIENT CACHING can be called only when the client is in tracking \
     mode with OPTIN or OPTOUT mode enabled";

/// CLIENT TRACKING with REDIRECT.
pub const NO_REDIRECT: &str = "ERR Nearkey: CLIENT TRACKING with REDIRECT is not carried, since the \
     other client has no connection of its own to the server; use RESP3 (HELLO 3)";

/// HELLO that would change the form of the lines that are arriving.
pub const NO_PROTOCOL_CHANGE: &str =
    "ERR Nearkey: HELLO with another protocol is not carried while MONITOR runs; RESET ends it";

/// A client that runs MONITOR, about keys.
pub const REPLICA_KEYSPACE: &str = "ERR Replica can't interact with the keyspace";

/// The upstream is unreachable and the command was not sent.
pub fn unreachable(cause: &str) -> String {
    format!("LOADING Nearkey: upstream unreachable ({cause})")
}

/// The upstream is unreachable and too many commands wait for it already.
pub fn crowded(cause: &str, most: usize) -> String {
    format!(
        "LOADING Nearkey: upstream unreachable ({cause}), and more than {most} commands wait for it \
         (upstream.queue_commands)"
    )
}

/// No reply in time.
pub fn timeout(limit: Duration) -> String {
    format!(
        "ERR Nearkey: no reply from upstream within {}",
        human(limit)
    )
}

/// The ceiling is reached and nothing came free.
pub fn busy(max: usize) -> String {
    format!("ERR Nearkey: all {max} upstream connections are busy (upstream.max_connections)")
}

/// The server has no room for one more connection.
pub fn full(what: &str) -> String {
    format!("ERR Nearkey: no connection free, and the server takes no more ({what})")
}

/// The reply was lost, with `upstream.on_lost_reply = "error"`.
pub const LOST: &str = "ERR Nearkey: the connection to the upstream was lost before the reply came; \
    the command may or may not have run";

/// Whether the proxy says so, and not the server.
pub fn is_own(text: &str) -> bool {
    text.starts_with("ERR Nearkey: ") || text.starts_with("LOADING Nearkey: ")
}

/// A duration as people write it.
fn human(d: Duration) -> String {
    if d.subsec_millis() == 0 {
        format!("{}s", d.as_secs())
    } else {
        format!("{}ms", d.as_millis())
    }
}

/// Client bytes made safe for an error line.
fn excerpt(bytes: &[u8], most: usize) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(most)]);
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
