"""A network with room in it: delays that keep order, and silences after which everything still arrives.

Unlike the fault proxy it tells the tracked connections (those that said CLIENT TRACKING ON) from the others, so that a test
can hold back pushes while everything else flows.
"""

import asyncio
import socket
import threading
from collections import deque

from .fault_proxy import reset


class Lane:
    """What happens to connections of one kind: seconds of delay each way, and whether nothing moves at all."""

    def __init__(self):
        self.request_delay = self.reply_delay = 0.0
        self.hold_requests = self.hold_replies = False
        self.refuse = False

    def hold(self, on=True):
        self.hold_requests = self.hold_replies = on


class SlowLink:
    def __init__(self, target_port):
        self.target_port = target_port
        self.tracked, self.other = Lane(), Lane()
        self.accepted = 0
        self._connections = set()
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(10)

    @property
    def tracked_connections(self):
        return sum(c.lane is self.tracked for c in list(self._connections))

    def cut(self, lane=None):
        """Resets all connections of a lane, or all."""
        self._on_loop(lambda: [c.cut() for c in list(self._connections) if lane is None or c.lane is lane])

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

    def _on_loop(self, f):
        done = threading.Event()
        self._loop.call_soon_threadsafe(lambda: (f(), done.set()))
        assert done.wait(10)

    def _run(self, ready):
        asyncio.set_event_loop(self._loop)

        async def listen():
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 18)
            self.port = self._server.sockets[0].getsockname()[1]
            ready.set()

        self._loop.run_until_complete(listen())
        self._loop.run_forever()

    async def _serve(self, client_reader, client_writer):
        self.accepted += 1
        if self.other.refuse:
            reset(client_writer)
            return
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.target_port, limit=1 << 18)
        except OSError:
            reset(client_writer)
            return
        connection = Connection(self, client_writer, server_writer)
        self._connections.add(connection)
        tasks = [asyncio.ensure_future(t) for t in (
            connection.requests(client_reader), connection.replies(server_reader),
            connection.drip(connection.to_server), connection.drip(connection.to_client))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._connections.discard(connection)
            for task in tasks:
                task.cancel()
                task.add_done_callback(lambda done: done.cancelled() or done.exception())
            connection.cut()


class Way:
    """One direction of a connection: what waits, and since when."""

    def __init__(self, connection, writer, kind):
        self.connection, self.writer, self.kind = connection, writer, kind
        self.waiting, self.filled = deque(), asyncio.Event()

    def delay(self):
        return getattr(self.connection.lane, self.kind + "_delay")

    def held(self):
        return getattr(self.connection.lane, "hold_" + ("requests" if self.kind == "request" else "replies"))

    def put(self, data):
        if not self.waiting and not self.delay() and not self.held():
            self.writer.write(data)
        else:
            self.waiting.append((asyncio.get_running_loop().time(), data))
            self.filled.set()


class Connection:
    def __init__(self, link, client, server):
        self.lane, self.link = link.other, link
        for writer in (client, server):
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.to_server, self.to_client = Way(self, server, "request"), Way(self, client, "reply")

    def cut(self):
        reset(self.to_server.writer)
        reset(self.to_client.writer)

    async def requests(self, reader):
        while data := await reader.read(1 << 18):
            if self.lane is self.link.other and b"TRACKING" in data.upper():
                self.lane = self.link.tracked
                if self.lane.refuse:
                    return
            self.to_server.put(data)

    async def replies(self, reader):
        while data := await reader.read(1 << 18):
            self.to_client.put(data)
        # What the server said last arrives before its end does.
        while self.to_client.waiting:
            await asyncio.sleep(0.002)

    async def drip(self, way):
        loop = asyncio.get_running_loop()
        while True:
            await way.filled.wait()
            since, data = way.waiting[0]
            late = since + way.delay() - loop.time()
            if way.held() or late > 0:
                await asyncio.sleep(0.002 if way.held() else late)
                continue
            way.writer.write(data)
            way.waiting.popleft()
            if not way.waiting:
                way.filled.clear()
            if len(way.waiting) % 64 == 0:
                await way.writer.drain()
