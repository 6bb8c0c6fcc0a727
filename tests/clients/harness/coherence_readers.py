"""A process of readers: many connections that read without pause and note what they saw, and when.

Run as `python -m harness.coherence_readers`, with the plan as JSON on standard input. Nothing is judged here, so that most
of the time goes into reading.
"""

import json
import random
import re
import selectors
import socket
import sys
import time
from array import array
from collections import deque

from .history import DENIED, ERROR, NIL
from .resp import encode

# One item of an answer: a value and its label, a missing key, or an error. What surrounds items is skipped.
ITEM = re.compile(rb"\$\d+\r\n\d+\.\d+\.(\d+)\.x*\r\n|(\$-1\r\n|_\r\n|\*0\r\n|%0\r\n)|-([^\r\n]*)\r\n")

# Run by EVAL_RO: a script that may write empties L1 of everything.
GET_SCRIPT = "return redis.call('GET', KEYS[1])"
HGET_SCRIPT = "return redis.call('HGET', KEYS[1], 'f')"

# Columns of notes: asked, answered, connection, key, label.
TYPES = "qqiiq"


class Notes:
    """What was read, in columns."""

    def __init__(self):
        self.columns = [array(t) for t in TYPES]

    def add(self, a, b, conn, key, label):
        for column, value in zip(self.columns, (a, b, conn, key, label)):
            column.append(value)

    def extend(self, a, b, conn, keys, labels):
        n = len(keys)
        for column, values in zip(self.columns, ((a,) * n, (b,) * n, (conn,) * n, keys, labels)):
            column.extend(values)

    def write(self, path):
        with open(path, "wb") as out:
            for column in self.columns:
                array("q", [len(column)]).tofile(out)
                column.tofile(out)


def read_notes(path):
    """The notes of a process."""
    notes = Notes()
    with open(path, "rb") as file:
        for column in notes.columns:
            n = array("q")
            n.fromfile(file, 1)
            column.fromfile(file, n[0])
    return notes


def by_key(many):
    """The reads of each key, from the notes of many processes; never all of them as tuples at once."""
    rows = {}
    for n, notes in enumerate(many):
        for row, key in enumerate(notes.columns[3]):
            rows.setdefault(key, array("q")).append(row * len(many) + n)
    for key, packed in rows.items():
        reads = []
        for at in packed:
            row, n = divmod(at, len(many))
            a, b, conn, _, label = many[n].columns
            reads.append((a[row], b[row], conn[row], key, label[row]))
        yield key, reads


class Requests:
    """The requests for one key, encoded once: kind of request to bytes."""

    def __init__(self, key):
        name = key["name"]
        if key["kind"] == "hash":
            self.plain = [encode("HGET", name, "f"), encode("HGETALL", name)]
            self.script = encode("EVAL_RO", HGET_SCRIPT, 1, name)
            self.block = encode("MULTI") + encode("HGET", name, "f") + encode("EXEC")
        else:
            self.plain = [encode("GET", name)]
            self.script = encode("EVAL_RO", GET_SCRIPT, 1, name)
            self.block = encode("MULTI") + encode("GET", name) + encode("EXEC")


class Reader:
    def __init__(self, plan, spec, keys, requests, rnd, notes, tally):
        self.plan, self.spec, self.keys, self.requests = plan, spec, keys, requests
        self.random, self.notes, self.tally = rnd, notes, tally
        self.mine = [i for i, key in enumerate(keys) if key["db"] == spec["db"]]
        self.strings = [i for i in self.mine if keys[i]["kind"] == "string"]
        self.conn, self.sock, self.asked = spec["id"], None, []

    def open(self):
        """Connects and introduces itself; false if that fails."""
        spec = self.spec
        self.buffer = b""
        try:
            self.sock = socket.create_connection((spec["host"], spec["port"]), timeout=1)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            auth = ["AUTH", spec["user"], spec["password"]] if spec.get("user") else []
            if spec["protocol"] == 3:
                self.say("HELLO", 3, *auth)
            elif auth:
                self.say(*auth)
            if spec["db"]:
                self.say("SELECT", spec["db"])
            # Big writes to a peer that is being frozen must not freeze everybody here.
            self.sock.setblocking(False)
            return True
        except OSError:
            self.close()
            return False

    def say(self, *args):
        self.sock.sendall(encode(*args))
        got = b""
        while not got.endswith(b"\r\n"):
            data = self.sock.recv(65536)
            if not data:
                raise ConnectionError("closed")
            got += data
        # HELLO's map has many lines; whatever comes late is flushed by the PING of `settle`.
        if got[:1] == b"-":
            raise ConnectionError(got.decode())
        if args[0] == "HELLO":
            self.settle()

    def settle(self):
        self.sock.sendall(encode("ECHO", "settled"))
        got = b""
        while not got.endswith(b"$7\r\nsettled\r\n"):
            data = self.sock.recv(65536)
            if not data:
                raise ConnectionError("closed")
            got += data

    def close(self):
        if self.sock:
            self.sock.close()
        self.sock = None

    def ask(self):
        """Sends the next pipeline."""
        spec, chance, requests = self.spec, self.random.random, self.requests
        parts, asked = [], []
        depth = spec["depth"] if chance() < 0.8 else 1
        mine, n = self.mine, len(self.mine)
        special = spec["special"]
        for _ in range(depth):
            # Squared: some keys are hot.
            key = mine[int(n * chance() ** 2)]
            if chance() >= special:
                plain = requests[key].plain
                parts.append(plain[0] if len(plain) == 1 or chance() < 0.7 else plain[1])
                asked.append(key)
                continue
            match int(chance() * 4):
                case 0 if self.strings:
                    some = self.random.choices(self.strings, k=3)
                    parts.append(encode("MGET", *(self.keys[i]["name"] for i in some)))
                    asked += some
                case 1:
                    parts.append(requests[key].block)
                    asked.append(key)
                case _:
                    # Past L1, then from it: that must not be older.
                    parts += [requests[key].script, requests[key].plain[0]]
                    asked += [key, key]
        self.asked, self.buffer = asked, b""
        data = b"".join(parts)
        self.a = time.monotonic_ns()
        try:
            self.sock.send(data)
        except OSError:
            pass  # reading will tell

    def handle_readable(self):
        """Takes what has come; true when the pipeline is answered."""
        data = self.sock.recv(1 << 18)
        now = time.monotonic_ns()
        if not data or self.asked is None:
            raise ConnectionError("closed, or an answer to nothing")
        self.buffer = self.buffer + data if self.buffer else data
        items = ITEM.findall(self.buffer)
        asked = self.asked
        if len(items) < len(asked):
            if any(text and not text.startswith(b"NOPERM") for _, _, text in items):
                # One error may stand for many items: what follows could not be told apart.
                self.tally_errors(items)
                raise ConnectionError("errors")
            return False
        labels = [int(label) if label else NIL if nil else self.error(text) for label, nil, text in items]
        if len(items) > len(asked):
            # Likewise MULTI, what is in it, and EXEC.
            raise ConnectionError("errors")
        self.notes.extend(self.a, now, self.conn, asked, labels)
        return True

    def tally_errors(self, items):
        for _, _, text in items:
            if text:
                self.error(text)

    def error(self, text):
        errors, shown = self.tally["errors"], text.decode(errors="replace")[:60]
        errors[shown] = errors.get(shown, 0) + 1
        return DENIED if text.startswith(b"NOPERM") else ERROR


def run(plan):
    rnd, notes = random.Random(plan["seed"]), Notes()
    tally = {"closed": 0, "errors": {}, "unanswered": 0, "slowest": 0.0}
    keys = plan["keys"]
    requests = [Requests(key) for key in keys]
    readers = [Reader(plan, spec, keys, requests, rnd, notes, tally) for spec in plan["readers"]]
    selector, closed, ids = selectors.DefaultSelector(), list(readers), plan["next_id"]
    time.sleep(max(0, plan["start"] / 1e9 - time.monotonic()))
    end = plan["end"] / 1e9
    retry, busy, idle, start = 0.0, 0, deque(), plan["start"] / 1e9
    labels, pace = notes.columns[-1], plan["pace"]
    while (now := time.monotonic()) < end or (busy and now < end + 10):
        if closed and now < end and now >= retry:
            retry = now + 0.02
            for reader in list(closed):
                if reader.open():
                    closed.remove(reader)
                    selector.register(reader.sock, selectors.EVENT_READ, reader)
                    reader.ask()
                    busy += 1
        while idle and len(labels) < (now - start) * pace and now < end:
            idle.popleft().ask()
            busy += 1
        for key, _ in selector.select(0.001 if idle else 0.05):
            reader = key.data
            try:
                if reader.handle_readable():
                    tally["slowest"] = max(tally["slowest"], time.monotonic() - reader.a / 1e9)
                    busy -= 1
                    reader.asked = None
                    idle.append(reader)
            except OSError:
                tally["closed"] += 1
                if reader.asked is None:
                    idle.remove(reader)
                else:
                    busy -= 1
                selector.unregister(reader.sock)
                reader.close()
                # A new connection has read nothing yet.
                reader.conn, ids = ids, ids + 1
                closed.append(reader)
    tally["unanswered"] = busy
    notes.write(plan["out"])
    with open(plan["out"] + ".json", "w") as out:
        json.dump(tally, out)


if __name__ == "__main__":
    run(json.load(sys.stdin))
