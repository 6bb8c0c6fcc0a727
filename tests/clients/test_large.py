"""Values and replies as large as Redis allows pass through a proxy that stays small."""

import sys
import threading
import time

import pytest

from harness.nearkey import MemoryWatch
from harness.resp import bulk, encode

MIB = 1 << 20
LARGEST = 512 * MIB

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the process's memory from /proc")


def block(n, tag=b"v"):
    """One MiB that tells which one it is."""
    head = b"%s:%08d\r\n$5\r\n" % (tag, n)
    return head + b"\xfe\x00\r\n+OK\r\n:" * ((MIB - len(head)) // 10) + b"." * ((MIB - len(head)) % 10)


class Bystanders:
    """Clients that go on working beside something large; each of their replies must come, and in reasonable time."""

    def __init__(self, endpoint, count=4):
        self.endpoint = endpoint
        self.count = count
        self.answered = 0
        self.slowest = 0.0
        self.failure = None

    def __enter__(self):
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(n,), daemon=True) for n in range(self.count)]
        for t in self._threads:
            t.start()
        return self

    def _work(self, n):
        try:
            with self.endpoint.connect(timeout=60) as raw:
                raw.command("SET", f"by:{n}", f"bystander {n}")
                while not self._stop.wait(0.005):
                    start = time.monotonic()
                    raw.send(encode("PING") + encode("GET", f"by:{n}"))
                    raw.exactly(b"+PONG\r\n" + bulk(f"bystander {n}"))
                    self.slowest = max(self.slowest, time.monotonic() - start)
                    self.answered += 1
                raw.nothing_left()
        except Exception as e:  # noqa: BLE001 - told to the test below
            self.failure = e

    def __exit__(self, *_):
        self._stop.set()
        for t in self._threads:
            t.join(60)
        assert self.failure is None, self.failure


def send_large_set(raw, key, mib, tag):
    raw.send(b"*3\r\n$3\r\nSET\r\n" + bulk(key) + b"$%d\r\n" % (mib * MIB))
    for n in range(mib):
        raw.send(block(n, tag))
    raw.send(b"\r\n")


def expect_large(raw, mib, tag):
    assert raw.line() == b"$%d\r\n" % (mib * MIB)
    for n in range(mib):
        assert raw.take(MIB) == block(n, tag)
    assert raw.take(2) == b"\r\n"


@linux
@pytest.mark.slow
def test_the_largest_value_passes_both_ways_in_little_memory(redis_server, nearkey):
    server = redis_server(password="pw")
    proxy = nearkey(server, upstream__command_timeout="120s")
    with proxy.connect(timeout=120) as raw:
        for n in range(1000):
            raw.command("SET", f"warm:{n}", n)
        time.sleep(0.2)
        with MemoryWatch(proxy) as watch, Bystanders(proxy) as others:
            send_large_set(raw, "large", 512, b"a")
            assert raw.reply() == b"OK"
            raw.send(encode("STRLEN", "large") + encode("GET", "large") + encode("ECHO", "after"))
            raw.exactly(b":%d\r\n" % LARGEST)
            expect_large(raw, 512, b"a")
            raw.exactly(bulk("after"))
        raw.nothing_left()
    assert watch.growth_mib < 64
    assert others.answered > 100


@linux
def test_several_large_values_at_once_keep_apart(redis_server, nearkey):
    server = redis_server(password="pw")
    proxy = nearkey(server)
    clients = [proxy.connect(timeout=60) for _ in range(4)]
    failures = []

    def work(n):
        try:
            tag = b"t%d" % n
            send_large_set(clients[n], f"large:{n}", 20 + n, tag)
            assert clients[n].reply() == b"OK"
            for _ in range(2):
                clients[n].send(encode("GET", f"large:{n}"))
                expect_large(clients[n], 20 + n, tag)
            clients[n].nothing_left()
        except BaseException as e:  # noqa: BLE001 - told to the test below
            failures.append(e)

    with MemoryWatch(proxy) as watch, Bystanders(proxy):
        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert not failures, failures
    assert watch.growth_mib < 64
    assert len(server.clients()) <= 10


def test_values_around_the_size_limits_pass(endpoint):
    """Sizes next to powers of two and to `upstream.large_request` (1 MiB)."""
    sizes = [s + d for s in (4096, 16384, 65536, 131072, MIB, 2 * MIB) for d in (-40, -2, -1, 0, 1, 2, 40)]
    with endpoint.connect() as raw:
        for size in sizes:
            value = (b"%d|" % size + b"\r\n$1\r\n" * (size // 6))[:size]
            value += b"z" * (size - len(value))
            raw.send(encode("SET", "s", value) + encode("GET", "s") + encode("STRLEN", "s"))
            raw.exactly(b"+OK\r\n" + bulk(value) + b":%d\r\n" % size)
        raw.nothing_left()


def test_large_and_small_requests_keep_their_order(endpoint):
    large = b"L" * (3 * MIB)
    with endpoint.connect() as raw:
        requests, expected = [], []
        for n in range(6):
            requests += [encode("SET", "o", n), encode("SET", "o", large), encode("STRLEN", "o"), encode("INCR", "c"),
                         encode("ECHO", n), encode("SET", "o", n), encode("GET", "o")]
            expected += [b"+OK\r\n", b"+OK\r\n", b":%d\r\n" % len(large), b":%d\r\n" % (n + 1), bulk(n), b"+OK\r\n", bulk(n)]
        sender = threading.Thread(target=raw.send, args=(b"".join(requests),))
        sender.start()
        raw.exactly(b"".join(expected))
        sender.join()
        raw.nothing_left()


def test_a_large_request_that_is_never_finished_changes_nothing(endpoint):
    with endpoint.connect() as other:
        other.command("SET", "kept", "old")
        with endpoint.connect() as raw:
            raw.send(b"*3\r\n$3\r\nSET\r\n$4\r\nkept\r\n$%d\r\n" % (8 * MIB) + b"n" * (5 * MIB))
            time.sleep(0.2)
        for _ in range(50):
            assert other.command("GET", "kept") == b"old"
        other.nothing_left()


def test_a_large_request_to_a_local_command_is_answered(endpoint):
    text = b"e" * (2 * MIB)
    with endpoint.connect(timeout=60) as raw:
        reply = raw.raw("ECHO", text)
        assert reply == bulk(text) or reply.startswith(b"-ERR Nearkey: ")
        assert raw.raw("NOSUCHCOMMAND", text)[:1] == b"-"
        assert raw.raw("ECHO", "after") == bulk("after")
        raw.nothing_left()


def test_a_command_of_a_million_arguments_passes(endpoint):
    pairs = 500_000
    with endpoint.connect(timeout=60) as raw:
        parts = [b"*%d\r\n$4\r\nMSET\r\n" % (2 * pairs + 1)]
        for n in range(pairs):
            k = b"m:%d" % n
            parts.append(b"$%d\r\n%s\r\n$%d\r\n%s\r\n" % (len(k), k, len(k) + 1, k + b"v"))
        raw.send(b"".join(parts))
        assert raw.reply() == b"OK"
        assert raw.command("DBSIZE") == pairs
        for n in (0, 1, 250_000, pairs - 1):
            assert raw.command("GET", f"m:{n}") == b"m:%dv" % n
        raw.nothing_left()


def test_a_million_pairs_pass_in_one_command(endpoint):
    """Redis bounds the count at 2^31; its own clients do send such commands."""
    pairs = 1_000_000
    with endpoint.connect(timeout=60) as raw:
        raw.send(b"*%d\r\n$4\r\nMSET\r\n" % (2 * pairs + 1) + b"$1\r\na\r\n$1\r\n1\r\n" * pairs)
        assert raw.reply() == b"OK"
        assert raw.command("DBSIZE") == 1
        raw.nothing_left()


@pytest.mark.parametrize("protocol", [2, 3], ids=["resp2", "resp3"])
def test_replies_of_a_million_elements_pass(endpoint, protocol):
    server = endpoint.server
    server.control("EVAL", "for i=0,999 do local t={} for j=0,999 do t[j+1]='e:'..(i*1000+j) end "
                           "redis.call('RPUSH','list',unpack(t)) redis.call('SADD','set',unpack(t)) end", 0)
    with endpoint.connect(timeout=60) as raw:
        raw.command("HELLO", protocol)
        raw.send(encode("LRANGE", "list", 0, -1) + encode("ECHO", "between") + encode("SMEMBERS", "set") + encode("ECHO", "end"))
        assert raw.line() == b"*1000000\r\n"
        expected = b"".join(b"$%d\r\ne:%d\r\n" % (2 + len(str(n)), n) for n in range(1_000_000))
        raw.exactly(expected)
        raw.exactly(bulk("between"))
        assert raw.line() == (b"~1000000\r\n" if protocol == 3 else b"*1000000\r\n")
        members = raw.take(len(expected)).split(b"\r\n")[1::2]
        assert len(members) == len(set(members)) == 1_000_000
        raw.exactly(bulk("end"))
        raw.nothing_left()


def test_a_reply_nested_seven_thousand_deep_passes(endpoint):
    depth = 7000
    script = f"local t={{}} for i=1,{depth - 1} do t={{t}} end return t"
    expected = b"*1\r\n" * (depth - 1) + b"*0\r\n"
    with endpoint.connect() as raw, endpoint.connect() as other:
        other.command("SET", "k", "v")
        for _ in range(3):
            raw.send(encode("EVAL", script, 0) + encode("ECHO", "after"))
            raw.exactly(expected + bulk("after"))
            assert other.command("GET", "k") == b"v"
        # The deepest that a real server gives.
        raw.send(encode("EVAL", "local t={} for i=1,20000 do t={t} end return t", 0) + encode("ECHO", "after"))
        with endpoint.server.connect() as direct:
            raw.exactly(direct.raw("EVAL", "local t={} for i=1,20000 do t={t} end return t", 0) + bulk("after"))
        raw.nothing_left()
        other.nothing_left()
