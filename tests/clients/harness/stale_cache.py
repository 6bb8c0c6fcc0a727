"""A proxy that caches as none should: GET is answered from what was read, wrong in one way. What the checker must convict."""

import asyncio
import time

from .frames import FrameBuffer, elements, word
from .liar import Liar

FAULTS = ("ignores writes of others", "ignores its own writes", "ignores expiry", "ignores the database", "fills late")


class StaleCache(Liar):
    """Entries live for `age` seconds, and are dropped by what passes here, but for the fault. Pushes it has none: without a
    fault it is as good as its age."""

    def __init__(self, target_port, fault, age=3.0):
        self.age, self.entries, self.hits = age, {}, 0
        super().__init__(target_port, fault)

    async def _serve(self, reader, writer):
        db, requests, frames, answers = 0, FrameBuffer(), FrameBuffer(), []
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            writer.close()
            return

        async def answer():
            while not answers:
                data = await up_reader.read(1 << 20)
                if not data:
                    raise ConnectionError
                answers.extend(frames.feed(data))
            return answers.pop(0)

        try:
            while data := await reader.read(1 << 20):
                for frame in requests.feed(data):
                    words = [word(e) for e in elements(frame)]
                    name = words[0].upper()
                    place = (0 if self.lie == "ignores the database" else db, words[1] if len(words) > 1 else b"")
                    known = self.entries.get(place) if name == b"GET" else None
                    if known and time.monotonic() < known[0]:
                        self.hits += 1
                        writer.write(known[1])
                        continue
                    self.drop(name, words, place)
                    up_writer.write(frame)
                    reply = await answer()
                    if name == b"SELECT":
                        db = int(words[1])
                    elif name == b"GET" and reply[:1] in b"$_":
                        if self.lie == "fills late":
                            await asyncio.sleep(0.01)
                        self.entries[place] = (time.monotonic() + self.age, reply)
                    if self.lie != "fills late":
                        self.drop(name, words, place)
                        if name == b"GET" and reply[:1] in b"$_":
                            self.entries[place] = (time.monotonic() + self.age, reply)
                    writer.write(reply)
                await writer.drain()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            up_writer.close()

    def drop(self, name, words, place):
        if name == b"GET" or self.lie == "ignores its own writes":
            return
        if self.lie == "ignores expiry" and b"PX" in words:
            # Nothing is known of lives: what was written is kept with no thought of its end.
            self.entries[place] = (time.monotonic() + self.age, b"$%d\r\n%s\r\n" % (len(words[2]), words[2]))
            return
        if name in (b"MSET", b"RENAME", b"FLUSHDB", b"SWAPDB", b"EVAL", b"MULTI", b"EXEC"):
            self.entries.clear()
        self.entries.pop(place, None)
