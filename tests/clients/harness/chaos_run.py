"""A run of chaos: a server, a faulty link before it, the proxy, its clients, and who breaks it all in turn."""

import asyncio
import os
import random
import time
from collections import Counter

from .chaos import DEADLINE, Chronicle, Place, close_the_books, life, prepare, watch_over
from .faulty_link import WOUNDS, FaultyLink
from .nearkey import Nearkey
from .resp import encode

PASSWORD = "chaos-password"

# The proxy gives up sooner than by default, so that a run sees it do so often.
SETTINGS = {
    "upstream__command_timeout": "800ms", "upstream__stall_timeout": "1500ms", "upstream__connect_timeout": "1s",
    "upstream__keepalive": "200ms", "upstream__max_connections": "40", "upstream__lease_timeout": "2s",
}
L1 = {"cache__default": "cache", "cache__mode": "tracking", "cache__lease": "500ms", "cache__scripts": "declared"}

PATH_FAULTS = ("delay", "hold", "black hole", "trickle", "refuse", "reset all")
SERVER_FAULTS = ("kill -9", "freeze", "readonly", "password", "client kill")
FAULTS = (*PATH_FAULTS, *SERVER_FAULTS)


class Run:
    """`clients` of them, for `seconds`; `stop_at_first` ends it with the first thing that is wrong."""

    def __init__(self, redis_server, directory, certs, *, seed=7, clients=200, l1=True, tls=False, workers=1, program=None,
                 sabotage=None, stop_at_first=False, settings=(), faults=FAULTS, wounds=WOUNDS, pause=(0, 0), large=1):
        self.seed, self.random, self.clients = seed, random.Random(seed), clients
        self.tls, self.certs, self.directory = tls, certs, directory
        self.faults, self.wounds, self.pause = faults, wounds, pause
        self.server = redis_server(tls=tls, password=PASSWORD, args=("--appendonly", "yes", "--appendfsync", "always"))
        self.chronicle = Chronicle(stop_at_first, large)
        self.options = {**SETTINGS, **(L1 if l1 else {}), **dict(settings)}
        self.options |= {"workers": workers, "program": program}
        if sabotage:
            self.options["env"] = {"NEARKEY_SABOTAGE": sabotage}
        self.schedule, self.injected, self.recoveries = [], Counter(), []
        self.nearkey = None
        self.calm = asyncio.Event()

    def __str__(self):
        c = self.chronicle
        slow = sorted(t for _, t in self.recoveries)
        told = f"{slow[len(slow) // 2]:.2f} s, at most {slow[-1]:.2f} s ({max(self.recoveries, key=lambda r: r[1])[0]})" if slow else "none"
        return (f"seed {self.seed}, {'TLS' if self.tls else 'plain'}: {c.checked} replies checked, {sum(c.errors.values())} errors, "
                f"slowest answer {c.slowest:.1f} s\nfaults: {dict(self.injected)} and {dict(self.link.done)}\nrecovered within {told}\n"
                f"seen: {dict(c.seen)}\nerrors: {dict(c.errors)}\nwrong: {len(c.wrong)} {[str(w)[:500] for w in c.wrong[:6]]}")

    def story(self):
        return f"{self}\nschedule: {self.schedule}"

    def run(self, seconds):
        asyncio.run(self.main(seconds))
        if not self.chronicle.over:
            close_the_books(self.server, self.chronicle)
        return self

    async def main(self, seconds):
        prepare(self.server)
        self.link = FaultyLink(self.server.tls_port if self.tls else self.server.port, self.seed)
        await self.link.start()
        scheme = "rediss" if self.tls else "redis"
        args = ["--upstream-ca", self.certs.ca] if self.tls else []
        url = f"{scheme}://:{PASSWORD}@localhost:{self.link.port}"
        self.nearkey = await asyncio.to_thread(lambda: Nearkey(url, self.directory / "nearkey-chaos", args=args, **self.options))
        address = (self.nearkey.host, self.nearkey.port)
        self.before = self.usage()
        self.chronicle.began = time.monotonic()
        end = time.monotonic() + seconds
        places = [Place(n) for n in range(self.clients)]
        tasks = [asyncio.ensure_future(life(place, address, self.chronicle, random.Random(f"{self.seed}/{place.n}"), end,
                                            self.pause)) for place in places]
        helpers = [asyncio.ensure_future(c) for c in (watch_over(self.chronicle, end), self.wound(end))]
        try:
            await self.break_things(address, end)
            while not self.chronicle.over and not all(task.done() for task in tasks):
                await asyncio.sleep(0.05)
        finally:
            for task in (*tasks, *helpers):
                task.cancel()
            ends = await asyncio.gather(*tasks, *helpers, return_exceptions=True)
            if failed := [e for e in ends if isinstance(e, Exception)]:
                raise failed[0]
        if not self.chronicle.over:
            await self.recover("the end", address)
            await self.settle()
        self.metrics = await asyncio.to_thread(self.nearkey.metrics)
        self.link.close()

    def close(self):
        if self.nearkey:
            self.nearkey.stop()

    # What the proxy takes.

    def usage(self):
        pid = self.nearkey.pid
        return {"fds": len(os.listdir(f"/proc/{pid}/fd")), "threads": len(os.listdir(f"/proc/{pid}/task")),
                "rss": self.nearkey.memory()}

    async def settle(self):
        """Until the proxy has noticed that everybody is gone."""
        end = time.monotonic() + 10
        while time.monotonic() < end:
            self.after = self.usage()
            if self.after["fds"] <= self.before["fds"] + int(SETTINGS["upstream__max_connections"]):
                return
            await asyncio.sleep(0.1)

    # Who breaks things.

    async def break_things(self, address, end):
        deck = []
        while time.monotonic() < end - 1 and not self.chronicle.over:
            deck = deck or self.random.sample(self.faults, len(self.faults))
            self.calm.set()
            await asyncio.sleep(self.random.uniform(0.1, 0.5))
            fault, lasts = deck.pop(), self.random.uniform(0.1, 1.2)
            self.schedule.append((round(time.monotonic() - self.chronicle.began, 2), fault, round(lasts, 2)))
            self.injected[fault] += 1
            if fault in PATH_FAULTS:
                await self.break_path(fault, lasts)
            else:
                await self.break_server(fault, lasts)
            self.calm.clear()
            await self.recover(fault, address)

    async def break_path(self, fault, lasts):
        on, off = {
            "delay": ({"delay": (0.0, self.random.choice((0.005, 0.05, 0.3)))}, {"delay": None}),
            "hold": ({"hold": True}, {"hold": False}),
            "black hole": ({"swallow": True}, {"swallow": False}),
            "trickle": ({"trickle": self.random.choice(((1, 7), (20, 400)))}, {"trickle": None}),
            "refuse": ({"refuse": True}, {"refuse": False}),
            "reset all": ({}, {}),
        }[fault]
        self.link.set(**on)
        if fault in ("refuse", "reset all"):
            self.link.cut_all()
        await asyncio.sleep(lasts)
        self.link.set(**off)

    async def break_server(self, fault, lasts):
        server, control = self.server, lambda *args: asyncio.to_thread(self.server.control, *args)
        match fault:
            case "kill -9":
                await asyncio.to_thread(server.stop)
                await asyncio.sleep(lasts / 2)
                await asyncio.to_thread(server.start)
            case "freeze":
                server.freeze()
                await asyncio.sleep(lasts * 1.5)
                server.thaw()
            case "readonly":
                await control("REPLICAOF", "127.0.0.1", "1")
                await asyncio.sleep(lasts)
                await control("REPLICAOF", "NO", "ONE")
            case "password":
                await control("CONFIG", "SET", "requirepass", "another")
                await control("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                await asyncio.sleep(lasts)
                await control("CONFIG", "SET", "requirepass", PASSWORD)
            case "client kill":
                for kind in ("normal", "pubsub"):
                    await control("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

    async def wound(self, end):
        """One connection after the other comes to grief, but not while others are to recover."""
        turn = 0
        while time.monotonic() < end - 1 and not self.chronicle.over and self.wounds:
            await asyncio.sleep(self.wound_pause())
            await self.calm.wait()
            turn += self.link.wound(self.wounds[turn % len(self.wounds)])

    def wound_pause(self):
        return self.random.uniform(0.05, 0.25)

    async def recover(self, fault, address):
        """How long it takes until a new client can write again."""
        began = time.monotonic()
        while time.monotonic() - began < DEADLINE and not self.chronicle.over:
            if await self.probe(address):
                took = time.monotonic() - began
                self.recoveries.append((f"{fault} at {began - self.chronicle.began:.1f} s", took))
                return
            await asyncio.sleep(0.02)
        if not self.chronicle.over:
            self.chronicle.accuse("no recovery", fault)

    async def probe(self, address):
        writer = None
        try:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(encode("INCR", "probe"))
            reply = await asyncio.wait_for(reader.readline(), DEADLINE)
            return reply[:1] == b":"
        except (OSError, EOFError, asyncio.TimeoutError):
            return False
        finally:
            if writer:
                writer.close()
