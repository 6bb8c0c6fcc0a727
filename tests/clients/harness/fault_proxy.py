"""A faulty network: a TCP proxy between Nearkey and Redis that cuts, dribbles, delays and swallows."""

import asyncio
import random
import socket
import struct
import threading


class FaultProxy:
    """Forwards to `target_port` until told otherwise. All settings act at once, also on open connections.

    `chunks`       (low, high): replies arrive in pieces of so many bytes
    `delay`        seconds that replies are held back
    `swallow`      bytes from both sides vanish, connections stay open
    `refuse`       new connections are closed at once
    """

    def __init__(self, target_port, seed=1):
        self.target_port = target_port
        self.random = random.Random(seed)
        self.chunks = None
        self.delay = 0
        self.swallow = False
        self.refuse = False
        self.accepted = 0
        self.faults = 0
        self._split_at = None
        self._cut_at = None
        self._writers = set()
        self._sunk = set()
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(10)

    # What the tests say.

    def split_replies_at(self, offset):
        """The reply stream pauses after `offset` more bytes, so that the reader sees two reads."""
        self._on_loop(lambda: setattr(self, "_split_at", offset))

    def cut_replies_at(self, offset):
        """The connection is lost after `offset` more bytes of replies."""
        self._on_loop(lambda: setattr(self, "_cut_at", offset))

    def cut_all(self):
        """Every open connection is reset."""
        def cut():
            for writer in list(self._writers):
                reset(writer)
        self._on_loop(cut)

    def sink_all(self):
        """Every open connection leads nowhere from here on; new ones are not touched."""
        self._on_loop(lambda: self._sunk.update(self._writers))

    def close(self):
        self._on_loop(self._server.close)
        self.cut_all()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _on_loop(self, f):
        done = threading.Event()
        self._loop.call_soon_threadsafe(lambda: (f(), done.set()))
        assert done.wait(10)

    # The loop.

    def _run(self, ready):
        asyncio.set_event_loop(self._loop)

        async def listen():
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.port = self._server.sockets[0].getsockname()[1]
            ready.set()

        self._loop.run_until_complete(listen())
        self._loop.run_forever()

    async def _serve(self, client_reader, client_writer):
        self.accepted += 1
        if self.refuse:
            reset(client_writer)
            return
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            reset(client_writer)
            return
        for writer in (client_writer, server_writer):
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._writers |= {client_writer, server_writer}
        try:
            directions = [
                asyncio.create_task(self._requests(client_reader, server_writer)),
                asyncio.create_task(self._replies(server_reader, client_writer)),
            ]
            for direction in directions:
                # The first end is met below; the second is no news.
                direction.add_done_callback(lambda task: task.cancelled() or task.exception())
            await asyncio.gather(*directions)
        except (OSError, EOFError):
            pass
        finally:
            self._writers -= {client_writer, server_writer}
            for writer in (client_writer, server_writer):
                writer.close()

    async def _requests(self, reader, writer):
        while data := await reader.read(1 << 16):
            if not self.swallow and writer not in self._sunk:
                writer.write(data)
                await writer.drain()
        # Either side's end is the end of both: Redis knows no half-open peers.
        reset(writer)
        raise EOFError

    async def _replies(self, reader, writer):
        while data := await reader.read(1 << 16):
            if self.delay:
                await asyncio.sleep(self.delay)
            if self.swallow or writer in self._sunk:
                self.faults += 1
                continue
            if self._cut_at is not None:
                head, self._cut_at = data[:self._cut_at], self._cut_at - len(data)
                if self._cut_at <= 0:
                    self._cut_at = None
                    self.faults += 1
                    writer.write(head)
                    await writer.drain()
                    await asyncio.sleep(0.002)
                    writer.close()
                    raise EOFError
            if self._split_at is not None:
                head, self._split_at = data[:self._split_at], self._split_at - len(data)
                if self._split_at <= 0:
                    self._split_at = None
                    self.faults += 1
                    writer.write(head)
                    await asyncio.sleep(0.003)
                    data = data[len(head):]
            if self.chunks:
                await self._dribble(data, writer)
            else:
                writer.write(data)
                await writer.drain()
        writer.close()
        raise EOFError

    async def _dribble(self, data, writer):
        at = 0
        while at < len(data):
            n = self.random.randint(*self.chunks)
            writer.write(data[at:at + n])
            at += n
            self.faults += 1
            # Other connections get a turn, the reader of this one too.
            await asyncio.sleep(0)
        await writer.drain()


def reset(writer):
    """Closes with RST, as a crashed host does."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass
    writer.close()
