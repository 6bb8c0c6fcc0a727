"""Hostile bytes, given to a redis-server and to Nearkey: the same replies, the same end, and nothing of a malformed request
travels.

Each payload has a connection of its own and keys of its own. What is left in the two servers at the end must be the same, and
what the server behind Nearkey has executed must be what a reader of the protocol, written apart from Nearkey's, finds whole in
the payloads. `NEARKEY_HOSTILE` is the number of mutations, `NEARKEY_HOSTILE_SEED` their seed.
"""

import contextlib
import os
import random
import re
import selectors
import socket
import time

import pytest

from harness.hostile import FIXED, base_stream, mutate, parse
from harness.resp import encode

MUTATIONS = int(os.environ.get("NEARKEY_HOSTILE", "20000"))
SEED = int(os.environ.get("NEARKEY_HOSTILE_SEED", "1"))

# Connections at a time.
CROWD = 200

# Nothing takes so long; whoever waits longer has lost a reply.
PATIENCE = 30


class Talk:
    """One payload on one connection: all of it is said, then what comes is heard to the end."""

    def __init__(self, port, payload, enough):
        self.payload, self.enough = payload, enough
        self.heard = bytearray()
        self.reset = False
        self.said = 0
        self.closed = False  # by the peer, while it could still have gone on
        self.hung_up = False
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.sock.connect_ex(("127.0.0.1", port))
        self.since = time.monotonic()

    def hang_up(self):
        """No more will be said: a peer that waits for more learns so."""
        self.hung_up = True
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def writes(self):
        return self.said < len(self.payload)

    def turn(self, ready):
        """Moves on; true when it is over."""
        try:
            if ready & selectors.EVENT_WRITE and self.writes():
                self.said += self.sock.send(self.payload[self.said:])
            if ready & selectors.EVENT_READ:
                part = self.sock.recv(1 << 16)
                if not part:
                    self.closed = not self.hung_up
                    return True
                self.heard += part
        except BlockingIOError:
            pass
        except OSError:
            self.reset = self.closed = True
            return True
        if not self.writes() and not self.hung_up and (self.enough is None or len(self.heard) >= self.enough):
            self.hang_up()
        return False


def talk_all(port, payloads, enough=None):
    """What each payload was answered. The client says that no more will come at once, or after `enough` bytes each."""
    todo = list(enumerate(payloads))[::-1]
    answers = [None] * len(payloads)
    talks = {}
    with selectors.DefaultSelector() as ready:
        while todo or talks:
            while todo and len(talks) < CROWD:
                n, payload = todo.pop()
                talk = Talk(port, payload, None if enough is None else enough[n])
                talks[talk.sock] = n, talk
                ready.register(talk.sock, selectors.EVENT_READ | selectors.EVENT_WRITE)
            for key, events in ready.select(1):
                n, talk = talks[key.fileobj]
                over = talk.turn(events)
                if not over and not talk.writes() and events & selectors.EVENT_WRITE:
                    ready.modify(talk.sock, selectors.EVENT_READ)
                if over:
                    close(ready, talks, talk)
                    answers[n] = talk
            now = time.monotonic()
            for n, talk in list(talks.values()):
                if now - talk.since > PATIENCE:
                    close(ready, talks, talk)
                    answers[n] = talk
                elif now - talk.since > 5 and not talk.hung_up and not talk.writes():
                    talk.hang_up()  # what it waits for does not come
    return answers


def close(ready, talks, talk):
    ready.unregister(talk.sock)
    del talks[talk.sock]
    talk.sock.close()


POST = re.compile(rb"\b(post|host:)", re.I)
OWN = re.compile(rb"^m?[a-p]{5,10}|@|[0-9]{5}")


def is_own(command):
    """No other payload touches its key."""
    return len(command) < 2 or command[0].upper() in (b"ECHO", b"PING") or bool(OWN.search(command[1]))


# In the reply to HELLO: it differs.
CLIENT_ID = re.compile(rb"(\$2\r\nid\r\n:)\d+")


def show(payload):
    return repr(payload if len(payload) < 600 else payload[:600] + b"...")


def compare(payload, direct, through):
    """What is wrong with the answer, or nothing."""
    commands, end = parse(payload)
    there, here = [CLIENT_ID.sub(rb"\1", bytes(talk.heard)) for talk in (direct, through)]
    if end == "sloppy":
        # Redis takes any two bytes for a line end; Nearkey passes on nothing that another reader could split elsewhere.
        if there == here or (here[here.rfind(b"-ERR Protocol error: "):].count(b"\r\n") == 1
                             and there.startswith(here[:here.rfind(b"-ERR Protocol error: ")])):
            return None
        if POST.search(payload) and here.startswith(there):
            return None
    elif end == "foreign":
        # HTTP and TLS are closed without a word; of HTTP, Redis knows POST and Host: alone.
        # Redis may then forget replies that it has not written yet.
        if there.startswith(here) or here.startswith(there):
            return None
    elif here == there or same_class(payload, there, here, end) or not all(map(is_own, commands)):
        return None
    return f"{show(payload)}\n  end:    {end}\n  direct: {show(there)}\n  here:   {show(here)}"


def same_class(payload, there, here, end):
    """The three places where Nearkey's words differ, and only they."""
    before, error, rest = here.rpartition(b"-ERR Protocol error: ")
    if not error or rest.count(b"\r\n") != 1 or not there.startswith(before):
        return False
    if rest.startswith(b"expected '$', got '?'"):
        # Redis puts the byte itself there, whatever it is; and waits for a line in which it has seen a NUL.
        last = there[len(before):]
        if not last:
            return b"\0" in payload
        return re.match(rb"-ERR Protocol error: expected '\$', got '[^ -~]'\r\n$", last)
    if rest.startswith(b"too big inline request"):
        return len(payload) > 64 * 1024  # Redis looks at the length only if no line end came along with it
    # A CR where a `$` is due is refused at once; Redis waits for one more byte.
    return end == "half" and (b"\0" in payload or payload.endswith(b"\r"))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    from harness.nearkey import Nearkey
    from harness.redis_server import RedisServer

    if os.environ.get("NEARKEY_TEST_DIRECT") == "1":
        pytest.skip("about the proxy itself")
    there = RedisServer(tmp_path_factory.mktemp("there"))
    behind = RedisServer(tmp_path_factory.mktemp("behind"))
    proxy = Nearkey(behind.url(), tmp_path_factory.mktemp("proxy"))
    yield there, behind, proxy
    desyncs = proxy.metric("desync")
    assert proxy.stop() == 0
    proxy.verdict()
    there.stop()
    behind.stop()
    assert desyncs == 0


def judge(pair, payloads, known=()):
    """Gives the payloads to both; everything that must not be."""
    there, behind, proxy = pair
    for server in (there, behind):
        server.control("FLUSHALL")
        server.control("CONFIG", "RESETSTAT")
    direct = talk_all(there.port, payloads)
    through = talk_all(proxy.port, payloads, enough=[len(talk.heard) for talk in direct])
    wrong = [compare(*one) for one in zip(payloads, direct, through)]
    wrong = [what for what in wrong if what]
    allowed = set()
    left = set()
    for payload in payloads:
        commands, end = parse(payload)
        allowed.update(arg for command in commands for arg in command)
        if end in ("sloppy", "foreign"):
            left.update(command[1] for command in parse(payload, lenient=True)[0] if len(command) > 1)
    wrong += [f"only {where}: {key!r} = {value!r}" for where, key, value in difference(there, behind, left)]
    wrong += [f"travelled, though in no payload: {key!r}" for key in keys(behind) if key not in allowed | left]
    return wrong


def keys(server):
    return sorted(server.control("KEYS", "*"))


def difference(there, behind, ignored):
    found = [dict(contents(server)) for server in (there, behind)]
    for where, one, other in (("directly", *found), ("through Nearkey", *found[::-1])):
        for key, value in one.items():
            if other.get(key) != value and key not in ignored and OWN.search(key):
                yield where, key, value


def contents(server):
    names = keys(server)
    with server.connect() as raw:
        raw.send(b"".join(encode("DUMP", name) for name in names))
        for name in names:
            yield name, raw.reply()


def test_fixed_payloads(pair):
    assert len(FIXED) >= 150, len(FIXED)
    payloads = []
    for n, payload in enumerate(FIXED):
        payloads.append(payload.replace(b"@", b"%05d" % n))
    wrong = judge(pair, payloads)
    assert not wrong, f"{len(wrong)} of {len(payloads)}:\n" + "\n".join(wrong[:10])


def test_mutations(pair):
    rng = random.Random(SEED)
    payloads = [mutate(rng, base_stream(rng, n)) for n in range(MUTATIONS)]
    ends = [parse(payload)[1] for payload in payloads]
    # Without enough of each kind it would show little.
    for kind in ("whole", "error", "half", "sloppy"):
        assert ends.count(kind) >= MUTATIONS // 100, (kind, ends.count(kind))
    wrong = judge(pair, payloads)
    assert not wrong, f"seed {SEED}: {len(wrong)} of {len(payloads)}:\n" + "\n".join(wrong[:10])
    with pair[2].connect() as raw:
        assert raw.command("PING") == b"PONG"
