"""What can be wrong with the upstream, cause by cause: what clients get, what the log, /health and metrics say, and
how it ends."""

import os
import re
import signal
import time

import pytest
import redis

from conftest import DIRECT
from harness.fake_redis import MOODS, FakeRedis
from harness.ports import eventually, freeze
from harness.resp import bulk, encode

pytestmark = pytest.mark.skipif(DIRECT, reason="about the proxy itself")

UNREACHABLE = rb"-LOADING Nearkey: upstream unreachable \(.*%s.*\)\r\n"
QUICK = {"upstream__backoff_min": "5ms", "upstream__backoff_max": "100ms", "upstream__queue_timeout": "300ms",
         "upstream__connect_timeout": "500ms"}


@pytest.fixture
def fake_redis():
    started = []

    def start():
        started.append(FakeRedis())
        return started[-1]

    yield start
    for server in started:
        server.close()


def told(proxy, level, what, cause=None):
    """Log lines of the verdict."""
    return [line for line in proxy.log_lines() if line["level"] == level and re.match(what, line["message"])
            and (cause is None or line.get("cause") == cause)]


def raw(proxy, *command):
    with proxy.connect() as client:
        return client.raw(*command)


class Case:
    """One cause: the proxy, how to break what it talks to and how to mend it, and what is seen meanwhile."""

    command = ("SET", "k", "v")
    settings = {}
    # The words of the log, the status in /health, and its code.
    log, health, ready = "upstream unreachable", ("unhealthy", 503), 503

    def __init__(self, cause, reply, **changes):
        self.cause, self.reply = cause, reply
        self.__dict__.update(changes)

    def __repr__(self):
        return self.name if hasattr(self, "name") else self.cause

    def start(self, request):
        return request.getfixturevalue("redis_server")(tls=False), {}

    def begin(self, server):
        server.stop()

    def mend(self, server):
        server.start()


class Dead(Case):
    pass


class Behind(Case):
    """A network between the proxy and a server."""

    def start(self, request):
        return request.getfixturevalue("fault_proxy")(request.getfixturevalue("redis_server")(tls=False)), {}

    def begin(self, network):
        setattr(network, self.fault, True)
        network.cut_all()

    def mend(self, network):
        setattr(network, self.fault, False)


class Moody(Case):
    def start(self, request):
        fake = request.getfixturevalue("fake_redis")()
        fake.url = lambda: f"redis://127.0.0.1:{fake.port}"
        return fake, {}

    def begin(self, server):
        server.mood = self.mood

    def mend(self, server):
        server.mood = None


class Replica(Case):
    """A master that is made a replica of nobody."""

    def begin(self, server):
        server.control("CONFIG", "SET", "replica-serve-stale-data", self.stale)
        server.control("REPLICAOF", "127.0.0.1", "1")

    def mend(self, server):
        server.control("REPLICAOF", "NO", "ONE")


class Configured(Case):
    """A server whose settings end all connections and refuse new ones."""

    def start(self, request):
        return request.getfixturevalue("redis_server")(tls=False, password="first-word"), {}

    def begin(self, server):
        server.control("CONFIG", "SET", *self.wrong)
        server.control("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def mend(self, server):
        server.control("CONFIG", "SET", *self.right)


class Certificate(Case):
    def start(self, request):
        return request.getfixturevalue("redis_server")(), {}

    def show(self, server, name):
        server.control("CONFIG", "SET", "tls-cert-file", server.certs.crt(name), "tls-key-file", server.certs.key(name))
        server.control("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def begin(self, server):
        self.show(server, self.certificate)

    def mend(self, server):
        self.show(server, "server")


DEGRADED = {"log": "upstream degraded", "health": ("degraded", 200)}

CASES = [
    Dead("tcp", UNREACHABLE % b"refused"),
    Behind("timeout", UNREACHABLE % b"did not answer", fault="swallow"),
    Behind("closed", UNREACHABLE % b"closed", fault="refuse"),
    Moody("loading", re.escape(MOODS["loading"]), mood="loading", **DEGRADED),
    Replica("masterdown", re.escape(MOODS["masterdown"]), stale="no", command=("GET", "k"), **DEGRADED),
    Replica("readonly", re.escape(MOODS["readonly"]), stale="yes", ready=200, **DEGRADED),
    Moody("cluster", re.escape(MOODS["moved"]), mood="moved", ready=200, forgets=True, **DEGRADED),
    Moody("protocol", UNREACHABLE % b"does not speak as Redis does", mood="http", restart=True),
    Configured("auth", UNREACHABLE % b"WRONGPASS", wrong=("requirepass", "second-word"),
               right=("requirepass", "first-word")),
    Configured("maxclients", UNREACHABLE % b"max number of clients", wrong=("maxclients", 1), right=("maxclients", 50)),
    Certificate("certificate", UNREACHABLE % b"expired", certificate="expired", name="expired"),
    Certificate("certificate", UNREACHABLE % b"certificate", certificate="wronghost", name="wrong name"),
    Certificate("certificate", UNREACHABLE % b"unknown CA", certificate="stranger", name="unknown CA"),
]


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_a_cause_is_named_once_and_ends(request, nearkey, case):
    server, settings = case.start(request)
    proxy = nearkey(server if not isinstance(server, FakeRedis) else server.url(),
                    expect_desync=case.cause == "protocol", **QUICK, **settings)
    first, other = proxy.connect(), proxy.connect()
    assert first.raw("SET", "k", "v") == b"+OK\r\n"
    case.begin(server)
    if getattr(case, "restart", False):
        server.drop()
    eventually(lambda: re.fullmatch(case.reply, ask(proxy, *case.command)), 15, what=f"the client hears of {case}")
    for _ in range(20):
        assert re.fullmatch(case.reply, ask(proxy, *case.command))
    assert other.raw("PING") == b"+PONG\r\n"
    status, health = proxy.health()
    assert (health["status"], status) == case.health and health["cause"] == case.cause, health
    assert health["message"] and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", health["since"])
    assert proxy.http("/ready")[0] == case.ready
    assert proxy.metric("nearkey_upstream_cause", f'"{case.cause}"') == 1
    assert proxy.metric("nearkey_upstream_cause") == 1
    warned = told(proxy, "WARN", case.log)
    assert [line["cause"] for line in warned] == [case.cause] and warned[0]["advice"] and warned[0]["address"], warned
    case.mend(server)
    eventually(lambda: ask(proxy, "SET", "k", "w") == b"+OK\r\n", 15, what="it works again")
    eventually(lambda: other.raw("GET", "k") == bulk("w"), 15, what="it works for others")
    other.nothing_left()
    if getattr(case, "forgets", False):
        return  # after a minute
    eventually(lambda: proxy.health()[1]["status"] == "healthy", 15, what="/health says so")
    left = told(proxy, "INFO", "upstream well again")
    assert [line["cause"] for line in left] == [case.cause] and left[0]["lasted_ms"] > 0, left
    assert "cause" not in proxy.health()[1] and proxy.metric("nearkey_upstream_cause") == 0
    assert len(told(proxy, "WARN", "upstream (unreachable|degraded)")) == 1


def ask(proxy, *command):
    """One command of a client of its own; what a client that is closed got is nothing."""
    try:
        return raw(proxy, *command)
    except (EOFError, ConnectionError):
        return b""


def test_a_connection_on_which_nothing_comes_is_a_cause_of_its_own(redis_server, nearkey, fault_proxy):
    network = fault_proxy(redis_server(tls=False))
    proxy = nearkey(network, **QUICK | {"upstream__connect_timeout": "20s"}, upstream__command_timeout="200ms",
                    upstream__stall_timeout="400ms")
    client = proxy.connect()
    assert client.raw("SET", "k", "v") == b"+OK\r\n"
    network.swallow = True
    assert client.raw("GET", "k").startswith(b"-ERR Nearkey: no reply from upstream")
    eventually(lambda: proxy.metric("nearkey_upstream_cause", '"stall"') == 1, 10, what="the stall is seen")
    status, health = proxy.health()
    assert (status, health["cause"]) == (503, "stall")
    assert len(told(proxy, "WARN", "upstream unreachable", "stall")) == 1
    network.swallow = False
    network.cut_all()
    eventually(lambda: ask(proxy, "GET", "k") == bulk("v"), 15, what="it works again")
    assert len(told(proxy, "INFO", "upstream well again")) == 1
    assert proxy.health()[1]["status"] == "healthy"


def test_commands_do_not_wait_for_each_attempt_at_a_server_that_does_not_answer(redis_server, nearkey, fault_proxy):
    network = fault_proxy(redis_server(tls=False))
    network.swallow = True
    proxy = nearkey(network, **QUICK | {"upstream__connect_timeout": "3s", "upstream__queue_timeout": "2s"})
    for _ in range(20):
        if b"did not answer" in ask(proxy, "GET", "k"):
            break
    eventually(lambda: proxy.metrics()["nearkey_upstream_down_seconds_total"] >= 3, 20, what="it is known to be down")
    # Each would wait for its queue_timeout, 2 s, if nobody remembered: nearly all of them then, whatever the machine. With it
    # a slow one needs a moment in which half of them do not.
    for _ in range(5):
        waited = []
        for _ in range(8):
            begun = time.monotonic()
            assert b"upstream unreachable" in ask(proxy, "GET", "k")
            waited.append(time.monotonic() - begun)
        if sorted(waited)[len(waited) // 2] < 1.5:
            break
    else:
        raise AssertionError(waited)
    network.swallow = False
    eventually(lambda: ask(proxy, "SET", "k", "v") == b"+OK\r\n", 20, what="the first success ends it")


@pytest.mark.parametrize("scheme, causes", [("redis", ("tls", "closed")), ("rediss", ("timeout", "tls"))])
def test_tls_on_one_side_alone_is_named(redis_server, nearkey, scheme, causes):
    server = redis_server()
    port = server.tls_port if scheme == "redis" else server.port
    args = ["--upstream-ca", server.certs.ca] if scheme == "rediss" else []
    proxy = nearkey(f"{scheme}://localhost:{port}", args=args, **QUICK)
    assert b"upstream unreachable" in ask(proxy, "GET", "k")
    # A plain Redis takes the greeting for half a command and waits for the rest.
    eventually(lambda: proxy.health()[1].get("cause") in causes, 10)
    warned = told(proxy, "WARN", "upstream unreachable")
    assert len(warned) == 1 and "TLS" in warned[0]["message"] + warned[0]["advice"], warned


def test_a_name_without_an_address_is_named(nearkey):
    proxy = nearkey("redis://no-such-host.invalid:6379", **QUICK)
    assert re.fullmatch(UNREACHABLE % b"resolve", ask(proxy, "GET", "k"))
    for _ in range(10):
        ask(proxy, "GET", "k")
    assert [line["cause"] for line in told(proxy, "WARN", "upstream unreachable")] == ["dns"]
    assert proxy.health()[1]["cause"] == "dns"


# How much waits.

def test_what_waits_for_a_dead_server_is_bounded_and_told_in_order(redis_server, nearkey):
    server = redis_server(tls=False, start=False)
    proxy = nearkey(server, upstream__queue_commands=10, upstream__queue_timeout="3s", upstream__backoff_min="50ms",
                    upstream__backoff_max="100ms")
    with proxy.connect() as client:
        # The first attempt has failed; what comes then waits for the next ones.
        client.send(encode("GET", "first"))
        time.sleep(0.3)
        client.send(b"".join(encode("SET", f"k:{n}", n) + encode("ECHO", n) for n in range(40)))
        assert re.match(UNREACHABLE[:-6] % b"refused", client.reply_bytes())
        for n in range(40):
            reply = client.reply_bytes()
            assert reply.startswith(b"-LOADING Nearkey: upstream unreachable ("), reply
            assert n > 25 or reply.endswith(b"more than 10 commands wait for it (upstream.queue_commands)\r\n"), (n, reply)
            assert client.reply_bytes() == bulk(n)
        client.nothing_left()
    assert proxy.metrics()['nearkey_errors_total{kind="crowded"}'] >= 26
    assert proxy.metrics()['nearkey_errors_total{kind="unreachable"}'] >= 1


def test_no_more_is_in_flight_than_may_be_and_all_is_answered_in_order(fake_redis, nearkey):
    server = fake_redis()
    proxy = nearkey(f"redis://127.0.0.1:{server.port}", upstream__max_in_flight=5, upstream__connections=1)
    warm, clients = proxy.connect(), [proxy.connect() for _ in range(40)]
    assert warm.raw("SET", "k", "v") == b"+OK\r\n"
    server.holds = True
    for n, client in enumerate(clients):
        client.send(encode("SET", f"k:{n}", n) + encode("GET", f"k:{n}"))
    eventually(lambda: server.seen.count(b"SET") >= 3, 10)
    time.sleep(0.3)
    # A client's row of commands stays whole.
    sent = server.seen.count(b"SET") + server.seen.count(b"GET")
    assert sent <= 1 + 6, sent
    server.holds = False
    for n, client in enumerate(clients):
        client.exactly(b"+OK\r\n" + bulk(n))
        client.nothing_left()
    assert server.accepted == 1


# Failover.

def test_writes_go_on_when_another_server_became_the_master(redis_server, nearkey, fault_proxy):
    old, new = redis_server(tls=False), redis_server(tls=False)
    network = fault_proxy(old)
    proxy = nearkey(network, **QUICK)
    clients = [proxy.connect() for _ in range(4)]
    for raw_client in clients:
        assert raw_client.raw("SET", "k", "v") == b"+OK\r\n"
    new.control("SET", "k", "v")
    old.control("REPLICAOF", "127.0.0.1", new.port)
    # What the name resolves to from now on.
    network.target_port = new.port
    first = clients[0].raw("SET", "k", "w")
    assert first == MOODS["readonly"], first
    for n, raw_client in enumerate(clients):
        eventually(lambda raw_client=raw_client, n=n: raw_client.raw("SET", f"k:{n}", n) == b"+OK\r\n", 10)
        raw_client.nothing_left()
    assert new.control("GET", "k:0") == b"0"
    eventually(lambda: proxy.health()[1]["status"] == "healthy", 10)
    assert proxy.metrics()["nearkey_upstream_reopened_total"] >= 1
    assert proxy.metrics()["nearkey_errors_total{kind=\"lost\"}"] == 0, "nothing was in the way"


def test_a_replica_that_stays_one_is_not_connected_to_for_ever(redis_server, nearkey, fault_proxy):
    server = redis_server(tls=False)
    server.control("SET", "k", "v")
    server.control("REPLICAOF", "127.0.0.1", "1")
    network = fault_proxy(server)
    proxy = nearkey(network, upstream__connections=1, upstream__backoff_min="200ms", upstream__backoff_max="5s")
    client = proxy.connect()
    answered, end = 0, time.monotonic() + 3
    while time.monotonic() < end:
        assert client.raw("SET", "k", "w") == MOODS["readonly"]
        assert client.raw("GET", "k") == bulk("v")
        answered += 1
    assert answered > 50 and network.accepted < 12, (answered, network.accepted)
    assert len(told(proxy, "WARN", "upstream degraded")) == 1
    client.nothing_left()


# Greetings.

def test_clients_greet_while_the_server_is_away(redis_server, nearkey):
    server = redis_server(tls=False, start=False)
    proxy = nearkey(server, **QUICK)
    with proxy.connect() as client:
        for command in (("HELLO", 3), ("CLIENT", "SETINFO", "LIB-NAME", "x"), ("CLIENT", "SETNAME", "x"), ("SELECT", 0)):
            assert not client.raw(*command).startswith(b"-"), command
        # In the words of Redis 7.0, which has no such thing.
        unknown = b"-ERR unknown subcommand 'MAINT_NOTIFICATIONS'. Try CLIENT HELP.\r\n"
        assert client.raw("CLIENT", "MAINT_NOTIFICATIONS", "ON") == unknown
        assert re.fullmatch(UNREACHABLE % b"refused", client.raw("INFO")), "ioredis waits and asks again"
        client.nothing_left()
    with redis.Redis(proxy.host, proxy.port) as app:
        with pytest.raises(redis.exceptions.BusyLoadingError):
            app.get("k")
        server.start()
        eventually(lambda: ask(proxy, "GET", "k") == b"$-1\r\n", 15)
        assert app.get("k") is None


# Passwords.

def test_a_rotated_password_is_read_again_from_its_file(redis_server, nearkey, tmp_path):
    server = redis_server(tls=False, password="first-word")
    secret = tmp_path / "password"
    secret.write_text("first-word\n")
    proxy = nearkey(f"redis://127.0.0.1:{server.port}", upstream__password_file=secret, upstream__connections=1, **QUICK)
    client = proxy.connect()
    assert client.raw("SET", "k", "v") == b"+OK\r\n"
    server.control("CONFIG", "SET", "requirepass", "second-word")
    assert client.raw("GET", "k") == bulk("v"), "what is connected stays so"
    # A database of its own needs a new connection.
    other = proxy.connect()
    assert b"WRONGPASS" in other.raw("SELECT", 3)
    assert client.raw("GET", "k") == bulk("v")
    status, health = proxy.health()
    assert (status, health["status"], health["cause"]) == (200, "healthy", "auth"), health
    assert proxy.http("/ready")[0] == 200
    assert len(told(proxy, "WARN", "upstream gives no further connection", "auth")) == 1
    secret.write_text("second-word\n")
    eventually(lambda: other.raw("SELECT", 3) == b"+OK\r\n", 10, what="the new password is used")
    assert other.raw("SET", "k", "w") == b"+OK\r\n"
    assert client.raw("GET", "k") == bulk("v")
    assert "cause" not in proxy.health()[1]
    assert "first-word" not in proxy.log() and "second-word" not in proxy.log()


def test_a_password_file_that_hangs_keeps_nobody_from_connecting(redis_server, nearkey, tmp_path):
    server = redis_server(tls=False, password="first-word")
    secret = tmp_path / "password"
    secret.write_text("first-word")
    settings = {**QUICK, "upstream__connect_timeout": "1s"}
    proxy = nearkey(f"redis://127.0.0.1:{server.port}", upstream__password_file=secret, upstream__connections=1, **settings)
    assert ask(proxy, "SET", "k", "v") == b"+OK\r\n"
    # Nobody writes: who reads it waits for ever, as on a mount that hangs.
    secret.unlink()
    os.mkfifo(secret)
    server.control("CONFIG", "SET", "requirepass", "second-word")
    server.control("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    eventually(lambda: b"WRONGPASS" in ask(proxy, "GET", "k"), 15, what="the password is refused")
    server.control("CONFIG", "SET", "requirepass", "")
    eventually(lambda: ask(proxy, "GET", "k") == bulk("v"), 15, what="a server that wants no password is connected to")
    # Lets go of the thread that reads.
    os.close(os.open(secret, os.O_WRONLY | os.O_NONBLOCK))


def test_a_wrong_password_at_the_start_is_no_reason_to_end(redis_server, nearkey):
    server = redis_server(tls=False, password="right-word")
    proxy = nearkey(f"redis://:wrong-word@127.0.0.1:{server.port}", **QUICK)
    for _ in range(3):
        assert re.fullmatch(UNREACHABLE % b"WRONGPASS", ask(proxy, "GET", "k"))
    assert proxy.http("/ready")[0] == 503 and proxy.http("/live")[0] == 200
    assert proxy.process.poll() is None


# The process itself.

def test_a_process_that_was_frozen_does_not_blame_the_server(redis_server, nearkey):
    server = redis_server(tls=False, password="pw")
    proxy = nearkey(server, upstream__command_timeout="800ms", upstream__stall_timeout="1s", upstream__keepalive="200ms",
                    upstream__connections=1)
    client = proxy.connect()
    client.command("SET", "k", "v")
    before = {row["id"] for row in server.clients()}
    for _ in range(2):
        client.send(encode("EVAL", BUSY, 0))
        time.sleep(0.1)
        freeze(proxy.process)
        time.sleep(1.5)
        proxy.process.send_signal(signal.SIGCONT)
        client.exactly(bulk("late"))
        assert client.command("GET", "k") == b"v"
    assert {row["id"] for row in server.clients()} == before
    assert not told(proxy, "WARN", "upstream")
    client.nothing_left()


# Runs for 400 ms.
BUSY = "local t = redis.call('TIME') repeat local n = redis.call('TIME') until (n[1]-t[1])*1e6 + n[2]-t[2] > 400000 return 'late'"
