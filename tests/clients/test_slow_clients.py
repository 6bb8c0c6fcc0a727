"""A client that does not read its replies delays nobody, and is cut before it costs much."""

import sys
import time

import pytest

from harness.nearkey import MemoryWatch
from harness.ports import eventually
from harness.resp import bulk, encode

MIB = 1 << 20
LIMIT = 8 * MIB


@pytest.fixture
def proxy(redis_server, nearkey):
    server = redis_server(password="pw")
    server.control("SET", "mib", b"m" * MIB)
    server.control("SET", "small", "s")
    return nearkey(server, listen__client_output_limit=LIMIT)


def lazy_client(proxy, replies):
    """Asks for so many MiB and reads none of them."""
    raw = proxy.connect()
    raw.send(encode("GET", "mib") * replies)
    return raw


def test_clients_that_do_not_read_stop_nobody(proxy):
    lazy = [lazy_client(proxy, 6) for _ in range(20)]
    with proxy.connect() as quick:
        for n in range(300):
            quick.send(encode("GET", "small") + encode("ECHO", n) + encode("STRLEN", "mib"))
            quick.exactly(bulk("s") + bulk(n) + b":%d\r\n" % MIB)
        quick.nothing_left()
    # Below the limit nothing is lost: all of it is there when the client wants it.
    for raw in lazy:
        raw.exactly(bulk(b"m" * MIB) * 6)
        raw.nothing_left()


def test_a_client_beyond_the_output_limit_is_cut_and_others_live(proxy):
    if not sys.platform.startswith("linux"):
        pytest.skip("reads the process's memory from /proc")
    with proxy.connect() as quick:
        quick.command("GET", "mib")
        with MemoryWatch(proxy) as watch:
            # Asked for piece by piece: no client has more than 1 MiB of requests in flight by itself.
            lazy = [proxy.connect() for _ in range(5)]
            cut = set()
            for _ in range(60):
                for n, raw in enumerate(lazy):
                    if n not in cut:
                        try:
                            raw.send(encode("GET", "mib"))
                        except OSError:
                            cut.add(n)
                assert quick.command("GET", "small") == b"s"
                time.sleep(0.005)
            eventually(lambda: proxy.metric("clients", "connected") <= 1 or proxy_clients(quick) == 1, 20,
                       what="the lazy clients are cut")
            quick.nothing_left()
        for raw in lazy:
            # What it gets is a beginning of what it asked for, never something else.
            got = raw.until_eof(20)
            assert (bulk(b"m" * MIB) * 60).startswith(got)
            assert len(got) < 60 * MIB
            raw.close()
    # Each may hold its limit and one reply; five of them and the sockets' buffers on top.
    assert watch.growth_mib < 5 * (LIMIT / MIB + 4) + 32


def proxy_clients(raw):
    return len(raw.command("CLIENT", "LIST").splitlines())


def test_a_client_that_reads_slowly_gets_everything(proxy):
    with proxy.connect(timeout=60) as raw:
        raw.send(encode("GET", "mib") * 5)
        expected = bulk(b"m" * MIB) * 5
        for start in range(0, len(expected), 50_000):
            part = expected[start:start + 50_000]
            assert raw.take(len(part)) == part
            time.sleep(0.003)
        raw.nothing_left()
