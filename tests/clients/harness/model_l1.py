"""L1's rules as a small program of their own, slow and plain: what the checker is tried on, also with a rule left out.

It takes Nearkey's arguments and settings as far as the tests use them, so that `NEARKEY_BIN` can name the script
`harness/model-nearkey`, and leaves out the rule that `NEARKEY_SABOTAGE` names. Every client has its own connection to the
server; only GET is kept.
"""

import asyncio
import os
import re
import sys
import time
from collections import deque
from urllib.parse import urlparse

from .frames import FrameBuffer, elements, kind_of, word
from .resp import encode

SETTINGS = {k.removeprefix("NEARKEY_CACHE__"): v for k, v in os.environ.items() if k.startswith("NEARKEY_CACHE__")}
ON = SETTINGS.get("DEFAULT") == "cache" and SETTINGS.get("MODE", "auto") != "off"
LEFT_OUT = os.environ.get("NEARKEY_SABOTAGE", "")
STAMPS, PUSHES, NULLS = "stamps", "pushes", "null_pushes"

ONE_KEY = set(b"SET DEL UNLINK GETDEL PEXPIRE PERSIST HSET INCR RPUSH".split())
READS = set(b"GET HGET HGETALL MGET EXISTS EVAL_RO".split())
HARMLESS = set(b"PING ECHO SELECT HELLO CLIENT MULTI DISCARD WATCH UNWATCH AUTH QUIT RESET FUNCTION".split())


def seconds(text):
    number, unit = re.fullmatch(r"([\d.]+)(ms|s|m)", text).groups()
    return float(number) * {"ms": 0.001, "s": 1, "m": 60}[unit]


LEASE, MAX_AGE, ABSENT_AGE = (seconds(SETTINGS.get(k, d)) for k, d in (("LEASE", "1s"), ("MAX_AGE", "30s"), ("ABSENT_AGE", "1s")))


def keeps(rule):
    return rule != LEFT_OUT


class Cache:
    def __init__(self):
        self.stamps, self.epoch, self.entries, self.trackers, self.seen = {}, 0, {}, {}, set()
        self.hits = self.misses = self.fills = self.pushes = 0

    def stamp(self, key):
        return self.stamps.get(key, 0), self.epoch

    def touch(self, keys):
        if keys is None:
            self.epoch += keeps("unknown_writes")
            return
        for key in keys:
            self.stamps[key] = self.stamps.get(key, 0) + 1

    def tracker(self, scope):
        if scope not in self.trackers:
            self.trackers[scope] = Tracker(self, scope)
        return self.trackers[scope]


class Tracker:
    """The tracked connection of a user and a database."""

    def __init__(self, cache, scope):
        self.cache, self.scope, self.link, self.up, self.last_ok = cache, scope, 0, False, 0.0
        self.fetches, self.expected = {}, deque()
        asyncio.ensure_future(self.run())

    def is_fresh(self):
        return time.monotonic() - self.last_ok <= LEASE or not keeps("lease")

    def is_stuck(self):
        return time.monotonic() - self.last_ok > LEASE

    def fetch(self, key):
        stamp, known = self.cache.stamp(key), self.fetches.get(key)
        # An answer that is on its way for longer than the lease may be older than that.
        if known and (known[0] == stamp or not keeps("versioned_join")) and known[2] + LEASE > time.monotonic():
            return known[1]
        future = asyncio.get_running_loop().create_future()
        self.fetches[key] = (stamp, future, time.monotonic())
        self.writer.write(encode("CLIENT", "CACHING", "YES") + encode("GET", key) + encode("PTTL", key))
        sent = time.monotonic()
        self.expected += [("ok", sent), ("reply", key, stamp, future), ("life", sent)]
        return future

    async def run(self):
        while True:
            try:
                await self.talk()
            except OSError:
                pass
            self.up, self.link = False, self.link + 1
            self.fetches.clear()
            for what in self.expected:
                if what[0] == "reply" and not what[3].done():
                    what[3].set_result(None)
            self.expected.clear()
            await asyncio.sleep(0.02)

    async def talk(self):
        reader, self.writer = await asyncio.open_connection(*SERVER)
        (user, password), db = self.scope
        auth = ["AUTH", user, password] if password else []
        start = [("HELLO", 3, *auth), ("SELECT", db), ("CLIENT", "TRACKING", "ON", "OPTIN")]
        self.writer.write(b"".join(encode(*c) for c in start))
        self.expected += [("start",)] * 2 + [("up", time.monotonic())]
        frames, pinger = FrameBuffer(), asyncio.ensure_future(self.ping())
        try:
            while data := await reader.read(1 << 18):
                for frame in frames.feed(data):
                    self.handle(frame)
        finally:
            pinger.cancel()
            self.writer.close()

    async def ping(self):
        while True:
            await asyncio.sleep(LEASE / 3)
            self.writer.write(encode("PING"))
            self.expected.append(("ok", time.monotonic()))

    def handle(self, frame):
        if frame[:1] == b">":
            if kind_of(frame) == b"invalidate":
                names = elements(frame)[1]
                self.cache.pushes += 1
                if names[:1] == b"_":
                    self.cache.epoch += keeps(NULLS)
                elif keeps(PUSHES):
                    self.cache.touch([word(n) for n in elements(names)])
            return
        if frame[:1] == b"-" and self.expected[0][0] in ("start", "up"):
            raise ConnectionError(frame)
        what = self.expected.popleft()
        match what[0]:
            case "ok":
                self.last_ok = what[1]
            case "up":
                self.up, self.last_ok = True, what[1]
            case "reply":
                self.answer = (frame, *what[1:])
            case "life":
                self.last_ok = what[1]
                self.fill(frame, what[1])

    def fill(self, life, sent):
        reply, key, stamp, future = self.answer
        if self.fetches.get(key, (0, 0))[1] is future:
            del self.fetches[key]
        pttl = int(life[1:-2]) if life[:1] == b":" else -2
        if reply[:1] in b"$_" and (self.cache.stamp(key) == stamp or not keeps(STAMPS)):
            age = min(MAX_AGE if reply[:1] == b"$" else ABSENT_AGE, pttl / 1000 if pttl >= 0 and keeps("expiry") else MAX_AGE)
            place = (self.scope if keeps("scope") else None, key)
            if reply[:1] == b"_" or pttl != -2:
                self.cache.entries[place] = (reply, stamp, self, self.link, sent + age)
                self.cache.fills += 1
        if not future.done():
            # Who joined after the key's end must ask anew.
            future.set_result((reply, sent + pttl / 1000 if pttl >= 0 else None))


class Slot:
    def __init__(self, touched=None, writes=False):
        self.reply, self.touched, self.writes = None, touched, writes


class Session:
    def __init__(self, cache, reader, writer):
        self.cache, self.reader, self.writer = cache, reader, writer
        self.order, self.sent = deque(), deque()
        self.db, self.protocol, self.user = 0, 2, CREDENTIALS
        self.pinned, self.multi, self.waits_for = False, [], None

    async def run(self):
        up_reader, self.up = await asyncio.open_connection(*SERVER)
        if CREDENTIALS[1]:
            self.up.write(encode("AUTH", *CREDENTIALS))
            await up_reader.readline()
        back = asyncio.ensure_future(self.replies(up_reader))
        there = asyncio.ensure_future(self.requests())
        try:
            await asyncio.wait([back, there], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (back, there):
                task.cancel()
                task.add_done_callback(lambda done: done.cancelled() or done.exception())
            for slot in self.sent:
                self.answered(slot)
            self.up.close()
            self.writer.close()

    async def requests(self):
        frames = FrameBuffer()
        while data := await self.reader.read(1 << 18):
            for frame in frames.feed(data):
                self.request(frame)
                # What follows a fetch waits for it: passing it by, it would be in flight and show values past L1.
                if self.waits_for:
                    await asyncio.wait([self.waits_for])
                    self.waits_for = None
            await self.writer.drain()

    def request(self, frame):
        words = [word(e) for e in elements(frame)]
        name = words[0].upper()
        if ON and name == b"GET" and len(words) == 2 and not self.pinned and (not self.order or not keeps("strict_pipeline")):
            slot = self.read(words[1], frame)
            if slot:
                self.order.append(slot)
                self.flush()
                return
        self.send(Slot(*self.touches(name, words)), frame)

    def send(self, slot, frame, queue=True):
        if slot.writes and keeps("sent_writes"):
            self.cache.touch(slot.touched)
        if queue:
            self.order.append(slot)
        self.sent.append(slot)
        self.up.write(frame)

    def read(self, key, frame):
        scope = (self.user, self.db)
        tracker = self.cache.tracker(scope)
        entry = self.cache.entries.get((scope if keeps("scope") else None, key))
        slot = Slot()
        if entry:
            reply, stamp, by, link, deadline = entry
            good = (stamp == self.cache.stamp(key) or not keeps(STAMPS)) and (link == by.link or not keeps("lost_link"))
            if good and by.is_fresh() and time.monotonic() < deadline:
                self.cache.hits += 1
                slot.reply = self.rendered(reply)
                return slot
        self.cache.misses += 1
        if not tracker.up or tracker.is_stuck() or key not in self.cache.seen:
            self.cache.seen.add(key)
            return None
        self.waits_for = tracker.fetch(key)
        asked = time.monotonic()
        self.waits_for.add_done_callback(lambda done: self.fetched(slot, asked, done.result(), key, frame))
        return slot

    def fetched(self, slot, asked, answer, key, frame):
        reply, end = answer or (None, None)
        if reply is None or (end is not None and asked >= end):
            slot.touched = [key]
            self.send(slot, frame, queue=False)
            return
        slot.reply = self.rendered(reply)
        self.flush()

    def rendered(self, reply):
        return b"$-1\r\n" if reply == b"_\r\n" and self.protocol == 2 else reply

    def touches(self, name, words):
        """Keys that a command touches (None: any), and whether it writes."""
        if name == b"SELECT":
            self.db = int(words[1])
        elif name in (b"HELLO", b"AUTH"):
            self.protocol = int(words[1]) if name == b"HELLO" else self.protocol
            at = next((i for i, w in enumerate(words) if w.upper() == b"AUTH"), None)
            if at is not None and len(words) > at + 2:
                self.user = (words[at + 1].decode(), words[at + 2].decode())
        elif name in (b"MULTI", b"WATCH"):
            self.pinned = True
        if name == b"EXEC":
            keys, writes = self.multi, True
            self.pinned, self.multi = False, []
            return (None if None in keys else keys), writes
        if name in (b"DISCARD", b"UNWATCH"):
            self.pinned, self.multi = False, []
        keys, writes = self.keys(name, words)
        if self.pinned and name not in (b"MULTI", b"WATCH"):
            self.multi += [None] if keys is None else keys
        return keys, writes

    def keys(self, name, words):
        if name in ONE_KEY:
            return [words[1]], True
        if name in READS:
            return words[1:] if name != b"EVAL_RO" else words[3:4], False
        if name == b"MSET":
            return words[1::2], True
        if name == b"RENAME":
            return words[1:3], True
        return ([], False) if name in HARMLESS else (None, True)

    def answered(self, slot):
        if keeps("answered_writes" if slot.writes else "shown") and (slot.touched or slot.writes):
            self.cache.touch(slot.touched)

    async def replies(self, reader):
        frames = FrameBuffer()
        while data := await reader.read(1 << 18):
            for frame in frames.feed(data):
                slot = self.sent.popleft()
                slot.reply = frame
                self.answered(slot)
            self.flush()

    def flush(self):
        while self.order and self.order[0].reply is not None:
            self.writer.write(self.order.popleft().reply)


async def serve(listen, admin):
    cache = Cache()

    async def client(reader, writer):
        try:
            await Session(cache, reader, writer).run()
        except OSError:
            writer.close()

    async def metrics(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        names = ("hits", "misses", "fills", "pushes")
        body = "".join(f"nearkey_l1_{n}_total {getattr(cache, n)}\n" for n in names).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        writer.close()

    await asyncio.start_server(client, *listen, limit=1 << 20)
    if admin:
        await asyncio.start_server(metrics, *admin)
    await asyncio.Event().wait()


def place(text):
    host, port = text.rsplit(":", 1)
    return host, int(port)


def main(args):
    global SERVER, CREDENTIALS
    if args[:1] == ["config"]:
        return
    given = dict(zip(args[::2], args[1::2]))
    url = urlparse(given["--upstream"])
    SERVER, CREDENTIALS = (url.hostname, url.port), (url.username or "default", url.password or "")
    asyncio.run(serve(place(given["--listen"]), None if given["--admin"] == "off" else place(given["--admin"])))


if __name__ == "__main__":
    main(sys.argv[1:])
