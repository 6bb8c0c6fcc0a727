"""Hundreds of clients over two connections: every reply belongs to its request, whatever the network does to the bytes."""

import asyncio
import random
import threading
import time

import pytest

from harness.resp import array, bulk, encode

NULL = {2: b"$-1\r\n", 3: b"_\r\n"}
WRONGTYPE = b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"


class StormClient:
    """A client whose every command says beforehand, byte for byte, what its reply must be."""

    def __init__(self, n, protocol, seed):
        self.n = n
        self.protocol = protocol
        self.random = random.Random(seed * 10_007 + n)
        self.counter = 0
        self.version = {}
        self.checked = 0

    def greeting(self):
        """Commands of the connection's start whose replies vary; answered one by one."""
        return [encode("HELLO", self.protocol)] if self.protocol == 3 else []

    def command(self):
        """One random command and its reply."""
        n, r = self.n, self.random
        k = f"k:{n}:{r.randrange(5)}"
        match r.randrange(16):
            case 0 | 1 | 2:
                version = self.version[k] = self.version.get(k, 0) + 1
                return encode("SET", k, value(k, version)), b"+OK\r\n"
            case 3 | 4 | 5 | 6:
                return encode("GET", k), self.stored(k)
            case 7:
                self.counter += 1
                return encode("INCR", f"n:{n}"), b":%d\r\n" % self.counter
            case 8:
                text = f"echo {n}.{r.random()}\r\n:1\r\n"
                return encode("ECHO", text), bulk(text)
            case 9:
                return encode("PING"), b"+PONG\r\n"
            case 10:
                return encode("LRANGE", "fixed:list", 0, 9), array(*(bulk(f"item{i}") for i in range(10)))
            case 11:
                keys = [f"k:{n}:{i}" for i in range(5)]
                return encode("MGET", *keys), array(*map(self.stored, keys))
            case 12:
                tag = f"{n}.{r.randrange(10**9)}"
                return (encode("EVAL", "return {ARGV[1], {1, 2, {ARGV[1]}}, false}", 0, tag),
                        array(bulk(tag), array(b":1\r\n", b":2\r\n", array(bulk(tag))), NULL[self.protocol]))
            case 13:
                return encode("LPUSH", "fixed:string", n), WRONGTYPE
            case 14:
                tag = f"{n}x{r.randrange(10**9)}"
                return encode("GET", tag, tag), b"-ERR wrong number of arguments for 'get' command\r\n"
            case 15:
                head = b"%1\r\n" if self.protocol == 3 else b"*2\r\n"
                return encode("HGETALL", "fixed:hash"), head + bulk("field") + bulk("value")

    def stored(self, k):
        version = self.version.get(k)
        return bulk(value(k, version)) if version else NULL[self.protocol]

    def pipeline(self):
        commands = [self.command() for _ in range(self.random.choice((1, 1, 2, 5, 10, 30)))]
        self.checked += len(commands)
        return b"".join(c for c, _ in commands), b"".join(r for _, r in commands)


def value(key, version):
    """A value that tells where it belongs; some are long."""
    pad = (hash_of(key) * 31 + version * 7) % 97
    if pad % 41 == 0:
        pad *= 300
    return f"{key}={version}:" + "x\r\n"[version % 3] * pad


def hash_of(text):
    return sum(text.encode())


async def run_client(client, host, port, rounds, until):
    reader, writer = await asyncio.open_connection(host, port, limit=1 << 22)
    for greeting in client.greeting():
        writer.write(greeting)
        await skip_reply(reader)
    for _ in range(rounds):
        requests, expected = client.pipeline()
        if client.random.random() < 0.2:
            # Torn requests, so that the proxy sees every kind of partial read.
            at = client.random.randrange(1, len(requests))
            writer.write(requests[:at])
            await asyncio.sleep(0)
            writer.write(requests[at:])
        else:
            writer.write(requests)
        got = await asyncio.wait_for(reader.readexactly(len(expected)), 120)
        assert got == expected, f"client {client.n}: {difference(expected, got)}"
        if until and time.monotonic() > until:
            break
    writer.write(encode("QUIT"))
    rest = await asyncio.wait_for(reader.read(), 120)
    assert rest == b"+OK\r\n", f"client {client.n}: left over {rest[:100]!r}"
    writer.close()


async def skip_reply(reader):
    """The reply to HELLO 3: a map of simple things and one array."""
    missing = 1
    while missing:
        line = await asyncio.wait_for(reader.readline(), 30)
        missing -= 1
        if line[:1] == b"$":
            await reader.readexactly(int(line[1:]) + 2)
        elif line[:1] == b"*":
            missing += int(line[1:])
        elif line[:1] == b"%":
            missing += 2 * int(line[1:])


def difference(expected, got):
    at = next(i for i, (a, b) in enumerate(zip(expected, got)) if a != b)
    return f"at byte {at} expected {expected[max(0, at - 50):at + 60]!r}, got {got[max(0, at - 50):at + 60]!r}"


def storm(endpoint_host, endpoint_port, server, clients, rounds, seconds=None):
    """Runs all clients at once; returns how many replies were checked."""
    server.control("RPUSH", "fixed:list", *(f"item{i}" for i in range(10)))
    server.control("SET", "fixed:string", "s")
    server.control("HSET", "fixed:hash", "field", "value")
    until = time.monotonic() + seconds if seconds else None

    async def main():
        tasks = [run_client(c, endpoint_host, endpoint_port, rounds, until) for c in clients]
        await asyncio.gather(*tasks)

    asyncio.run(main())
    for client in clients:
        if client.counter:
            assert server.control("GET", f"n:{client.n}") == b"%d" % client.counter
    return sum(c.checked for c in clients)


class ConnectionWatch:
    """Most connections of the proxy that the server's own CLIENT LIST ever showed while the block ran."""

    def __init__(self, server):
        self.server = server
        self.most = 0
        self.samples = 0

    def __enter__(self):
        self.connection = self.server.connect()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self):
        while not self._stop.wait(0.01):
            rows = self.connection.command("CLIENT", "LIST").decode().splitlines()
            self.most = max(self.most, sum(" name=test-control " not in row for row in rows))
            self.samples += 1

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        self.connection.close()


def mixed(count, seed):
    return [StormClient(n, 2 + n % 2, seed) for n in range(count)]


def test_five_hundred_clients_get_their_own_replies(redis_server, nearkey):
    server = redis_server(password="pw")
    proxy = nearkey(server)
    with ConnectionWatch(server) as watch:
        checked = storm(proxy.host, proxy.port, server, mixed(500, seed=1), rounds=25)
    assert checked > 50_000
    assert watch.samples > 10
    # Two shared connections for each of the two protocols.
    assert 1 <= watch.most <= 4
    assert proxy.process.poll() is None


@pytest.mark.parametrize("protocol", [2, 3], ids=["resp2", "resp3"])
def test_one_protocol_needs_two_connections(redis_server, nearkey, protocol):
    server = redis_server(password="pw")
    proxy = nearkey(server)
    with ConnectionWatch(server) as watch:
        checked = storm(proxy.host, proxy.port, server, [StormClient(n, protocol, 2) for n in range(500)], rounds=10)
    assert checked > 20_000
    assert watch.samples > 10
    assert 1 <= watch.most <= 2


def test_several_workers_stay_within_the_budget(redis_server, nearkey):
    server = redis_server(password="pw")
    proxy = nearkey(server, workers=3, upstream__max_connections=5)
    with ConnectionWatch(server) as watch:
        storm(proxy.host, proxy.port, server, mixed(200, seed=3), rounds=15)
    assert watch.most <= 5


def test_a_budget_of_one_connection_serves_everybody_of_one_protocol(redis_server, nearkey):
    server = redis_server(password="pw")
    proxy = nearkey(server, upstream__max_connections=1, upstream__connections=1)
    with ConnectionWatch(server) as watch:
        storm(proxy.host, proxy.port, server, [StormClient(n, 2, 4) for n in range(200)], rounds=10)
    assert watch.most == 1


def test_replies_that_arrive_in_crumbs_reach_their_clients_whole(redis_server, nearkey, fault_proxy):
    server = redis_server()
    network = fault_proxy(server)
    network.chunks = (1, 7)
    proxy = nearkey(network)
    checked = storm(proxy.host, proxy.port, server, mixed(500, seed=5), rounds=4)
    assert checked > 5_000
    assert network.faults > 20_000


def test_the_storm_itself_is_right_about_redis(endpoint):
    """The expectations hold without a proxy, too."""
    assert storm(endpoint.host, endpoint.port, endpoint.server, mixed(100, seed=6), rounds=20) > 5_000


THREE = [
    (("GET", "text"), bulk("some text\r\n$3\r\n")),
    (("LRANGE", "list", 0, -1), array(bulk("a"), bulk(""), bulk("ccc"))),
    (("GET", "none"), b"$-1\r\n"),
]
STREAM = b"".join(reply for _, reply in THREE)


@pytest.fixture
def one_connection(redis_server, nearkey, fault_proxy):
    """A proxy with exactly one connection, through a faulty network, that has carried traffic already."""
    def build(**settings):
        server = redis_server()
        server.control("SET", "text", "some text\r\n$3\r\n")
        server.control("RPUSH", "list", "a", "", "ccc")
        network = fault_proxy(server)
        proxy = nearkey(network, upstream__connections=1, upstream__keepalive="0s", upstream__backoff_min="1ms",
                        upstream__backoff_max="20ms", **settings)
        return server, network, proxy
    return build


def test_replies_cut_in_two_at_every_byte_are_whole(one_connection):
    _, network, proxy = one_connection()
    with proxy.connect() as raw:
        raw.command("GET", "warm")
        for at in range(1, len(STREAM)):
            network.split_replies_at(at)
            raw.send(b"".join(encode(*c) for c, _ in THREE))
            raw.exactly(STREAM)
        raw.nothing_left()
    assert network.faults == len(STREAM) - 1


def test_reads_are_asked_again_when_the_connection_is_lost_at_any_byte(one_connection):
    _, network, proxy = one_connection()
    for at in range(1, len(STREAM)):
        with proxy.connect() as raw:
            raw.command("GET", "warm")
            network.cut_replies_at(at)
            raw.send(b"".join(encode(*c) for c, _ in THREE))
            raw.exactly(STREAM)
            raw.nothing_left()


def test_a_client_whose_reply_is_lost_sees_whole_replies_and_then_the_end(one_connection):
    _, network, proxy = one_connection(upstream__retry_reads="false")
    ends = 0
    for at in range(1, len(STREAM)):
        with proxy.connect() as raw:
            raw.command("GET", "warm")
            network.cut_replies_at(at)
            raw.send(b"".join(encode(*c) for c, _ in THREE))
            got = raw.until_eof(10)
            assert STREAM.startswith(got)
            ends += len(got) < len(STREAM)
    assert ends == len(STREAM) - 1


def test_a_lost_reply_is_an_error_where_that_is_asked_for(one_connection):
    _, network, proxy = one_connection(upstream__on_lost_reply="error")
    for at in (1, 3, 5):
        with proxy.connect() as raw:
            raw.command("SET", "n", 0)
            network.cut_replies_at(at)
            raw.send(encode("INCR", "n") + encode("INCR", "n") + encode("ECHO", "after"))
            replies = [raw.reply_bytes() for _ in range(3)]
            assert replies[2] == bulk("after")
            assert replies[1].startswith(b"-ERR Nearkey: ")
            raw.nothing_left()


def test_writes_are_not_sent_twice_when_connections_are_lost(one_connection):
    """Counters at the server tell: at least what was acknowledged, at most that and what is unknown."""
    server, network, proxy = one_connection()
    acknowledged = unknown = 0
    rng = random.Random(12)
    for _ in range(120):
        with proxy.connect() as raw:
            raw.command("GET", "warm")
            network.cut_replies_at(rng.randrange(1, 40))
            sent = 10
            raw.send(encode("INCR", "counter") * sent)
            got = raw.until_silent(0.2)[0]
            answered = got.count(b"\r\n")
            assert got == b"".join(b":%d\r\n" % int(line[1:]) for line in got.split(b"\r\n") if line)
            acknowledged += answered
            unknown += sent - answered
    final = int(server.control("GET", "counter"))
    assert acknowledged <= final <= acknowledged + unknown
    assert unknown > 50
