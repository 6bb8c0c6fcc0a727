"""What every test can ask for: servers, proxies in front of them, a faulty network between them.

`NEARKEY_BIN` names the program under test (default: target/release/nearkey). With `NEARKEY_TEST_DIRECT=1` the `endpoint`
is redis-server itself, which checks the tests: what they expect must be what Redis does. Tests of the proxy's own
behaviour are skipped then.
"""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from harness.certs import Certs
from harness.fault_proxy import FaultProxy
from harness.nearkey import Nearkey, binary
from harness.redis_server import RedisServer, build_has_tls
from harness.resp import Raw

DIRECT = os.environ.get("NEARKEY_TEST_DIRECT") == "1"

# Planted where secrets go; no log, metric or page may ever show it.
SECRET = "planted-secret-5f1e9c"


def pytest_report_header():
    return f"endpoint: {'redis-server itself' if DIRECT else binary()}"


def pytest_configure():
    # Ended from outside, the run still stops what it started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if not DIRECT and not Path(binary()).exists():
        pytest.exit(f"{binary()} is missing: cargo build --release, or set NEARKEY_BIN", returncode=3)


@dataclass
class Endpoint:
    """Where the clients under test connect to, and the server behind it."""

    host: str
    port: int
    server: RedisServer
    nearkey: Nearkey | None

    @property
    def direct(self):
        return self.nearkey is None

    def connect(self, **options):
        return Raw(self.host, self.port, **options)


@pytest.fixture(scope="session")
def certs(tmp_path_factory):
    if not build_has_tls():
        pytest.exit("redis-server was built without TLS", returncode=3)
    return Certs(tmp_path_factory.mktemp("certs"))


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory, certs):
    """The server of all tests that do not break it. Its password is the planted secret."""
    server = RedisServer(tmp_path_factory.mktemp("redis"), certs=certs, password=None if DIRECT else SECRET)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def reference(tmp_path_factory):
    """A server of its own to compare with, as open to everybody as Nearkey is on loopback."""
    server = RedisServer(tmp_path_factory.mktemp("reference"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def shared_nearkey(tmp_path_factory, certs, shared_server):
    if DIRECT:
        yield None
        return
    nearkey = Nearkey(shared_server.url(tls=True), tmp_path_factory.mktemp("nearkey"), args=["--upstream-ca", certs.ca])
    yield nearkey
    nearkey.stop()
    nearkey.verdict()
    assert SECRET not in nearkey.log()


@pytest.fixture
def endpoint(shared_server, shared_nearkey):
    """An empty Redis, as an unchanged client sees it."""
    shared_server.control("FLUSHALL")
    shared_server.control("SCRIPT", "FLUSH")
    if shared_nearkey is None:
        return Endpoint("127.0.0.1", shared_server.port, shared_server, None)
    assert shared_nearkey.process.poll() is None, f"nearkey ended:\n{shared_nearkey.log()[-4000:]}"
    return Endpoint(shared_nearkey.host, shared_nearkey.port, shared_server, shared_nearkey)


@pytest.fixture(params=[2, 3], ids=["resp2", "resp3"])
def protocol(request):
    return request.param


@pytest.fixture
def client(endpoint, protocol):
    with redis.Redis(endpoint.host, endpoint.port, protocol=protocol, socket_timeout=30) as client:
        yield client


@pytest.fixture
def text_client(endpoint, protocol):
    options = {"protocol": protocol, "socket_timeout": 30, "decode_responses": True}
    with redis.Redis(endpoint.host, endpoint.port, **options) as client:
        yield client


@pytest.fixture
def redis_server(tmp_path, certs):
    """Starts servers of the test's own: `redis_server(password=..., certificate=..., args=[...])`."""
    started = []

    def start(tls=True, **options):
        server = RedisServer(tmp_path / f"redis-{len(started)}", certs=certs if tls else None, **options)
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def nearkey(tmp_path, certs):
    """Starts proxies of the test's own: `nearkey(server, upstream__connections=1)`; TLS unless `tls=False`."""
    if DIRECT:
        pytest.skip("about the proxy itself")
    started = []

    def start(upstream=None, *, tls=True, args=(), expect_desync=False, **options):
        args = list(args)
        if isinstance(upstream, RedisServer):
            tls = tls and upstream.tls_port is not None
            upstream = upstream.url(tls=tls)
            if tls:
                args += ["--upstream-ca", certs.ca]
        elif isinstance(upstream, FaultProxy):
            upstream = f"redis://127.0.0.1:{upstream.port}"
        proxy = Nearkey(upstream, tmp_path / f"nearkey-{len(started)}", args=args, **options)
        proxy.expect_desync = expect_desync
        started.append(proxy)
        return proxy

    yield start
    for proxy in started:
        desyncs = None
        if proxy.process.poll() is None and proxy.admin_port:
            desyncs = sum(v for k, v in proxy.metrics().items() if "desync" in k)
        proxy.stop()
        proxy.verdict()
        assert proxy.expect_desync or not desyncs, f"{desyncs} desyncs:\n{proxy.log()[-4000:]}"


@pytest.fixture
def fault_proxy():
    """Starts faulty networks in front of a server: `fault_proxy(server)`."""
    started = []

    def start(server, **options):
        proxy = FaultProxy(server.port, **options)
        started.append(proxy)
        return proxy

    yield start
    for proxy in started:
        proxy.close()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Shows the end of the proxies' logs beside a failure."""
    outcome = yield
    report = outcome.get_result()
    if report.when == "call" and report.failed:
        for path in sorted(Path(str(item.funcargs.get("tmp_path", "/nonexistent"))).glob("nearkey-*/nearkey.log")):
            report.sections.append((f"end of {path.parent.name}'s log", path.read_text(errors="replace")[-3000:]))
