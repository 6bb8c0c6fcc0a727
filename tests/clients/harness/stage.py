"""Plays a program step by step: first to a redis-server, to learn what each step yields, then to the endpoint.

Nobody speaks before the step of the one before is over. Directly a step is over when the server has answered on a
connection opened before it; at the endpoint when everything has come that came directly, as many clients wait in the
server as did directly, and the data are equal.
"""

import re
import select
import socket
import struct
import time
from dataclasses import dataclass, field

from .frames import FrameBuffer
from .resp import Raw

# What may be said behind a wait that somebody else will end: then the two run at once, so it must touch nobody.
BEHIND_A_WAIT = re.compile(rb"ECHO|INCR private", re.I)

# What a client whose replies are off may say: only data tell that it was heard, before somebody else speaks.
WITHOUT_REPLIES = {"SET", "INCR", "RPUSH", "DEL", "LPUSH", "GET", "PING", "ECHO", "NOSUCH", "SELECT", "PUBLISH",
                   "RESET"}
# What may not be queued: replies in random order, and those whose lack makes an EXEC's array shorter than it says.
UNFIT_FOR_MULTI = {("CLIENT", "REPLY"), ("UNSUBSCRIBE", ""), ("PUNSUBSCRIBE", ""), ("SUNSUBSCRIBE", ""),
                   ("PUBSUB", "CHANNELS"),
                   ("PUBSUB", "SHARDCHANNELS")}


class Unsettled(AssertionError):
    """What must come in the end has not."""


class Client:
    """One client's connection: what came on it, as frames, step by step."""

    def __init__(self, host, port, protocol):
        raw = Raw(host, port)
        if protocol == 3:
            raw.command("HELLO", 3)
        self.id = raw.command("CLIENT", "ID")
        self.sock = raw.sock
        self.sock.setblocking(False)
        self.buffer = FrameBuffer()
        self.frames = []
        self.closed = False
        self.silent = False

    def read(self):
        """Takes what is there without waiting."""
        while not self.closed:
            try:
                data = self.sock.recv(1 << 20)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.closed = True
                self.sock.close()
                return
            self.frames += self.buffer.feed(data)

    def send(self, data):
        try:
            self.sock.settimeout(20)
            self.sock.sendall(data)
        except OSError:
            pass  # the end is seen when reading
        finally:
            self.sock.setblocking(False)

    def has_read_all(self, row):
        """Whether all replies are here; `row` is the server's word on it."""
        return row[b"obl"] == row[b"oll"] == b"0" and not self.buffer.data

    def cut(self):
        if not self.closed:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.sock.close()
            self.closed = True

    def taken(self):
        """The frames since the last call."""
        frames, self.frames = self.frames, []
        return frames


@dataclass
class Outcome:
    """What one step yielded."""

    skipped: bool = False
    frames: dict = field(default_factory=dict)
    closed: frozenset = frozenset()
    # Who waits in the server, and who has a transaction open.
    waiting: frozenset = frozenset()
    in_multi: frozenset = frozenset()
    digest: bytes = b""


class Stage:
    """The clients of one program at one address; `server` is where the data are."""

    def __init__(self, host, port, server):
        self.host, self.port, self.server = host, port, server
        self.clients = {}
        self.observer = Raw(host, port)

    def __enter__(self):
        self.clear()
        return self

    def __exit__(self, *_):
        self.clear()
        self.observer.close()

    def clear(self):
        """No client, no data, no scripts."""
        ids = [c.id for c in self.clients.values()]
        for client in self.clients.values():
            client.cut()
        self.clients = {}
        self.until(lambda: not any(map(self.is_listed, ids)), "the clients are gone")
        self.until(lambda: self.blocked() == 0, "nobody waits")
        for command in (("FLUSHALL",), ("SCRIPT", "FLUSH"), ("FUNCTION", "FLUSH")):
            self.observer.command(*command)

    def until(self, check, what, seconds=20):
        end = time.monotonic() + seconds
        while not check():
            if time.monotonic() > end:
                raise Unsettled(f"not within {seconds} s: {what}")
            time.sleep(0.001)

    def is_listed(self, client_id):
        return bool((self.observer.command("CLIENT", "LIST", "ID", client_id) or b"").strip())

    def blocked(self):
        return int(re.search(rb"blocked_clients:(\d+)", self.server.control("INFO", "clients")).group(1))

    def ids(self):
        return {n: client.id for n, client in self.clients.items()}

    def act(self, step):
        """Does what the step says, without waiting for what comes of it; how many bytes were sent."""
        client = self.clients.get(step.client)
        if step.action == "send":
            payload = step.payload(self.ids())
            client.send(payload)
            return len(payload)
        if client:
            client.cut()
            self.until(lambda: not self.is_listed(client.id), f"c{step.client} is gone")
        if step.action == "open":
            self.clients[step.client] = Client(self.host, self.port, step.protocol)
        return 0

    def read(self):
        for client in self.clients.values():
            client.read()

    def frames(self):
        return {n: client.taken() for n, client in self.clients.items()}

    def closed(self):
        return frozenset(n for n, client in self.clients.items() if client.closed)

    def wait_for_bytes(self, seconds):
        """Returns when something has come, or the time is over."""
        sockets = [c.sock for c in self.clients.values() if not c.closed]
        if sockets:
            select.select(sockets, [], [], seconds)
        else:
            time.sleep(seconds)

    # Learning, from a redis-server itself.

    def learn_step(self, step):
        """Acts and tells what the step yields; skips what would depend on chance."""
        if step.action == "send" and not self.may_speak(step):
            return Outcome(skipped=True)
        size = self.act(step)
        if {("CLIENT", "REPLY"), ("RESET", "")} & set(step.names()):
            self.clients[step.client].silent = ("CLIENT", "REPLY", "OFF") in step.commands
        # The server reads some kilobytes in each turn of its loop.
        for _ in range(size // 4096):
            self.server.control("PING")
        self.settle()
        if any(b"0.05" in c or b"50" in c for c in commands_as_bytes(step)):
            # A short wait is over before anybody else speaks.
            self.until(lambda: step.client not in self.waiting(), "a short wait is over")
            self.settle()
        in_multi = frozenset(n for n, row in self.rows().items() if row[b"multi"] != b"-1")
        digest = self.server.control("DEBUG", "DIGEST")
        return Outcome(False, self.frames(), self.closed(), self.waiting(), in_multi, digest)

    def may_speak(self, step):
        """Whether what comes of this step does not depend on chance."""
        client, row = self.clients.get(step.client), self.rows().get(step.client)
        if row is None or client.closed:
            return False
        in_multi = row[b"multi"] != b"-1"
        for name, sub in step.names():
            in_multi = name == "MULTI" or in_multi and name not in ("EXEC", "DISCARD", "RESET")
            if in_multi and (name, sub) in UNFIT_FOR_MULTI:
                return False
            if client.silent and name not in WITHOUT_REPLIES and (name, sub) != ("CLIENT", "REPLY"):
                return False
        if b"b" in row[b"flags"]:
            commands = list(commands_as_bytes(step))
            return len(commands) == len(step.commands) and all(BEHIND_A_WAIT.match(b" ".join(c)) for c in commands)
        return True

    def rows(self):
        """The server's CLIENT LIST, of this program's clients."""
        listed = self.server.control("CLIENT", "LIST").splitlines()
        listed = [dict(f.split(b"=", 1) for f in row.split(b" ")) for row in listed]
        by_id = {int(row[b"id"]): row for row in listed}
        return {n: by_id[c.id] for n, c in self.clients.items() if c.id in by_id}

    def waiting(self):
        """Who waits in the server."""
        return frozenset(n for n, row in self.rows().items() if b"b" in row[b"flags"])

    def settle(self):
        """Until the server has read what was sent and written what comes of it."""
        self.until(self.is_settled, "the step is over")

    def is_settled(self):
        for _ in range(3):
            self.server.control("PING")
        rows = self.rows()
        self.read()
        return all(self.clients[n].has_read_all(row) for n, row in rows.items() if not self.clients[n].closed)

    # Following, at the endpoint.

    def follow_step(self, step, expected, verdict, patience):
        """Acts and waits for what came directly; `verdict(frames)` is True for that, False for something else, None for
        not yet. Returns the outcome, and what is wrong with it or None."""
        if expected.skipped:
            return Outcome(skipped=True), None
        self.act(step)
        got = {n: [] for n in self.clients}
        end = time.monotonic() + patience
        while True:
            self.read()
            for n, frames in self.frames().items():
                got[n] += frames
            judged = verdict(got)
            outcome = Outcome(False, got, self.closed())
            if judged is False:
                return outcome, "the replies differ"
            wrong = "not all replies came" if judged is None else self.state_differs(outcome, expected)
            if wrong is None:
                return outcome, None
            if time.monotonic() > end:
                return outcome, wrong
            self.wait_for_bytes(0.001 if judged else 0.02)

    def state_differs(self, outcome, expected):
        if outcome.closed != expected.closed:
            return f"closed connections: {names(outcome.closed)}, directly {names(expected.closed)}"
        if (blocked := self.blocked()) != len(expected.waiting):
            return f"{blocked} clients wait in the server, directly {names(expected.waiting)}"
        outcome.digest = self.server.control("DEBUG", "DIGEST")
        if outcome.digest != expected.digest:
            return "the data in the server differ"
        return None


def names(clients):
    return ", ".join(f"c{n}" for n in sorted(clients)) or "none"


def commands_as_bytes(step):
    """The words of each command of the step that is no inline one."""
    for command in step.commands:
        if isinstance(command, tuple):
            yield [a if isinstance(a, bytes) else str(a).encode() for a in command]

