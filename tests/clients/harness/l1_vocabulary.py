"""The reads that L1 may hold, with all their options, on keys of every type (l1_reads.json, which a test of the crate reads too)."""

import json
from pathlib import Path

_FILE = json.loads(Path(__file__).with_name("l1_reads.json").read_text(encoding="utf-8"))


def _words(command):
    """In the file each character is one byte."""
    return tuple(word.encode("latin-1") for word in command)


# Writes that make the keys.
DATA = [_words(command) for command in _FILE["data"]]


def _calls():
    calls = {}
    for kind, reads in _FILE["reads"].items():
        keys = dict.fromkeys(_FILE["keys"][kind] + _FILE["others"])
        for name, at, *options in reads:
            assert at == "@"
            calls.setdefault(name, []).extend(_words((name, key, *options)) for key in keys)
    return calls


# All calls of each command.
CALLS = _calls()

# What L1 must not hold: it depends on chance, on time or on more than one key, is sent for what it does, or is refused.
NEVER = [_words(command) for command in (
    ("EXISTS", "s:text", "nothing"), ("EXISTS", "s:text", "s:text"), ("EXISTS",), ("GET", "s:text", "s:empty"), ("GET",),
    ("TTL", "s:text"), ("PTTL", "nothing"), ("EXPIRETIME", "s:text"), ("OBJECT", "ENCODING", "s:text"), ("TOUCH", "s:text"),
    ("DUMP", "s:text"), ("SORT_RO", "i:small"), ("SORT", "i:small"), ("LCS", "s:text", "s:number"), ("SINTER", "i:small"),
    ("ZUNION", "1", "z:small"), ("ZSCAN", "z:small", "0"), ("XREAD", "COUNT", "1", "STREAMS", "x:small", "0"),
    ("PFCOUNT", "nothing"), ("HRANDFIELD", "nothing"), ("SRANDMEMBER", "nothing"), ("GETEX", "s:text"),
    ("EVAL_RO", "return redis.call('GET', KEYS[1])", "1", "s:text"), ("BITFIELD", "s:text", "GET", "u8", "0"),
    ("GEORADIUS", "g:places", "15", "37", "200", "km"), ("DBSIZE",),
)]
