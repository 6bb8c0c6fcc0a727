"""Hundreds of clients of every kind, killed at random points, over few connections: nothing of one reaches another.

Every value tells where it belongs, so that a reply, message, queued command, watch, database or identity that reaches
somebody else is seen. What was acknowledged must be there at the end; what was not may be, but never twice.

`NEARKEY_ISOLATION_SECONDS` makes it last longer; with `NEARKEY_TEST_WORKERS=3` some workers have no connection.
"""

import asyncio
import os
import random
import time

import pytest

from conftest import DIRECT
from harness.activities import ACTIVITIES, CHANNELS, COUNTERS, DATABASES, QUEUES, who_am_i
from harness.crowd import Killed, Ledger, Peer
from harness.liar import Liar
from harness.ports import eventually
from test_storm import ConnectionWatch

CLIENTS = 200
WITNESSES = 8
SECONDS = float(os.environ.get("NEARKEY_ISOLATION_SECONDS", "15"))
CEILING = 20


@pytest.fixture
def setting(redis_server, request):
    """A server and the address before it: its own, or that of a proxy with these settings."""
    def build(**settings):
        server = redis_server(tls=False)
        if DIRECT:
            return server, ("127.0.0.1", server.port)
        proxy = request.getfixturevalue("nearkey")(server, **settings)
        return server, (proxy.host, proxy.port)
    return build


# The crowd.

def prepare(server):
    for db in range(DATABASES):
        with server.connect() as direct:
            direct.command("SELECT", db)
            direct.command("SET", "whoami", f"db{db}")
            direct.command("HSET", "shape", "field", "value")
            direct.command("XGROUP", "CREATE", "stream", "g", 0, "MKSTREAM")


async def life(n, address, ledger, end, rnd):
    """One client after the other in the same place; most are killed, the others leave when they are done."""
    generation = 0
    while time.monotonic() < end:
        generation += 1
        fuse = rnd.randrange(1, 150) if rnd.random() < 0.8 else None
        peer = Peer(address, rnd, ledger, f"{n}/{generation}", fuse)
        await peer.open()
        try:
            for _ in range(rnd.randrange(10, 60)):
                if time.monotonic() > end:
                    break
                await rnd.choices([*ACTIVITIES], [*ACTIVITIES.values()])[0](peer)
                await who_am_i(peer)
            await peer.quit()
        except Killed:
            ledger.seen["killed"] += 1
        except (EOFError, OSError) as e:
            peer.accuse("lost its connection", repr(e))
        except Exception as e:  # noqa: BLE001 - what it got is not even of the right type
            peer.accuse("cannot make sense of it", repr(e))
        finally:
            peer.writer.close()


class Witness:
    """Is there from before the first message until after the last, and must have heard all."""

    def __init__(self, n, address, ledger):
        self.peer = Peer(address, random.Random(n), ledger, f"witness{n}")
        self.protocol = 2 + n % 2
        self.verb, self.names = (("SUBSCRIBE", [f"ch{c}" for c in range(CHANNELS)]),
                                 ("PSUBSCRIBE", ["ch*"]))[n // 2 % 2]
        self.heard = {}

    async def come(self):
        peer = self.peer
        await peer.open()
        await peer.ask(("HELLO", self.protocol))
        peer.protocol = self.protocol
        await peer.say((self.verb, *self.names))
        for _ in self.names:
            await peer.frame()
        judge = peer.message

        def message(parts):
            judge(parts)
            said = self.heard.setdefault(parts[-2].decode(), [])
            said.append(parts[-1].decode())

        peer.message = message

    async def listen(self):
        """Until the last message of each channel has come."""
        def is_over():
            return all(self.heard.get(f"ch{n}", [""])[-1].startswith(f"ch{n}|the end|") for n in range(CHANNELS))

        try:
            await self.peer.until(is_over, "last message")
        except (EOFError, OSError) as e:
            self.peer.accuse("lost its connection", repr(e))

    def judge(self, ledger):
        for channel, published in ledger.published.items():
            heard = set(self.heard.get(channel, ()))
            if missed := published - heard:
                self.peer.accuse("missed", len(missed), "of", len(published), sorted(missed)[:3])
            if invented := heard - ledger.perhaps_published[channel]:
                self.peer.accuse("heard what nobody said", sorted(invented)[:3])


async def crowd(server, address, ledger, clients, seconds):
    end = time.monotonic() + seconds
    witnesses = [Witness(n, address, ledger) for n in range(WITNESSES)]
    for witness in witnesses:
        await witness.come()
    listening = [asyncio.create_task(w.listen()) for w in witnesses]
    await asyncio.gather(*(life(n, address, ledger, end, random.Random(n)) for n in range(clients)))
    last = Peer(address, random.Random(0), ledger, "the end")
    await last.open()
    for n in range(CHANNELS):
        text = f"ch{n}|the end|{n}"
        ledger.perhaps_published.setdefault(f"ch{n}", set()).add(text)
        await last.ask(("PUBLISH", f"ch{n}", text))
    await asyncio.gather(*listening)
    for witness in witnesses:
        witness.judge(ledger)
        witness.peer.writer.close()
    last.writer.close()


# The reckoning.

def settle(server):
    """The last killed client's commands have run, or never will, and its waits are over."""
    eventually(lambda: server.info("clients")["blocked_clients"] == "0", 20, what="nobody waits in the server")
    before, quiet = None, 0
    for _ in range(500):
        now = server.calls()
        now.pop("ping", None)
        quiet = quiet + 1 if now == before else 0
        if quiet == 10:
            return
        before = now
        time.sleep(0.02)


def reckon(server, ledger):
    with server.connect() as direct:
        left, done = {}, {}
        for db in range(DATABASES):
            direct.command("SELECT", db)
            reckon_counters(direct, db, ledger)
            if direct.command("GET", "whoami") != b"db%d" % db:
                ledger.accuse("whoami was written in", db)
            for q in range(QUEUES):
                name = f"q{q}@{db}"
                left[name] = direct.command("LRANGE", name, 0, -1)
                left[f"z{name}"] = direct.command("ZRANGE", f"z{name}", 0, -1)
            done[db] = direct.command("LRANGE", f"done@{db}", 0, -1)
    reckon_elements(left, done, ledger)


def reckon_counters(direct, db, ledger):
    keys = [("pair:a", db), *((f"opt:{n}", db) for n in range(COUNTERS))]
    keys += [key for key in {*ledger.acknowledged, *ledger.unknown} if key[0].startswith("own:") and key[1] == db]
    for key in keys:
        final = int(direct.command("GET", key[0]) or 0)
        low = ledger.acknowledged[key]
        if not low <= final <= low + ledger.unknown[key]:
            ledger.accuse("counter", key, final, "acknowledged", low, "unknown", ledger.unknown[key])
    if direct.command("GET", "pair:a") != direct.command("GET", "pair:b"):
        ledger.accuse("half a transaction in", db)


def reckon_elements(left, done, ledger):
    """Each element is in one place; those that are in none were popped for a client that was killed."""
    places = [element for elements in [*left.values(), *done.values()] for element in elements]
    places += [e for e in ledger.popped if not e.startswith(b"stream@")]
    if len(places) != len(set(places)):
        ledger.accuse("in two places", [p for p in set(places) if places.count(p) > 1][:3])
    for name, elements in left.items():
        if strangers := [e for e in elements if not e.startswith(name.encode())]:
            ledger.accuse("in the wrong queue", name, strangers[:3])
    if invented := set(places) - set(ledger.pushed):
        ledger.accuse("never pushed", sorted(invented)[:3])
    if astray := ledger.moved - {e for elements in done.values() for e in elements}:
        ledger.accuse("moved, but not there", sorted(astray)[:3])
    lost = {e for e, acknowledged in ledger.pushed.items() if acknowledged} - set(places)
    ledger.seen["lost"] = len(lost)
    if len(lost) > ledger.may_be_lost:
        ledger.accuse("lost", len(lost), "elements, where killed clients can have lost", ledger.may_be_lost)


def test_nothing_of_one_client_reaches_another(setting):
    server, address = setting(upstream__max_connections=CEILING, upstream__connections=1, upstream__lease_timeout="60s",
                              upstream__queue_timeout="60s")
    prepare(server)
    ledger = Ledger()
    with ConnectionWatch(server) as watch:
        asyncio.run(crowd(server, address, ledger, CLIENTS, SECONDS))
    settle(server)
    reckon(server, ledger)
    print(dict(ledger.seen), f"{watch.most} connections at most, {ledger.may_be_lost} elements may be lost")
    assert not ledger.wrong, "\n".join(str(w) for w in ledger.wrong[:20])
    # A run in which nothing happens proves nothing.
    floors = {"identity": 2000, "transactions": 200, "won races": 100, "lost races": 30, "popped": 200, "moved": 50,
              "waited in vain": 20, "messages": 2000, "subscriptions": 50, "invalidations": 30, "killed": 100,
              "ended while waiting": 10}
    assert not {k: (ledger.seen[k], n) for k, n in floors.items() if ledger.seen[k] < n}, dict(ledger.seen)
    if not DIRECT:
        assert watch.samples > 10
        assert watch.most <= CEILING


@pytest.mark.parametrize("lie", ["forgets WATCH", "forgets SELECT", "drops a message", "repeats a message",
                                 "swaps two replies",
                                 "misses an invalidation"])
def test_who_mixes_clients_up_is_found_out(redis_server, lie, monkeypatch):
    """The test itself: an endpoint that lies is not let through."""
    monkeypatch.setattr("harness.crowd.FORGOTTEN", 1)
    server = redis_server(tls=False)
    prepare(server)
    liar, ledger = Liar(server.port, lie), Ledger()
    try:
        asyncio.run(crowd(server, ("127.0.0.1", liar.port), ledger, 30, 1.5))
    finally:
        liar.close()
    settle(server)
    reckon(server, ledger)
    assert ledger.wrong


# What many clients cost.

def test_five_hundred_subscribers_of_fifty_channels_cost_one_connection(setting):
    server, address = setting()

    async def main():
        rnd = random.Random(1)
        peers = [Peer(address, rnd, ledger, f"s{n}") for n in range(500)]
        for n, peer in enumerate(peers):
            await peer.open()
            if n % 2:
                await peer.ask(("HELLO", 3))
        before = len(server.clients())
        for n, peer in enumerate(peers):
            await peer.say(("SUBSCRIBE", *(f"c{(n + i) % 50}" for i in range(5))))
        for peer in peers:
            for _ in range(5):
                await peer.frame()
        for n in range(50):
            await asyncio.to_thread(server.control, "PUBLISH", f"c{n}", f"c{n}|control{n}|1")
        for peer in peers:
            await peer.until(lambda: len(peer.last_heard) == 5, "message")  # noqa: B023
        rows = server.clients()
        for peer in peers:
            peer.cut()
        return before, rows

    ledger = Ledger()
    before, rows = asyncio.run(main())
    assert not ledger.wrong, ledger.wrong[:5]
    assert ledger.seen["messages"] == 2500
    if not DIRECT:
        assert sum(int(row["sub"]) > 0 for row in rows) == 1
        assert len(rows) <= before + 1, rows


def test_five_hundred_clients_with_pipelined_transactions_cost_the_shared_connections_alone(setting):
    server, address = setting()

    async def client(n):
        rnd = random.Random(n)
        peer = Peer(address, rnd, ledger, f"t{n}")
        await peer.open()
        if n % 2:
            await peer.ask(("HELLO", 3))
        for _ in range(10):
            tag = peer.tag()
            await peer.say(("MULTI",), ("INCR", "a"), ("SET", f"k{n}", tag), ("GET", f"k{n}"), ("INCR", "b"), ("EXEC",))
            replies = [await peer.hear() for _ in range(6)]
            if replies[-1][1:3] != [b"OK", tag.encode()] or replies[-1][0] != replies[-1][3]:
                peer.accuse("got", replies)
        await peer.quit()
        peer.writer.close()

    async def main():
        await asyncio.gather(*map(client, range(500)))

    ledger = Ledger()
    with ConnectionWatch(server) as watch:
        asyncio.run(main())
    assert not ledger.wrong, ledger.wrong[:5]
    assert server.control("GET", "a") == server.control("GET", "b") == b"5000"
    if not DIRECT:
        # Two shared connections for each of the two protocols.
        assert watch.samples > 10
        assert watch.most <= 4
