"""Random programs of several clients, over all command classes, get the same replies through the endpoint as directly.

Each program is played once to a redis-server and once to the endpoint, on equal data; every client's frames must be the
same bytes after every step, and so must the data be. A program that fails is shrunk and printed with both replies.

`NEARKEY_DIFF_SEED=n` plays one program; `NEARKEY_DIFF_SECONDS=s` plays new ones for so long, from that seed on.
"""

import os
import re
import time
from collections import Counter

import pytest

from harness.differential import Differential
from harness.frames import CONFIRMATIONS, MESSAGES, elements, kind_of, rebuilt, word
from harness.liar import LIES, Liar
from harness.nearkey import Nearkey
from harness.programs import Step, program
from harness.redis_server import RedisServer

SEEDS = range(1, 121)
SECONDS = float(os.environ.get("NEARKEY_DIFF_SECONDS", "0"))
SEED = int(os.environ.get("NEARKEY_DIFF_SEED", "0"))

# What programs leave out, and why.
LEFT_OUT = {
    "MONITOR": "shows everybody's commands, the proxy's own among them",
    "TIME, LASTSAVE, TTL, INFO, XINFO, OBJECT IDLETIME": "tell the time or the load",
    "SPOP, SRANDMEMBER, RANDOMKEY, KEYS, SCAN, SMEMBERS of words": "depend on chance or on the server's hash seed",
    "CLIENT LIST, CLIENT INFO, CLIENT KILL by address": "addresses and ages",
    "CLIENT TRACKING with REDIRECT": "names a connection of the server, which clients share",
    "CLIENT PAUSE, CONFIG SET, ACL, DEBUG": "change the server for everybody",
    "CLIENT REPLY inside MULTI": "leaves an EXEC whose array is shorter than it says",
    "UNSUBSCRIBE, RESET, QUIT behind a write in one write":
        "a message that the client itself causes comes by another connection and may find it gone",
    "PUBLISH before SUBSCRIBE in one write": "the message may reach the hub after the subscription",
}


# What may differ between the two, and why. Each evens out the frames that one client got in one step.

def ids(frames, heard):
    """Nearkey numbers its clients itself."""
    frames = [re.sub(rb"(\$2\r\nid\r\n):\d+", rb"\1:ID", f) for f in frames]
    if ("CLIENT", "ID") in heard.commands:
        frames = [re.sub(rb":%d\r\n" % heard.id, b":ID\r\n", f) for f in frames]
    return frames


def receivers(frames, heard):
    """To the server the hub is one subscriber, so PUBLISH's count is another."""
    if any(name in ("PUBLISH", "SPUBLISH") for name, _ in heard.commands):
        frames = [re.sub(rb":\d+\r\n", b":COUNT\r\n", f) if f[:1] in b":*" and kind_of(f) not in CONFIRMATIONS else f
                  for f in frames]
    return frames


def order_of_farewells(frames, heard):
    """UNSUBSCRIBE without channels confirms them in the order of a hash table."""
    if not any(name in ("UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE") for name, _ in heard.commands):
        return frames
    out = []
    for run in runs(frames, lambda f: kind_of(f) if (kind_of(f) or b"").find(b"unsubscribe") >= 0 else None):
        channels = sorted(elements(f)[1] for f in run) if kind_of(run[0]) else []
        out += [rebuilt(f, [elements(f)[0], c, elements(f)[2]]) for f, c in zip(run, channels)] or run
    return out


def order_of_channels(frames, heard):
    """PUBSUB CHANNELS lists them in the order of a hash table."""
    if heard.commands & {("PUBSUB", "CHANNELS"), ("PUBSUB", "SHARDCHANNELS")}:
        frames = [rebuilt(f, sorted(elements(f))) if f[:1] == b"*" else f for f in frames]
    return frames


def order_of_patterns(frames, heard):
    """A message that several patterns match comes once for each, in the order of a hash table."""
    def message(frame):
        return tuple(elements(frame)[2:]) if kind_of(frame) == b"pmessage" else None
    return [f for run in runs(frames, message) for f in (sorted(run) if message(run[0]) else run)]


def batches_of_invalidations(frames, heard):
    """What is broadcast in one turn of the server's loop is told at once, and who shares a turn is up to chance."""
    if not heard.broadcast:
        return frames
    told = {f for f in frames if f[:1] == b">" and kind_of(f) == b"invalidate"}
    keys = {key for f in told for key in elements(elements(f)[1]) or [b"+all\r\n"]}
    return [f for f in frames if f not in told] + [b">2\r\n$10\r\ninvalidate\r\n*1\r\n" + key for key in sorted(keys)]


LENIENT = (ids, receivers, order_of_farewells, order_of_channels, order_of_patterns, batches_of_invalidations)


def lanes(frames):
    """Messages come by the hub's connection, replies by others: each keep their order, but not with one another."""
    split = {b"reply": [], b"message": [], b"smessage": []}
    for frame in frames:
        kind = kind_of(frame)
        split[kind if kind == b"smessage" else b"message" if kind in MESSAGES else b"reply"].append(frame)
    return split


# What Nearkey may refuse by an error of its own, and why. The program ends there.
MAY_BE_REFUSED = (
    ("in MULTI", {"SELECT", "HELLO", "AUTH", "CLIENT", "SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "UNSUBSCRIBE",
                  "PUNSUBSCRIBE", "SUNSUBSCRIBE"}, "the transaction has no connection of its own"),
)


def is_refusal(step, expected, got):
    if not any(f.startswith(b"-ERR Nearkey") for f in got):
        return False
    said = {name for name, _ in step.names()}
    return any(said & names and (where == "anywhere" or b"+QUEUED\r\n" in expected)
               for where, names, _ in MAY_BE_REFUSED)


def runs(frames, key):
    """Neighbours with the same key; what has none stands alone."""
    out = []
    for frame in frames:
        if out and key(frame) is not None and key(out[-1][-1]) == key(frame):
            out[-1].append(frame)
        else:
            out.append([frame])
    return out


def even(frames, heard):
    for lenient in LENIENT:
        frames = lenient(frames, heard)
    return lanes(frames)


# Servers of this file's own: everybody may publish keyspace events, and no connection is short.

@pytest.fixture(scope="module")
def two_servers(tmp_path_factory):
    args = ["--notify-keyspace-events", "KEA"]
    servers = [RedisServer(tmp_path_factory.mktemp(name), args=args) for name in ("directly", "behind")]
    yield servers
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def differential(two_servers, tmp_path_factory):
    """Compares the first server with the endpoint that stands before the second."""
    reference, behind = two_servers
    if os.environ.get("NEARKEY_TEST_DIRECT") == "1":
        yield Differential(reference, ("127.0.0.1", behind.port), behind, even, is_refusal)
        return
    proxy = Nearkey(behind.url(), tmp_path_factory.mktemp("nearkey"), upstream__max_connections=40)
    yield Differential(reference, (proxy.host, proxy.port), behind, even, is_refusal)
    proxy.stop()
    proxy.verdict()


@pytest.fixture(scope="module")
def tally():
    """What happened in the programs of this run."""
    return Counter()


def seeds():
    return [SEED] if SEED and not SECONDS else SEEDS


@pytest.mark.skipif(SECONDS > 0, reason="NEARKEY_DIFF_SECONDS")
@pytest.mark.parametrize("seed", seeds())
def test_a_program_gets_the_same_replies(differential, tally, seed):
    convict(differential, seed, tally)


def convict(differential, seed, tally):
    steps = program(seed)
    failure = differential.compare(steps, tally)
    if failure:
        pytest.fail(f"seed {seed}, shrunk:\n{differential.shrunk(steps, failure)}", pytrace=False)


@pytest.mark.skipif(not SECONDS, reason="without NEARKEY_DIFF_SECONDS")
def test_programs_for_a_while(differential, tally):
    seed, end = SEED or 1000, time.monotonic() + SECONDS
    while time.monotonic() < end:
        convict(differential, seed, tally)
        seed += 1
    print(f"{seed - (SEED or 1000)} programs, the next seed is {seed}: {dict(tally)}")


def test_the_programs_reach_what_they_are_about(tally):
    """A run in which nothing happens proves nothing."""
    if tally["programs"] < len(SEEDS):
        pytest.skip("only with all programs")
    floors = {
        "message": 50, "pmessage": 30, "smessage": 2, "invalidate": 20, "confirmation": 80, "nil EXEC": 8,
        "EXECABORT": 8,
        "EXEC": 60, "QUEUED": 150, "waited in vain": 10, "woken": 30, "UNBLOCKED": 2, "WRONGTYPE": 40, "NOSCRIPT": 2,
        "refused while subscribed": 15, "silent": 20, "RESP3": 300, "RESET": 20, "closed": 10, "protocol error": 2,
    }
    assert not {k: (tally[k], floor) for k, floor in floors.items() if tally[k] < floor}, dict(tally)
    assert tally["refused"] <= tally["programs"] // 3


# The comparison itself: it must convict whoever lies, and nobody else.

LIARS_SEEDS = range(1, 31)


@pytest.fixture
def liar(two_servers):
    started = []

    def start(lie):
        started.append(Liar(two_servers[1].port, lie))
        return started[-1]

    yield start
    for proxy in started:
        proxy.close()


def test_an_honest_endpoint_is_not_convicted(two_servers, liar):
    reference, behind = two_servers
    honest = Differential(reference, ("127.0.0.1", liar(None).port), behind, even, is_refusal)
    for seed in LIARS_SEEDS:
        failure = honest.compare(program(seed))
        assert failure is None, str(failure)


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_endpoint_is_convicted(two_servers, liar, lie):
    reference, behind = two_servers
    lying = Differential(reference, ("127.0.0.1", liar(lie).port), behind, even, is_refusal, patience=0.2)
    for seed in LIARS_SEEDS:
        steps = program(seed)
        if failure := lying.compare(steps):
            break
    else:
        pytest.fail("not convicted")
    report = lying.shrunk(steps, failure, seconds=5)
    assert "directly" in report and "here" in report
    assert report.count("\nc") <= 20, report


def test_a_program_is_printed_so_that_one_can_read_it():
    steps = [Step(0, (("SET", "k", b"a b\r\n"), ("GET", "x" * 200))), Step(1, action="open", protocol=3)]
    assert [str(s) for s in steps] == [
        "c0: SET k 'a b\\r\\n' | GET " + "x" * 35 + "...(200 bytes)", "c1 connects, RESP3"]


def test_messages_before_their_confirmation_are_seen():
    """The order of messages and replies is open, but none may come before the channel is confirmed."""
    confirmed = b">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n"
    message = b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n"
    assert word(elements(message)[1]) == b"c"
    assert Differential.too_early([confirmed, message], set()) is None
    assert Differential.too_early([message, confirmed], set()) == message
