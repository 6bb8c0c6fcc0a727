"""What clients see while the server, the network or the credentials fail, and after they are well again."""

import random
import re
import signal
import socket
import threading
import time

import pytest
import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from harness.fake_redis import FakeRedis
from harness.ports import eventually, free_port
from harness.resp import bulk, encode

SECRET = "planted-secret-5f1e9c"
UNREACHABLE = rb"-LOADING Nearkey: upstream unreachable \(.+\)\r\n"
QUICK = {"upstream__backoff_min": "5ms", "upstream__backoff_max": "100ms", "upstream__queue_timeout": "300ms"}


def answers(proxy, *command):
    with proxy.connect() as raw:
        return raw.raw(*command)


def works(proxy):
    return answers(proxy, "SET", "works", "1") == b"+OK\r\n"


# The server goes away.

def test_clients_recover_when_the_server_is_killed_and_comes_back(redis_server, nearkey):
    server = redis_server(password="pw")
    proxy = nearkey(server, **QUICK)
    with proxy.connect() as idle:
        assert idle.command("SET", "k", "v") == b"OK"
        server.stop()
        # An idle client's own connection outlives the server behind it.
        assert re.fullmatch(UNREACHABLE, eventually(lambda: idle.raw("GET", "k"), 10))
        assert idle.raw("PING") == b"+PONG\r\n"
        server.start()
        eventually(lambda: idle.raw("SET", "k", "w") == b"+OK\r\n", 15)
        assert idle.command("GET", "k") == b"w"
        idle.nothing_left()


def test_redis_py_recovers_by_its_own_retries(redis_server, nearkey):
    server = redis_server()
    proxy = nearkey(server, **QUICK)
    retry = Retry(ConstantBackoff(0.2), 60, supported_errors=(redis.ConnectionError, redis.TimeoutError))
    client = redis.Redis(proxy.host, proxy.port, retry=retry)
    client.set("k", 0)
    server.stop()
    threading.Timer(1, server.start).start()
    # BusyLoadingError is a ConnectionError to redis-py: "retry later" reaches the application as a pause.
    assert client.set("k", 1) is True
    assert client.get("k") == b"1"


def test_a_server_that_is_down_at_the_start_is_found_later(redis_server, nearkey):
    server = redis_server(start=False)
    proxy = nearkey(server, **QUICK)
    with proxy.connect() as raw:
        assert raw.command("PING") == b"PONG"
        start = time.monotonic()
        reply = raw.raw("GET", "k")
        waited = time.monotonic() - start
        assert re.fullmatch(UNREACHABLE, reply), reply
        assert 0.1 < waited < 10
        assert proxy.http("/live")[0] == 200
        assert proxy.http("/ready")[0] == 503
        assert proxy.health()[1]["redis"]["available"] is False
        server.start()
        eventually(lambda: raw.raw("GET", "k") == b"$-1\r\n", 15)
        eventually(lambda: proxy.http("/ready")[0] == 200, 15)
        eventually(lambda: proxy.health()[1]["status"] == "healthy", 15)
        raw.nothing_left()


def test_a_pipeline_fails_whole_and_in_order_while_the_server_is_down(redis_server, nearkey):
    server = redis_server(start=False)
    proxy = nearkey(server, **QUICK)
    with proxy.connect() as raw:
        raw.send(b"".join(encode("GET", n) + encode("ECHO", n) for n in range(200)))
        for n in range(200):
            assert re.fullmatch(UNREACHABLE, raw.reply_bytes())
            assert raw.reply_bytes() == bulk(n)
        raw.nothing_left()


def test_many_clients_of_a_dead_server_do_not_storm_it(redis_server, nearkey, fault_proxy):
    server = redis_server()
    network = fault_proxy(server)
    network.refuse = True
    proxy = nearkey(network, upstream__backoff_min="50ms", upstream__backoff_max="1s", upstream__queue_timeout="300ms")
    clients = [proxy.connect() for _ in range(200)]
    end = time.monotonic() + 3
    while time.monotonic() < end:
        for raw in clients:
            raw.send(encode("GET", "k"))
        for raw in clients:
            assert re.fullmatch(UNREACHABLE, raw.reply_bytes())
    assert network.accepted < 100
    network.refuse = False
    eventually(lambda: works(proxy), 15)
    for raw in clients:
        raw.close()


def test_a_name_that_does_not_resolve_says_so(nearkey):
    proxy = nearkey("redis://no-such-host.invalid:6379", **QUICK)
    reply = answers(proxy, "GET", "k")
    assert re.fullmatch(UNREACHABLE, reply), reply


# The server is slow.

def test_a_late_reply_never_reaches_the_next_command(redis_server, nearkey):
    server = redis_server()
    proxy = nearkey(server, upstream__command_timeout="400ms", upstream__connections=1, upstream__stall_timeout="30s")
    with proxy.connect() as first, proxy.connect() as second:
        first.command("SET", "a", "1")
        second.command("SET", "b", "2")
        for _ in range(3):
            server.freeze()
            first.send(encode("GET", "a") + encode("ECHO", "mine"))
            second.send(encode("GET", "b"))
            assert first.reply_bytes().startswith(b"-ERR Nearkey: no reply from upstream within 400ms")
            assert first.reply_bytes() == bulk("mine")
            assert second.reply_bytes().startswith(b"-ERR Nearkey: no reply from upstream within")
            server.thaw()
            for n in range(20):
                first.send(encode("GET", "a") + encode("EVAL", f"return 'n{n}'", 0))
                second.send(encode("GET", "b"))
                first.exactly(bulk("1") + bulk(f"n{n}"))
                second.exactly(bulk("2"))
        first.nothing_left()
        second.nothing_left()


def test_one_slow_command_times_out_alone(redis_server, nearkey):
    server = redis_server()
    proxy = nearkey(server, upstream__command_timeout="500ms", upstream__stall_timeout="30s")
    with proxy.connect() as raw:
        busy = "local t = redis.call('TIME') repeat local n = redis.call('TIME') until (n[1]-t[1])*1e6 + n[2]-t[2] > 1500000 return 'late'"
        raw.send(encode("EVAL", busy, 0))
        assert raw.reply_bytes().startswith(b"-ERR Nearkey: no reply from upstream within 500ms")
        time.sleep(1.2)
        for n in range(50):
            assert raw.command("ECHO", n) == b"%d" % n
            assert raw.raw("EVAL", f"return {n}", 0) == b":%d\r\n" % n
        raw.nothing_left()


def test_a_frozen_server_is_survived(redis_server, nearkey):
    server = redis_server(password="pw")
    proxy = nearkey(server, upstream__command_timeout="300ms", upstream__stall_timeout="600ms",
                    upstream__connect_timeout="500ms", **QUICK)
    clients = [proxy.connect() for _ in range(50)]
    for n, raw in enumerate(clients):
        raw.command("SET", f"f:{n}", n)
    server.freeze()
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        for n, raw in enumerate(clients):
            raw.send(encode("GET", f"f:{n}"))
        for raw in clients:
            assert re.match(rb"-(ERR|LOADING) Nearkey: ", raw.reply_bytes())
    server.thaw()
    for n, raw in enumerate(clients):
        eventually(lambda raw=raw, n=n: raw.raw("GET", f"f:{n}") == bulk(n), 15)
        raw.nothing_left()
        raw.close()


def test_a_network_that_swallows_everything_is_noticed(redis_server, nearkey, fault_proxy):
    server = redis_server()
    network = fault_proxy(server)
    proxy = nearkey(network, upstream__command_timeout="300ms", upstream__stall_timeout="500ms",
                    upstream__connect_timeout="500ms", **QUICK)
    with proxy.connect() as raw:
        raw.command("SET", "k", "v")
        network.swallow = True
        for _ in range(3):
            assert re.match(rb"-(ERR|LOADING) Nearkey: ", raw.raw("GET", "k"))
            time.sleep(0.3)
        accepted = network.accepted
        network.swallow = False
        # What was swallowed is gone for good, so only a new connection can answer.
        eventually(lambda: raw.raw("GET", "k") == bulk("v"), 15)
        assert network.accepted > accepted - 1
        raw.nothing_left()


def test_replies_that_come_late_but_in_time_are_delivered(redis_server, nearkey, fault_proxy):
    server = redis_server()
    network = fault_proxy(server)
    proxy = nearkey(network)
    with proxy.connect() as raw:
        raw.command("SET", "k", "v")
        network.delay = 0.5
        raw.send(encode("GET", "k") * 3 + encode("INCR", "n"))
        raw.exactly(bulk("v") * 3 + b":1\r\n")
        raw.nothing_left()


# Connections are lost.

def test_reads_survive_the_server_killing_connections(redis_server, nearkey):
    server = redis_server(password="pw")
    proxy = nearkey(server, upstream__backoff_min="1ms", upstream__backoff_max="20ms")
    server.control("SET", "k", "v")
    stop = threading.Event()

    def kill():
        while not stop.wait(0.05):
            server.control("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        answered = 0
        end = time.monotonic() + 4
        while time.monotonic() < end:
            with proxy.connect() as raw:
                try:
                    for _ in range(20):
                        raw.send(encode("GET", "k") * 20)
                        raw.exactly(bulk("v") * 20)
                        answered += 20
                except (EOFError, ConnectionError):
                    # A read is retried once; killed twice, it ends as a lost reply does.
                    pass
    finally:
        stop.set()
        killer.join()
    assert answered > 1000
    assert proxy.metric("retr") > 0


def test_acknowledged_writes_are_done_once_while_connections_die(redis_server, nearkey):
    server = redis_server(password="pw")
    proxy = nearkey(server, upstream__backoff_min="1ms", upstream__backoff_max="20ms")
    rng = random.Random(3)
    totals = []

    def count(n):
        acknowledged = unknown = refused = 0
        for _ in range(60):
            with proxy.connect() as raw:
                try:
                    for _ in range(5):
                        batch = 1 + n % 4
                        raw.send(encode("INCR", f"c:{n}") * batch)
                        unknown += batch
                        for _ in range(batch):
                            reply = raw.reply_bytes()
                            unknown -= 1
                            if reply.startswith(b":"):
                                acknowledged += 1
                            else:
                                assert re.match(rb"-(LOADING|ERR) Nearkey: ", reply), reply
                                refused += reply.startswith(b"-LOADING")
                                unknown += not reply.startswith(b"-LOADING")
                except (EOFError, ConnectionError):
                    pass
        totals.append((n, acknowledged, unknown))

    threads = [threading.Thread(target=count, args=(n,)) for n in range(8)]
    for t in threads:
        t.start()
    while any(t.is_alive() for t in threads):
        time.sleep(rng.random() * 0.05)
        server.control("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    for t in threads:
        t.join()
    assert len(totals) == 8
    for n, acknowledged, unknown in totals:
        final = int(server.control("GET", f"c:{n}") or 0)
        assert acknowledged <= final <= acknowledged + unknown, (n, acknowledged, final, unknown)
    assert sum(a for _, a, _ in totals) > 500


def test_idle_connections_close_and_open_again(redis_server, nearkey):
    server = redis_server(password="pw")
    proxy = nearkey(server, upstream__idle_timeout="300ms")
    assert server.clients() == []
    with proxy.connect() as raw:
        assert raw.command("PING") == b"PONG"
        assert server.clients() == []
        raw.command("SET", "k", "v")
        assert 1 <= len(server.clients()) <= 2
        eventually(lambda: server.clients() == [], 10)
        # No client notices.
        assert raw.command("GET", "k") == b"v"
        raw.nothing_left()


def test_connections_that_the_server_closes_when_idle_cost_no_error(redis_server, nearkey):
    server = redis_server(args=["--timeout", "1"])
    proxy = nearkey(server, upstream__keepalive="0s")
    with proxy.connect() as raw:
        for _ in range(3):
            assert raw.command("SET", "k", "v") == b"OK"
            eventually(lambda: server.clients() == [], 10)
        raw.nothing_left()


def test_keepalive_pings_keep_a_quiet_connection(redis_server, nearkey):
    server = redis_server(args=["--timeout", "2"])
    proxy = nearkey(server, upstream__keepalive="300ms", upstream__idle_timeout="0s")
    with proxy.connect() as raw:
        raw.command("SET", "k", "v")
        before = {row["id"] for row in server.clients()}
        time.sleep(4)
        assert {row["id"] for row in server.clients()} == before != set()
        raw.nothing_left()


# The budget.

def test_an_idle_connection_makes_room_however_often_it_was_asked_before(redis_server, nearkey):
    server = redis_server()
    proxy = nearkey(server, upstream__max_connections=2, upstream__connections=1)
    done = threading.Event()

    def keep_busy():
        with proxy.connect() as raw:
            raw.command("SELECT", 3)
            while not done.is_set():
                raw.command("GET", "k")

    with proxy.connect() as raw:
        for db in (1, 2, 3):
            assert raw.command("SELECT", db) == b"OK"
            assert raw.command("SET", "k", db) == b"OK"
        busy = threading.Thread(target=keep_busy)
        busy.start()
        try:
            time.sleep(0.3)
            # The connection of db 3 is in use; an older one was asked before and was not needed then.
            for db in (4, 5, 6):
                assert raw.command("SELECT", db) == b"OK"
                assert raw.command("SET", "k", db) == b"OK"
        finally:
            done.set()
            busy.join()


def test_the_budget_is_never_exceeded(redis_server, nearkey):
    server = redis_server(password="pw")
    proxy = nearkey(server, upstream__max_connections=4, upstream__connections=2, upstream__lease_timeout="5s")
    large = "x" * (1 << 21)
    failures = []
    most = 0

    def work(n):
        try:
            with proxy.connect(timeout=60) as raw:
                for i in range(15):
                    raw.command("HELLO", 2 + (n + i) % 2)
                    raw.command("SELECT", (n + i) % 5)
                    assert raw.command("SET", f"b:{n}", i) == b"OK"
                    if n % 4 == 0:
                        assert raw.command("SET", f"large:{n}", large) == b"OK"
                    assert raw.command("GET", f"b:{n}") == b"%d" % i
        except BaseException as e:  # noqa: BLE001 - told below
            failures.append(repr(e))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(24)]
    for t in threads:
        t.start()
    while any(t.is_alive() for t in threads):
        most = max(most, len(server.clients()))
        time.sleep(0.005)
    assert not failures, failures[:3]
    assert 1 <= most <= 4
    assert proxy.metric("upstream", "peak") <= 4
    assert proxy.metric("upstream", "max") == 4 or proxy.metric("upstream", "ceiling") == 4


def test_a_server_without_room_is_told_from_a_broken_one(redis_server, nearkey):
    server = redis_server(args=["--maxclients", "1"])
    # Over TLS the server hangs up before it can say why.
    proxy = nearkey(server, tls=False, **QUICK)
    # The control connection takes the only place.
    reply = answers(proxy, "GET", "k")
    assert re.fullmatch(UNREACHABLE, reply) and b"max" in reply, reply
    server.control("CONFIG", "SET", "maxclients", "20")
    eventually(lambda: works(proxy), 15)


def test_a_server_with_room_for_fewer_connections_still_serves_all(redis_server, nearkey):
    server = redis_server(args=["--maxclients", "2"])
    proxy = nearkey(server, upstream__connections=4, **QUICK)
    clients = [proxy.connect() for _ in range(40)]
    done = 0
    for n, raw in enumerate(clients):
        reply = eventually(lambda raw=raw: raw.raw("SET", "k", "v"), 10)
        done += reply == b"+OK\r\n"
        assert reply == b"+OK\r\n" or re.fullmatch(UNREACHABLE, reply), (n, reply)
        raw.close()
    assert done > 0


# Credentials and certificates.

def test_a_wrong_password_is_named_and_not_shown(redis_server, nearkey):
    server = redis_server(password="right-one")
    proxy = nearkey(f"rediss://:{SECRET}@localhost:{server.tls_port}", args=["--upstream-ca", server.certs.ca], **QUICK)
    reply = answers(proxy, "GET", "k")
    assert re.fullmatch(UNREACHABLE, reply), reply
    assert b"WRONGPASS" in reply or b"auth" in reply.lower() or b"password" in reply.lower()
    assert SECRET.encode() not in reply
    assert SECRET not in proxy.log() and SECRET not in proxy.http("/health")[1]
    server.control("CONFIG", "SET", "requirepass", SECRET)
    eventually(lambda: works(proxy), 15)


def test_a_missing_password_is_named(redis_server, nearkey):
    server = redis_server(password="needed")
    proxy = nearkey(f"rediss://localhost:{server.tls_port}", args=["--upstream-ca", server.certs.ca], **QUICK)
    reply = answers(proxy, "GET", "k")
    assert re.fullmatch(UNREACHABLE, reply) and (b"NOAUTH" in reply or b"auth" in reply.lower()), reply


def test_a_user_of_the_servers_acl_is_used(redis_server, nearkey, certs):
    server = redis_server(args=["--user", "app", "on", ">app-pw", "~app:*", "&*", "+@all"])
    proxy = nearkey(f"rediss://app:app-pw@localhost:{server.tls_port}", args=["--upstream-ca", certs.ca])
    with proxy.connect() as raw:
        assert raw.raw("SET", "app:1", "v") == b"+OK\r\n"
        assert raw.raw("SET", "other", "v").startswith(b"-NOPERM")
        assert raw.command("ACL", "WHOAMI") == b"app"
        raw.nothing_left()


def test_a_password_change_leaves_open_connections_alone(redis_server, nearkey):
    server = redis_server(password="old")
    proxy = nearkey(server, **QUICK)
    with proxy.connect() as raw:
        raw.command("SET", "k", "v")
        server.control("CONFIG", "SET", "requirepass", "new")
        for _ in range(50):
            assert raw.command("GET", "k") == b"v"
        raw.nothing_left()


@pytest.mark.parametrize("certificate, verify, ca, good", [
    ("server", "full", "ca", True),
    ("server", "full", "otherca", False),
    ("stranger", "full", "ca", False),
    ("wronghost", "full", "ca", False),
    ("expired", "full", "ca", False),
    ("wronghost", "ca", "ca", True),
    ("stranger", "ca", "ca", False),
    ("expired", "ca", "ca", False),
    ("stranger", "none", None, True),
    ("expired", "none", None, True),
    ("wronghost", "none", None, True),
    ("server", "full", None, False),
])
def test_a_certificate_is_checked_as_far_as_asked(redis_server, nearkey, certs, certificate, verify, ca, good):
    server = redis_server(certificate=certificate, password=SECRET)
    args = ["--upstream-ca", certs.crt(ca)] if ca else []
    proxy = nearkey(server.url(tls=True), args=args, upstream__verify=verify, **QUICK)
    reply = answers(proxy, "SET", "k", "v")
    if good:
        assert reply == b"+OK\r\n"
    else:
        assert re.fullmatch(UNREACHABLE, reply), reply
        # Nothing was said to a server that is not the right one.
        assert server.info("commandstats").get("cmdstat_auth", "calls=1,").split("calls=")[1].startswith("1,")
        assert proxy.health()[1]["redis"]["available"] is False
        assert SECRET not in proxy.log()


def test_a_name_can_be_set_for_the_certificate(redis_server, nearkey, certs):
    server = redis_server()
    proxy = nearkey(f"rediss://127.0.0.1:{server.tls_port}", args=["--upstream-ca", certs.ca],
                    upstream__server_name="localhost", **QUICK)
    assert works(proxy)
    other = redis_server(certificate="wronghost")
    proxy = nearkey(f"rediss://127.0.0.1:{other.tls_port}", args=["--upstream-ca", certs.ca],
                    upstream__server_name="elsewhere.invalid", **QUICK)
    assert works(proxy)


def test_a_client_certificate_is_presented(redis_server, nearkey, certs):
    server = redis_server(args=["--tls-auth-clients", "yes"])
    without = nearkey(server, **QUICK)
    assert re.fullmatch(UNREACHABLE, answers(without, "GET", "k"))
    proxy = nearkey(server, upstream__client_cert=certs.crt("client"), upstream__client_key=certs.key("client"), **QUICK)
    assert works(proxy)


def test_plain_text_to_a_tls_port_and_the_reverse_say_what_is_wrong(redis_server, nearkey, certs):
    server = redis_server()
    for url, args in ((f"redis://127.0.0.1:{server.tls_port}", []),
                      (f"rediss://localhost:{server.port}", ["--upstream-ca", certs.ca])):
        proxy = nearkey(url, args=args, upstream__connect_timeout="1s", upstream__queue_timeout="2s")
        assert re.fullmatch(UNREACHABLE, answers(proxy, "GET", "k"))
    assert works(nearkey(server))


def test_a_unix_socket_can_be_the_upstream(redis_server, nearkey, tmp_path):
    path = tmp_path / "r.sock"
    server = redis_server(tls=False, args=["--unixsocket", path, "--unixsocketperm", "700"])
    proxy = nearkey(f"unix://{path}")
    assert works(proxy)
    assert server.control("GET", "works") == b"1"


def test_a_database_in_the_url_is_where_clients_start(redis_server, nearkey):
    server = redis_server()
    proxy = nearkey(f"redis://127.0.0.1:{server.port}/3")
    with proxy.connect() as raw:
        raw.command("SET", "k", "in 3")
        raw.command("SELECT", 0)
        assert raw.command("GET", "k") is None
    server.control("SELECT", 3)
    assert server.control("GET", "k") == b"in 3"


# Errors of the server itself pass unchanged.

def test_errors_of_the_server_pass_unchanged(redis_server, nearkey):
    server = redis_server()
    proxy = nearkey(server)
    with proxy.connect() as raw, server.connect() as direct:
        raw.command("SET", "k", "v")
        server.control("CONFIG", "SET", "maxmemory", "1")
        assert raw.raw("SET", "k", "w") == direct.raw("SET", "k", "w")
        assert raw.raw("GET", "k") == bulk("v")
        server.control("CONFIG", "SET", "maxmemory", "0")
        server.control("REPLICAOF", "127.0.0.1", free_port())
        assert raw.raw("SET", "k", "w").startswith(b"-READONLY")
        server.control("REPLICAOF", "NO", "ONE")
        assert eventually(lambda: raw.raw("SET", "k", "w") == b"+OK\r\n", 10)
        raw.nothing_left()


def test_a_busy_script_is_told_as_redis_tells_it(redis_server, nearkey):
    server = redis_server(args=["--busy-reply-threshold", "100"])
    proxy = nearkey(server, upstream__command_timeout="20s", upstream__keepalive="0s")
    with proxy.connect() as stuck, proxy.connect() as other, server.connect() as direct:
        other.command("SET", "warm", 1)
        stuck.command("GET", "warm")
        stuck.send(encode("EVAL", "while true do end", 0))
        time.sleep(0.5)
        assert direct.raw("GET", "warm").startswith(b"-BUSY")
        assert direct.raw("SCRIPT", "KILL") == b"+OK\r\n"
        assert stuck.reply_bytes().startswith(b"-ERR")
        assert other.command("GET", "warm") == b"1"
        stuck.nothing_left()
        other.nothing_left()


def test_a_surplus_reply_ends_the_connection_and_is_counted(nearkey):
    """A server that says one thing too many would shift every reply after it."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    served = []

    def serve():
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            served.append(sock)
            threading.Thread(target=fake_redis, args=(sock,), daemon=True).start()

    def fake_redis(sock):
        buffer = b""
        while data := sock.recv(65536):
            buffer += data
            while (split := take_command(buffer)) is not None:
                args, buffer = split
                name = args[0].upper()
                if name == b"PING":
                    sock.sendall(bulk(args[1]) if len(args) > 1 else b"+PONG\r\n")
                elif name == b"ECHO":
                    sock.sendall(bulk(args[1]))
                elif name == b"GET" and args[1] == b"surplus":
                    sock.sendall(bulk("right") + bulk("one too many"))
                elif name == b"GET":
                    sock.sendall(bulk(args[1]))
                else:
                    sock.sendall(b"-ERR unknown command '" + args[0] + b"'\r\n")

    threading.Thread(target=serve, daemon=True).start()
    proxy = nearkey(f"redis://127.0.0.1:{port}", expect_desync=True, upstream__connections=1, **QUICK)
    with proxy.connect() as raw:
        assert eventually(lambda: raw.raw("GET", "a") == bulk("a"), 10)
        assert raw.raw("GET", "surplus") == bulk("right")
        eventually(lambda: proxy.metric("desync") == 1, 10)
        for n in range(50):
            assert raw.raw("GET", f"k{n}") == bulk(f"k{n}")
    assert len(served) >= 2
    listener.close()


class Forgetful(FakeRedis):
    """Leaves out the reply to the next GET when it is told to."""

    forgets = False

    def answer(self, words):
        reply = super().answer(words)
        if self.forgets and words[0] == b"GET":
            self.forgets = False
            return b""
        return reply


def test_a_missing_reply_is_noticed_and_ends_the_connection(nearkey):
    """From there on every reply would go to the command after its own, of whichever client."""
    server = Forgetful()
    proxy = nearkey(f"redis://127.0.0.1:{server.port}", expect_desync=True, upstream__connections=1,
                    upstream__command_timeout="1s", **QUICK)
    stop, stray = threading.Event(), [[], []]

    def client(n):
        at = 0
        while not stop.is_set():
            try:
                with proxy.connect() as raw:
                    while not stop.is_set():
                        at += 1
                        key = f"{n}:{at % 100}"
                        sent, reply = time.monotonic(), raw.raw("GET", key)
                        if reply[:1] == b"$" and reply != bulk(f"value of {key}"):
                            stray[n].append(sent)
                        time.sleep(0.002)
            except (OSError, EOFError):
                pass  # closed with the connection to the server

    server.values = {f"{n}:{at}".encode(): f"value of {n}:{at}".encode() for n in (0, 1) for at in range(100)}
    clients = [threading.Thread(target=client, args=(n,)) for n in (0, 1)]
    for thread in clients:
        thread.start()
    try:
        eventually(lambda: len(server.seen) > 200, 20, what="traffic")
        assert proxy.metric("desync") == 0 and not any(stray)
        server.forgets = True
        eventually(lambda: proxy.metric("desync") > 0, 40, what="it is noticed")
        noticed, before = time.monotonic(), len(server.seen)
        eventually(lambda: len(server.seen) > before + 200, 20, what="traffic goes on")
    finally:
        stop.set()
        for thread in clients:
            thread.join(20)
    assert not [at for at in stray[0] + stray[1] if at > noticed], "after the connection was closed"
    assert proxy.metric("desync") == 1
    server.close()


def test_proof_is_asked_for_again_after_a_connection_was_lost_with_it(nearkey):
    """A question whose answer never came must not be the last one."""
    server = FakeRedis()
    proxy = nearkey(f"redis://127.0.0.1:{server.port}", upstream__connections=1, upstream__command_timeout="400ms", **QUICK)

    def pings_of_a_doubt():
        """A command that is not answered in time makes the proxy ask."""
        with proxy.connect() as raw:
            eventually(lambda: raw.raw("GET", "k") == b"$-1\r\n", 20, what="the server answers")
            before, server.holds = server.seen.count(b"PING"), True
            assert raw.raw("GET", "k").startswith(b"-ERR Nearkey: no reply")
            eventually(lambda: server.seen.count(b"PING") > before, 20, what="proof is asked for")

    for _ in range(2):
        pings_of_a_doubt()
        server.drop()
        server.holds = False
    server.close()


def take_command(buffer):
    """The arguments of the first whole command, and the rest; None if there is none."""
    lines = buffer.split(b"\r\n", 1)
    if len(lines) < 2 or not lines[0].startswith(b"*"):
        return None
    args, rest = [], lines[1]
    for _ in range(int(lines[0][1:])):
        head, _, rest = rest.partition(b"\r\n")
        if not head.startswith(b"$") or len(rest) < int(head[1:]) + 2:
            return None
        n = int(head[1:])
        args.append(rest[:n])
        rest = rest[n + 2:]
    return args, rest


def test_the_process_survives_a_storm_of_restarts(redis_server, nearkey):
    server = redis_server(password="pw")
    proxy = nearkey(server, upstream__backoff_min="1ms", upstream__backoff_max="50ms", upstream__queue_timeout="100ms")
    stop = threading.Event()
    wrong = []

    def work(n):
        while not stop.is_set():
            try:
                with proxy.connect() as raw:
                    while not stop.is_set():
                        raw.send(encode("ECHO", n) + encode("EVAL", f"return 'e{n}'", 0) + encode("PING"))
                        a, b, c = raw.reply_bytes(), raw.reply_bytes(), raw.reply_bytes()
                        if a != bulk(n) or c != b"+PONG\r\n" or not (b == bulk(f"e{n}") or b[:1] == b"-"):
                            wrong.append((a, b, c))
            except (EOFError, OSError):
                time.sleep(0.01)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(20)]
    for t in threads:
        t.start()
    for _ in range(5):
        time.sleep(0.3)
        server.stop(signal.SIGKILL)
        time.sleep(0.2)
        server.start()
    time.sleep(0.3)
    stop.set()
    for t in threads:
        t.join()
    assert not wrong, wrong[:3]
    eventually(lambda: works(proxy), 15)
