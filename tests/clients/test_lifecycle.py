"""Holding commands, frozen and thawed processes, and the end: what clients see of each."""

import os
import signal
import threading
import time

import pytest

from harness import ports
from harness.nearkey import run
from harness.ports import eventually
from harness.resp import ReplyError, encode

from conftest import DIRECT

pytestmark = pytest.mark.skipif(DIRECT, reason="about the proxy itself")


def nothing_comes(raw, seconds=0.25):
    assert raw.until_silent(seconds) == (b"", False)


# Pause.


@pytest.mark.parametrize("workers", [1, 3])
def test_commands_are_held_and_then_answered(nearkey, redis_server, workers):
    server = redis_server(tls=False)
    proxy = nearkey(server, workers=workers)
    clients = [proxy.connect() for _ in range(6)]
    operator = proxy.connect()
    for n, raw in enumerate(clients):
        assert raw.command("SET", f"k{n}", "0") == b"OK"
    assert operator.command("NEARKEY", "PAUSE", 60_000) == 0
    calls = server.calls()
    clients[0].send(encode("PING") + encode("INCR", "k0") + encode("PING"))
    assert clients[0].reply() == b"PONG"
    clients[1].send(encode("GET", "k1"))
    clients[2].send(encode("MULTI") + encode("INCR", "k2") + encode("EXEC"))
    clients[3].send(encode("BLPOP", "list", "0"))
    clients[4].send(encode("SET", "k4", "x" * 2_000_000))
    clients[5].send(encode("WATCH", "k5") + encode("SUBSCRIBE", "news"))
    for raw in clients[:2] + clients[3:]:
        nothing_comes(raw, 0.1)
    assert server.calls() == calls, "something reached the server"
    assert operator.command("ECHO", "local commands go on") == b"local commands go on"
    assert proxy.metric("nearkey_paused") == 2
    assert proxy.health()[1]["paused"]["commands"] == "all"
    assert b"nearkey_paused:all" in operator.command("NEARKEY", "INFO")
    assert operator.command("NEARKEY", "RESUME") == b"OK"
    assert [clients[0].reply(), clients[0].reply()] == [1, b"PONG"]
    assert clients[1].reply() == b"0"
    assert [clients[2].reply() for _ in range(3)] == [b"OK", b"QUEUED", [1]]
    server.wait_for_blocked(1)
    server.control("RPUSH", "list", "job")
    assert clients[3].reply() == [b"list", b"job"]
    assert clients[4].reply() == b"OK"
    assert [clients[5].reply(), clients[5].reply()] == [b"OK", [b"subscribe", b"news", 1]]
    assert proxy.metric("nearkey_paused") == 0
    assert operator.command("NEARKEY", "RESUME") == b"OK commands were not held"
    for raw in [*clients, operator]:
        raw.close()


def test_a_pause_of_writes_lets_reads_go_on(nearkey, redis_server):
    server = redis_server(tls=False)
    proxy = nearkey(server)
    with proxy.connect() as reader, proxy.connect() as writer, proxy.connect() as operator:
        writer.command("SET", "k", "1")
        assert operator.command("NEARKEY", "PAUSE", 60_000, "WRITE") == 0
        for command in (["INCR", "k"], ["EVAL", "return 1", "0"], ["PUBLISH", "c", "m"]):
            with proxy.connect() as raw:
                raw.send(encode(*command))
                nothing_comes(raw, 0.1)
        writer.send(encode("INCR", "k"))
        nothing_comes(writer, 0.1)
        assert reader.command("GET", "k") == b"1"
        assert reader.command("MGET", "k", "l") == [b"1", None]
        operator.command("NEARKEY", "RESUME")
        assert writer.reply() == 2
        # Those who hung up meanwhile left nothing behind.
        assert reader.command("GET", "k") == b"2"


def test_a_pause_waits_for_what_is_in_flight_and_ends_by_itself(nearkey, redis_server):
    server = redis_server(tls=False)
    proxy = nearkey(server, upstream__command_timeout="2s")
    with proxy.connect() as slow, proxy.connect() as blocked, proxy.connect() as operator, proxy.connect() as other:
        blocked.send(encode("BLPOP", "list", "0"))
        server.wait_for_blocked(1)
        slow.command("SET", "k", "0")
        server.freeze()
        slow.send(encode("SET", "k", "v"))
        eventually(lambda: proxy.metric("nearkey_in_flight") >= 2)
        operator.send(encode("NEARKEY", "PAUSE", 1500))
        nothing_comes(operator, 0.3)
        server.thaw()
        assert operator.reply() == 0, "the blocked one is not waited for"
        assert slow.reply() == b"OK"
        other.send(encode("GET", "k"))
        assert other.reply() == b"v"
        assert proxy.metric("nearkey_paused") == 0
        for words in (["PAUSE", "0"], ["PAUSE", "x"], ["PAUSE", "600001"], ["RESUME", "now"]):
            with pytest.raises(ReplyError):
                operator.command("NEARKEY", *words)


def test_clients_that_wait_out_a_failover_notice_nothing(nearkey, redis_server, tmp_path):
    server = redis_server(tls=False)
    proxy = nearkey(server, workers=2)
    stop, errors, done = threading.Event(), [], [0] * 6

    def count(n):
        try:
            with proxy.connect() as raw:
                while not stop.is_set():
                    done[n] += 1
                    raw.send(encode("INCR", f"count:{n}"))
                    assert isinstance(raw.reply(), int)
        except Exception as e:
            errors.append(repr(e))

    threads = [threading.Thread(target=count, args=(n,), daemon=True) for n in range(6)]
    for thread in threads:
        thread.start()
    eventually(lambda: min(done) > 20 or errors)
    with proxy.connect() as operator:
        assert operator.command("NEARKEY", "PAUSE", 60_000) == 0
        kept = {n: server.control("GET", f"count:{n}") for n in range(6)}
        server.stop()
        server.start()
        for n, value in kept.items():
            server.control("SET", f"count:{n}", value)
        assert operator.command("NEARKEY", "RESUME") == b"OK"
    before = list(done)
    eventually(lambda: all(n > b + 20 for n, b in zip(done, before)) or errors)
    stop.set()
    for thread in threads:
        thread.join(20)
    assert not errors, errors[:3]
    assert [int(server.control("GET", f"count:{n}")) for n in range(6)] == done


# Freeze and thaw.


def freeze(proxy, seconds, meanwhile=lambda: None):
    ports.freeze(proxy.process)
    try:
        meanwhile()
        time.sleep(seconds)
    finally:
        os.kill(proxy.pid, signal.SIGCONT)


@pytest.mark.parametrize("fault", ["cut", "black hole"])
def test_a_thawed_process_uses_no_dead_connection(nearkey, redis_server, fault_proxy, fault):
    server = redis_server(tls=False)
    link = fault_proxy(server)
    proxy = nearkey(link, workers=2, upstream__keepalive="0s")
    clients = [proxy.connect() for _ in range(12)]
    for n, raw in enumerate(clients):
        assert raw.command("SET", f"count:{n}", "0") == b"OK"
    with proxy.connect() as raw:
        raw.command("BLPOP", "nothing", "0.05")  # leaves an idle leased connection behind
    accepted = link.accepted

    def die():
        if fault == "cut":
            link.cut_all()
        else:
            link.sink_all()
        # Clients speak while it is frozen, and others as soon as it is thawed.
        for n, raw in enumerate(clients[:6]):
            raw.send(encode("INCR", f"count:{n}") * 3)

    freeze(proxy, 4, die)
    for n, raw in enumerate(clients[6:], 6):
        raw.send(encode("INCR", f"count:{n}") * 3)
    for raw in clients:
        assert [raw.reply() for _ in range(3)] == [1, 2, 3]
    for n in range(12):
        assert server.control("GET", f"count:{n}") == b"3"
    with proxy.connect() as raw:
        server.control("RPUSH", "list", "job")
        assert raw.command("BLPOP", "list", "5") == [b"list", b"job"]
    assert link.accepted > accepted
    assert any("stood still" in line["message"] for line in proxy.log_lines())
    assert proxy.metric("nearkey_process_gaps_total") >= 1
    for raw in clients:
        raw.close()


def test_a_thawed_process_reads_before_it_judges(nearkey, redis_server):
    """Replies that came while it was frozen are given, however long ago their commands were sent."""
    server = redis_server(tls=False)
    proxy = nearkey(server, upstream__command_timeout="1s", upstream__stall_timeout="2s", upstream__lease_timeout="1s",
                    upstream__connections=1)
    with proxy.connect() as slow, proxy.connect() as blocked, proxy.connect() as other:
        slow.command("SET", "k", "0")
        blocked.send(encode("BLPOP", "list", "0"))
        server.wait_for_blocked(1)
        server.freeze()
        commands = encode("INCR", "k") + encode("GET", "k")
        slow.send(commands)
        eventually(lambda: proxy.metric("nearkey_in_flight") >= 3)
        before = proxy.metric("nearkey_upstream_connects_total")

        def meanwhile():
            server.thaw()
            eventually(lambda: server.control("GET", "k") == b"1")
            server.control("RPUSH", "list", "job")

        freeze(proxy, 5, meanwhile)
        assert [slow.reply(), slow.reply()] == [1, b"1"]
        assert blocked.reply() == [b"list", b"job"]
        assert other.command("INCR", "k") == 2
        assert proxy.metric("nearkey_upstream_connects_total") == before, "a living connection was given up"


# The end.


@pytest.mark.parametrize("workers", [1, 3])
def test_the_end_cuts_no_reply(nearkey, redis_server, workers):
    server = redis_server(tls=False)
    proxy = nearkey(server, workers=workers, process__drain_timeout="8s")
    depth, wrong = 10, []
    ready = threading.Barrier(41, timeout=60)
    answered = [0] * 40

    def pipeline(n):
        clients = [proxy.connect() for _ in range(5)]
        try:
            for at, raw in enumerate(clients):
                assert raw.command("SET", f"{n}:{at}", "0") == b"OK"
            ready.wait()
            while clients:
                for raw in clients:
                    try:
                        raw.send(b"".join(encode("INCR", f"{n}:x") for _ in range(depth)))
                    except OSError:
                        pass
                for raw in list(clients):
                    got = []
                    try:
                        for _ in range(depth):
                            got.append(raw.reply())
                    except (EOFError, OSError):
                        clients.remove(raw)
                        raw.close()
                    # A command that was not answered was not run, either: told apart by the server below.
                    if not all(isinstance(reply, int) for reply in got):
                        wrong.append(got)
                    answered[n] += len(got)
        except Exception as e:
            wrong.append(repr(e))
            ready.abort()

    threads = [threading.Thread(target=pipeline, args=(n,), daemon=True) for n in range(40)]
    for thread in threads:
        thread.start()
    blocked, listener = proxy.connect(), proxy.connect()
    blocked.send(encode("BLPOP", "jobs", "0"))
    listener.command("SUBSCRIBE", "news")
    server.wait_for_blocked(1)
    ready.wait()
    time.sleep(0.3)
    proxy.process.send_signal(signal.SIGTERM)
    assert proxy.process.wait(20) == 0
    for thread in threads:
        thread.join(20)
    assert not wrong, wrong[:3]
    run_by_server = [int(server.control("GET", f"{n}:x") or 0) for n in range(40)]
    assert sum(run_by_server) > 2000, "the floor of traffic"
    assert answered == run_by_server, "a command was run whose reply was cut"
    assert blocked.until_eof() == b"" and listener.until_eof() == b""
    server.control("RPUSH", "jobs", "job")
    assert server.control("LLEN", "jobs") == 1, "a job was taken for a client that is gone"
    assert not any("drain_timeout reached" in line["message"] for line in proxy.log_lines())


def test_the_end_is_told_at_once_and_a_second_signal_means_now(nearkey, redis_server):
    server = redis_server(tls=False)
    proxy = nearkey(server, process__drain_delay="30s")
    with proxy.connect() as raw:
        assert raw.command("SET", "k", "v") == b"OK"
        assert proxy.http("/ready")[0] == 200
        proxy.process.send_signal(signal.SIGTERM)
        eventually(lambda: proxy.http("/ready")[0] == 503)
        assert proxy.http("/live")[0] == 200
        # Until the delay is over it serves as before, new clients too.
        with proxy.connect() as new:
            assert new.command("GET", "k") == b"v"
        assert proxy.process.poll() is None
        proxy.process.send_signal(signal.SIGTERM)
        assert proxy.process.wait(10) == 0


def test_the_end_lets_go_what_is_held(nearkey, redis_server):
    server = redis_server(tls=False)
    proxy = nearkey(server)
    with proxy.connect() as raw, proxy.connect() as operator:
        raw.command("PING")
        operator.command("NEARKEY", "PAUSE", 60_000)
        raw.send(encode("SET", "k", "v"))
        nothing_comes(raw, 0.1)
        proxy.process.send_signal(signal.SIGTERM)
        assert raw.reply() == b"OK"
        assert proxy.process.wait(10) == 0
    assert server.control("GET", "k") == b"v"


# What must not be seen.


def test_what_clients_say_cannot_write_the_log(nearkey, redis_server):
    server = redis_server(tls=False)
    proxy = nearkey(server, log__level="debug")
    canary = b'x\r\n{"level":"FATAL","message":"forged"}\r\n'
    for command in ([canary], [b"GET", canary, b"x"], [b"CLIENT", b"SETNAME", canary], [b"AUTH", canary, b"planted-secret-client"],
                    [b"SUBSCRIBE", canary], [b"NEARKEY", canary], [b"NEARKEY", b"PAUSE", canary], [b"CLIENT", b"KILL", b"ADDR", canary]):
        with proxy.connect() as raw:
            raw.send(encode(*command))
            raw.until_silent(0.1)
    with proxy.connect() as raw:
        raw.send(canary)
        raw.until_silent(0.1)
    for line in proxy.log_lines():
        assert line["level"] != "FATAL", line
    assert "planted-secret-client" not in proxy.log()


def test_the_memory_of_the_process_is_not_for_others(nearkey, redis_server):
    proxy = nearkey(redis_server(tls=False))
    limits = open(f"/proc/{proxy.pid}/limits").read()
    core = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
    assert core.split()[4:6] == ["0", "0"], core
    # What belongs to a process that may not be dumped belongs to root.
    assert os.stat(f"/proc/{proxy.pid}/environ").st_uid == 0
    assert run("config", "--upstream", "redis://:planted-secret-flag@h").stdout.count("planted-secret-flag") == 0
