"""What clients may make the proxy hold: memory, half requests, descriptors, connections, passwords."""

import contextlib
import os
import selectors
import socket
import sys
import threading
import time

import pytest

from harness.nearkey import MemoryWatch, binary
from harness.ports import eventually
from harness.resp import ProtocolViolation, Raw, bulk, encode

KIB = 1 << 10
MIB = 1 << 20

needs_proc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the process's memory from /proc")


# Memory.

@needs_proc
@pytest.mark.parametrize("workers", [1, 2])
def test_memory_stays_below_its_limit_whatever_clients_do(redis_server, nearkey, workers):
    limit = 64 * MIB
    server = redis_server(tls=False)
    server.control("SET", "mib", b"m" * MIB)
    server.control("SET", "small", "s")
    proxy = nearkey(server, workers=workers, process__memory_limit=limit, cache__mode="off")
    wrong, stop = [], threading.Event()

    def stay():
        with proxy.connect(timeout=60) as raw:
            done = 0
            while not stop.is_set():
                raw.send(encode("GET", "small") + encode("ECHO", done))
                expected = bulk("s") + bulk(done)
                got = raw.take(len(expected))
                if got != expected:
                    wrong.append((got, expected))
                done += 1

    with proxy.connect() as warm:
        warm.command("GET", "mib")
    others = [threading.Thread(target=stay) for _ in range(3)]
    for thread in others:
        thread.start()
    hostile = []
    with MemoryWatch(proxy) as watch:
        for n in range(100):
            raw = proxy.connect()
            hostile.append(raw)
            with contextlib.suppress(OSError):
                raw.sock.setblocking(False)
                # Many replies that nobody reads, many requests whose end never comes.
                raw.sock.send(encode("GET", "mib") * 4 if n % 2 else b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$900000\r\n")
        half = b"x" * 64 * KIB
        for _ in range(12):
            for raw in hostile[::2]:
                with contextlib.suppress(OSError):
                    raw.sock.send(half)
            time.sleep(0.02)
        try:
            eventually(lambda: proxy.metric("closed_total", "memory") > 0, 30, what="somebody is cut")
            time.sleep(0.5)
        finally:
            stop.set()
            for thread in others:
                thread.join(60)
    assert not wrong and not any(thread.is_alive() for thread in others)
    # Each worker may read on while another, which the machine does not let run, still holds what it is to give up.
    assert watch.peak <= limit * (1.1 if workers == 1 else 1.3) / KIB, f"{watch.peak} KiB"
    assert proxy.metrics()["nearkey_memory_limit_bytes"] == limit
    assert 0 < proxy.metric("closed_total", "memory") <= 100
    cut = [line for line in proxy.log_lines() if "process.memory_limit" in str(line)]
    assert cut and len(cut) < 120
    for raw in hostile:
        raw.close()
    eventually(lambda: proxy.metrics()['nearkey_buffer_bytes{side="client"}'] == 0, what="the account is even")


@needs_proc
@pytest.mark.parametrize("workers", [1, 2])
def test_memory_stays_below_its_limit_while_messages_come_faster_than_they_are_read(redis_server, nearkey, workers):
    """Twenty copies of each: those who read get all of them, those who do not are cut."""
    limit, size, messages = 64 * MIB, 200_000, 100
    server = redis_server(tls=False)
    server.control("CONFIG", "SET", "client-output-buffer-limit", "pubsub 0 0 0")
    proxy = nearkey(server, workers=workers, process__memory_limit=limit, cache__mode="off")

    def subscribe():
        raw = proxy.connect(timeout=60)
        raw.command("SUBSCRIBE", "c")
        return raw

    def read(raw, whole):
        with contextlib.suppress(OSError, EOFError):
            left = messages * len(whole)
            while left:
                left -= len(raw.take(min(left, MIB)))
            got.append(raw)

    def publish():
        with server.connect() as raw:
            raw.send(encode("PUBLISH", "c", b"z" * size) * messages)
            for _ in range(messages):
                raw.reply()

    whole = b"*3\r\n" + bulk("message") + bulk("c") + bulk(b"z" * size)
    subscribers, got = [subscribe() for _ in range(20)], []
    with MemoryWatch(proxy) as watch:
        readers = [threading.Thread(target=read, args=(raw, whole)) for raw in subscribers]
        for thread in readers:
            thread.start()
        publish()
        for thread in readers:
            thread.join(60)
        assert len(got) == 20 and proxy.metric("closed_total", "memory") == 0
        publish()  # now nobody reads
        eventually(lambda: proxy.metric("closed_total", "memory") > 0, 30, what="somebody is cut")
        time.sleep(0.3)
    assert watch.peak <= limit * (1.1 if workers == 1 else 1.3) / KIB, f"{watch.peak} KiB"
    for raw in subscribers:
        raw.close()


@needs_proc
def test_large_requests_are_refused_while_memory_is_short(redis_server, nearkey):
    server = redis_server(tls=False)
    proxy = nearkey(server, process__memory_limit=48 * MIB, cache__mode="off", upstream__large_request="16mb")
    value = b"v" * (300 * KIB)
    with proxy.connect() as raw:
        assert raw.raw("SET", "k", value) == b"+OK\r\n"
        # Halves of requests, kept alive: as much as brings the process above its soft mark, not to its limit.
        hoard = [proxy.connect() for _ in range(13)]
        for client in hoard:
            client.send(b"*2\r\n$4\r\nEVAL\r\n$2000000\r\n" + b"h" * (2 * MIB - 200 * KIB))
        eventually(lambda: "memory is near" in proxy.log(), what="memory is short")
        request = encode("SET", "k2", value)
        raw.send(request[:100_000])
        time.sleep(0.1)
        raw.send(request[100_000:] + encode("GET", "none"))
        refused = raw.reply_bytes()
        assert refused.startswith(b"-OOM Nearkey: ") and b"process.memory_limit" in refused
        raw.exactly(b"$-1\r\n")  # in step
        assert raw.raw("SET", "small", "1") == b"+OK\r\n"
        assert server.control("EXISTS", "k2") == 0
        for client in hoard:
            client.close()
        eventually(lambda: "well below" in proxy.log(), what="memory is free again")
        raw.send(request[:100_000])
        time.sleep(0.1)
        raw.send(request[100_000:])
        raw.exactly(b"+OK\r\n")
    assert proxy.metric("refused_memory") >= 1


def test_l1_stays_empty_while_memory_is_short_and_goes_before_any_client(redis_server, nearkey):
    server = redis_server(tls=False)
    proxy = nearkey(server, process__memory_limit=48 * MIB, cache__default="cache", cache__max_age="10m",
                    upstream__large_request="16mb")
    with server.connect() as direct:
        for n in range(1000):
            direct.command("SET", f"k{n}", "v" * 20_000)
    with proxy.connect(timeout=60) as raw:
        def read(times):
            held = []
            for n in range(times * 1000):
                raw.command("GET", f"k{n % 1000}")
                if n % 250 == 249:
                    held.append(proxy.metrics()["nearkey_l1_bytes"])
            return held

        hoard = [proxy.connect() for _ in range(16)]
        for client in hoard:
            client.send(b"*2\r\n$4\r\nEVAL\r\n$2000000\r\n" + b"h" * (2 * MIB - 200 * KIB))
        eventually(lambda: "memory is near" in proxy.log(), what="memory is short")
        assert max(read(4)) == 0
        assert proxy.metric("closed_total", "memory") == 0
        for client in hoard:
            client.close()
        eventually(lambda: "well below" in proxy.log(), what="memory is free again")
        eventually(lambda: max(read(2)) > 2 * MIB, 30, what="L1 holds entries")


def test_a_small_limit_leaves_l1_a_share_in_which_it_works(redis_server, nearkey):
    """The built-in cache.max_bytes is as much as the whole limit."""
    server = redis_server(tls=False)
    proxy = nearkey(server, process__memory_limit=64 * MIB, cache__default="cache", cache__max_age="10m")
    assert proxy.metrics()["nearkey_l1_max_bytes"] == 18 * MIB
    told = [line for line in proxy.log_lines() if "cache.max_bytes: L1 gets 18mb instead of 64mb (default)" in str(line)]
    assert len(told) == 1
    with server.connect() as direct, proxy.connect(timeout=60) as raw:
        for n in range(3000):
            direct.command("SET", f"k{n}", "v" * 20_000)
        for n in range(9000):
            raw.send(encode("GET", f"k{n % 3000}"))
            raw.exactly(bulk("v" * 20_000))
        held = proxy.metrics()["nearkey_l1_bytes"]
    assert MIB < held <= 18 * MIB, held
    assert "memory is near" not in proxy.log()


@needs_proc
def test_declared_lengths_cost_nothing_before_they_come(redis_server, nearkey):
    proxy = nearkey(redis_server(tls=False))
    with proxy.connect() as raw:
        raw.command("PING")
        before = proxy.memory()
        clients = [proxy.connect() for _ in range(1000)]
        for client in clients:
            client.send(b"*1000000\r\n$536870912\r\n")
        raw.command("GET", "k")
        grown = proxy.memory() - before
        for client in clients:
            client.close()
    assert grown <= 16 * KIB, f"{grown} KiB"


@needs_proc
def test_an_idle_client_is_cheap(redis_server, nearkey):
    proxy = nearkey(redis_server(tls=False))
    with proxy.connect() as raw:
        raw.command("SET", "k", "v")
        before = proxy.memory()
        clients = [proxy.connect() for _ in range(1000)]
        for client in clients:
            assert client.raw("GET", "k") == bulk("v")
        each = (proxy.memory() - before) * KIB / len(clients)
        for client in clients:
            client.close()
    assert each <= 8 * KIB, f"{each} bytes"


def test_what_a_slow_reader_has_got_is_not_kept(redis_server, nearkey):
    """It never catches up, and never falls behind by much: its replies come and go through a buffer that is never empty."""
    server = redis_server(tls=False)
    proxy = nearkey(server, listen__client_output_limit="8mb", process__memory_limit="0")
    part = b"p" * 128 * KIB
    server.control("SET", "part", part)
    reply = bulk(part)
    with proxy.connect(timeout=60) as raw:
        raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * KIB)
        raw.send(encode("GET", "part") * 30)
        held = []
        for n in range(400):
            raw.send(encode("GET", "part"))
            assert raw.take(len(reply)) == reply
            if n % 20 == 0:
                held.append(proxy.metrics()['nearkey_buffer_bytes{side="client"}'])
        raw.exactly(reply * 30)
    assert max(held) < 12 * MIB, held


# Half requests.

HALVES = [b"*", b"*1\r\n$4", b"*2\r\n$4\r\nECHO\r\n$5\r\nhe", b"PIN", b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$9000000\r\nabc"]


def test_a_request_that_does_not_come_is_given_up(redis_server, nearkey):
    server = redis_server(tls=False)
    proxy = nearkey(server, listen__request_timeout="1s")
    with proxy.connect() as idle, proxy.connect() as busy:
        idle.command("SET", "k", "v")
        slow = []
        for half in HALVES:
            raw = proxy.connect()
            raw.send(encode("GET", "k") + half)
            raw.exactly(bulk("v"))
            slow.append(raw)
        answers = [raw.until_eof(20) for raw in slow]
        for half, answer in zip(HALVES, answers):
            if len(half) > 30:
                assert answer == b""  # the server has its beginning
            else:
                assert answer.startswith(b"-ERR Nearkey: ") and b"listen.request_timeout" in answer
        assert idle.command("GET", "k") == b"v" and busy.command("GET", "k") == b"v"
    assert proxy.metric("closed_total", "request_timeout") == len(HALVES)
    assert server.control("STRLEN", "k") == 1


def test_a_trickle_is_given_up_and_progress_is_not(redis_server, nearkey):
    proxy = nearkey(redis_server(tls=False), listen__request_timeout="1s")
    with proxy.connect() as trickle, proxy.connect() as steady, proxy.connect() as chatty:
        size = 3 * MIB
        trickle.send(b"*2\r\n$4\r\nECHO\r\n$100000\r\n")
        steady.send(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n" % size)
        ended = None
        for n in range(48):
            # Always in the middle of some request, but never of the same one.
            chatty.send(encode("ECHO", n)[:-3] if n == 0 else encode("ECHO", n - 1)[-3:] + encode("ECHO", n)[:-3])
            steady.send(b"s" * (size // 48))
            try:
                trickle.send(b"t")
            except OSError:
                ended = n
            time.sleep(0.1)
        steady.send(b"\r\n")
        steady.exactly(b"+OK\r\n")
        chatty.exactly(b"".join(bulk(n) for n in range(47)))
        assert ended is not None
    assert proxy.metric("closed_total", "request_timeout") == 1


def test_who_is_made_to_wait_is_not_late(redis_server, nearkey):
    """A half request behind a command that the server lets wait is the proxy's to wait for."""
    server = redis_server(tls=False)
    proxy = nearkey(server, listen__request_timeout="500ms")
    with proxy.connect() as raw:
        raw.send(encode("BLPOP", "list", 3) + encode("ECHO", "after")[:-4])
        time.sleep(1.5)
        server.control("RPUSH", "list", "x")
        raw.send(encode("ECHO", "after")[-4:])
        raw.exactly(b"*2\r\n" + bulk("list") + bulk("x") + bulk("after"))


# Descriptors and connections.

@needs_proc
def test_with_few_descriptors_the_proxy_keeps_enough_for_itself(redis_server, nearkey, tmp_path):
    server = redis_server()
    wrapper = tmp_path / "few-files"
    wrapper.write_text(f'#!/bin/sh\nulimit -n 128\nexec {binary()} "$@"\n')
    wrapper.chmod(0o755)
    proxy = nearkey(server, program=str(wrapper))
    with proxy.connect() as first:
        assert first.command("SET", "k", "v") == b"OK"
        crowd = []
        for _ in range(500):
            with contextlib.suppress(OSError):
                crowd.append(socket.create_connection((proxy.host, proxy.port)))
        for _ in range(50):
            assert first.command("GET", "k") == b"v"
        # The upstream can still be reconnected, and a lease opened.
        server.control("CLIENT", "KILL", "TYPE", "normal")
        with proxy_client(crowd) as inside:
            assert inside.raw("BLPOP", "none", 0.01) == b"*-1\r\n"
        for sock in crowd:
            sock.close()
    assert proxy.metric("refused_total", "limit") > 0
    assert len([line for line in proxy.log_lines() if "cannot accept" in str(line)]) <= 1


def is_open(raw):
    try:
        raw.send(encode("PING"))
        return raw.reply() == b"PONG"
    except (OSError, EOFError, ProtocolViolation):
        return False


@contextlib.contextmanager
def proxy_client(crowd):
    """One of these sockets, which the proxy has let in."""
    for sock in crowd:
        raw = Raw.__new__(Raw)
        sock.settimeout(10)
        raw.sock, raw.buffer = sock, bytearray()
        if is_open(raw):
            yield raw
            return
    raise AssertionError("nobody was let in")


@needs_proc
def test_a_lack_of_descriptors_is_told_once(redis_server, nearkey):
    resource = pytest.importorskip("resource")
    proxy = nearkey(redis_server())
    with proxy.connect() as first:
        first.command("SET", "k", "v")
        open_files = len(os.listdir(f"/proc/{proxy.pid}/fd"))
        resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, (open_files + 5, open_files + 5))
        # Each that goes lets another one in, and the next one not.
        for _ in range(10):
            rest = [socket.create_connection((proxy.host, proxy.port)) for _ in range(10)]
            time.sleep(0.05)
            for sock in rest:
                sock.close()
            assert first.command("GET", "k") == b"v"
    assert len([line for line in proxy.log_lines() if "cannot accept" in str(line)]) == 1


def test_two_thousand_connections_within_a_moment(redis_server, nearkey):
    proxy = nearkey(redis_server(tls=False))
    answered, sockets = 0, []
    with selectors.DefaultSelector() as waiting:
        try:
            for _ in range(2000):
                sock = socket.socket()
                sockets.append(sock)
                sock.setblocking(False)
                sock.connect_ex((proxy.host, proxy.port))
                waiting.register(sock, selectors.EVENT_WRITE)
        except OSError as e:
            pytest.skip(f"this machine lends the tests too few files: {e}")
        end = time.monotonic() + 60
        while answered < 2000 and time.monotonic() < end:
            for key, ready in waiting.select(1):
                if ready & selectors.EVENT_WRITE:
                    key.fileobj.send(encode("PING"))
                    waiting.modify(key.fileobj, selectors.EVENT_READ)
                else:
                    assert key.fileobj.recv(100) == b"+PONG\r\n"
                    waiting.unregister(key.fileobj)
                    answered += 1
    for sock in sockets:
        sock.close()
    assert answered == 2000


def test_clients_in_a_tls_handshake_count_as_clients(redis_server, nearkey, certs):
    proxy = nearkey(redis_server(), listen__tls_cert=certs.crt("server"), listen__tls_key=certs.key("server"),
                    listen__max_clients=10)
    time.sleep(0.2)  # who asked whether it is up may still count
    silent = [socket.create_connection((proxy.host, proxy.port)) for _ in range(30)]
    eventually(lambda: proxy.metric("refused_total", "limit") >= 20, 20, what="one too many is turned away")
    for sock in silent:
        sock.close()


# Passwords.

def test_guessing_passwords_takes_time(redis_server, nearkey):
    proxy = nearkey(redis_server(tls=False), listen__password="pw")
    with proxy.connect() as guesser, proxy.connect() as other:
        assert other.command("AUTH", "pw") == b"OK"
        began = time.monotonic()
        guesser.send(encode("AUTH", "wrong") * 3 + encode("HELLO", 3, "AUTH", "default", "wrong") * 4 + encode("PING"))
        assert other.command("ECHO", "x") == b"x"  # nobody else waits
        for _ in range(7):
            assert guesser.reply_bytes().startswith(b"-WRONGPASS")
        assert guesser.reply_bytes().startswith(b"-NOAUTH")
        assert time.monotonic() - began >= 0.45  # five pauses of 100 ms
        # It is a pause, no ban.
        assert guesser.raw("AUTH", "pw") == b"+OK\r\n"
    assert proxy.metric("auth_failures") == 7


# Foreign protocols.

REQUESTS = [
    b"POST / HTTP/1.1\r\nHost: x\r\n\r\nSET smuggled 1\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nX: \r\nSET smuggled 1\r\n\r\n",
    b"PUT /k HTTP/1.1\r\nContent-Length: 20\r\n\r\nSET smuggled 1\r\n", b"OPTIONS * HTTP/1.1\r\n\r\nSET smuggled 1\r\n",
    b"CONNECT x:1 HTTP/1.1\r\n\r\nSET smuggled 1\r\n", b"HEAD / HTTP/1.0\r\n\r\nSET smuggled 1\r\n",
    b"DELETE / HTTP/1.1\r\n\r\nSET smuggled 1\r\n", b"PATCH / HTTP/1.1\r\n\r\nSET smuggled 1\r\n",
    b"Host: example.com\r\nSET smuggled 1\r\n", b"host:\r\nSET smuggled 1\r\n", b"post x\r\nSET smuggled 1\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\nSET smuggled 1\r\n",
]


def test_foreign_protocols_reach_nobody(redis_server, nearkey):
    server = redis_server(tls=False)
    proxy = nearkey(server)
    with proxy.connect() as warm:
        warm.command("GET", "warm")
        eventually(lambda: "command" in server.calls() or "get" in server.calls())
        before = server.info("stats")["total_net_input_bytes"], server.calls()
        for request in REQUESTS:
            with proxy.connect() as raw:
                raw.send(request)
                try:
                    assert raw.until_eof(10) == b"", request
                except ConnectionResetError:
                    pass
        after = server.calls()
    assert {name: n for name, n in after.items() if n != before[1].get(name)} == {}
    assert server.control("EXISTS", "smuggled") == 0
    hints = [line["message"] if "message" in line else str(line) for line in proxy.log_lines() if "it speaks" in str(line)]
    assert len(hints) == 1, hints


def test_a_tls_client_on_a_plain_port_is_hinted_at(redis_server, nearkey):
    proxy = nearkey(redis_server(tls=False))
    for _ in range(3):
        with proxy.connect() as raw:
            raw.send(REQUESTS[-1])
            with contextlib.suppress(ConnectionResetError):
                assert raw.until_eof(10) == b""
    assert proxy.log().count("it speaks TLS") == 1
    assert "listen.tls_cert" in proxy.log()


@pytest.mark.parametrize("request_bytes", [
    b"NOSUCH \"a\\r\\n+OK\\r\\nb\"\r\n", b"\"NO\\r\\n+SUCH\"\r\n", encode("NO\r\n+OK\r\n", "a\r\nb"), encode("CLIENT", "x\r\n+OK"),
    encode("NEARKEY", "x\r\n+OK\r\n"), encode("CLIENT", "KILL", "TYPE", "x\r\n+OK"), b"*1\r\n\n\r\n",
    encode("HELLO", "x\r\n+OK"), encode("SHUTDOWN", "x\r\n+OK"), encode("SUBSCRIBE", "c") + encode("GET\r\n+OK", "x"),
])
def test_no_error_carries_a_line_end_of_a_client(endpoint, request_bytes):
    with endpoint.connect() as raw:
        raw.send(request_bytes)
        frames = b"".join(raw.reply_bytes() for _ in range(2 if b"SUBSCRIBE" in request_bytes else 1))
    errors = frames[frames.index(b"-"):]
    assert errors.count(b"\r\n") == 1 and errors.endswith(b"\r\n") and errors.count(b"\n") == 1, frames
