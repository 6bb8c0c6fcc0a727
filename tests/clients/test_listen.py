"""Who may come in, how, and how many."""

import json
import os
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import redis

from harness.nearkey import Nearkey, binary, clean_environment
from harness.ports import eventually, free_port
from harness.resp import ProtocolViolation, Raw, bulk, encode

needs_proxy = pytest.mark.skipif(os.environ.get("NEARKEY_TEST_DIRECT") == "1", reason="about the proxy itself")


def works(raw):
    return raw.raw("SET", "works", "1") == b"+OK\r\n"


# How many.

def test_one_client_too_many_gets_redis_own_error(redis_server, nearkey):
    proxy = nearkey(redis_server(), listen__max_clients=5)
    eventually(lambda: proxy.metrics()["nearkey_clients"] == 0)  # who asked whether it is up may still count
    clients = [proxy.connect() for _ in range(5)]
    for raw in clients:
        assert raw.command("PING") == b"PONG"
    for _ in range(3):
        with proxy.connect() as sixth:
            assert sixth.until_eof() == b"-ERR max number of clients reached\r\n"
    with pytest.raises(redis.ConnectionError, match="max number of clients reached"):
        redis.Redis(proxy.host, proxy.port, retry=None, protocol=2).ping()
    clients.pop().close()

    def there_is_room():
        with proxy.connect() as raw:
            return raw.raw("PING") == b"+PONG\r\n"

    eventually(there_is_room, 10)
    for raw in clients:
        assert works(raw)
        raw.close()


def test_two_thousand_clients_at_once_are_let_in(redis_server, nearkey):
    proxy = nearkey(redis_server(), listen__max_clients=5000)
    clients = []
    try:
        for _ in range(2000):
            clients.append(proxy.connect())
    except OSError as e:
        pytest.skip(f"this machine lends the tests too few files: {e}")
    for n, raw in enumerate(clients):
        raw.send(encode("ECHO", n) + encode("GET", "none"))
    for n, raw in enumerate(clients):
        raw.exactly(bulk(n) + b"$-1\r\n")
    assert len(clients[0].command("CLIENT", "LIST").splitlines()) == 2000
    for raw in clients:
        raw.close()
    with proxy.connect() as raw:
        eventually(lambda: len(raw.command("CLIENT", "LIST").splitlines()) == 1, 10)


def test_running_out_of_files_keeps_the_clients_there_are(redis_server, nearkey):
    proxy = nearkey(redis_server())
    resource = pytest.importorskip("resource")
    if not hasattr(resource, "prlimit"):
        pytest.skip("needs prlimit")
    with proxy.connect() as first:
        first.command("SET", "k", "v")
        open_files = len(os.listdir(f"/proc/{proxy.pid}/fd"))
        resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, (open_files + 20, open_files + 20))
        rest = []
        for _ in range(60):
            rest.append(socket.create_connection((proxy.host, proxy.port)))
        for n in range(50):
            assert first.command("GET", "k") == b"v"
        for sock in rest:
            sock.close()

        def works_again():
            with proxy.connect(timeout=2) as raw:
                return raw.raw("GET", "k") == bulk("v")

        eventually(works_again, 15)
        first.nothing_left()


# Who.

def test_a_password_is_asked_for_in_the_words_of_redis(redis_server, nearkey):
    """The same conversation with a redis-server that has this password, word for word."""
    password = "let me in"
    proxy = nearkey(redis_server(), listen__password=password)
    reference = redis_server(password=password)
    conversation = [
        ("PING",), ("GET", "k"), ("NOSUCH",), ("CLIENT", "ID"), ("ECHO", "x"), ("SELECT", "1"), ("HELLO",), ("HELLO", "3"),
        ("AUTH", "wrong"), ("AUTH", "default", "wrong"), ("AUTH", "nobody", password), ("AUTH",), ("AUTH", "a", "b", "c"),
        ("HELLO", "3", "AUTH", "default", "wrong"), ("HELLO", "3", "AUTH", "nobody", password), ("HELLO", "9"),
        ("GET", "k"), ("RESET",), ("GET",), ("AUTH", password), ("GET", "k"), ("AUTH", "wrong"), ("GET", "k"),
        ("AUTH", "default", password), ("GET", "k"), ("RESET",), ("GET", "k"), ("QUIT",),
    ]
    with proxy.connect() as here, Raw("127.0.0.1", reference.port) as there:
        for command in conversation:
            assert here.raw(*command) == there.raw(*command), command
    with proxy.connect() as raw:
        assert raw.command("HELLO", 3, "AUTH", "default", password, "SETNAME", "n")[b"proto"] == 3
        assert raw.command("CLIENT", "GETNAME") == b"n"
    client = redis.Redis(proxy.host, proxy.port, password=password)
    assert client.ping()
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(proxy.host, proxy.port, password="wrong").ping()
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(proxy.host, proxy.port).ping()
    assert password not in proxy.log()


def test_a_client_without_the_password_cannot_declare_much(redis_server, nearkey):
    """Redis bounds what it reads from strangers: ten arguments of 16 KiB."""
    proxy = nearkey(redis_server(), listen__password="pw")
    reference = redis_server(password="pw")
    for payload in (b"*11\r\n", b"*1\r\n$16385\r\n", b"*10\r\n$4\r\nPING\r\n", b"*2\r\n$4\r\nECHO\r\n$16384\r\n"):
        answers = []
        for port in (proxy.port, reference.port):
            with Raw("127.0.0.1", port) as raw:
                raw.send(payload)
                answers.append(raw.until_silent(1))
        assert answers[0] == answers[1], payload


def test_nothing_travels_for_a_client_without_the_password(redis_server, nearkey):
    server = redis_server()
    proxy = nearkey(server, listen__password="pw")
    with proxy.connect() as raw:
        raw.send(encode("SET", "stranger", "1") * 100 + encode("AUTH", "wrong") + encode("SET", "stranger", "1") * 100)
        for _ in range(201):
            assert raw.reply_bytes()[:1] == b"-"
    assert server.control("EXISTS", "stranger") == 0
    assert server.clients() == []


ELSEWHERE = Path(__file__).parent / "harness" / "elsewhere.py"


def from_elsewhere(directory, **settings):
    """What a client from a non-loopback address and one from loopback get, in a network namespace of their own."""
    unshare = ["unshare", "--map-root-user", "--net"]
    if not shutil.which("unshare") or not shutil.which("ip") or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets the tests make no network namespace")
    env = clean_environment(**{f"NEARKEY_{k.upper()}": v for k, v in settings.items()})
    ended = subprocess.run([*unshare, sys.executable, str(ELSEWHERE), binary(), str(directory)], env=env,
                           capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return json.loads(ended.stdout)


@needs_proxy
def test_protected_mode_turns_clients_from_elsewhere_away(tmp_path):
    got = from_elsewhere(tmp_path)
    assert got["loopback"] == "+OK\r\n+PONG\r\n+OK\r\n"
    assert got["elsewhere"].startswith("-DENIED ") and got["elsewhere"].endswith("\r\n")
    assert got["elsewhere"].count("\r\n") == 1


@needs_proxy
@pytest.mark.parametrize("settings", [{"listen__password": "pw"}, {"listen__protected_mode": "false"}],
                         ids=["with a password", "when turned off"])
def test_clients_from_elsewhere_come_in(tmp_path, settings):
    got = from_elsewhere(tmp_path, **settings)
    assert got == {"loopback": "+OK\r\n+PONG\r\n+OK\r\n", "elsewhere": "+OK\r\n+PONG\r\n+OK\r\n"}


# How.

def test_a_unix_socket_serves_as_well(redis_server, nearkey, tmp_path):
    path = tmp_path / "n.sock"
    # What a killed process leaves behind does not stop the next.
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    proxy = nearkey(redis_server(), listen__unix=path)
    client = redis.Redis(unix_socket_path=str(path))
    assert client.set("k", b"v" * 100_000) and client.get("k") == b"v" * 100_000
    with Raw(unix=path) as raw:
        raw.send(encode("PING") * 1000)
        raw.exactly(b"+PONG\r\n" * 1000)
        raw.nothing_left()
    with proxy.connect() as raw:
        assert raw.command("STRLEN", "k") == 100_000
    assert stat.S_IMODE(os.stat(path).st_mode) & 0o007 == 0
    client.close()
    assert proxy.stop() == 0
    assert not path.exists()


def test_ipv6_loopback_serves_as_well(redis_server, nearkey):
    try:
        port = free_port("::1")
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    proxy = nearkey(redis_server(), listen=("::1", port))
    assert redis.Redis("::1", proxy.port).set("k", "v")
    with proxy.connect() as raw:
        assert b"addr=[::1]:" in raw.command("CLIENT", "INFO")


def client_context(certs, identity=None):
    context = ssl.create_default_context(cafile=certs.ca)
    if identity:
        context.load_cert_chain(certs.crt(identity), certs.key(identity))
    return context


def test_clients_can_speak_tls(redis_server, nearkey, certs):
    proxy = nearkey(redis_server(), listen__tls_cert=certs.crt("server"), listen__tls_key=certs.key("server"))
    value = bytes(range(256)) * 20_000
    for protocol in (2, 3):
        client = redis.Redis("localhost", proxy.port, ssl=True, ssl_ca_certs=certs.ca, protocol=protocol)
        assert client.set("k", value) and client.get("k") == value
        pipe = client.pipeline(transaction=False)
        for n in range(2000):
            pipe.echo(n)
        assert pipe.execute() == [b"%d" % n for n in range(2000)]
        client.close()
    with Raw("127.0.0.1", proxy.port, tls=client_context(certs)) as raw:
        raw.send(encode("GET", "k") + encode("QUIT"))
        assert raw.until_eof() == bulk(value) + b"+OK\r\n"
    with Raw("127.0.0.1", proxy.port) as plain:
        plain.send(encode("PING"))
        # A TLS alert or nothing, but no service.
        rest = plain.until_eof(10)
        assert b"PONG" not in rest


def test_tls_clients_that_stall_in_the_handshake_stop_nobody(redis_server, nearkey, certs):
    proxy = nearkey(redis_server(), listen__tls_cert=certs.crt("server"), listen__tls_key=certs.key("server"))
    silent = [socket.create_connection((proxy.host, proxy.port)) for _ in range(200)]
    for n, sock in enumerate(silent):
        sock.sendall(b"\x16\x03\x01"[:n % 4])
    with Raw("127.0.0.1", proxy.port, tls=client_context(certs)) as raw:
        assert works(raw)
    for sock in silent:
        sock.close()


def test_client_certificates_can_be_required(redis_server, nearkey, certs):
    proxy = nearkey(redis_server(), listen__tls_cert=certs.crt("server"), listen__tls_key=certs.key("server"),
                    listen__tls_client_ca=certs.ca)
    with Raw("127.0.0.1", proxy.port, tls=client_context(certs, "client")) as raw:
        assert works(raw)
    for identity in (None, "stranger"):
        with pytest.raises((ssl.SSLError, OSError, EOFError, ProtocolViolation)):
            with Raw("127.0.0.1", proxy.port, tls=client_context(certs, identity)) as raw:
                # In TLS 1.3 the client learns of the refusal with its first read.
                raw.raw("SET", "refused", "1")
    with Raw("127.0.0.1", proxy.port, tls=client_context(certs, "client")) as raw:
        assert raw.raw("EXISTS", "refused") == b":0\r\n"


def test_a_silent_client_is_closed_after_the_idle_timeout(redis_server, nearkey):
    proxy = nearkey(redis_server(), listen__idle_timeout="500ms")
    with proxy.connect() as raw:
        assert works(raw)
        assert raw.until_eof(20) == b""


def test_a_burst_of_connections_and_disconnections_leaves_nothing_open(redis_server, nearkey):
    proxy = nearkey(redis_server())
    if not os.path.isdir(f"/proc/{proxy.pid}/fd"):
        pytest.skip("counts open files in /proc")
    with proxy.connect() as raw:
        works(raw)
    eventually(lambda: proxy.connect().close() is None)

    def churn():
        for n in range(200):
            with proxy.connect() as raw:
                raw.send(encode("SET", f"churn:{n}", n))
                if n % 3:
                    raw.reply()

    before = len(os.listdir(f"/proc/{proxy.pid}/fd"))
    threads = [threading.Thread(target=churn) for _ in range(10)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    eventually(lambda: len(os.listdir(f"/proc/{proxy.pid}/fd")) <= before + 2, 10)


def test_a_port_in_use_is_one_clear_error(tmp_path, redis_server, nearkey):
    proxy = nearkey(redis_server())
    second = Nearkey("redis://127.0.0.1:1", tmp_path / "second", listen=(proxy.host, proxy.port), wait=False)
    assert second.process.wait(10) not in (0, 101)
    assert str(proxy.port) in second.log()
    with proxy.connect() as raw:
        assert works(raw)
