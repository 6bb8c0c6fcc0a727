"""Slow readers, full queues and connections that change their use: what one client does must not reach the others."""

import socket
import threading
import time

from harness.resp import bulk, encode

MIB = 1 << 20


def test_large_requests_follow_the_session_to_another_database_and_protocol(redis_server, nearkey):
    server = redis_server()
    large = b"x" * (2 * MIB)
    with nearkey(server).connect() as raw:
        raw.send(encode("SET", "k0", large) + encode("SELECT", 1) + encode("SET", "k1", large) + encode("SET", "k2", 1)
                 + encode("SELECT", 0) + encode("CLIENT", "UNPAUSE"))
        raw.exactly(b"+OK\r\n" * 6)
    found = {}
    with server.connect() as direct:
        for db in (0, 1):
            direct.command("SELECT", db)
            found[db] = sorted(direct.command("KEYS", "*"))
    assert found == {0: [b"k0"], 1: [b"k1", b"k2"]}


def test_a_client_that_reads_nothing_does_not_hold_up_the_others(redis_server, nearkey):
    server = redis_server(tls=False)
    proxy = nearkey(server, upstream__connections=1, upstream__max_connections=2)
    with proxy.connect(timeout=60) as other:
        other.command("SET", "big", b"b" * 200_000)
        with proxy.connect() as stuck:
            stuck.send(encode("GET", "big") * 500)
            began = time.monotonic()
            for _ in range(20):
                assert other.command("GET", "none") is None
            # 500 pauses would take many times as long.
            assert time.monotonic() - began < 8


def test_a_steady_reader_of_a_huge_value_is_not_cut(redis_server, nearkey):
    server = redis_server(tls=False)
    proxy = nearkey(server)
    size, rate = 400 * MIB, 60 * MIB
    with server.connect(timeout=60) as direct:
        direct.command("SET", "huge", b"h" * size)
    sock = socket.create_connection((proxy.host, proxy.port), 30)
    sock.sendall(encode("GET", "huge"))
    expected, received, began = size + len(b"$%d\r\n\r\n" % size), 0, time.monotonic()
    while received < expected:
        part = sock.recv(1 << 18)
        assert part, f"cut after {received} bytes"
        received += len(part)
        time.sleep(max(0, received / rate - (time.monotonic() - began)))
    sock.close()
    assert proxy.memory("VmHWM") < 200 * 1024


def test_who_waits_for_room_goes_on_when_the_queue_has_been_given_up(redis_server, nearkey):
    silent = socket.create_server(("127.0.0.1", 0))
    proxy = nearkey(f"redis://127.0.0.1:{silent.getsockname()[1]}", upstream__connect_timeout="500ms",
                    upstream__queue_timeout="500ms")
    with proxy.connect() as other, proxy.connect() as flood:
        assert other.raw("GET", "k").startswith(b"-LOADING")
        requests = encode("SET", "k", "v" * 1000) * 9000
        sender = threading.Thread(target=flood.send, args=(requests,), daemon=True)
        sender.start()
        time.sleep(0.2)
        assert other.raw("GET", "k").startswith(b"-LOADING")
    silent.close()


def test_local_replies_behind_a_late_one_do_not_pile_up(redis_server, nearkey):
    server = redis_server()
    proxy = nearkey(server)
    with proxy.connect(timeout=60) as raw:
        raw.command("SET", "k", "v")
        before = proxy.memory()
        server.freeze()
        echo = encode("ECHO", "e" * 900_000)
        sender = threading.Thread(target=raw.send, args=(encode("GET", "k") + echo * 100,))
        sender.start()
        time.sleep(2)
        grown = proxy.memory() - before
        server.thaw()
        raw.exactly(bulk("v") + bulk("e" * 900_000) * 100)
        sender.join()
    assert grown < 32 * 1024, f"{grown} KiB"


def test_a_connection_that_is_not_to_be_had_in_advance_makes_nobody_unready(redis_server, nearkey):
    server = redis_server(tls=False, args=["--maxclients", "2"])
    proxy = nearkey(server)
    with proxy.connect() as one, proxy.connect() as two:
        for _ in range(5):
            assert one.command("SET", "k", "v") == b"OK"
            assert two.command("GET", "k") == b"v"
            assert proxy.http("/ready")[0] == 200
            time.sleep(0.1)


def test_info_has_the_form_of_the_protocol_it_was_asked_in(redis_server, nearkey):
    proxy = nearkey(redis_server())
    with proxy.connect() as warm:
        warm.command("HELLO", 3)
        warm.command("GET", "k")
        with proxy.connect() as raw:
            raw.send(encode("INFO") + encode("HELLO", 3))
            assert raw.reply_bytes()[:1] == b"$"
            assert raw.reply_bytes()[:1] == b"%"
