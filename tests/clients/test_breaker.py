"""What can be wrong with the upstream, cause by cause: what clients get, what the log, /health and metrics say, and
how it ends."""

import re

import pytest

from conftest import DIRECT
from harness.fake_redis import MOODS, FakeRedis
from harness.ports import eventually
from harness.resp import bulk

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
        network.cut_all()


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
    proxy = nearkey(server if not isinstance(server, FakeRedis) else server.url(), **QUICK, **settings)
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
    assert [line["cause"] for line in left] == [case.cause] and left[0]["lasted_ms"] >= 0, left
    assert "cause" not in proxy.health()[1] and proxy.metric("nearkey_upstream_cause") == 0
    assert len(told(proxy, "WARN", "upstream (unreachable|degraded)")) == 1


def ask(proxy, *command):
    """One command of a client of its own; what a client that is closed got is nothing."""
    try:
        return raw(proxy, *command)
    except (EOFError, ConnectionError):
        return b""
