//! What must be true of a session's doings.

use nearkey::resp::inline;
use nearkey::resp::reply::{ReplyScan, ReplyScanner};
use nearkey::resp::request::{Kind, args};

use super::play::{End, Play};
use super::{PASSWORD, Terms};

/// Never said on a connection that others use too: they change it for all, or stop it.
const NEVER_SHARED: &[&[u8]] = &[
    b"SELECT",
    b"AUTH",
    b"HELLO",
    b"RESET",
    b"QUIT",
    b"SUBSCRIBE",
    b"PSUBSCRIBE",
    b"SSUBSCRIBE",
    b"UNSUBSCRIBE",
    b"PUNSUBSCRIBE",
    b"SUNSUBSCRIBE",
    b"MONITOR",
    b"WATCH",
    b"SHUTDOWN",
    b"SYNC",
    b"PSYNC",
    b"REPLICAOF",
    b"NEARKEY",
];

/// Nor these, unless within a transaction that is sent as one.
const NOT_ALONE: &[&[u8]] = &[
    b"MULTI",
    b"EXEC",
    b"DISCARD",
    b"BLPOP",
    b"BRPOP",
    b"BLMOVE",
    b"BRPOPLPUSH",
    b"BZPOPMIN",
    b"BZPOPMAX",
    b"BLMPOP",
    b"BZMPOP",
    b"WAIT",
    b"WAITAOF",
];

/// Of CLIENT's, those that speak of the connection they are said on.
const OWN_STATE: &[&[u8]] = &[
    b"REPLY",
    b"TRACKING",
    b"CACHING",
    b"SETNAME",
    b"SETINFO",
    b"NO-EVICT",
    b"NO-TOUCH",
    b"ID",
    b"KILL",
    b"LIST",
];

fn upper(command: &[u8]) -> Vec<Vec<u8>> {
    args(command)
        .take(2)
        .map(<[u8]>::to_ascii_uppercase)
        .collect()
}

/// A row on a shared connection: commands that stand alone, or one transaction.
pub fn check_shared(commands: &[&[u8]], hidden: u32) {
    let is_block = hidden > 0;
    if is_block {
        let last = commands.len() - 1;
        assert_eq!(hidden as usize, last, "only EXEC's reply is the client's");
        assert_eq!(upper(commands[0]), [b"MULTI".to_vec()]);
        assert_eq!(upper(commands[last])[0], b"EXEC");
    }
    let inner = if is_block {
        &commands[1..commands.len() - 1]
    } else {
        commands
    };
    for command in inner {
        let words = upper(command);
        let name = words[0].as_slice();
        let shown = String::from_utf8_lossy(command);
        assert!(
            !NEVER_SHARED.contains(&name),
            "on a shared connection: {shown:?}"
        );
        let open = [&b"MULTI"[..], b"EXEC", b"DISCARD"].contains(&name);
        assert!(
            !(NOT_ALONE.contains(&name) && (open || !is_block)),
            "on a shared connection: {shown:?}"
        );
        if let (b"CLIENT", Some(sub)) = (name, words.get(1)) {
            assert!(
                !OWN_STATE.contains(&sub.as_slice()),
                "on a shared connection: {shown:?}"
            );
        }
    }
}

/// A row on a leased connection.
pub fn check_leased(commands: &[&[u8]]) {
    for command in commands {
        let words = upper(command);
        let denied: [&[u8]; 4] = [b"SHUTDOWN", b"SYNC", b"QUIT", b"AUTH"];
        assert!(
            !denied.contains(&words[0].as_slice()),
            "{:?}",
            String::from_utf8_lossy(command)
        );
        assert!(words.concat() != b"CLIENTREPLY");
    }
}

/// It has one reply, neither none nor several, and so have those behind it.
pub fn is_plain(command: &[u8], kind: Kind) -> bool {
    let words: Vec<Vec<u8>> = match kind {
        Kind::Multibulk => args(command).take(2).map(<[u8]>::to_vec).collect(),
        _ => inline::split(command.trim_ascii_end()).unwrap_or_default(),
    };
    let is = |at: usize, word: &[u8]| {
        words
            .get(at)
            .is_some_and(|it| it.eq_ignore_ascii_case(word))
    };
    let names_topics = words
        .first()
        .is_some_and(|name| name.to_ascii_uppercase().ends_with(b"SUBSCRIBE"));
    let is_client_reply = is(0, b"CLIENT") && is(1, b"REPLY");
    !names_topics && !is_client_reply
}

/// How many frames there are; all of them whole.
pub fn count_frames(bytes: &[u8]) -> usize {
    let (mut scanner, mut count, mut rest) = (ReplyScanner::new(), 0, bytes);
    while !rest.is_empty() {
        match scanner.scan(rest) {
            Ok(ReplyScan::Complete { consumed, .. }) => {
                rest = &rest[consumed..];
                count += 1;
            }
            other => panic!(
                "{other:?} within what the client reads: {:?}",
                String::from_utf8_lossy(bytes)
            ),
        }
    }
    count
}

/// The two ways of saying the same.
pub fn compare(calm: &Play, wild: &Play, terms: Terms, body: &[u8]) {
    let knows_password = body.windows(PASSWORD.len()).any(|part| part == PASSWORD);
    if terms.password && !knows_password {
        let bothered = calm.outside.was_bothered || wild.outside.was_bothered;
        assert!(!bothered, "nothing is asked of the server for strangers");
    }
    assert!(
        calm.own_bytes() <= 100 * body.len() + 4096,
        "a client is not told a hundred times what it said"
    );
    if wild.end == Some(End::Broken) {
        return;
    }
    let (read, wanted) = (
        String::from_utf8_lossy(&wild.out),
        String::from_utf8_lossy(&calm.out),
    );
    if wild.end == Some(End::Drop) {
        assert!(
            terms.streams || wild.failures > 0 || wanted.starts_with(&*read),
            "{read:?}, not {wanted:?}"
        );
    } else if terms.streams || wild.failures > 0 {
        assert_eq!(
            count_frames(&wild.out),
            count_frames(&calm.out),
            "{read:?}, not {wanted:?}"
        );
    } else {
        assert_eq!(read, wanted);
        assert_eq!(
            String::from_utf8_lossy(&wild.outside.sent),
            String::from_utf8_lossy(&calm.outside.sent)
        );
    }
    assert_eq!(wild.end, calm.end);
}
