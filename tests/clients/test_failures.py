"""Failures of docs/failures.md that no other file proves."""

import signal
import threading
import time

import pytest

from conftest import DIRECT
from harness.fake_redis import FakeRedis
from harness.ports import eventually
from harness.resp import bulk, encode

pytestmark = pytest.mark.skipif(DIRECT, reason="about the proxy itself")

# What a server says of its own state, to a read or to a write.
STATES = [
    b"-BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.\r\n",
    b"-CLUSTERDOWN The cluster is down\r\n",
    b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n",
    b"-MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.\r\n",
    b"-NOREPLICAS Not enough good replicas to write.\r\n",
    b"-OOM command not allowed when used memory > 'maxmemory'.\r\n",
]

# Runs for 200 ms.
BUSY = "local t = redis.call('TIME') repeat local n = redis.call('TIME') until (n[1]-t[1])*1e6 + n[2]-t[2] > 200000 return 'late'"


class Stating(FakeRedis):
    """Answers GET and SET with `state`, if it has one."""

    state = None

    def answer(self, words):
        return self.state if self.state and words[0] in (b"GET", b"SET") else super().answer(words)


def test_what_a_server_says_of_its_state_passes_and_costs_no_connection(nearkey):
    server = Stating()
    try:
        proxy = nearkey(f"redis://127.0.0.1:{server.port}", upstream__connections=1)
        with proxy.connect() as raw:
            assert raw.raw("SET", "k", "v") == b"+OK\r\n"
            accepted = server.accepted
            for state in STATES:
                server.state = state
                assert raw.raw("GET", "k") == state and raw.raw("SET", "k", "w") == state
                assert raw.raw("PING", "between") == bulk("between")
                server.state = None
                assert raw.raw("GET", "k") == bulk("v")
            raw.nothing_left()
        assert server.accepted == accepted
        assert proxy.metric("nearkey_upstream_lost_total") == 0
    finally:
        server.close()


def test_a_starved_process_blames_nobody(redis_server, nearkey):
    """It runs in slices, as under a CPU quota, and all else goes on meanwhile."""
    server = redis_server(tls=False, password="pw")
    proxy = nearkey(server, upstream__command_timeout="1s", upstream__stall_timeout="1s", upstream__keepalive="200ms",
                    upstream__connections=1)
    with proxy.connect() as raw:
        raw.command("SET", "k", "v")
        before = {row["id"] for row in server.clients()}
        for _ in range(4):
            raw.send(encode("EVAL", BUSY, 0))
            time.sleep(0.05)
            proxy.process.send_signal(signal.SIGSTOP)
            time.sleep(1.2)
            proxy.process.send_signal(signal.SIGCONT)
            raw.exactly(bulk("late"))
        assert {row["id"] for row in server.clients()} == before
        assert not [line for line in proxy.log_lines() if line["level"] == "WARN"]
        raw.nothing_left()


def test_the_number_of_series_depends_on_nothing_that_clients_do(redis_server, nearkey):
    proxy = nearkey(redis_server(tls=False), cache__default="cache")
    with proxy.connect() as raw:
        raw.command("SET", "k", "v")
        before = set(proxy.metrics())
        for n in range(0, 20_000, 1000):
            raw.send(b"".join(encode("SET", f"key:{i}", i) + encode("GET", f"key:{i}") for i in range(n, n + 1000)))
            raw.exactly(b"".join(b"+OK\r\n" + bulk(i) for i in range(n, n + 1000)))
        clients = [proxy.connect() for _ in range(50)]
        for n, client in enumerate(clients):
            client.command("CLIENT", "SETNAME", f"client-{n}")
            client.command("SELECT", n % 4)
            client.raw("NO-SUCH-COMMAND", f"word-{n}")
            client.close()
        assert set(proxy.metrics()) == before


def test_one_deep_pipeline_does_not_shut_others_out(redis_server, nearkey):
    proxy = nearkey(redis_server(tls=False), upstream__connections=1)
    deep = 60_000
    with proxy.connect(timeout=60) as greedy:
        greedy.command("SET", "big", "x" * 1000)
        others = [proxy.connect(timeout=60) for _ in range(20)]
        done = proxy.metric("nearkey_commands_total", "shared")
        sender = threading.Thread(target=greedy.send, args=(encode("GET", "big") * deep,), daemon=True)
        got = []
        reader = threading.Thread(target=lambda: got.append(greedy.take(len(bulk("x" * 1000)) * deep)), daemon=True)
        for thread in (sender, reader):
            thread.start()
        eventually(lambda: proxy.metric("nearkey_commands_total", "shared") > done + 100)
        for n, other in enumerate(others):
            assert other.command("ECHO", n) == b"%d" % n
            assert other.raw("SET", f"k:{n}", n) == b"+OK\r\n"
        for thread in (sender, reader):
            thread.join(60)
        assert got == [bulk("x" * 1000) * deep]


def test_a_wait_ends_with_the_half_of_its_client_that_sends(redis_server, nearkey):
    """An element must not be taken for somebody who may not be there."""
    server = redis_server(tls=False)
    proxy = nearkey(server)
    with proxy.connect() as raw:
        raw.send(encode("GET", "none") + encode("BLPOP", "list", 0))
        server.wait_for_blocked(1)
        raw.half_close()
        server.wait_for_blocked(0)
        server.control("RPUSH", "list", "job")
        assert raw.until_eof() == b"$-1\r\n"
    assert server.control("LLEN", "list") == 1
