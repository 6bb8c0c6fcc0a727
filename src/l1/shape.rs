//! Which reads L1 holds, and how their replies look in both protocols.
//!
//! It holds what is a function of one key's value alone. So there is nothing here that depends on chance, on
//! time (TTL, OBJECT, XPENDING, XINFO), on a cursor, on other keys (SORT_RO, EVAL_RO), that may write
//! (PFCOUNT) or is sent for what it does (TOUCH); nor what a module adds, whose promises nobody knows.
//! Replies without an order (SMEMBERS) are held: the server gave the one that is kept.

use crate::commands::{CommandTable, Spec};

/// How the reply to a read differs between RESP3, as it is held, and RESP2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Each value has its own form in RESP2; a null is a bulk string without a length.
    Plain,
    /// As [`Plain`](Self::Plain), and it shows fields of a hash.
    Hash,
    /// A null is an array without a length.
    NullArray,
    /// The pairs of members and scores lie flat in RESP2, if there are any.
    Pairs,
}

impl Shape {
    /// It shows fields of a hash. They can expire by themselves (Redis 7.4, Valkey 9), which nothing tells
    /// before the server comes round to remove them, and PTTL does not know of.
    #[inline]
    pub fn is_hash(self) -> bool {
        self == Self::Hash
    }
}

/// Which calls of a command are held, and how their replies look.
#[derive(Clone, Copy, Debug)]
enum Rule {
    /// All of them.
    Any(Shape),
    /// Those of one key.
    OneKey,
    /// All; with one option (WITHSCORE) it is an array that may be missing.
    Rank,
}

/// The reads by name, with how their replies look.
const READS: &[(Rule, &[&str])] = &[
    (
        Rule::Any(Shape::Plain),
        &[
            "BITCOUNT",
            "BITFIELD_RO",
            "BITPOS",
            "GEODIST",
            "GEOHASH",
            "GEORADIUSBYMEMBER_RO",
            "GEORADIUS_RO",
            "GEOSEARCH",
            "GET",
            "GETBIT",
            "GETRANGE",
            "LINDEX",
            "LLEN",
            "LPOS",
            "LRANGE",
            "SCARD",
            "SISMEMBER",
            "SMEMBERS",
            "SMISMEMBER",
            "STRLEN",
            "SUBSTR",
            "TYPE",
            "XLEN",
            "ZCARD",
            "ZCOUNT",
            "ZLEXCOUNT",
            "ZMSCORE",
            "ZRANGEBYLEX",
            "ZREVRANGEBYLEX",
            "ZSCORE",
        ],
    ),
    (
        Rule::Any(Shape::Hash),
        &[
            "HEXISTS", "HGET", "HGETALL", "HKEYS", "HLEN", "HMGET", "HSTRLEN", "HVALS",
        ],
    ),
    // The places of unknown members; what COUNT 0 asks for.
    (
        Rule::Any(Shape::NullArray),
        &["GEOPOS", "XRANGE", "XREVRANGE"],
    ),
    (
        Rule::Any(Shape::Pairs),
        &["ZRANGE", "ZRANGEBYSCORE", "ZREVRANGE", "ZREVRANGEBYSCORE"],
    ),
    (Rule::Rank, &["ZRANK", "ZREVRANK"]),
    (Rule::OneKey, &["EXISTS"]),
];

/// The reads that L1 holds, by command.
#[derive(Debug)]
pub struct Shapes {
    by_command: Vec<Option<Rule>>,
}

impl Shapes {
    /// The reads among the commands of a table, and of those extended from it.
    pub fn new(table: &CommandTable) -> Self {
        let mut by_command = vec![None; table.len() + 1];
        for (rule, names) in READS {
            let specs = names
                .iter()
                .filter_map(|name| table.lookup(name.as_bytes()));
            for spec in specs.filter(|spec| spec.is_repeatable()) {
                by_command[spec.id().index()] = Some(*rule);
            }
        }
        Self { by_command }
    }

    /// How the reply to a call with so many arguments looks, if L1 holds such. What they say does not
    /// matter: the reply tells what was asked for.
    #[inline]
    pub fn of(&self, spec: &Spec, argc: u32) -> Option<Shape> {
        let rule = (*self.by_command.get(spec.id().index())?)?;
        if !spec.accepts(argc as usize) {
            return None;
        }
        match rule {
            Rule::Any(shape) => Some(shape),
            Rule::OneKey => (argc == 2).then_some(Shape::Plain),
            Rule::Rank if argc > 3 => Some(Shape::NullArray),
            Rule::Rank => Some(Shape::Plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::{Flags, Keys, ServerCommand};

    fn shape(call: &str) -> Option<Shape> {
        let table = CommandTable::builtin();
        let words: Vec<&str> = call.split(' ').collect();
        let spec = table.lookup(words[0].as_bytes()).expect("a command");
        Shapes::new(&table).of(spec, words.len() as u32)
    }

    #[test]
    fn every_name_is_a_read_of_the_table_whose_one_key_comes_first() {
        let table = CommandTable::builtin();
        let shapes = Shapes::new(&table);
        let mut names = 0;
        for name in READS.iter().flat_map(|(_, names)| *names) {
            let spec = table.lookup(name.as_bytes()).expect(name);
            let Keys::Range { first: 1, last, .. } = spec.keys else {
                panic!("{name}: {:?}", spec.keys);
            };
            assert!(last == 1 || *name == "EXISTS", "{name}");
            let least = u32::from(spec.arity.unsigned_abs());
            assert!(shapes.of(spec, least).is_some(), "{name}");
            assert_eq!(shapes.of(spec, least - 1), None, "{name}");
            names += 1;
        }
        let held = shapes.by_command.iter().flatten().count();
        assert_eq!(held, names, "a name is there twice");
    }

    #[test]
    fn what_a_call_asks_for_decides_its_shape() {
        assert_eq!(shape("GET k"), Some(Shape::Plain));
        assert_eq!(shape("HGETALL k"), Some(Shape::Hash));
        assert_eq!(shape("ZRANGE k 0 -1 WITHSCORES"), Some(Shape::Pairs));
        assert_eq!(shape("ZRANGE k 0 -1"), Some(Shape::Pairs));
        assert_eq!(shape("ZRANK k m"), Some(Shape::Plain));
        assert_eq!(shape("ZREVRANK k m WITHSCORE"), Some(Shape::NullArray));
        assert_eq!(shape("XRANGE k - + COUNT 0"), Some(Shape::NullArray));
        assert_eq!(shape("EXISTS k"), Some(Shape::Plain));
        assert_eq!(size_of::<Option<Shape>>(), 1);
    }

    #[test]
    fn what_the_server_would_refuse_or_has_more_keys_is_not_held() {
        for call in [
            "GET",
            "GET a b",
            "EXISTS",
            "EXISTS a b",
            "HGET k",
            "ZRANGE k 0",
        ] {
            assert_eq!(shape(call), None, "{call}");
        }
    }

    #[test]
    fn what_depends_on_more_than_one_keys_value_is_not_held() {
        for call in [
            "MGET a",
            "SINTER a",
            "SUNION a",
            "LCS a b",
            "ZUNION 1 a",
            "SORT_RO a",
            "EVAL_RO return 0",
            "SRANDMEMBER a",
            "HRANDFIELD a",
            "ZRANDMEMBER a",
            "RANDOMKEY",
            "SCAN 0",
            "HSCAN a 0",
            "KEYS *",
            "TTL a",
            "PTTL a",
            "EXPIRETIME a",
            "HTTL a FIELDS 1 f",
            "OBJECT ENCODING a",
            "MEMORY USAGE a",
            "XREAD STREAMS a 0",
            "XPENDING a g",
            "XINFO STREAM a",
            "PFCOUNT a",
            "TOUCH a",
            "DUMP a",
            "GETEX a",
            "GETDEL a",
            "BITFIELD a GET u8 0",
            "GEORADIUS a 0 0 1 m",
            "SORT a",
            "DBSIZE",
            "PING",
        ] {
            assert_eq!(shape(call), None, "{call}");
        }
    }

    #[test]
    fn what_a_server_adds_is_not_held_whatever_it_says_of_it() {
        let row = ServerCommand {
            name: "JSON.GET".into(),
            arity: -2,
            flags: vec!["readonly".into()],
            first_key: 1,
            last_key: 1,
            step: 1,
            ..ServerCommand::default()
        };
        let builtin = CommandTable::builtin();
        let extended = builtin.extended([row].into_iter());
        let learned = extended.lookup(b"json.get").expect("learned");
        assert!(learned.flags.contains(Flags::LEARNED | Flags::READONLY));
        for shapes in [Shapes::new(&builtin), Shapes::new(&extended)] {
            assert_eq!(shapes.of(learned, 2), None);
            let get = extended.lookup(b"get").expect("GET");
            assert_eq!(shapes.of(get, 2), Some(Shape::Plain));
        }
    }

    #[test]
    fn hash_reads_are_told_apart() {
        let table = CommandTable::builtin();
        let shapes = Shapes::new(&table);
        for spec in &table {
            let argc = u32::from(spec.arity.unsigned_abs());
            if let Some(shape) = shapes.of(spec, argc) {
                assert_eq!(shape.is_hash(), spec.name.starts_with('H'), "{}", spec.name);
            }
        }
    }
}
