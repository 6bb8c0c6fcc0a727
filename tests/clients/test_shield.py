"""What the server is spared: a fleet's connections, their opening, and a process that cannot get one.

`NEARKEY_STORM_SECONDS=60` is the long form of the storm (12 s), `NEARKEY_RESTARTS=100` that of the restart (30 processes).
"""

import asyncio
import os
import re
import time

import pytest

from harness.fleet import Crowd, Ration, allow_files
from harness.nearkey import run
from harness.ports import eventually
from harness.resp import bulk, encode
from test_storm import ConnectionWatch, StormClient, skip_reply

SECONDS = float(os.environ.get("NEARKEY_STORM_SECONDS", "12"))
RESTARTS = int(os.environ.get("NEARKEY_RESTARTS", "30"))

FLEET = 20
CLIENTS = 1000
MAXCLIENTS = 50

# A slow machine is no error: what waits long is answered all the same.
PATIENT = {"upstream__queue_timeout": "20s", "upstream__command_timeout": "40s", "upstream__connect_timeout": "20s",
           "upstream__stall_timeout": "60s"}

QUICK = {"upstream__backoff_min": "5ms", "upstream__backoff_max": "100ms", "upstream__queue_timeout": "300ms"}


# The storm.

class Visitor(StormClient):
    """Mixed traffic of short pipelines, transactions and keys that all others read, too."""

    skip_greeting = staticmethod(skip_reply)

    def pipeline(self):
        match self.random.randrange(10):
            case 0:
                self.counter += 2
                queued = encode("MULTI") + encode("INCRBY", f"n:{self.n}", 2) + encode("GET", "fixed:string") + encode("EXEC")
                self.checked += 4
                return queued, (b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n:%d\r\n" % self.counter) + bulk("s")
            case 1 | 2 | 3 | 4:
                self.checked += 1
                return encode("GET", "fixed:hot"), bulk("hot")
            case _:
                commands = [self.command() for _ in range(self.random.choice((1, 1, 2, 5)))]
                self.checked += len(commands)
                return b"".join(c for c, _ in commands), b"".join(r for _, r in commands)


def prepare(server):
    server.control("RPUSH", "fixed:list", *(f"item{i}" for i in range(10)))
    server.control("MSET", "fixed:string", "s", "fixed:hot", "hot")
    server.control("HSET", "fixed:hash", "field", "value")


@pytest.mark.parametrize("l1", [False, True], ids=["l1-off", "l1-on"])
def test_a_thousand_clients_through_a_fleet_never_exceed_forty_connections(redis_server, nearkey, l1):
    allow_files(8192)
    server = redis_server(password="pw", args=["--maxclients", str(MAXCLIENTS)])
    prepare(server)
    # One shared connection for each protocol. With L1 half of the proxies have clients of one protocol only: there a
    # connection is left for the tracked one, and at the others it must do without.
    settings = {"upstream__max_connections": 2, "upstream__connections": 1, **PATIENT}
    if l1:
        settings["cache__default"] = "cache"
    fleet = [nearkey(server, wait=False, **settings) for _ in range(FLEET)]
    for proxy in fleet:
        eventually(proxy._is_up, 30, what="the fleet is up")
    visitors = [Visitor(n, 2 + n // FLEET % 2 if not l1 or n % 2 else 2, seed=1) for n in range(CLIENTS)]
    with ConnectionWatch(server) as watch:
        crowd = Crowd(visitors, [(proxy.host, proxy.port) for proxy in fleet], SECONDS).run()
    assert not crowd.errors, (len(crowd.errors), crowd.errors[:5])
    assert crowd.returned == CLIENTS // 2
    assert len(crowd.arrived) == CLIENTS * 3 // 2
    for visitor in visitors:
        if visitor.counter:
            assert server.control("GET", f"n:{visitor.n}") == b"%d" % visitor.counter
    peaks = [proxy.metric("nearkey_upstream_connections_peak") for proxy in fleet]
    hits = sum(proxy.metrics().get("nearkey_l1_hits_total", 0) for proxy in fleet) if l1 else 0
    rejected = int(server.info("stats")["rejected_connections"])
    print(f"\n{crowd.checked} replies, most upstream connections {watch.most} ({watch.samples} looks), rejected {rejected}, "
          f"hits {hits:.0f}, last arrival {max(crowd.arrived[:CLIENTS]):.1f} s")
    assert crowd.checked > CLIENTS * 3
    assert watch.samples > 10
    assert FLEET <= watch.most <= 2 * FLEET
    assert max(peaks) <= 2
    assert rejected == 0
    if l1:
        assert hits > crowd.checked * 0.01


def test_the_same_clients_without_a_fleet_are_refused(redis_server):
    allow_files(8192)
    server = redis_server(tls=False, args=["--maxclients", str(MAXCLIENTS)])
    prepare(server)
    crowd = Crowd([Visitor(n, 2, seed=1) for n in range(CLIENTS)], [("127.0.0.1", server.port)], 2).run()
    assert len(crowd.errors) > CLIENTS - 2 * MAXCLIENTS


# The restart.

async def first_reply(port, began, protocol=2):
    """Until a command is answered by the server; seconds since the fleet was started."""
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            if protocol == 3:
                writer.write(encode("HELLO", 3))
                await skip_reply(reader)
            while True:
                writer.write(encode("GET", "k"))
                if (await asyncio.wait_for(reader.readline(), 30))[:1] in (b"$", b"_"):
                    writer.close()
                    return time.monotonic() - began
                await asyncio.sleep(0.05)
        except OSError:
            await asyncio.sleep(0.05)


def test_a_fleet_that_restarts_at_once_does_not_overrun_a_slow_door(redis_server, nearkey):
    server = redis_server(tls=False)
    door = Ration(server.port, per_second=5)
    url = f"redis://127.0.0.1:{door.port}"
    began = time.monotonic()
    fleet = [nearkey(url, wait=False, admin=False, upstream__connections=1, upstream__queue_timeout="500ms")
             for _ in range(RESTARTS)]

    async def serve():
        # Another connection is wanted all the time, too; the service is full when the first is there everywhere.
        others = [asyncio.ensure_future(first_reply(p.port, began, protocol=3)) for p in fleet]
        try:
            return await asyncio.wait_for(asyncio.gather(*(first_reply(p.port, began) for p in fleet)), 240)
        finally:
            for other in others:
                other.cancel()

    try:
        times = sorted(asyncio.run(serve()))
        attempts, admitted = door.per_window(door.attempts), door.per_window(door.admitted)
        print(f"\n{RESTARTS} processes: half served after {times[len(times) // 2]:.1f} s, all after {times[-1]:.1f} s; "
              f"attempts per second {attempts}, admitted {admitted}")
        # One attempt at a time each, however many connections are wanted, after pauses whose bounds double from 50 ms to
        # 2 s: some 6 in the first second, one or two in the next, then about one a second.
        assert max(attempts) <= RESTARTS * 8
        late = attempts[6:]
        assert not late or sum(late) / len(late) <= max(RESTARTS * 1.4, 5)
        assert RESTARTS <= len(door.admitted) <= 2 * RESTARTS
    finally:
        door.close()


# A server that is away.

def cpu_seconds(proxy):
    with open(f"/proc/{proxy.pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def dials(proxy):
    metrics = proxy.metrics()
    return sum(v for k, v in metrics.items() if "connects_total" in k or "connect_failures_total" in k)


def test_a_thousand_clients_of_a_dead_server_share_a_few_attempts(redis_server, nearkey):
    """All that can ask: both protocols, several databases, blocking commands, subscribers."""
    allow_files(8192)
    server = redis_server(tls=False)
    proxy = nearkey(server, upstream__max_connections=50, upstream__queue_timeout="300ms", workers=2)
    with proxy.connect() as raw:
        raw.command("SET", "k", "v")
    server.stop()
    before = dials(proxy)
    clients = [proxy.connect() for _ in range(1000)]
    for n, raw in enumerate(clients):
        if n % 3 == 1:
            raw.send(encode("HELLO", 3))
        if n % 5 == 1:
            raw.send(encode("SELECT", n % 7))
    asks = [encode("GET", "k"), encode("BLPOP", "list", 1), encode("SUBSCRIBE", "news"), encode("INCR", "n")]
    end = time.monotonic() + 6
    while time.monotonic() < end:
        for n, raw in enumerate(clients):
            try:
                raw.send(asks[n % 4])
            except OSError:
                continue  # a subscriber that was turned away
        time.sleep(0.2)
    made = dials(proxy) - before
    assert 3 <= made <= 30, made
    metrics = proxy.metrics()
    assert metrics["nearkey_upstream_connections"] <= 50
    for raw in clients[4:]:
        raw.close()
    # Nobody asks: nothing spins.
    time.sleep(1)
    used = cpu_seconds(proxy)
    time.sleep(2)
    assert cpu_seconds(proxy) - used < 0.5
    server.start()
    with proxy.connect() as raw:
        eventually(lambda: raw.command("PING") and raw.raw("SET", "k", "v") == b"+OK\r\n", 30)
    for raw in clients[:4]:
        raw.close()


# A server that is full.

def blocked(proxy, n, wait=0):
    """Clients that wait in BLPOP."""
    clients = [proxy.connect() for _ in range(n)]
    for raw in clients:
        raw.send(encode("BLPOP", "nothing", wait))
    return clients


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_server_that_is_full_is_worked_with_and_asked_again_later(redis_server, nearkey, tls):
    server = redis_server(args=["--maxclients", "4"])
    proxy = nearkey(server, tls=tls, upstream__connections=1, upstream__backoff_min="20ms", upstream__backoff_max="200ms",
                    upstream__lease_timeout="700ms")
    with proxy.connect() as raw:
        raw.command("SET", "k", "v")
        # The control connection, the shared one, two that block.
        waiting = blocked(proxy, 2)
        server.wait_for_blocked(2)
        more = proxy.connect()
        more.send(encode("BLPOP", "nothing", 0))
        reply = more.reply_bytes()
        assert reply.startswith(b"-ERR Nearkey: no connection free, and the server takes no more ("), reply
        # Everybody else is served, and nobody says that the server is down.
        for n in range(50):
            assert raw.command("INCR", "n") == n + 1
        assert proxy.health()[1]["redis"]["available"] is True
        metrics = proxy.metrics()
        assert metrics['nearkey_upstream_connect_failures_total{cause="maxclients"}'] >= 1
        assert metrics["nearkey_upstream_up"] == 1
        # Who waits gets a connection that another gives back, though the server gives none.
        more.send(encode("BLPOP", "given", 5))
        time.sleep(0.1)
        server.control("RPUSH", "nothing", "x")
        eventually(lambda: server.info("clients")["blocked_clients"] == "2", what="it has the other's connection")
        server.control("RPUSH", "given", "y")
        assert more.reply_bytes() == b"*2\r\n$5\r\ngiven\r\n$1\r\ny\r\n"
        told = [line for line in proxy.log_lines() if line["level"] == "WARN"]
        assert len(told) == 1 and told[0]["cause"] == "maxclients" and "nearkey plan" in told[0]["advice"], told
        # The pauses are longer than those at a server that is down.
        before = dials(proxy)
        crowd = blocked(proxy, 20)
        time.sleep(1.5)
        assert dials(proxy) - before <= 12
        server.control("CONFIG", "SET", "maxclients", "30")
        more.send(encode("BLPOP", "soon", 0.01))
        eventually(lambda: again(more), 20)
        for client in [*waiting, *crowd, more]:
            client.close()


def again(raw):
    """The answer to a blocking command; asks once more if it is an error."""
    if raw.reply_bytes() == b"*-1\r\n":
        return True
    raw.send(encode("BLPOP", "soon", 0.01))
    return False


def test_the_rate_of_opening_is_a_setting(redis_server, nearkey):
    server = redis_server(tls=False)
    proxy = nearkey(server, upstream__max_connections=40, upstream__opens_per_second=4, upstream__lease_timeout="30s",
                    upstream__connect_timeout="30s")
    with proxy.connect() as raw:
        raw.command("SET", "k", "v")
    before, began = dials(proxy), time.monotonic()
    clients = blocked(proxy, 12)
    eventually(lambda: proxy.metric("nearkey_upstream_opens_waiting") > 0, 5)
    time.sleep(1)
    made, seconds = dials(proxy) - before, time.monotonic() - began
    assert made <= 2 + 4 * seconds + 1, (made, seconds)
    server.wait_for_blocked(12)
    assert proxy.metric("nearkey_upstream_opens_waiting") == 0
    for client in clients:
        client.close()


# What shrinks, what resumes.

def test_every_kind_of_connection_goes_when_it_is_not_used(redis_server, nearkey):
    server = redis_server()
    proxy = nearkey(server, upstream__idle_timeout="500ms", cache__default="cache")
    with proxy.connect() as raw, proxy.connect() as subscriber:
        assert subscriber.command("SUBSCRIBE", "news")[0] == b"subscribe"
        server.control("SET", "k", "v")
        eventually(lambda: raw.command("GET", "k") == b"v" and proxy.metric("nearkey_l1_hits_total") > 0, 20)
        assert raw.command("BLPOP", "nothing", 0.01) is None
        # Shared, leased, tracked, pub/sub.
        assert len(server.clients()) >= 3
        # The subscriber's alone stays as long as it is wanted.
        eventually(lambda: len(server.clients()) == 1, 20)
        assert subscriber.command("UNSUBSCRIBE", "news")[0] == b"unsubscribe"
        eventually(lambda: server.clients() == [], 20)
        assert raw.command("GET", "k") == b"v"


def test_connections_that_come_back_resume_their_tls_sessions(redis_server, nearkey):
    server = redis_server()
    proxy = nearkey(server, upstream__connections=2, upstream__max_connections=12, upstream__opens_per_second=100)
    clients = blocked(proxy, 8, wait=0)
    server.wait_for_blocked(8)
    first = proxy.metric("nearkey_upstream_tls_resumed_total")
    connected = proxy.metric("nearkey_upstream_connects_total")
    server.control("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    for client in clients:
        client.close()
    clients = blocked(proxy, 8, wait=0)
    server.wait_for_blocked(8)
    again = proxy.metric("nearkey_upstream_connects_total") - connected
    resumed = proxy.metric("nearkey_upstream_tls_resumed_total") - first
    assert again >= 8
    assert resumed >= again - 1, (resumed, again)
    for client in clients:
        client.close()


# nearkey plan.

def test_plan_computes_whether_a_fleet_fits(tmp_path):
    ended = run("plan", "--provider", "redis-cloud-30", "--instances", 100, cwd=tmp_path)
    assert ended.returncode == 1 and "1000 of 30: does not fit" in ended.stdout
    ended = run("plan", "--max-clients", 50, "--instances", 20, "--json", cwd=tmp_path,
                env={"NEARKEY_UPSTREAM__MAX_CONNECTIONS": "2"})
    assert ended.returncode == 0 and '"total": 40' in ended.stdout
    ended = run("plan", "--max-clients", 50, "--instances", 20, cwd=tmp_path, env={"REDIS_MAX_CONNECTIONS": "3"})
    assert ended.returncode == 1 and "60 of 50" in ended.stdout
    assert re.search(r"MAX_CONNECTIONS=1 .*fits during deploys", ended.stdout)
    listed = run("plan", "--list")
    assert listed.returncode == 0 and re.search(r"^redis-cloud-30 +30 ", listed.stdout, re.M)


@pytest.mark.parametrize("args, words", [
    ([], "whose limit"), (["--provider", "redis-cloud-31"], "redis-cloud-30"), (["--provider", "upstash"], "--max-clients"),
    (["--max-clients", "5", "--instances", "0"], "at least 1"), (["--max-clients", "many"], "invalid"),
    (["--max-clients", "5", "--provider", "redis"], "cannot be used with"),
])
def test_plan_says_what_it_needs(args, words):
    ended = run("plan", *args)
    assert ended.returncode == 2 and words in ended.stderr, ended.stderr
