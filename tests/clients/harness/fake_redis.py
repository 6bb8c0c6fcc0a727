"""A server that says what a real one says rarely: just enough of Redis to be taken for one, and a mood."""

import asyncio

from .frames import elements, frame_end, word
from .liar import Liar
from .resp import bulk

# What a server of that mood answers to a command that it does not do; what it greets with, if with nothing of Redis.
MOODS = {
    "loading": b"-LOADING Redis is loading the dataset in memory\r\n",
    "masterdown": b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n",
    "readonly": b"-READONLY You can't write against a read only replica.\r\n",
    "moved": b"-MOVED 866 10.0.0.7:6379\r\n",
    "http": b"HTTP/1.1 400 Bad Request\r\n\r\n",
}


class FakeRedis(Liar):
    """Knows HELLO, CLIENT, SELECT, PING, ECHO, GET and SET; `mood` is one of MOODS or None. `seen` are the commands.
    While it `holds` it reads and does not answer."""

    def __init__(self):
        self.mood, self.values, self.seen, self.accepted, self._open = None, {}, [], 0, set()
        self.holds = False
        super().__init__(None, None)

    def drop(self):
        """Closes all connections."""
        self._loop.call_soon_threadsafe(lambda: [writer.close() for writer in list(self._open)])

    async def _serve(self, reader, writer):
        self.accepted += 1
        self._open.add(writer)
        buffer, replies = bytearray(), b""
        try:
            while True:
                try:
                    data = await asyncio.wait_for(self._read(reader), 0.01 if replies else None)
                except TimeoutError:
                    data = None
                if data == b"":
                    break
                buffer += data or b""
                while (end := frame_end(buffer)) is not None:
                    words = [word(e) for e in elements(bytes(buffer[:end]))]
                    del buffer[:end]
                    replies += self.answer([words[0].upper(), *words[1:]])
                if not self.holds:
                    writer.write(replies)
                    replies = b""
                await writer.drain()
        except (OSError, asyncio.CancelledError):
            pass
        self._open.discard(writer)
        writer.close()

    def answer(self, words):
        self.seen.append(words[0])
        if self.mood == "http":
            return MOODS["http"]
        complaint = MOODS.get(self.mood)
        denied = {"loading": {b"PING", b"GET", b"SET"}, "masterdown": {b"PING", b"GET", b"SET"}, "readonly": {b"SET"},
                  "moved": {b"GET", b"SET"}}.get(self.mood, set())
        if words[0] in denied:
            return complaint
        match words:
            case [b"HELLO", *_]:
                role = "replica" if self.mood in ("readonly", "masterdown") else "master"
                fields = {"server": "redis", "version": "7.0.15", "mode": "standalone", "role": role}
                pairs = b"".join(bulk(k) + bulk(v) for k, v in fields.items())
                return (b"%%%d\r\n" % len(fields) if words[1:2] == [b"3"] else b"*%d\r\n" % (2 * len(fields))) + pairs
            case [b"PING"]:
                return b"+PONG\r\n"
            case [b"PING" | b"ECHO", text]:
                return bulk(text)
            case [b"SELECT" | b"CLIENT", *_]:
                return b"+OK\r\n"
            case [b"GET", key]:
                return bulk(self.values[key]) if key in self.values else b"$-1\r\n"
            case [b"SET", key, value]:
                self.values[key] = value
                return b"+OK\r\n"
        return b"-ERR unknown command '%s'\r\n" % words[0]
