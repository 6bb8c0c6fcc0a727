//! NEARKEY: what the proxy says of itself over the Redis port, and how L1 is emptied.

use std::time::Duration;

use super::connection::parse_int;
use super::local::{answer_query, help};
use super::{Query, Router, Session, Verdict, errors};
use crate::l1::hot::By;
use crate::l1::report::{DEFAULT_HOT, MAX_HOT};
use crate::resp::encode;

/// How long commands are held if nobody says, and at most: clients wait, and all they send is kept.
const DEFAULT_PAUSE: Duration = Duration::from_secs(30);
const MAX_PAUSE: Duration = Duration::from_secs(600);
const OUT_OF_RANGE: &str = "ERR timeout must be from 1 to 600000 milliseconds";

const HELP: &[&str] = &[
    "NEARKEY <subcommand> [<arg> ...]. Subcommands are:",
    "FLUSH [<pattern>]",
    "    Drop what L1 holds, or what it holds of keys that match a glob. Returns how many entries.",
    "HELP",
    "    Prints this help.",
    "HOTKEYS [BY (READS|MISSES|BYTES|WRITES)] [COUNT <count>]",
    "    The keys used most within the last minute, and whether L1 answers them or why not.",
    "INFO",
    "    The `# Nearkey` section of INFO: clients, connections, commands, errors, L1.",
    "KEY <key>",
    "    What L1 holds of a key in this database, or why it holds nothing.",
    "PAUSE [<milliseconds>] [ALL|WRITE]",
    "    Hold commands, or those that may write, for 30 s or the time given. Returns how many are in flight.",
    "RELOAD",
    "    Read the configuration, its certificates and passwords anew. What is wrong changes nothing.",
    "RESUME",
    "    End the pause.",
    "STATS",
    "    L1 in numbers: its mode and why, entries, hits, misses, what it saved.",
    "VERSION",
    "    The version of this proxy.",
];

impl Session {
    /// Questions wait for what was said before them, so that they tell of that, too.
    pub(super) fn nearkey<R: Router>(
        &mut self,
        args: &[&[u8]],
        reply: &mut Vec<u8>,
        router: &mut R,
    ) -> Verdict {
        let sub = args.get(1).copied().unwrap_or(b"HELP");
        match sub.to_ascii_uppercase().as_slice() {
            b"INFO" => return answer_query(&Query::ProxyInfo, reply, router),
            b"VERSION" => encode::bulk(reply, env!("CARGO_PKG_VERSION").as_bytes()),
            b"HELP" => help(reply, HELP),
            _ => match parse(sub, &args[2..]) {
                Ok(_) if self.pending.owed() > 0 => return Verdict::Hold,
                Ok(query) => return answer_query(&query, reply, router),
                Err(text) => encode::error(reply, &text),
            },
        }
        Verdict::Done
    }
}

/// A question about L1, or an error in Redis's words.
fn parse(sub: &[u8], args: &[&[u8]]) -> Result<Query, String> {
    let arity = |name| Err(errors::wrong_arity(&format!("NEARKEY|{name}")));
    match (sub.to_ascii_uppercase().as_slice(), args) {
        (b"STATS", []) => Ok(Query::CacheStats),
        (b"STATS", _) => arity("STATS"),
        (b"KEY", [key]) => Ok(Query::CacheKey(key.to_vec())),
        (b"KEY", _) => arity("KEY"),
        (b"FLUSH", []) => Ok(Query::CacheFlush(None)),
        (b"FLUSH", [pattern]) => Ok(Query::CacheFlush(Some(pattern.to_vec()))),
        (b"FLUSH", _) => arity("FLUSH"),
        (b"HOTKEYS", args) => parse_hotkeys(args),
        (b"PAUSE", args) => parse_pause(args),
        (b"RELOAD", []) => Ok(Query::Reload),
        (b"RELOAD", _) => arity("RELOAD"),
        (b"RESUME", []) => Ok(Query::Resume),
        (b"RESUME", _) => arity("RESUME"),
        _ => Err(errors::unknown_subcommand("NEARKEY", sub)),
    }
}

fn parse_hotkeys(args: &[&[u8]]) -> Result<Query, String> {
    let (mut by, mut count) = (By::Reads, DEFAULT_HOT);
    let mut options = args.chunks_exact(2);
    for option in &mut options {
        let value = option[1];
        match option[0].to_ascii_uppercase().as_slice() {
            b"BY" => by = parse_by(value).ok_or(errors::SYNTAX)?,
            b"COUNT" => {
                let number = parse_int(value).ok_or(errors::NOT_AN_INTEGER)?;
                let number = usize::try_from(number).ok().filter(|number| *number > 0);
                count = number.ok_or(errors::COUNT_TOO_LOW)?;
                if count > MAX_HOT {
                    return Err(format!(
                        "ERR COUNT is {MAX_HOT} at most: no more are counted"
                    ));
                }
            }
            _ => return Err(errors::SYNTAX.to_owned()),
        }
    }
    match options.remainder() {
        [] => Ok(Query::HotKeys { by, count }),
        _ => Err(errors::SYNTAX.to_owned()),
    }
}

/// The time and what is held, each once, in any order.
fn parse_pause(args: &[&[u8]]) -> Result<Query, String> {
    let (mut limit, mut writes) = (None, None);
    for arg in args {
        let word = arg.to_ascii_uppercase();
        let said = match word.as_slice() {
            b"WRITE" => writes.replace(true).is_some(),
            b"ALL" => writes.replace(false).is_some(),
            _ => {
                let number =
                    parse_int(arg).ok_or("ERR timeout is not an integer or out of range")?;
                let number = u64::try_from(number).ok().map(Duration::from_millis);
                let known = number.filter(|limit| !limit.is_zero() && *limit <= MAX_PAUSE);
                limit.replace(known.ok_or(OUT_OF_RANGE)?).is_some()
            }
        };
        if said {
            return Err(errors::SYNTAX.to_owned());
        }
    }
    Ok(Query::Pause {
        writes: writes.unwrap_or(false),
        limit: limit.unwrap_or(DEFAULT_PAUSE),
    })
}

fn parse_by(word: &[u8]) -> Option<By> {
    match word.to_ascii_lowercase().as_slice() {
        b"reads" => Some(By::Reads),
        b"misses" => Some(By::Unanswered),
        b"bytes" => Some(By::Bytes),
        b"writes" => Some(By::Writes),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &str) -> Result<Query, String> {
        let words: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
        parse(words[0], &words[1..])
    }

    #[test]
    fn questions_have_options_in_any_order_and_case() {
        let hot = |by, count| Ok(Query::HotKeys { by, count });
        assert_eq!(parsed("hotkeys"), hot(By::Reads, DEFAULT_HOT));
        assert_eq!(
            parsed("HOTKEYS by MISSES"),
            hot(By::Unanswered, DEFAULT_HOT)
        );
        assert_eq!(parsed("HOTKEYS COUNT 3 BY bytes"), hot(By::Bytes, 3));
        assert_eq!(parsed("HOTKEYS COUNT 512"), hot(By::Reads, MAX_HOT));
        assert_eq!(parsed("stats"), Ok(Query::CacheStats));
        assert_eq!(parsed("KEY a"), Ok(Query::CacheKey(b"a".to_vec())));
        assert_eq!(parsed("FLUSH"), Ok(Query::CacheFlush(None)));
        let pause = |writes, millis| {
            let limit = Duration::from_millis(millis);
            Ok(Query::Pause { writes, limit })
        };
        assert_eq!(parsed("PAUSE"), pause(false, 30_000));
        assert_eq!(parsed("PAUSE 500 write"), pause(true, 500));
        assert_eq!(parsed("PAUSE ALL 500"), pause(false, 500));
        assert_eq!(parsed("RESUME"), Ok(Query::Resume));
        assert_eq!(parsed("RELOAD"), Ok(Query::Reload));
        let pattern = Query::CacheFlush(Some(b"a*".to_vec()));
        assert_eq!(parsed("FLUSH a*"), Ok(pattern));
    }

    #[test]
    fn mistakes_are_told_in_the_words_of_redis() {
        for (words, error) in [
            (
                "KEY",
                "ERR wrong number of arguments for 'nearkey|key' command",
            ),
            (
                "KEY a b",
                "ERR wrong number of arguments for 'nearkey|key' command",
            ),
            (
                "FLUSH a b",
                "ERR wrong number of arguments for 'nearkey|flush' command",
            ),
            (
                "STATS x",
                "ERR wrong number of arguments for 'nearkey|stats' command",
            ),
            ("HOTKEYS BY", errors::SYNTAX),
            ("HOTKEYS BY age", errors::SYNTAX),
            ("HOTKEYS TOP 3", errors::SYNTAX),
            ("HOTKEYS COUNT x", errors::NOT_AN_INTEGER),
            ("HOTKEYS COUNT 0", errors::COUNT_TOO_LOW),
            (
                "HOTKEYS COUNT 513",
                "ERR COUNT is 512 at most: no more are counted",
            ),
            ("HOTKEYS COUNT -1", errors::COUNT_TOO_LOW),
            ("PAUSE 0", OUT_OF_RANGE),
            ("PAUSE -1", OUT_OF_RANGE),
            ("PAUSE 600001", OUT_OF_RANGE),
            ("PAUSE 10 20", errors::SYNTAX),
            ("PAUSE WRITE ALL", errors::SYNTAX),
            (
                "PAUSE soon",
                "ERR timeout is not an integer or out of range",
            ),
            (
                "RELOAD now",
                "ERR wrong number of arguments for 'nearkey|reload' command",
            ),
            ("NOPE", "ERR unknown subcommand 'NOPE'. Try NEARKEY HELP."),
        ] {
            assert_eq!(parsed(words), Err(error.to_owned()), "{words}");
        }
    }
}
