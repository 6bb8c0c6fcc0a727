"""Clients of all kinds whose replies tell by themselves whether they are right, in a world where everything breaks.

Each client lives many lives in its place: it comes, does some of what applications do, and goes, in order or in the
middle of something. What went wrong is in the `Chronicle`: a reply that cannot be this command's, a write that was
acknowledged and is gone, or was made twice, a client that nobody answers.
"""

import asyncio
import time
from collections import Counter
from itertools import count

from .crowd import Killed, Ledger, Peer
from .frames import ErrorValue, FrameBuffer

CHANNELS, QUEUES, HOT, LISTS, DATABASES = 6, 4, 8, 16, 3
LARGE = 400_000

# Who has no answer and no end after this long was forgotten.
DEADLINE = 20

# The command was surely not run.
NOT_RUN = (b"LOADING", b"READONLY", b"EXECABORT", b"MASTERDOWN", b"ERR Nearkey: all ", b"NOAUTH", b"WRONGPASS", b"MISCONF")
# It may have been run, or there was nothing to run.
UNKNOWN_FATE = (b"ERR Nearkey: no reply", b"UNBLOCKED", b"ERR Nearkey: ")

# A write that keeps versions growing, whatever overtakes whatever on its way.
RAISE = """local now = tonumber(string.match(redis.call('GET', KEYS[1]) or '', '^h:%d+:(%d+):') or 0)
if tonumber(ARGV[1]) > now then redis.call('SET', KEYS[1], ARGV[2]) end return ARGV[1]"""


class Gone(EOFError):
    """The endpoint has closed the connection."""


class Chronicle(Ledger):
    """What all clients together did and saw."""

    def __init__(self, stop_at_first=False, large=1):
        super().__init__()
        self.weights = [weight * (large if kind in (put_large, get_large) else 1) for kind, weight in PIPELINED.items()]
        self.stop_at_first, self.began = stop_at_first, time.monotonic()
        self.first_wrong = None
        self.checked, self.errors, self.slowest = 0, Counter(), 0.0
        # Unique elements of lists: True if acknowledged.
        self.tokens = {}
        # The highest acknowledged version of each hot key.
        self.hot, self.hot_next = Counter(), Counter()
        self.waiting = {}
        self.over = False

    def accuse(self, *what):
        if self.first_wrong is None:
            self.first_wrong = time.monotonic() - self.began
        super().accuse(f"{time.monotonic() - self.began:.2f}s", *what)
        self.over |= self.stop_at_first

    def fail(self, error):
        """Notes an error reply; true if the command was surely not run."""
        self.errors[b" ".join(error.split()[:6]).decode(errors="replace")] += 1
        return error.startswith(NOT_RUN)


class Place:
    """What stays from one life to the next: the versions of the keys that only this client writes."""

    def __init__(self, n):
        self.n, self.lives, self.versions = n, count(1), {}

    def version(self, key):
        return self.versions.setdefault(key, Version())


class Version:
    def __init__(self):
        self.known, self.next, self.open = 0, 1, set()

    def take(self):
        self.open.add(self.next)
        self.next += 1
        return self.next - 1

    def settle(self, version):
        """It is, or was, the state of the key."""
        self.open.discard(version)
        self.known = version


class Wire(asyncio.Protocol):
    def __init__(self, guest):
        self.guest, self.buffer, self.lost, self.waiter = guest, FrameBuffer(), False, None

    def connection_made(self, transport):
        self.guest.writer = transport

    def data_received(self, data):
        try:
            for frame in self.buffer.feed(data):
                self.guest.take(frame)
        except Exception as e:  # noqa: BLE001 - bytes that are no reply
            self.guest.accuse("cannot make sense of", bytes(self.buffer.data[:80]), repr(e))
            self.guest.writer.abort()
        self.wake()

    def connection_lost(self, _):
        self.lost = True
        self.wake()

    def wake(self):
        if self.waiter and not self.waiter.done():
            self.waiter.set_result(None)


class Guest(Peer):
    """One connection: a client of the crowd that puts up with errors and ends."""

    def __init__(self, address, rnd, chronicle, place, fuse):
        super().__init__(address, rnd, chronicle, f"{place.n}/{next(place.lives)}", fuse)
        self.place, self.seen_hot, self.counted, self.voice = place, {}, {}, count(1)

    async def open(self):
        _, self.wire = await asyncio.get_running_loop().create_connection(lambda: Wire(self), *self.address)
        self.buffer = self.wire.buffer

    def cut(self):
        if self.rnd.random() < 0.5:
            self.writer.abort()
        else:
            self.writer.close()

    async def read(self, seconds=None):
        if self.burns_out():
            await asyncio.sleep(self.rnd.choice((0, 0.001, 0.01, 0.1)))
            self.cut()
            raise Killed(True)
        if self.wire.lost:
            raise Gone("closed by the endpoint")
        loop = asyncio.get_running_loop()
        self.wire.waiter = loop.create_future()
        began = time.monotonic()
        if seconds is None:
            self.ledger.waiting[self] = began
        else:
            timer = loop.call_later(seconds, self.wire.wake)
        try:
            await self.wire.waiter
        finally:
            if seconds is None:
                self.ledger.waiting.pop(self, None)
                self.ledger.slowest = max(self.ledger.slowest, time.monotonic() - began)
            else:
                timer.cancel()
        return bool(self.frames) or not self.wire.lost

    async def hear(self):
        reply = await super().hear()
        if isinstance(reply, ErrorValue):
            if not reply.startswith((*NOT_RUN, *UNKNOWN_FATE)):
                self.accuse("an error of no known kind", bytes(reply))
        else:
            self.ledger.checked += 1
        return reply

    async def ask_one(self, *command):
        await self.say(command)
        return await self.hear()

    async def row(self, items):
        """A pipeline. Each item is a command, what judges its reply, and what is told if that never comes (False if the
        command was surely not run)."""
        answered = 0
        try:
            await self.say(*(command for command, _, _ in items))
            for command, judge, lose in items:
                reply = await self.hear()
                answered += 1
                if isinstance(reply, ErrorValue):
                    lose(not self.ledger.fail(reply))
                elif not judge(reply):
                    self.accuse("to", [str(part)[:60] for part in command], "got", str(reply)[:200])
        except BaseException:
            # Of what was not written whole, the beginning may have been.
            for _, _, lose in items[answered:]:
                lose(True)
            raise
        return answered


def nothing(_):
    pass


# What goes into pipelines. Each gives (command, judge, lose).

def echo(g):
    tag = g.tag().encode()
    command = ("ECHO", tag) if g.rnd.random() < 0.3 else ("EVAL", "return ARGV[1]", 0, tag)
    g.ledger.seen["echoes"] += 1
    return command, lambda reply: reply == tag, nothing


def put(g, kind="k", sizes=(0, 10, 300, 3000, 9000)):
    key = f"{kind}:{g.place.n}:{g.db}"
    state = g.place.version(key)
    version, size = state.take(), g.rnd.choice(sizes)
    text = f"{key}:{version}:{size}:".encode() + b"x" * size

    def judge(reply):
        state.settle(version)
        return reply == b"OK"

    g.ledger.seen["writes"] += 1
    return ("SET", key, text), judge, lambda maybe: maybe or state.open.discard(version)


def get(g, kind="k"):
    key = f"{kind}:{g.place.n}:{g.db}"
    state = g.place.version(key)

    def judge(reply):
        if reply is None:
            return state.known == 0
        head, version, size = split(reply)
        if head != key.encode() or len(reply) != len(b":".join((head, version, size))) + 1 + int(size):
            return False
        if reply.count(b"x", -int(size) or len(reply)) != int(size):
            return False
        version = int(version)
        if version != state.known and version not in state.open:
            return False
        state.settle(version)
        return True

    return ("GET", key), judge, nothing


def split(reply):
    """Key, version and size of the padding."""
    parts = reply[:80].split(b":")
    return b":".join(parts[:3]), parts[3], parts[4]


def put_large(g):
    g.ledger.seen["large"] += 1
    return put(g, "big", (LARGE, 150_000))


def get_large(g):
    return get(g, "big")


def increment(g):
    key = (f"c:{g.place.n}", g.db)
    g.ledger.seen["increments"] += 1

    def judge(reply):
        g.ledger.acknowledged[key] += 1
        last, g.counted[key] = g.counted.get(key, 0), reply
        return isinstance(reply, int) and reply > last

    def lose(maybe):
        g.ledger.unknown[key] += maybe

    return ("INCR", key[0]), judge, lose


def token(g):
    which, text = f"l:{g.rnd.randrange(LISTS)}", f"{g.tag()}@{g.db}"
    name = (which, g.db, text)
    g.ledger.tokens[name] = False

    def judge(reply):
        g.ledger.tokens[name] = True
        return isinstance(reply, int)

    g.ledger.seen["tokens"] += 1
    return ("RPUSH", which, text), judge, lambda maybe: maybe or g.ledger.tokens.pop(name)


def whoami(g):
    wanted = b"db%d" % g.db
    return ("GET", "whoami"), lambda reply: reply == wanted, nothing


def shape(g):
    kind = dict if g.protocol == 3 else list
    return ("HGETALL", "shape"), lambda reply: isinstance(reply, kind), nothing


def raise_hot(g):
    """The next version of a hot key, of which this client is the only writer."""
    key = g.place.n % HOT if g.place.n < HOT else None
    if key is None or g.db:
        return read_hot(g)
    g.ledger.hot_next[key] += 1
    version = g.ledger.hot_next[key]

    def judge(reply):
        g.ledger.hot[key] = max(g.ledger.hot[key], version)
        return reply == b"%d" % version

    g.ledger.seen["hot writes"] += 1
    return ("EVAL", RAISE, 1, f"hot:{key}", version, f"h:{key}:{version}:" + "y" * (version % 200)), judge, nothing


def read_hot(g):
    """Not older than what was acknowledged before it was asked, nor than what this client has read before."""
    if g.db:
        return whoami(g)
    key = g.rnd.randrange(HOT)
    least = g.ledger.hot[key]

    def judge(reply):
        if reply is None:
            return not max(least, g.seen_hot.get(key, 0))
        kind, which, version, pad = reply.split(b":")
        version = int(version)
        right = kind == b"h" and int(which) == key and len(pad) == version % 200
        right &= max(least, g.seen_hot.get(key, 0)) <= version <= g.ledger.hot_next[key]
        g.seen_hot[key] = version
        return right

    g.ledger.seen["hot reads"] += 1
    return ("GET", f"hot:{key}"), judge, nothing


PIPELINED = {echo: 6, put: 6, get: 10, increment: 8, token: 6, whoami: 2, shape: 2, read_hot: 10, raise_hot: 3, put_large: 0.06,
             get_large: 0.1}


# What clients do.

async def pipeline(g):
    kinds = g.rnd.choices([*PIPELINED], g.ledger.weights, k=g.rnd.randint(1, 16))
    await g.row([kind(g) for kind in kinds])


async def transaction(g):
    """Two counters that only grow together: nobody comes between."""
    tag, own = g.tag().encode(), f"tx:{g.place.n}"
    key = ("pair:a", g.db)
    queue = [("MULTI",), ("INCR", "pair:a"), ("SET", own, tag), ("GET", own), ("INCR", "pair:b")]
    fate = "unsent"
    try:
        if g.rnd.random() < 0.5:
            fate = "sent"
            await g.say(*queue, ("EXEC",))
            replies = [await g.hear() for _ in range(6)]
        else:
            await g.say(*queue)
            replies = [await g.hear() for _ in queue]
            fate = "sent"
            replies.append(await g.ask_one("EXEC"))
    except BaseException:
        g.ledger.unknown[key] += fate == "sent"
        raise
    *queued, results = replies
    if isinstance(results, ErrorValue):
        g.ledger.unknown[key] += not g.ledger.fail(results)
    elif queued != [b"OK"] + [b"QUEUED"] * 4 or not isinstance(results, list) or len(results) != 4:
        g.accuse("a transaction got", str(replies)[:300])
    elif any(isinstance(result, ErrorValue) for result in results):
        # Redis itself says within a transaction that it has become a replica.
        g.ledger.unknown[key] += 1
    else:
        g.ledger.acknowledged[key] += 1
        if results[0] != results[3] or results[1:3] != [b"OK", tag]:
            g.accuse("a transaction was not alone", results, tag)
        g.ledger.seen["transactions"] += 1


async def optimistic(g):
    """WATCH, read, write one more: done only if nobody was faster."""
    key = (f"opt:{g.rnd.randrange(2)}", g.db)
    if isinstance(reply := await g.ask_one("WATCH", key[0]), ErrorValue):
        if g.ledger.fail(reply):
            return
        raise Gone("it may watch, or not")
    number = await g.ask_one("GET", key[0])
    if isinstance(number, ErrorValue):
        g.ledger.fail(number)
        if await g.ask_one("UNWATCH") == b"OK":
            return
        raise Gone("it may watch, or not")
    tag = g.tag().encode()
    try:
        await g.say(("MULTI",), ("SET", key[0], int(number or 0) + 1), ("ECHO", tag), ("EXEC",))
        replies = [await g.hear() for _ in range(4)]
    except BaseException:
        g.ledger.unknown[key] += 1
        raise
    result = replies[-1]
    if isinstance(result, ErrorValue):
        g.ledger.unknown[key] += not g.ledger.fail(result)
    elif replies[:3] != [b"OK", b"QUEUED", b"QUEUED"] or result not in (None, [b"OK", tag]):
        g.accuse("a watched transaction got", str(replies)[:300])
    else:
        g.ledger.acknowledged[key] += result is not None
        g.ledger.seen["races"] += 1


async def push(g):
    queue = f"q{g.rnd.randrange(QUEUES)}"
    jobs = [f"{queue}@{g.db}:{g.tag()}".encode() for _ in range(g.rnd.randint(1, 3))]
    for job in jobs:
        g.ledger.pushed[job] = False
    reply = await g.ask_one("RPUSH", queue, *jobs)
    if isinstance(reply, ErrorValue):
        if g.ledger.fail(reply):
            for job in jobs:
                del g.ledger.pushed[job]
    elif not isinstance(reply, int):
        g.accuse("a push got", reply)
    else:
        for job in jobs:
            g.ledger.pushed[job] = True


async def pop(g):
    queue = f"q{g.rnd.randrange(QUEUES)}"
    command = g.rnd.choice((("BLPOP", queue), ("BRPOP", queue), ("BLMOVE", queue, "done", "LEFT", "RIGHT")))
    g.ledger.seen["waits"] += 1
    answered = False
    try:
        reply = await g.ask_one(*command, g.rnd.choice((0.02, 0.1, 0.3)))
        answered = not isinstance(reply, ErrorValue) or g.ledger.fail(reply)
    finally:
        g.ledger.may_be_lost += not answered
    if reply is None or isinstance(reply, ErrorValue):
        return
    job = reply if command[0] == "BLMOVE" else reply[1]
    if not job.startswith(f"{queue}@{g.db}:".encode()):
        g.accuse(command, "got", reply)
    elif command[0] == "BLMOVE":
        if job in g.ledger.moved:
            g.accuse("moved twice", job)
        g.ledger.moved.add(job)
    else:
        g.ledger.pop(job, g.name, f"{queue}@{g.db}")


async def publish(g):
    voice = f"{g.name}.{next(g.voice)}"
    for number in range(g.rnd.randint(1, 4)):
        channel = f"ch{g.rnd.randrange(CHANNELS)}"
        reply = await g.ask_one("PUBLISH", channel, f"{channel}|{voice}|{number}")
        if isinstance(reply, ErrorValue):
            return g.ledger.fail(reply)
        if not isinstance(reply, int):
            g.accuse("PUBLISH got", reply)


async def subscribe(g):
    """Comes, listens and goes. In RESP2 nothing else can be said meanwhile."""
    verb, names = g.rnd.choice((("SUBSCRIBE", [f"ch{n}" for n in range(CHANNELS)]), ("PSUBSCRIBE", ["ch*", "ch[12]", "*3"])))
    names = g.rnd.sample(names, g.rnd.randint(1, 3))
    await g.say((verb, *names))
    for number, name in enumerate(names, 1):
        got = await g.hear()
        if isinstance(got, ErrorValue):
            g.ledger.fail(got)
            raise Gone("not subscribed")
        if got != [verb.lower().encode(), name.encode(), number]:
            g.accuse(verb, names, "got", got)
    await g.listen(g.rnd.choice((0, 0.1, 0.5)))
    if g.protocol == 3:
        await g.row([echo(g), whoami(g)])
    g.ledger.seen["subscriptions"] += 1
    await g.say((verb.replace("SUB", "UNSUB"), *names))
    left = [got for got in [await g.hear() for _ in names] if not isinstance(got, ErrorValue)]
    if len(left) == len(names) and sorted(got[2] for got in left) != list(range(len(names))):
        g.accuse("to unsubscribe", names, "got", left)


async def switch(g):
    """Another database or protocol; both are this connection's own."""
    if g.rnd.random() < 0.5:
        db = g.rnd.randrange(DATABASES)
        reply = await g.ask_one("SELECT", db)
        if isinstance(reply, ErrorValue):
            return g.ledger.fail(reply)
        if reply != b"OK":
            g.accuse("SELECT got", reply)
        g.db = db
    else:
        protocol = g.rnd.choice((2, 3))
        reply = await g.ask_one("HELLO", protocol)
        if isinstance(reply, ErrorValue):
            return g.ledger.fail(reply)
        if not isinstance(reply, dict):
            reply = dict(zip(reply[::2], reply[1::2])) if isinstance(reply, list) else {}
        if reply.get(b"proto") != protocol:
            g.accuse("HELLO", protocol, "got", reply)
        g.protocol = protocol
    await g.row([whoami(g), shape(g), echo(g)])


async def silent(g):
    """Commands whose replies the client does not want."""
    before, after = echo(g), echo(g)
    skipped = g.tag()
    if g.rnd.random() < 0.5:
        quiet = [("CLIENT", "REPLY", "SKIP"), ("EVAL", "return ARGV[1]", 0, skipped)]
    else:
        quiet = [("CLIENT", "REPLY", "OFF"), ("EVAL", "return ARGV[1]", 0, skipped), ("SET", "quiet", skipped),
                 ("CLIENT", "REPLY", "ON")]
    await g.say(before[0], *quiet, after[0])
    wanted = [before[1]] + ([lambda reply: reply == b"OK"] if len(quiet) == 4 else []) + [after[1]]
    for judge in wanted:
        reply = await g.hear()
        if isinstance(reply, ErrorValue):
            g.ledger.fail(reply)
        elif not judge(reply):
            g.accuse("around silence got", reply)
    g.ledger.seen["silences"] += 1


ACTIVITIES = {pipeline: 30, transaction: 4, optimistic: 2, push: 4, pop: 4, publish: 5, subscribe: 2, switch: 3, silent: 2}


async def life(place, address, chronicle, rnd, end, pause=(0, 0)):
    """One client after the other in the same place."""
    while time.monotonic() < end and not chronicle.over:
        fuse = rnd.randrange(1, 120) if rnd.random() < 0.3 else None
        guest = Guest(address, rnd, chronicle, place, fuse)
        try:
            await guest.open()
        except OSError:
            await asyncio.sleep(0.05)
            continue
        try:
            for _ in range(rnd.randrange(5, 80)):
                if time.monotonic() > end or chronicle.over:
                    break
                await rnd.choices([*ACTIVITIES], [*ACTIVITIES.values()])[0](guest)
                await asyncio.sleep(rnd.uniform(*pause))
            await guest.quit()
            chronicle.seen["left in order"] += 1
        except Killed:
            chronicle.seen["killed"] += 1
        except (EOFError, OSError):
            chronicle.seen["closed"] += 1
            await asyncio.sleep(rnd.uniform(0, 0.1))
        except Exception as e:  # noqa: BLE001 - what it got is not even of the right type
            guest.accuse("cannot make sense of it", repr(e))
        finally:
            guest.writer.abort()


async def watch_over(chronicle, end):
    """Nobody is forgotten."""
    while time.monotonic() < end + DEADLINE and not chronicle.over:
        await asyncio.sleep(0.25)
        for guest, since in list(chronicle.waiting.items()):
            if time.monotonic() - since > DEADLINE:
                guest.accuse(f"no answer and no end within {DEADLINE} s")
                chronicle.waiting.pop(guest, None)
                guest.writer.abort()


# The end.

def prepare(server):
    for db in range(DATABASES):
        with server.connect() as direct:
            direct.command("SELECT", db)
            direct.command("SET", "whoami", f"db{db}")
            direct.command("HSET", "shape", "field", "value")


def close_the_books(server, chronicle):
    """What the server holds against what was acknowledged."""
    left = set()
    for db in range(DATABASES):
        with server.connect(timeout=60) as direct:
            direct.command("SELECT", db)
            for key, where in {**chronicle.acknowledged, **chronicle.unknown}:
                if where == db:
                    least = chronicle.acknowledged[key, where]
                    final = int(direct.command("GET", key) or 0)
                    if not least <= final <= least + chronicle.unknown[key, where]:
                        chronicle.accuse(key, "in", db, "is", final, "after", least, "and perhaps", chronicle.unknown[key, where])
            for which in range(LISTS):
                judge_list(direct.command("LRANGE", f"l:{which}", 0, -1), f"l:{which}", db, chronicle)
            for queue in [*(f"q{n}" for n in range(QUEUES)), "done"]:
                left |= set(direct.command("LRANGE", queue, 0, -1))
    done = set(chronicle.popped) | chronicle.moved
    for job in done:
        if job not in chronicle.pushed:
            chronicle.accuse("nobody has pushed", job)
    lost = [job for job, known in chronicle.pushed.items() if known and job not in done and job not in left]
    chronicle.seen["jobs"] = len(chronicle.pushed)
    chronicle.seen["jobs lost"] = len(lost)
    if len(lost) > chronicle.may_be_lost:
        chronicle.accuse(len(lost), "jobs lost, at most", chronicle.may_be_lost, "waits ended badly", lost[:3])


def judge_list(found, key, db, chronicle):
    counts = Counter(text.decode() for text in found)
    if twice := [text for text, n in counts.items() if n > 1]:
        chronicle.accuse("in", key, db, "twice", twice[:3])
    for (which, where, text), known in chronicle.tokens.items():
        if (which, where) == (key, db) and known and text not in counts:
            chronicle.accuse("acknowledged and gone", key, db, text)
    strangers = [text for text in counts if (key, db, text) not in chronicle.tokens]
    if strangers:
        chronicle.accuse("in", key, db, "what nobody was to push", strangers[:3])
