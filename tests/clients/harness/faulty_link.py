"""A network that breaks in every way a network does, on the asyncio loop of whoever uses it.

It moves bytes and knows nothing of them, so what it does to plain connections it does to TLS: cut at a byte, a record is
truncated. Sockets are small, so that writes are taken in parts. Its doings are counted in `done`.
"""

import asyncio
import random
import socket
import struct
from collections import Counter, deque

SEND_BUFFER, RECEIVE_BUFFER = 8 * 1024, 4 * 1024

# What can be done to one connection, at a random byte of one of its ways.
WOUNDS = ("reset", "cut", "half-open", "fin to the proxy", "fin to the server")


class FaultyLink:
    """Forwards to `target_port`. Settings act at once, also on open connections.

    `delay`    (low, high): seconds by which bytes are late, in order
    `hold`     nothing moves; afterwards everything arrives
    `swallow`  what is sent vanishes; the connections never recover and are reset when it ends
    `trickle`  (low, high): bytes arrive in pieces of so many, one at a time
    `refuse`   new connections are reset at once
    """

    def __init__(self, target_port, seed=1):
        self.target_port, self.random = target_port, random.Random(seed)
        self.delay = self.trickle = None
        self.hold = self.swallow = self.refuse = False
        self.connections, self.accepted, self.done = set(), 0, Counter()

    async def start(self):
        listener = small(socket.socket())
        listener.bind(("127.0.0.1", 0))
        self.server = await asyncio.get_running_loop().create_server(lambda: NearEnd(self), sock=listener)
        self.port = listener.getsockname()[1]

    def close(self):
        self.server.close()
        self.cut_all()

    def cut_all(self):
        for connection in list(self.connections):
            connection.reset()

    def set(self, **settings):
        """Changes how the network is; what it held moves on."""
        if self.swallow and settings.get("swallow") is False:
            self.cut_all()
        for name, value in settings.items():
            setattr(self, name, value)
        for connection in self.connections:
            for way in connection.ways:
                way.go_on()

    def wound(self, what):
        """One of the connections comes to grief after some more bytes; False if there is none to wound."""
        fit = [c for c in self.connections if c.is_whole]
        if not fit:
            return False
        # The busy ones of them, or it would hardly ever come to it.
        connection = max(self.random.sample(fit, min(2, len(fit))), key=lambda c: c.moved)
        to_client = what == "fin to the proxy" or what != "fin to the server" and self.random.random() < 0.6
        connection.ways[to_client].wound(what, self.random.choice((1, 30, 300, 5_000, 60_000)))
        return True


class Connection:
    """Two sockets and the two ways between them: to the server, to the client."""

    def __init__(self, link, client, server):
        self.link, self.ends = link, (client, server)
        self.ways = (Way(self, client, server), Way(self, server, client))
        self.is_whole, self.moved = True, 0

    def end(self):
        """Both sides end, with what was under way to them."""
        self.forget()
        for end in self.ends:
            if end.transport:
                end.transport.close()

    def reset(self):
        self.forget()
        for end in self.ends:
            end.reset()

    def forget(self):
        self.is_whole = False
        self.link.connections.discard(self)


class Way:
    """One direction: what waits, and what is going to happen to it."""

    def __init__(self, connection, source, sink):
        self.connection, self.link, self.source, self.sink = connection, connection.link, source, sink
        self.waiting, self.timer, self.fate, self.dead = deque(), None, None, False

    def wound(self, what, after):
        self.fate = (what, 1 + self.link.random.randrange(after))

    def put(self, data):
        link = self.link
        if self.dead or link.swallow:
            return
        self.connection.moved += len(data)
        if self.fate:
            what, left = self.fate
            if left <= len(data):
                # In order, whatever was late.
                while self.waiting:
                    self.forward(self.waiting.popleft()[1])
                self.forward(data[:left])
                self.suffer(what)
                return
            self.fate = (what, left - len(data))
        if self.waiting or link.delay or link.hold or link.trickle:
            late = link.random.uniform(*link.delay) if link.delay else 0
            self.waiting.append((asyncio.get_running_loop().time() + late, data))
            if len(self.waiting) > 64:
                self.source.pause()
            if not self.timer:
                self.move()
        else:
            self.forward(data)

    def forward(self, data):
        if not self.sink.transport.is_closing():
            self.sink.transport.write(data)

    def suffer(self, what):
        self.dead, self.connection.is_whole = True, False
        self.link.done[what] += 1
        match what:
            case "reset":
                self.connection.reset()
            case "cut":
                self.connection.end()
            case "half-open":
                # One side is gone; the other is not told, whatever it says.
                for way in self.connection.ways:
                    way.dead = True
                self.connection.ends[1].reset()
            case _:
                self.sink.finish()

    def go_on(self):
        if self.timer:
            self.timer.cancel()
            self.timer = None
        self.move()

    def move(self):
        """Passes on what is due, and comes back for the rest."""
        loop, link = asyncio.get_running_loop(), self.link
        self.timer = None
        while self.waiting and not link.hold and not self.dead:
            due, data = self.waiting[0]
            wait = due - loop.time() if link.delay else 0
            if wait > 0:
                self.timer = loop.call_later(wait, self.move)
                return
            if link.trickle:
                n = link.random.randint(*link.trickle)
                self.forward(data[:n])
                self.waiting.popleft()
                if rest := data[n:]:
                    self.waiting.appendleft((due, rest))
                self.timer = loop.call_later(0.001, self.move)
                return
            self.forward(data)
            self.waiting.popleft()
        if not self.waiting:
            self.source.resume()


class End(asyncio.Protocol):
    """One socket. What comes before the other side is there is kept."""

    def __init__(self, link):
        self.link, self.connection, self.transport, self.way = link, None, None, None
        self.early, self.paused, self.lost = bytearray(), False, False

    def connection_made(self, transport):
        self.transport = transport
        transport.set_write_buffer_limits(high=32 * 1024)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data):
        if self.way:
            self.way.put(data)
        else:
            self.early += data

    def eof_received(self):
        return False

    def connection_lost(self, _):
        self.lost = True
        # Either side's end is the end of both, but one that was left half-open hears of nothing.
        connection = self.connection
        if connection and not any(way.dead for way in connection.ways):
            other = connection.ends[connection.ends[0] is self]
            connection.forget()
            if other.transport and not self.link.swallow:
                other.transport.close()
        elif connection and self is connection.ends[0]:
            connection.reset()

    def pause_writing(self):
        if self.connection:
            self.connection.ends[self.connection.ends[0] is self].pause()

    def resume_writing(self):
        if self.connection:
            self.connection.ends[self.connection.ends[0] is self].resume()

    def pause(self):
        if self.transport and not self.paused and not self.transport.is_closing():
            self.paused = True
            self.transport.pause_reading()

    def resume(self):
        if self.transport and self.paused and not self.transport.is_closing():
            self.paused = False
            self.transport.resume_reading()

    def finish(self):
        """FIN, while the other direction stays open."""
        if self.transport and not self.transport.is_closing():
            self.transport.write_eof()

    def reset(self):
        """Closes with RST, as a crashed host does."""
        if not self.lost and self.transport and (sock := self.transport.get_extra_info("socket")):
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            except OSError:
                pass
            self.transport.abort()


class NearEnd(End):
    """The socket of a client, who wants to be connected."""

    def connection_made(self, transport):
        super().connection_made(transport)
        self.link.accepted += 1
        if self.link.refuse:
            self.link.done["refused"] += 1
            self.reset()
        else:
            self.opening = asyncio.ensure_future(self.reach())

    async def reach(self):
        far, sock, loop = End(self.link), small(socket.socket()), asyncio.get_running_loop()
        sock.setblocking(False)
        try:
            await loop.sock_connect(sock, ("127.0.0.1", self.link.target_port))
            await loop.create_connection(lambda: far, sock=sock)
        except OSError:
            sock.close()
            return self.reset()
        if self.transport.is_closing():
            return far.reset()
        connection = Connection(self.link, self, far)
        for end, way in zip(connection.ends, connection.ways):
            end.connection, end.way = connection, way
        self.link.connections.add(connection)
        for end in connection.ends:
            if end.early:
                end.way.put(bytes(end.early))
                end.early.clear()


def small(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return sock
