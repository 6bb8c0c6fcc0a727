"""Clients on asyncio sockets that may die at any moment, and the ledger in which they write what they did and saw."""

import asyncio
import socket
import struct
from collections import Counter
from contextlib import contextmanager

from .frames import CONFIRMATIONS, MESSAGES, FrameBuffer, kind_of, value
from .resp import encode

# Nobody waits so long for anything: who gets no answer by then was forgotten.
FORGOTTEN = 60


class Killed(Exception):
    """The client's own end. `complete` tells whether all that it had to say was written before."""

    def __init__(self, complete):
        super().__init__(complete)
        self.complete = complete


class Ledger:
    """What all clients together did, and what went wrong."""

    def __init__(self):
        self.wrong = []
        self.seen = Counter()
        # Increments by key: acknowledged ones, and those whose fate is not known.
        self.acknowledged, self.unknown = Counter(), Counter()
        # Elements: those pushed, True if that was acknowledged; who has popped which; moved ones; how many may be lost.
        self.pushed, self.popped, self.moved, self.may_be_lost = {}, {}, set(), 0
        # Messages by channel: acknowledged ones, and those whose fate is not known.
        self.published, self.perhaps_published = {}, {}

    def accuse(self, *what):
        if len(self.wrong) < 100:
            self.wrong.append(what)

    @contextmanager
    def increment(self, key):
        """One increment of `key`, acknowledged unless the block ends early."""
        try:
            yield
        except BaseException as e:
            if getattr(e, "complete", True):
                self.unknown[key] += 1
            raise
        self.acknowledged[key] += 1

    @contextmanager
    def wait_for(self, elements):
        """A wait for at most so many elements: they may be lost if the client ends while it waits."""
        try:
            yield
        except BaseException as e:
            if getattr(e, "complete", True):
                self.may_be_lost += elements
                self.seen["ended while waiting"] += 1
            raise

    def pop(self, element, who, queue):
        if not element.startswith(f"{queue}:".encode()):
            self.accuse(who, "got from", queue, element)
        if element in self.popped:
            self.accuse("popped twice", element, self.popped[element], who)
        self.popped[element] = who
        self.seen["popped"] += 1


class Peer:
    """One connection. After `fuse` reads and writes it is cut off, perhaps in the middle of what it writes."""

    def __init__(self, address, rnd, ledger, name, fuse=None):
        self.address, self.rnd, self.ledger, self.name, self.fuse = address, rnd, ledger, name, fuse
        self.buffer, self.frames = FrameBuffer(), []
        self.sequence, self.last_heard = 0, {}
        self.forget()

    def forget(self):
        """The state of a new connection, or of one after RESET."""
        self.protocol, self.db, self.client_name = 2, 0, None
        self.confirmed = set()
        self.tracked, self.invalidated = set(), set()

    def tag(self):
        self.sequence += 1
        return f"{self.name}.{self.sequence}"

    def accuse(self, *what):
        self.ledger.accuse(self.name, *what)

    # The connection.

    async def open(self):
        self.reader, self.writer = await asyncio.open_connection(*self.address, limit=1 << 20)
        self.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def cut(self):
        """Gone without a word: by FIN or by RST."""
        if self.rnd.random() < 0.5:
            linger = struct.pack("ii", 1, 0)
            self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()

    def burns_out(self):
        if self.fuse is None:
            return False
        self.fuse -= 1
        return self.fuse == 0

    async def say(self, *commands):
        data = b"".join(encode(*c) for c in commands)
        if self.burns_out():
            part = self.rnd.choice((0, self.rnd.randrange(len(data)), len(data)))
            self.writer.write(data[:part])
            await asyncio.sleep(self.rnd.choice((0, 0.001, 0.02)))
            self.cut()
            raise Killed(part == len(data))
        self.writer.write(data)

    async def read(self, seconds=None):
        """Takes in what comes; False if nothing came in that time."""
        if self.burns_out():
            await asyncio.sleep(self.rnd.choice((0, 0.001, 0.01, 0.1)))
            self.cut()
            raise Killed(True)
        try:
            data = await asyncio.wait_for(self.reader.read(1 << 16), FORGOTTEN if seconds is None else seconds)
        except (TimeoutError, asyncio.TimeoutError):  # one and the same since Python 3.11
            return False
        if not data:
            raise EOFError("closed by the endpoint")
        for frame in self.buffer.feed(data):
            self.take(frame)
        return True

    def take(self, frame):
        kind = kind_of(frame)
        if kind in MESSAGES:
            self.message(value(frame))
        elif kind == b"invalidate" and frame[:1] == b">":
            self.invalidate(value(frame)[1])
        else:
            if kind in CONFIRMATIONS:
                self.confirm(kind, value(frame)[1])
            elif frame[:1] == b">":
                self.accuse("a push of no kind", frame)
            elif frame == b"+RESET\r\n":
                self.confirmed.clear()
            self.frames.append(frame)

    async def frame(self):
        """The next reply or confirmation."""
        while not self.frames:
            if not await self.read():
                raise EOFError(f"no answer within {FORGOTTEN} s")
        return self.frames.pop(0)

    async def hear(self):
        return value(await self.frame())

    async def ask(self, *commands):
        """The replies to these commands, sent in one write or one by one."""
        if self.rnd.random() < 0.6:
            await self.say(*commands)
            return [await self.hear() for _ in commands]
        replies = []
        for command in commands:
            await self.say(command)
            replies.append(await self.hear())
        return replies

    async def expect(self, command, reply):
        got, = await self.ask(command)
        if got != reply:
            self.accuse("to", command, "got", got, "not", reply)

    async def listen(self, seconds):
        """Takes in messages for a while."""
        end = asyncio.get_running_loop().time() + seconds
        while (left := end - asyncio.get_running_loop().time()) > 0:
            await self.read(left)

    async def until(self, check, what):
        while not check():
            if not await self.read():
                raise EOFError(f"no {what} within {FORGOTTEN} s")

    async def quit(self):
        """An orderly end: OK, and not a byte more."""
        self.fuse = None
        await self.say(("QUIT",))
        await self.expect_end()

    async def expect_end(self):
        if (reply := await self.frame()) != b"+OK\r\n":
            self.accuse("to QUIT got", reply)
        try:
            while await self.read():
                pass
        except (EOFError, ConnectionError):
            pass
        if self.frames or self.buffer.data:
            self.accuse("left over", self.frames[:2], bytes(self.buffer.data[:50]))

    # What comes unasked.

    def confirm(self, kind, name):
        """From here on messages may come, or no longer."""
        form = kind.removesuffix(b"subscribe")
        if form.endswith(b"un"):
            self.confirmed.discard((form.removesuffix(b"un"), name))
        else:
            self.confirmed.add((form, name))

    def message(self, parts):
        """Must be confirmed, of that channel, and later than what its publisher said before."""
        kind, payload = parts[0], parts[-1]
        channel, form = parts[-2], kind.removesuffix(b"message")
        if (form, parts[1]) not in self.confirmed:
            self.accuse("a message without a confirmed subscription", parts)
        said_on, publisher, number = payload.decode().split("|")
        if said_on.encode() != channel:
            self.accuse("a message of another channel", parts)
        heard = (kind, parts[1] if form else None, publisher)
        if self.last_heard.get(heard, -1) >= int(number):
            self.accuse("twice or out of order", parts, self.last_heard[heard])
        self.last_heard[heard] = int(number)
        self.ledger.seen["messages"] += 1

    def invalidate(self, keys):
        for key in keys or ["everything"]:
            if key not in self.tracked:
                self.accuse("an invalidation of what it does not track", key)
            self.invalidated.add(key)
            self.ledger.seen["invalidations"] += 1
