"""Hostile payloads, how to make more of them, and a reader of the protocol that tells what is whole in them."""

import functools
import re
import zlib

from .resp import encode

PING = b"*1\r\n$4\r\nPING\r\n"
ECHO = b"*2\r\n$4\r\nECHO\r\n"
SET = b"*3\r\n$3\r\nSET\r\n$7\r\nk@:\r\n"

MAX_INLINE = 64 * 1024
MAX_BULK = 512 * 1024 * 1024
MAX_ARGS = 1024 * 1024

NUMBER = re.compile(rb"^(0|-?[1-9][0-9]*)$")
FOREIGN = re.compile(rb"^(post|host:)$", re.I)
METHOD = re.compile(rb"^(get|head|post|put|delete|connect|options|trace|patch)$", re.I)


def number(text):
    """Redis's strict integers, or nothing."""
    if not NUMBER.match(text) or len(text) > 20:
        return None
    value = int(text)
    return value if -(1 << 63) <= value < 1 << 63 else None


class Reader:
    """Takes a payload apart as Redis 7.0 does, and notes where Redis does not look closely."""

    def __init__(self, payload):
        self.payload, self.at = payload, 0
        self.sloppy = False

    def length_line(self):
        """The text of a line that begins at a mark, None if it is not whole; at its end."""
        end = self.payload.find(b"\r", self.at)
        nul = self.payload.find(b"\0", self.at)
        if end < 0 or (0 <= nul < end):
            return None
        if end + 2 > len(self.payload):
            return None
        text = self.payload[self.at + 1:end]
        self.sloppy |= self.payload[end + 1:end + 2] != b"\n"
        self.at = end + 2
        return text

    def command(self):
        """A list of arguments, or how the payload ends: `half`, `error` or `foreign`."""
        if self.payload[self.at:self.at + 1] != b"*":
            return self.inline()
        count = self.length_line()
        if count is None:
            return "error" if len(self.payload) - self.at > MAX_INLINE else "half"
        count = number(count)
        if count is None or count > MAX_ARGS:
            return "error"
        args = []
        for _ in range(max(count, 0)):
            mark = self.payload[self.at:self.at + 1]
            length = self.length_line()
            if length is None:
                return "error" if len(self.payload) - self.at > MAX_INLINE else "half"
            length = number(length)
            if mark != b"$" or length is None or not 0 <= length <= MAX_BULK:
                return "error"
            ending = self.payload[self.at + length:self.at + length + 2]
            self.sloppy |= not b"\r\n".startswith(ending)
            if len(ending) < 2:
                return "half"
            args.append(self.payload[self.at:self.at + length])
            self.at += length + 2
        return args

    def inline(self):
        if self.payload[self.at:self.at + 1] == b"\x16":
            return "foreign"
        end = self.payload.find(b"\n", self.at)
        nul = self.payload.find(b"\0", self.at)
        if end < 0 or 0 <= nul < end:
            return "error" if len(self.payload) - self.at > MAX_INLINE else "half"
        line = self.payload[self.at:end]
        if len(line) > MAX_INLINE:
            return "error"
        self.at = end + 1
        words = line.split()
        if words and (FOREIGN.match(words[0]) or METHOD.match(words[0]) and line.rstrip(b"\r")[:-1].endswith(b"HTTP/1.")):
            return "foreign"
        args = split(line)
        return "error" if args is None else args


def split(line):
    """The words of an inline command, or nothing if its quotes do not match."""
    words, at = [], 0
    blanks = b" \t\n\v\f\r"
    while True:
        while at < len(line) and line[at] in blanks:
            at += 1
        if at == len(line):
            return words
        word, quote = bytearray(), None
        while True:
            byte = line[at:at + 1]
            if quote:
                if not byte:
                    return None
                if byte == quote:
                    if at + 1 < len(line) and line[at + 1] not in blanks:
                        return None
                    at += 1
                    break
                if quote == b'"' and (hexa := re.match(rb"\\x([0-9a-fA-F]{2})", line[at:])):
                    word.append(int(hexa[1], 16))
                    at += 3
                elif quote == b'"' and byte == b"\\" and at + 1 < len(line):
                    at += 1
                    word += {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"a": b"\a"}.get(line[at:at + 1], line[at:at + 1])
                elif quote == b"'" and line[at:at + 2] == b"\\'":
                    at += 1
                    word += b"'"
                else:
                    word += byte
            elif not byte or byte in b" \n\r\t":
                break
            elif byte in b"\"'":
                quote = byte
            else:
                word += byte
            at += 1
        words.append(bytes(word))


@functools.cache
def parse(payload, lenient=False):
    """The whole commands in front of a payload, and how it ends: `whole`, `half`, `error`, `foreign`, or `sloppy` if Redis goes
    on behind a line end that is none."""
    reader = Reader(payload)
    commands = []
    while reader.at < len(payload):
        found = reader.command()
        if reader.sloppy and not lenient:
            return commands, "sloppy"
        if isinstance(found, str):
            return commands, found
        if found:
            commands.append(found)
            if found[0].upper() == b"QUIT":
                return commands, "whole"
    return commands, "whole"


# Payloads by hand. `@` becomes a number of the payload's own, five digits long.

def numbers(form, *texts):
    return [form.replace(b"#", text) for text in texts]


ODD_NUMBERS = [
    b"", b"+1", b"01", b"00", b" 1", b"1 ", b"1.0", b"1e0", b"0x1", b"one", b"-", b"--1", b"-0", b"-2", b"1\n", b"1\x01", b"\xff", b"1,",
    b"2147483648", b"4294967296", b"9223372036854775807", b"9223372036854775808", b"-9223372036854775809",
    b"18446744073709551616", b"9" * 40, b"1_000", b"\xd9\xa1",
]

FIXED = [
    # Numbers of arguments.
    *numbers(b"*#\r\n$4\r\nPING\r\n", *ODD_NUMBERS),
    # Lengths of arguments.
    *numbers(b"*2\r\n$3\r\nGET\r\n$#\r\nk\r\n" + PING, *ODD_NUMBERS),
    # A valid command first: its reply comes, then the error.
    *[encode("SET", "k@", "v") + end for end in (
        b"*x\r\n", b"*1\r\n+PING\r\n", b"*1\r\n$x\r\n", b"*1\r\n:1\r\n", b"*1\r\n$-1\r\n", b"*1\r\n*1\r\n", b"*2147483648\r\n",
        b"*1\r\n$536870913\r\n", b"*1\r\n$9999999999\r\n", b"\"\r\n", b"'a\r\n", b"\"a\"b\r\n", b"SET k@ \"x\r\n",
    )],
    # Wrong marks.
    *[b"*1\r\n" + mark + b"4\r\nPING\r\n" for mark in (
        b"*", b"+", b"-", b":", b"_", b"#", b",", b"(", b"!", b"=", b"%", b"~", b">", b"|", b"\0", b"\x01", b"\x7f", b"\xff", b" ", b"",
        b"\n", b"\\", b"'", b"\"",
    )],
    # Frames of replies, RESP3 included, where a request is due.
    *[frame + encode("SET", "after@", "1") for frame in (
        b"+OK\r\n", b"-ERR x\r\n", b":1\r\n", b"$2\r\nhi\r\n", b"%1\r\n+a\r\n+b\r\n", b"~1\r\n+a\r\n", b">1\r\n+a\r\n", b"_\r\n", b"#t\r\n",
        b",1.5\r\n", b"(123\r\n", b"!3\r\nERR\r\n", b"=5\r\ntxt:a\r\n", b"|1\r\n+a\r\n+b\r\n", b"$-1\r\n", b"$?\r\n;1\r\na\r\n;0\r\n",
    )],
    # Nothing to do.
    b"*0\r\n" + PING, b"*-1\r\n" + PING, b"*-5\r\n" + PING, b"\r\n" + PING, b"\n\n\n" + PING, b"   \r\n" + PING, b"\t\v\f\r\n" + PING,
    b"*0\r\n" * 1000 + PING, b"\r\n" * 1000 + PING, b"*-1\r\n*0\r\n\r\n" * 50 + PING,
    # Half of a request.
    *[encode("SET", "k@", "value")[:n] for n in (1, 2, 3, 4, 5, 8, 9, 12, 15, 20, 24, 30, 32)],
    *[encode("SET", "k@", "v") + encode("SET", "half@", "value")[:n] for n in (1, 4, 9, 20, 30)],
    b"PIN", b"SET k@ v", b"*1000000\r\n$536870912\r\n", b"*1048576\r\n", b"*1\r\n$536870912\r\nabc", b"*2\r\n$4\r\nECHO\r\n$100000\r\n" + b"x" * 99999,
    # Lines.
    b"PING\r\n", b"PING\n", b"PING\r\r\n", b"  PING  \r\n", b"ping\tx\r\n", b"SET k@ 'a b'\r\nGET k@\r\n", b"SET k@ \"\\x41\\n\"\r\nGET k@\r\n",
    b"ECHO 'it\\'s'\r\n", b"ECHO \"\\\"\"\r\n", b"ECHO \"\\\r\n", b"ECHO ''\r\n", b"ECHO a\"b\"\r\n", b"ECHO a\"b\"c\r\n", b"ECHO 'a'b\r\n",
    b"ECHO \"a\r\nSET smuggled@ 1\r\n", b"ECHO \"a\\r\\nSET smuggled@ 1\\r\\n\"\r\n", b"ECHO \xff\xfe\r\n", b"ECHO a\0b\r\n", b"\0\r\n", b"\0PING\r\n",
    b"ECHO " + b"x" * 60000 + b"\r\n", b"ECHO " + b"x" * 65535, b"ECHO " + b"x" * 66000 + b"\r\n", b"x" * 70000, b"*" + b"1" * 70000,
    b"*1\r\n$" + b"1" * 70000, b"-" * 65537 + b"\r\n", b"PING\r\n" * 500, b"EXISTS k@ " * 100 + b"\r\n", b"#!/bin/sh\r\n", b"<xml/>\r\n", b"{}\r\n",
    b"SSH-2.0-x\r\n", b"\x00\x00\x00\x08\x04\xd2\x16\x2f", b"EHLO x\r\n", b"\x80\x2e\x01\x00\x02\r\n", b"\xef\xbb\xbfPING\r\n", b"PING\xc2\xa0x\r\n",
    # Foreign protocols.
    b"POST / HTTP/1.1\r\nHost: x\r\n\r\nSET smuggled@ 1\r\n", b"post\r\nSET smuggled@ 1\r\n", b"Host: x\r\nSET smuggled@ 1\r\n",
    b"HOST: \r\nSET smuggled@ 1\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\nSET smuggled@ 1\r\n", b"OPTIONS * HTTP/1.0\r\nHost: x\r\nSET smuggled@ 1\r\n",
    b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\nSET smuggled@ 1\r\n", b"\x16\x03\x01\x00\x05hello\r\nSET smuggled@ 1\r\n",
    encode("POST", "x") + encode("SET", "after@", "1"), encode("SET", "k@", "v") + b"POST /\r\nSET smuggled@ 1\r\n",
    # Commands that are none, and arguments with everything in them.
    encode(""), encode("", ""), encode("\r\n"), encode("NO\r\nSUCH", "a\r\nb"), encode("x" * 200, "y" * 200), encode("\0", "a"),
    encode("PING", "a", "b"), encode("GET"), encode("SET", "k@"), encode("ECHO"), encode("ECHO", ""), encode("ECHO", "\r\n+OK\r\n"),
    encode("SET", "k@\r\nSET smuggled@ 1", "v"), encode("SET", "k@", "v", "NX\r\n"), encode("GET", "k@") * 300, encode(*["MGET", *["k@"] * 3000]),
    encode("SET", "k@", bytes(range(256))) + encode("GET", "k@"), encode("QUIT") + encode("SET", "smuggled@", "1"), encode("QUIT", "x"),
    encode("SELECT", "x"), encode("SELECT", "99"), encode("AUTH"), encode("HELLO", "x"), encode("HELLO", "4"), encode("HELLO", "3", "AUTH"),
    encode("CLIENT"), encode("CLIENT", "NOSUCH"), encode("CLIENT", "REPLY", "x"), encode("CLIENT", "SETNAME", "a b"), encode("CLIENT", "KILL", "x"),
    encode("MULTI") + b"*1\r\n+x\r\n", encode("MULTI") + encode("SET", "k@", "v"), encode("MULTI") + encode("NOSUCH") + encode("EXEC"),
    encode("MULTI") + encode("MULTI") + encode("DISCARD"), encode("EXEC"), encode("DISCARD"), encode("CLIENT", "REPLY", "OFF") + b"*x\r\n",
    encode("CLIENT", "REPLY", "SKIP") + encode("SET", "k@", "v") + PING, encode("SUBSCRIBE"), encode("RESET", "x"), encode("WATCH"),
]


# More of them.

def name_of(n):
    """Letters that a small change does not turn into another payload's."""
    return "m" + zlib.crc32(b"%d" % n).to_bytes(4).hex().translate(str.maketrans("0123456789", "ghijklmnop"))


def base_stream(rng, n):
    """A few valid commands on keys of this payload alone."""
    key = name_of(n)
    makers = (
        lambda: encode("SET", key, rng.choice(["v", "", "a\r\nb", "*1\r\n$4\r\nPING\r\n", "x" * rng.randrange(100)])),
        lambda: encode("GET", key),
        lambda: encode("ECHO", rng.choice(["e", "", "\r\n", "$5\r\nhello\r\n"])),
        lambda: PING,
        lambda: encode("RPUSH", key + "l", "a", "b"),
        lambda: encode("LRANGE", key + "l", "0", "-1"),
        lambda: encode("INCR", key + "n"),
        lambda: encode("MGET", key, key + "n"),
        lambda: b"PING\r\n",
        lambda: b"SET %s 'a b'\r\n" % key.encode(),
        lambda: b"GET %s\r\n" % key.encode(),
        lambda: b"*0\r\n",
        lambda: encode("MULTI") + encode("INCR", key + "n") + encode("EXEC"),
    )
    return b"".join(rng.choice(makers)() for _ in range(rng.randint(1, 5)))


TOKENS = [b"\r\n", b"\r", b"\n", b"*", b"$", b"*1\r\n", b"*-1\r\n", b"$-1\r\n", b"$0\r\n\r\n", b"\0", b" ", b"0", b"1", b"-", b"+", b"9999999999",
          b"'", b"\"", b"\\", b"\xff", b"*3\r\n", b"$3\r\n", PING, b"PING\r\n", b"POST ", b"Host: "]


def mutate(rng, payload):
    """One to three small changes; now and then none."""
    payload = bytearray(payload)
    for _ in range(rng.choice((0, 1, 1, 1, 1, 2, 2, 3))):
        at = rng.randrange(len(payload) + 1)
        match rng.randrange(8):
            case 0 if at < len(payload):
                payload[at] = rng.randrange(256)
            case 1 if at < len(payload):
                payload[at] ^= 1 << rng.randrange(8)
            case 2:
                del payload[at:at + rng.randint(1, 4)]
            case 3:
                payload[at:at] = rng.choice(TOKENS)
            case 4:
                del payload[at:]
            case 5:
                payload[at:at] = payload[at:at + rng.randint(1, 20)]
            case 6:
                payload[at:at + 2] = rng.choice(TOKENS)
            case _:
                digits = [i for i, byte in enumerate(payload) if byte in b"0123456789"]
                if digits:
                    payload[rng.choice(digits)] = rng.choice(b"0123456789")
    return bytes(payload) or b"\r\n"
