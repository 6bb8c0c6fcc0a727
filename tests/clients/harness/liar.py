"""An endpoint that lies in one way: what the comparison must convict. Without a lie it is a plain TCP proxy."""

import asyncio
import re
import threading

from .frames import FrameBuffer, elements, frame_end, kind_of, word
from .resp import ProtocolViolation, encode

# Each rewrites the requests or the replies of one connection.
LIES = ("forgets WATCH", "forgets SELECT", "swaps two replies", "drops a message", "repeats a message", "turns a bulk",
        "misses an invalidation", "answers nil for an empty reply", "executes twice", "forgets UNBLOCK")


class Liar:
    def __init__(self, target_port, lie):
        self.target_port, self.lie = target_port, lie
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(10)

    def close(self):
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _stop(self):
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _run(self, ready):
        async def listen():
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.port = self._server.sockets[0].getsockname()[1]
            ready.set()

        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(listen())
        self._loop.run_forever()

    async def _serve(self, client_reader, client_writer):
        writers, tasks = [client_writer], []
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
            writers.append(server_writer)
            tasks += [asyncio.create_task(self._requests(client_reader, server_writer)),
                      asyncio.create_task(self._replies(server_reader, client_writer))]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            pass  # the test is over
        for task in tasks:
            task.cancel()
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        for writer in writers:
            writer.close()

    async def _requests(self, reader, writer):
        buffer = bytearray()
        while data := await self._read(reader):
            buffer += data
            try:
                while buffer[:1] == b"*" and (end := frame_end(buffer)) is not None:
                    writer.write(self.request(bytes(buffer[:end])))
                    del buffer[:end]
                passing = buffer[:1] != b"*"
            except ProtocolViolation:
                passing = True
            if passing:
                # Inline commands, and what is broken.
                writer.write(bytes(buffer))
                buffer.clear()
            await writer.drain()

    async def _replies(self, reader, writer):
        frames = FrameBuffer()
        while data := await self._read(reader):
            writer.write(b"".join(self.replies(frames.feed(data))))
            await writer.drain()

    async def _read(self, reader):
        try:
            return await reader.read(1 << 20)
        except OSError:
            return b""

    def request(self, frame):
        words = [(word(e) or b"").upper() for e in elements(frame)] or [b""]
        match self.lie, words[0]:
            case ("forgets WATCH", b"WATCH") if len(words) > 1:
                return encode("UNWATCH")
            case ("forgets SELECT", b"SELECT") if words[1:] in ([b"1"], [b"2"]):
                return encode("SELECT", "0")
            case ("executes twice", b"EVALSHA" | b"EVAL") if len(words) > 3:
                return frame + encode("CLIENT", "REPLY", "SKIP") + frame
            case ("forgets UNBLOCK", b"CLIENT") if words[1] == b"UNBLOCK" and len(words) == 3:
                return encode("CLIENT", "UNBLOCK", "0")
        return frame

    def replies(self, frames):
        match self.lie:
            case "swaps two replies" if len(frames) >= 2:
                return [frames[1], frames[0], *frames[2:]]
            case "drops a message":
                return [f for f in frames if kind_of(f) != b"message"]
            case "repeats a message":
                return [f for f in frames for _ in range(2 if kind_of(f) == b"pmessage" else 1)]
            case "turns a bulk":
                return [b"$4\r\nv\x00\x00\x00\r\n" if re.fullmatch(rb"\$4\r\nv\d\d\d\r\n", f) else f for f in frames]
            case "misses an invalidation":
                return [f for f in frames if kind_of(f) != b"invalidate"]
            case "answers nil for an empty reply":
                return [b"$-1\r\n" if f == b"$0\r\n\r\n" else f for f in frames]
        return frames
