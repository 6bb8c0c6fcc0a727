"""A fleet: many proxies at once, a thousand clients that come, go and come back, and a server's front that rations connections."""

import asyncio
import random
import resource
import socket
import struct
import threading
import time


def allow_files(n):
    """Lets this process open so many files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < n:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(n, hard) if hard > 0 else n, hard))


class Crowd:
    """Clients spread over the addresses. They arrive within a second; half-way every other one hangs up in the middle of
    its work and comes back. Each judges its own replies; what goes wrong is counted, never repaired."""

    def __init__(self, clients, addresses, seconds, pause=0.05, seed=1):
        self.clients = clients
        self.addresses = addresses
        self.seconds = seconds
        self.pause = pause
        self.random = random.Random(seed)
        self.errors = []
        self.returned = 0
        self.arrived = []

    def run(self):
        asyncio.run(self._run())
        return self

    @property
    def checked(self):
        return sum(client.checked for client in self.clients)

    async def _run(self):
        self.began = time.monotonic()
        await asyncio.gather(*(self._client(n, client) for n, client in enumerate(self.clients)))

    async def _client(self, n, client):
        await asyncio.sleep(self.random.random())
        half = self.began + self.seconds * (0.4 + 0.2 * self.random.random())
        end = self.began + self.seconds
        leaves = n % 2 == 0
        try:
            await self._session(n, client, half if leaves else end)
            if leaves:
                await asyncio.sleep(self.random.random())
                self.returned += 1
                await self._session(n, client, max(end, time.monotonic() + 0.1))
        except (AssertionError, OSError, EOFError, asyncio.TimeoutError) as e:
            self.errors.append(f"client {n}: {type(e).__name__} {e}"[:300])

    async def _session(self, n, client, until):
        host, port = self.addresses[n % len(self.addresses)]
        reader, writer = await asyncio.open_connection(host, port, limit=1 << 22)
        self.arrived.append(time.monotonic() - self.began)
        try:
            for greeting in client.greeting():
                writer.write(greeting)
                await client.skip_greeting(reader)
            while True:
                requests, expected = client.pipeline()
                writer.write(requests)
                got = await asyncio.wait_for(reader.readexactly(len(expected)), 60)
                assert got == expected, f"expected {expected[:80]!r}, got {got[:80]!r}"
                if time.monotonic() > until:
                    return
                await asyncio.sleep(self.pause * 2 * self.random.random())
        finally:
            reset(writer)


class Ration:
    """A server's front that takes `per_second` connections and resets what is over; it counts all attempts."""

    def __init__(self, target_port, per_second):
        self.target_port = target_port
        self.per_second = per_second
        self.attempts = []
        self.admitted = []
        self._tokens = 1.0
        self._refilled = time.monotonic()
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(10)

    def close(self):
        async def end():
            self._server.close()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._loop.stop()

        asyncio.run_coroutine_threadsafe(end(), self._loop)
        self._thread.join(10)

    def per_window(self, times, seconds=1.0):
        """How many fell into each window, counted from the first of all attempts."""
        windows = {}
        for at in times:
            n = int((at - self.attempts[0]) / seconds)
            windows[n] = windows.get(n, 0) + 1
        return [windows.get(n, 0) for n in range(max(windows, default=-1) + 1)]

    def _run(self, ready):
        asyncio.set_event_loop(self._loop)

        async def listen():
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
            self.port = self._server.sockets[0].getsockname()[1]
            ready.set()

        self._loop.run_until_complete(listen())
        self._loop.run_forever()

    async def _serve(self, reader, writer):
        now = time.monotonic()
        self.attempts.append(now)
        self._tokens = min(1.0, self._tokens + (now - self._refilled) * self.per_second)
        self._refilled = now
        if self._tokens < 1.0:
            return reset(writer)
        self._tokens -= 1.0
        self.admitted.append(now)
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        await asyncio.gather(pump(reader, server_writer), pump(server_reader, writer))


async def pump(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


def reset(writer):
    """Closes with RST."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()
