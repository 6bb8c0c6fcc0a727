"""Connections that serve one client at a time: who waits for one gets it in turn, and nothing of one client is left for the
next.
"""

import signal
import socket
import threading
import time

import pytest

from harness.ports import eventually, freeze
from harness.resp import ReplyError, array, bulk, encode

MANY = 20


def held(proxy):
    return proxy.metrics()["nearkey_leases_held"]


def awaited(proxy):
    return proxy.metrics()["nearkey_leases_awaited"]


def waited(proxy):
    """How many waits for a lease there were, and seconds of all of them."""
    metrics = proxy.metrics()
    return metrics["nearkey_lease_wait_seconds_count"], metrics["nearkey_lease_wait_seconds_sum"]


def blocked(server):
    return int(server.info("clients")["blocked_clients"])


def part_of_a_large_set(key):
    """Begins a request that is too large to be shared, and does not end it: its connection is held."""
    return b"*3\r\n$3\r\nSET\r\n" + bulk(key) + b"$3000\r\n" + b"x" * 2000


REST = b"x" * 1000 + b"\r\n"


def large_set(raw, key):
    """In two parts: what arrives whole is not too large."""
    raw.send(part_of_a_large_set(key))
    time.sleep(0.003)
    raw.send(REST)
    raw.exactly(b"+OK\r\n")


def start(redis_server, nearkey, tls=False, **settings):
    server = redis_server(tls=tls)
    defaults = dict(upstream__large_request=1024, upstream__max_connections=2, upstream__connections=1,
                    upstream__lease_timeout="10s")
    return server, nearkey(server, **(defaults | settings))


# What follows needs no blocking commands: large requests hold leases too.


def test_a_lease_given_back_goes_to_whoever_has_waited_longest(redis_server, nearkey):
    server, proxy = start(redis_server, nearkey, tls=True, upstream__max_connections=1, workers=1)
    clients = [proxy.connect() for _ in range(8)]
    order = []
    for n, client in enumerate(clients):
        client.send(part_of_a_large_set(f"k{n}"))
        eventually(lambda n=n: awaited(proxy) == n and held(proxy) == 1)
    opened = int(server.info("stats")["total_connections_received"])

    def finish(n):
        clients[n].exactly(b"+OK\r\n")
        order.append(n)

    threads = [threading.Thread(target=finish, args=(n,)) for n in range(8)]
    for t in threads:
        t.start()
    for n, client in enumerate(clients):
        # The younger ones could go on as well, if it were their turn.
        assert order == list(range(n))
        client.send(REST)
        threads[n].join(10)
    assert order == list(range(8))
    # All of it on one connection.
    assert int(server.info("stats")["total_connections_received"]) == opened
    assert proxy.metric("upstream", "peak") == 1
    count, seconds = waited(proxy)
    assert count == 8 and seconds > 0
    eventually(lambda: held(proxy) == 0 and awaited(proxy) == 0)
    for client in clients:
        client.close()


def test_who_waits_in_vain_is_told_the_setting_and_harms_nobody(redis_server, nearkey):
    _, proxy = start(redis_server, nearkey, upstream__max_connections=1, upstream__lease_timeout="600ms", workers=1)
    with proxy.connect() as holder, proxy.connect() as first, proxy.connect() as second:
        holder.send(part_of_a_large_set("h"))
        eventually(lambda: held(proxy) == 1)
        began = time.monotonic()
        first.send(encode("CLIENT", "UNPAUSE"))
        time.sleep(0.4)
        late = time.monotonic()
        second.send(encode("CLIENT", "UNPAUSE"))
        first.exactly(b"-ERR Nearkey: all 1 upstream connections are busy (upstream.max_connections)\r\n")
        assert 0.55 < time.monotonic() - began < 1.5
        # The second has waited 200 ms by now and has 400 ms left.
        eventually(lambda: awaited(proxy) == 1)
        time.sleep(0.1)
        holder.send(REST)
        holder.exactly(b"+OK\r\n")
        second.exactly(b"+OK\r\n")
        assert time.monotonic() - late < 0.6
        assert first.command("CLIENT", "UNPAUSE") == b"OK"
    assert proxy.metric("nearkey_errors_total", "busy") == 1


def test_a_shared_command_at_the_ceiling_waits_its_own_time(redis_server, nearkey):
    _, proxy = start(redis_server, nearkey, upstream__max_connections=1, upstream__lease_timeout="600ms", workers=1)
    with proxy.connect() as holder, proxy.connect() as first, proxy.connect() as second:
        holder.send(part_of_a_large_set("h"))
        eventually(lambda: held(proxy) == 1)
        first.send(encode("GET", "a"))
        time.sleep(0.4)
        second.send(encode("GET", "h"))
        first.exactly(b"-ERR Nearkey: all 1 upstream connections are busy (upstream.max_connections)\r\n")
        time.sleep(0.1)
        holder.send(REST)
        holder.exactly(b"+OK\r\n")
        second.exactly(bulk("x" * 3000))


def test_who_leaves_the_line_is_passed_over(redis_server, nearkey):
    server, proxy = start(redis_server, nearkey, upstream__max_connections=1, workers=1)
    with proxy.connect() as holder, proxy.connect() as last:
        holder.send(part_of_a_large_set("h"))
        eventually(lambda: held(proxy) == 1)
        leavers = [proxy.connect() for _ in range(5)]
        for n, leaver in enumerate(leavers):
            leaver.send(part_of_a_large_set(f"l{n}"))
            eventually(lambda n=n: awaited(proxy) == n + 1)
        last.send(encode("CLIENT", "UNPAUSE"))
        eventually(lambda: awaited(proxy) == 6)
        for leaver in leavers:
            leaver.close()
        eventually(lambda: awaited(proxy) == 1)
        holder.send(REST)
        holder.exactly(b"+OK\r\n")
        last.exactly(b"+OK\r\n")
    eventually(lambda: held(proxy) == 0)
    assert sorted(server.control("KEYS", "*")) == [b"h"]


def test_a_lease_of_another_key_makes_room_at_once(redis_server, nearkey):
    _, proxy = start(redis_server, nearkey, upstream__max_connections=1, upstream__lease_timeout="5s", workers=1)
    with proxy.connect() as one, proxy.connect() as other:
        # The switch to database 1 needs the only connection; from then on nothing of it is open.
        other.command("SELECT", 1)
        one.send(part_of_a_large_set("k"))
        eventually(lambda: held(proxy) == 1)
        other.send(encode("CLIENT", "UNPAUSE"))
        eventually(lambda: awaited(proxy) == 1)
        one.send(REST)
        began = time.monotonic()
        one.exactly(b"+OK\r\n")
        other.exactly(b"+OK\r\n")
        assert time.monotonic() - began < 0.09


@pytest.mark.parametrize("workers", [1, 3])
def test_nobody_starves(redis_server, nearkey, workers):
    """Some keep their line full at every moment; others, of another database or worker, get their turn all the same."""
    _, proxy = start(redis_server, nearkey, upstream__max_connections=1, upstream__lease_timeout="2s", workers=workers)
    over = threading.Event()
    failures = []
    many = encode("CLIENT", "UNPAUSE") * 200

    def hammer(raw):
        try:
            with raw:
                raw.send(many)
                while not over.is_set():
                    raw.send(many)
                    raw.exactly(b"+OK\r\n" * 200)
                raw.exactly(b"+OK\r\n" * 200)
        except BaseException as e:  # noqa: BLE001 - told below
            failures.append(repr(e))

    others = [proxy.connect() for _ in range(workers)]
    for other in others:
        other.command("SELECT", 1)
    threads = [threading.Thread(target=hammer, args=(proxy.connect(),)) for _ in range(4 * workers)]
    for t in threads:
        t.start()
    try:
        time.sleep(0.3)
        for _ in range(2):
            for other in others:
                assert other.command("CLIENT", "UNPAUSE") == b"OK"
                assert other.command("GET", "none") is None
    finally:
        over.set()
        for t in threads:
            t.join(60)
    assert not failures, failures[:3]
    assert proxy.metric("upstream", "peak") == 1


def test_what_is_opened_for_a_client_that_leaves_is_not_left_behind(redis_server, nearkey, fault_proxy):
    server = redis_server(tls=False)
    network = fault_proxy(server)
    proxy = nearkey(network, upstream__large_request=1024, upstream__connections=1, workers=1)
    with proxy.connect() as shared:
        shared.command("GET", "k")
        before = len(server.clients())
        server.freeze()
        with proxy.connect() as raw:
            raw.send(part_of_a_large_set("k"))
            eventually(lambda: awaited(proxy) == 1 and proxy.metrics()["nearkey_upstream_connections"] == 2)
        eventually(lambda: proxy.metrics()["nearkey_upstream_connections"] == 1, seconds=0.2)
        server.thaw()
        eventually(lambda: len(server.clients()) == before)
        assert held(proxy) == 0 and awaited(proxy) == 0


def test_an_idle_lease_is_closed_in_its_time_or_by_the_server(redis_server, nearkey):
    server, proxy = start(redis_server, nearkey, upstream__idle_timeout="1s", workers=1)
    with proxy.connect() as raw:
        assert raw.command("CLIENT", "UNPAUSE") == b"OK"
        eventually(lambda: len(server.clients()) == 1)
        eventually(lambda: not server.clients(), seconds=3)
        for _ in range(3):
            assert raw.command("CLIENT", "UNPAUSE") == b"OK"
            server.control("CLIENT", "KILL", "TYPE", "normal")
            eventually(lambda: proxy.metrics()["nearkey_upstream_connections"] == 0)
        assert raw.command("CLIENT", "UNPAUSE") == b"OK"


def test_a_held_lease_is_not_idle(redis_server, nearkey):
    _, proxy = start(redis_server, nearkey, upstream__idle_timeout="300ms", upstream__keepalive="0s", workers=1)
    with proxy.connect() as raw:
        raw.send(part_of_a_large_set("k"))
        eventually(lambda: held(proxy) == 1)
        time.sleep(1)
        assert held(proxy) == 1
        raw.send(REST)
        raw.exactly(b"+OK\r\n")
        eventually(lambda: proxy.metrics()["nearkey_upstream_connections"] == 0, seconds=2)


@pytest.mark.parametrize("extra", [b":1\r\n", b">2\r\n+invalidate\r\n*0\r\n", b"$5\r\nab"])
def test_an_idle_lease_that_speaks_is_closed(nearkey, extra):
    """A reply that nobody asked for, or a push that somebody has left on."""
    with FakeServer() as fake:
        proxy = nearkey(f"redis://127.0.0.1:{fake.port}", expect_desync=True, workers=1)
        with proxy.connect() as raw:
            assert raw.command("CLIENT", "UNPAUSE") == b"OK"
            eventually(lambda: held(proxy) == 0 and proxy.metrics()["nearkey_upstream_connections"] == 1)
            fake.say(extra)
            eventually(lambda: proxy.metrics()["nearkey_upstream_connections"] == 0)
            assert proxy.metric("desync") == 1
            assert raw.command("CLIENT", "UNPAUSE") == b"OK"
            assert fake.accepted == 2


class FakeServer:
    """Knows no HELLO and says OK to everything else but PING; `say` says something unasked on the latest connection."""

    def __enter__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.accepted = 0
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.listener.close()

    def say(self, data):
        self.latest.sendall(data)

    def _serve(self):
        while True:
            try:
                self.latest, _ = self.listener.accept()
            except OSError:
                return
            self.accepted += 1
            threading.Thread(target=self._answer, args=(self.latest,), daemon=True).start()

    def _answer(self, sock):
        while data := sock.recv(1 << 16):
            words = data.split(b"\r\n")
            replies = {b"HELLO": b"-ERR unknown command `HELLO`\r\n", b"PING": bulk(words[4]) if len(words) > 4 else b"+PONG\r\n",
                       b"COMMAND": b"*0\r\n"}
            sock.sendall(replies.get(words[2], b"+OK\r\n"))


def test_leases_survive_clients_that_come_and_go(redis_server, nearkey):
    """Waiters and holders leave at every moment; those who stay are served, and nothing is left in the end."""
    server, proxy = start(redis_server, nearkey, upstream__max_connections=3, upstream__lease_timeout="10s")
    over = threading.Event()
    failures = []

    def stay(n):
        try:
            with proxy.connect() as raw:
                for i in range(40):
                    large_set(raw, f"k{n}:{i}")
                    assert raw.command("STRLEN", f"k{n}:{i}") == 3000
        except BaseException as e:  # noqa: BLE001 - told below
            failures.append(repr(e))

    def leave(n):
        i = 0
        while not over.is_set():
            i += 1
            raw = proxy.connect()
            if i % 3 == 0:
                raw.command("SELECT", n % 3)
            raw.send(part_of_a_large_set("never"))
            time.sleep((n * 7 + i * 3) % 11 / 1000)
            raw.close()

    staying = [threading.Thread(target=stay, args=(n,)) for n in range(6)]
    leaving = [threading.Thread(target=leave, args=(n,)) for n in range(6)]
    for t in staying + leaving:
        t.start()
    for t in staying:
        t.join(60)
    over.set()
    for t in leaving:
        t.join(20)
    assert not failures, failures[:3]
    eventually(lambda: held(proxy) == 0 and awaited(proxy) == 0)
    assert proxy.metric("upstream", "peak") <= 3
    assert server.control("EXISTS", "never") == 0


# Blocking commands.


def test_twenty_who_block_are_served_in_turn(redis_server, nearkey):
    server, proxy = start(redis_server, nearkey, upstream__max_connections=4, upstream__lease_timeout="20s", workers=1)
    clients = [proxy.connect() for _ in range(MANY)]
    for n, client in enumerate(clients):
        client.send(encode("BLPOP", "q", 0))
        eventually(lambda n=n: held(proxy) + awaited(proxy) == n + 1)
    eventually(lambda: blocked(server) >= 3)
    served = []
    lock = threading.Lock()

    def take(n):
        reply = clients[n].reply()
        with lock:
            served.append((n, int(reply[1])))

    threads = [threading.Thread(target=take, args=(n,)) for n in range(MANY)]
    for t in threads:
        t.start()
    for i in range(MANY):
        server.control("RPUSH", "q", i)
        eventually(lambda i=i: len(served) == i + 1)
        # The next in line must be blocked before the next element comes.
        eventually(lambda i=i: held(proxy) + awaited(proxy) == MANY - i - 1)
        eventually(lambda: blocked(server) >= min(3, MANY - i - 1))
    assert served == [(n, n) for n in range(MANY)]
    assert proxy.metric("upstream", "peak") <= 4
    for t in threads:
        t.join(5)
    for client in clients:
        client.nothing_left()


def test_every_element_is_popped_once(redis_server, nearkey):
    server, proxy = start(redis_server, nearkey, upstream__max_connections=4, upstream__lease_timeout="30s")
    total = 2000
    got = []
    lock = threading.Lock()

    failures = []

    def work():
        try:
            with proxy.connect(timeout=60) as raw:
                while True:
                    _, value = raw.command("BLPOP", "q", 0)
                    if value == b"end":
                        return
                    with lock:
                        got.append(int(value))
        except BaseException as e:  # noqa: BLE001 - told below
            failures.append(repr(e))

    threads = [threading.Thread(target=work) for _ in range(MANY)]
    for t in threads:
        t.start()
    for i in range(total):
        server.control("RPUSH", "q", i)
    server.control("RPUSH", "q", *["end"] * MANY)
    for t in threads:
        t.join(60)
    assert not failures, failures[:3]
    assert sorted(got) == list(range(total))
    assert proxy.metric("upstream", "peak") <= 4
    eventually(lambda: held(proxy) == 0 and awaited(proxy) == 0)


def test_a_client_that_goes_frees_its_connection_for_the_next(redis_server, nearkey):
    server, proxy = start(redis_server, nearkey, upstream__max_connections=3, upstream__lease_timeout="5s", workers=1)
    with proxy.connect() as waiting:
        gone = [proxy.connect() for _ in range(2)]
        for n, client in enumerate(gone):
            client.send(encode("BLPOP", "none", 0))
            eventually(lambda n=n: blocked(server) == n + 1)
        waiting.send(encode("BLPOP", "q", 0))
        eventually(lambda: awaited(proxy) == 1)
        began = time.monotonic()
        gone[0].close()
        eventually(lambda: awaited(proxy) == 0)
        assert time.monotonic() - began < 1
        server.control("RPUSH", "q", "x")
        waiting.exactly(array(bulk("q"), bulk("x")))
        gone[1].close()
        eventually(lambda: blocked(server) == 0)
        server.control("RPUSH", "none", "kept")
        assert server.control("LLEN", "none") == 1


def test_a_wait_ends_while_the_server_stands_still(redis_server, nearkey):
    server, proxy = start(redis_server, nearkey, workers=1)
    for _ in range(3):
        raw = proxy.connect()
        raw.send(encode("BLPOP", "q", 0))
        eventually(lambda: blocked(server) == 1)
        server.freeze()
        raw.close()
        # It is not waited for long, and finds the end of the connection when it wakes up.
        eventually(lambda: proxy.metrics()["nearkey_upstream_connections"] == 0, seconds=1)
        server.thaw()
        eventually(lambda: blocked(server) == 0)
        assert server.control("RPUSH", "q", "element") == 1
        assert server.control("LPOP", "q") == b"element"
    assert held(proxy) == 0 and proxy.metrics()["nearkey_lost_pops_total"] == 0


def test_an_element_that_comes_for_a_client_that_is_gone_is_counted(redis_server, nearkey):
    server, proxy = start(redis_server, nearkey, workers=1)
    raw = proxy.connect()
    client_id = raw.command("CLIENT", "ID")
    raw.send(encode("BLPOP", "q", 0))
    eventually(lambda: blocked(server) == 1)
    freeze(proxy.process)
    raw.close()
    time.sleep(0.05)
    assert server.control("RPUSH", "q", "the element") == 1
    time.sleep(0.05)
    assert server.control("LLEN", "q") == 0
    proxy.process.send_signal(signal.SIGCONT)
    eventually(lambda: proxy.metrics()["nearkey_lost_pops_total"] == 1)
    warning = next(line for line in proxy.log_lines() if "an element may be lost" in line["message"])
    assert warning["client"] == client_id
    assert "the element" not in proxy.log()


def test_unblock_across_clients(redis_server, nearkey):
    server, proxy = start(redis_server, nearkey, upstream__max_connections=8)
    clients = [proxy.connect() for _ in range(5)]
    with proxy.connect() as controller:
        for mode, expected in [((), b"*-1\r\n"), (("TIMEOUT",), b"*-1\r\n"),
                               (("error",), b"-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n")]:
            ids = [client.command("CLIENT", "ID") for client in clients]
            for n, client in enumerate(clients):
                client.send(encode("BLPOP", "none", 0))
                eventually(lambda n=n: blocked(server) == n + 1)
            assert controller.command("CLIENT", "UNBLOCK", ids[3], *mode) == 1
            clients[3].exactly(expected)
            assert controller.command("CLIENT", "UNBLOCK", ids[3], *mode) == 0
            for client_id in ids[:3] + ids[4:]:
                assert controller.command("CLIENT", "UNBLOCK", client_id, *mode) == 1
            for client in clients[:3] + clients[4:]:
                client.exactly(expected)
        assert controller.command("CLIENT", "UNBLOCK", 10**9) == 0
        assert controller.command("CLIENT", "UNBLOCK", -1) == 0
        # The ids are the proxy's: those of the server mean nothing here.
        for row in server.clients():
            if int(row["id"]) not in ids:
                assert controller.command("CLIENT", "UNBLOCK", row["id"]) == 0
    for client in clients:
        client.nothing_left()


def test_a_blocked_client_that_is_killed_ends_its_wait(redis_server, nearkey):
    server, proxy = start(redis_server, nearkey, upstream__max_connections=8)
    with proxy.connect() as victim, proxy.connect() as controller:
        victim_id = victim.command("CLIENT", "ID")
        victim.send(encode("BLPOP", "q", 0))
        eventually(lambda: blocked(server) == 1)
        assert controller.command("CLIENT", "KILL", "ID", victim_id) == 1
        assert victim.until_eof() == b""
        eventually(lambda: blocked(server) == 0, seconds=2)
        server.control("RPUSH", "q", "x")
        assert controller.command("LPOP", "q") == b"x"
        assert held(proxy) == 0


def test_pipelined_blocking_commands_let_others_pass(redis_server, nearkey):
    server, proxy = start(redis_server, nearkey, upstream__max_connections=1, upstream__lease_timeout="20s", workers=1)
    with proxy.connect() as greedy, proxy.connect() as other:
        greedy.send(encode("BLPOP", "q", 0) * 400)
        server.wait_for_blocked(1)
        other.send(encode("BLPOP", "q", 0))
        eventually(lambda: awaited(proxy) == 1)
        server.control("RPUSH", "q", *range(500))
        # The first was for who held the connection, the second is for who has waited for it.
        assert int(other.reply()[1]) == 1
        values = [int(greedy.reply()[1]) for _ in range(400)]
        assert values == [0, *range(2, 401)]


def test_a_command_that_the_server_does_not_know_either_costs_no_connection(redis_server, nearkey):
    """It is asked for on a lease, which is as it was before."""
    server, proxy = start(redis_server, nearkey, upstream__max_connections=3, workers=1)
    for _ in range(100):
        with proxy.connect() as raw:
            assert raw.raw("NOSUCH", "x").startswith(b"-ERR unknown command 'NOSUCH'")
            assert raw.command("SET", "k", "v") == b"OK"
    assert proxy.metrics()["nearkey_upstream_connects_total"] <= 3


def test_an_error_reply_leaves_a_usable_lease(redis_server, nearkey):
    server, proxy = start(redis_server, nearkey, upstream__max_connections=1, workers=1)
    server.control("SET", "s", "x")
    with proxy.connect() as raw:
        for _ in range(3):
            try:
                raw.command("BLPOP", "s", 0)
            except ReplyError as e:
                assert str(e).startswith("WRONGTYPE")
            else:
                raise AssertionError("an error was due")
        assert raw.command("BLPOP", "none", "0.01") is None
    assert int(server.info("stats")["total_connections_received"]) <= 3


def test_a_wait_on_a_dead_connection_ends_soon_after_its_own_time(redis_server, nearkey, fault_proxy):
    """Half-open, nothing ever tells that the server is gone: the command said itself how long it would take."""
    server = redis_server(tls=False)
    link = fault_proxy(server)
    proxy = nearkey(link, upstream__command_timeout="500ms", upstream__on_lost_reply="error")
    with proxy.connect() as raw:
        raw.send(encode("BLPOP", "nobody", "0.3"))
        server.wait_for_blocked(1)
        link.swallow = True
        assert raw.line().startswith(b"-ERR Nearkey: the connection to the upstream was lost")
