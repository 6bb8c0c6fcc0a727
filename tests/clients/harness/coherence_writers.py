"""A process of writers: each alone changes its keys, by all means that Redis has, through all doors there are.

Run as `python -m harness.coherence_writers`, with the plan as JSON on standard input; writes the operations as JSON and what
it read itself as notes.
"""

import itertools
import json
import random
import sys
import threading
import time

from .coherence_readers import Notes
from .history import AGE, FOREIGN, NIL, OWN
from .resp import Raw, ReplyError, encode

MS = 1_000_000

# After these the server has not run the command.
REFUSED = ("READONLY", "NOPERM", "OOM", "WRONGTYPE", "EXECABORT", "ERR no such key", "MASTERDOWN", "LOADING")

LABELS = itertools.count(1)


class Refused(Exception):
    pass


class Unknown(Exception):
    """Nobody knows whether the command has run."""


class Door:
    """A way to the server: the proxy under test, another one, or the server itself."""

    def __init__(self, spec, conn):
        self.spec, self.conn, self.raw = spec, conn, None
        self.own = spec["name"] == "own"
        self.db = 0

    def ask(self, db, *commands):
        """Sends the commands at once; when it was sent, the replies, when they had come."""
        try:
            if self.raw is None:
                self._open()
            if db != self.db:
                self.raw.command("SELECT", db)
                self.db = db
        except (OSError, EOFError, ReplyError) as e:
            self.close()
            raise Refused(f"could not be sent: {e}") from e
        data = b"".join(encode(*c) for c in commands)
        inv = time.monotonic_ns()
        try:
            self.raw.send(data)
            replies = [self.raw.reply() for _ in commands]
        except (OSError, EOFError) as e:
            self.close()
            raise Unknown(inv, str(e)) from e
        resp = time.monotonic_ns()
        for reply in replies + [r for r in replies if isinstance(r, list) for r in r]:
            if isinstance(reply, ReplyError):
                self.close()
                raise Refused(str(reply)) if str(reply).startswith(REFUSED) else Unknown(inv, str(reply))
        return inv, replies, resp

    def _open(self):
        spec = self.spec
        self.raw, self.db = Raw(spec["host"], spec["port"], timeout=20), 0
        auth = ["AUTH", spec["user"], spec["password"]] if spec.get("user") else []
        if spec["protocol"] == 3:
            self.raw.command("HELLO", 3, *auth)
        elif auth:
            self.raw.command(*auth)

    def close(self):
        if self.raw:
            self.raw.close()
        self.raw = None


class Writer(threading.Thread):
    def __init__(self, plan, spec, number):
        super().__init__(daemon=True)
        self.plan, self.spec = plan, spec
        self.random = random.Random(plan["seed"] * 1000 + number)
        self.keys = spec["keys"]
        ids = itertools.count(plan["next_id"] + 1000 * number)
        self.ids = ids
        self.doors = [Door(d, next(ids)) for d in plan["doors"]]
        self.own = [d for d in self.doors if d.own]
        self.direct = next(d for d in self.doors if d.spec["name"] == "direct")
        self.state = {k: (None, None) for k in self.keys}
        self.ops, self.hazy, self.notes, self.settling = [], [], Notes(), []
        self.done, self.broken = {}, {}

    def run(self):
        end = self.plan["end"] / 1e9
        time.sleep(max(0, self.plan["start"] / 1e9 - time.monotonic()))
        for key in self.keys:
            self.attempt("set", self.direct, key, key)
        kinds, weights = zip(*self.spec["kinds"].items())
        while time.monotonic() < end:
            if self.settling and self.settling[0][0] < time.monotonic():
                self.settle(*self.settling.pop(0)[1:])
            free = [k for k in self.keys if k not in self.unsettled()]
            if not free:
                time.sleep(0.05)
                continue
            key = self.random.choice(free)
            other = self.random.choice([k for k in free if self.db(k) == self.db(key)])
            kind, door = self.random.choices(kinds, weights)[0], self.random.choice(self.doors)
            self.attempt(kind, door, key, other)
            time.sleep(self.random.expovariate(self.spec["rate"]))
        self.hazy += [(key, since, None) for _, key, since in self.settling]

    def unsettled(self):
        return {key for _, key, _ in self.settling}

    def attempt(self, kind, door, key, other):
        try:
            getattr(self, "do_" + kind)(door, key, other)
            self.done[f"{kind} {door.spec['name']}"] = self.done.get(f"{kind} {door.spec['name']}", 0) + 1
        except Refused as e:
            if "no such key" in str(e):
                return  # it had expired
            self.broken[str(e)[:60]] = self.broken.get(str(e)[:60], 0) + 1
            time.sleep(0.02)
        except Unknown as e:
            inv, text = e.args
            self.broken[text[:60]] = self.broken.get(text[:60], 0) + 1
            for k in self.keys if kind in ("flushdb", "swapdb") else {key, other}:
                self.settling.append((time.monotonic() + self.plan["settle"], k, inv))

    def settle(self, key, since):
        """Writes a key anew of which nobody knows what it holds."""
        try:
            label, text = self.value(key)
            self.direct.ask(self.db(key), ("PING",))
            inv, _, resp = self.direct.ask(self.db(key), self.write(key, text))
        except (Refused, Unknown):
            self.settling.append((time.monotonic() + self.plan["settle"], key, since))
            return
        self.hazy.append((key, since, resp))
        self.log(self.direct, key, label, inv, resp, "settled")

    # Words.

    def db(self, key):
        return self.plan["keys"][key]["db"]

    def name(self, key):
        return self.plan["keys"][key]["name"]

    def is_hash(self, key):
        return self.plan["keys"][key]["kind"] == "hash"

    def value(self, key):
        label = next(LABELS)
        return label, f"{self.db(key)}.{key}.{label}." + "x" * self.random.choice((20, 20, 200, 1000))

    def write(self, key, text, *more):
        return ("HSET", self.name(key), "f", text) if self.is_hash(key) else ("SET", self.name(key), text, *more)

    def log(self, door, key, label, inv, resp, what, life=None, bound=None):
        self.state[key] = (label, life)
        bound = bound or (OWN if door.own else FOREIGN)
        self.ops.append((key, label, inv, resp, bound, f"{what} {door.spec['name']}", life))

    def look(self, key):
        """What was acknowledged to one connection of the proxy, another one must see."""
        if not self.own:
            return
        door = self.random.choice(self.own)
        command = ("HGET", self.name(key), "f") if self.is_hash(key) else ("GET", self.name(key))
        try:
            inv, replies, resp = door.ask(self.db(key), command)
        except (Refused, Unknown):
            door.conn = next(self.ids)
            return
        self.notes.add(inv, resp, door.conn, key, label_of(replies[0]))

    # What writers do.

    def do_set(self, door, key, _):
        label, text = self.value(key)
        write = self.write(key, text)
        if door.own and self.random.random() < 0.3:
            read = ("HGET", self.name(key), "f") if self.is_hash(key) else ("GET", self.name(key))
            inv, replies, resp = door.ask(self.db(key), write, read)
            self.log(door, key, label, inv, resp, "SET, GET")
            # The connection has seen what it wrote.
            self.notes.add(inv, resp, door.conn, key, label)
            self.notes.add(inv, resp, door.conn, key, label_of(replies[1]))
            return
        inv, _, resp = door.ask(self.db(key), write)
        self.log(door, key, label, inv, resp, "SET")
        if door.own:
            self.look(key)

    def do_px(self, door, key, _):
        label, text = self.value(key)
        px = self.random.choice((30, 80, 200, 600))
        inv, _, resp = door.ask(self.db(key), ("SET", self.name(key), text, "PX", px))
        self.log(door, key, label, inv, resp, f"SET PX {px}", (inv + px * MS, resp + px * MS))

    def do_expire(self, door, key, _):
        label, _ = self.state[key]
        px = self.random.choice((30, 80, 200, 600))
        inv, replies, resp = door.ask(self.db(key), ("PEXPIRE", self.name(key), px))
        if replies[0] == 1 and label:
            self.log(door, key, label, inv, resp, f"PEXPIRE {px}", (inv + px * MS, resp + px * MS))

    def do_persist(self, door, key, _):
        label, _ = self.state[key]
        inv, replies, resp = door.ask(self.db(key), ("PERSIST", self.name(key)))
        if replies[0] == 1 and label:
            self.log(door, key, label, inv, resp, "PERSIST")

    def do_delete(self, door, key, _):
        inv, _, resp = door.ask(self.db(key), (self.random.choice(("DEL", "UNLINK")), self.name(key)))
        self.log(door, key, None, inv, resp, "DEL")
        if door.own:
            self.look(key)

    def do_getdel(self, door, key, _):
        inv, _, resp = door.ask(self.db(key), ("GETDEL", self.name(key)))
        self.log(door, key, None, inv, resp, "GETDEL")

    def do_script(self, door, key, _):
        label, text = self.value(key)
        body = "redis.call('HSET', KEYS[1], 'f', ARGV[1])" if self.is_hash(key) else "redis.call('SET', KEYS[1], ARGV[1])"
        inv, _, resp = door.ask(self.db(key), ("EVAL", body, 1, self.name(key), text))
        self.log(door, key, label, inv, resp, "EVAL")
        if door.own:
            self.look(key)

    def do_undeclared(self, door, key, _):
        if door.own and not self.plan["undeclared"]:
            return
        label, text = self.value(key)
        inv, _, resp = door.ask(self.db(key), ("EVAL", f"redis.call('SET', '{self.name(key)}', ARGV[1])", 0, text))
        self.log(door, key, label, inv, resp, "EVAL undeclared")
        if door.own:
            self.look(key)

    def do_exec(self, door, key, other):
        values = {k: self.value(k) for k in {key, other}}
        writes = [self.write(k, text) for k, (_, text) in values.items()]
        inv, _, resp = door.ask(self.db(key), ("MULTI",), *writes, ("EXEC",))
        for k, (label, _) in values.items():
            self.log(door, k, label, inv, resp, "EXEC")
        if door.own:
            self.look(key)

    def do_mset(self, door, key, other):
        values = {k: self.value(k) for k in {key, other}}
        pairs = [word for k, (_, text) in values.items() for word in (self.name(k), text)]
        inv, _, resp = door.ask(self.db(key), ("MSET", *pairs))
        for k, (label, _) in values.items():
            self.log(door, k, label, inv, resp, "MSET")

    def do_rename(self, door, key, other):
        label, life = self.state[key]
        if key == other or not label:
            return
        inv, _, resp = door.ask(self.db(key), ("RENAME", self.name(key), self.name(other)))
        self.log(door, key, None, inv, resp, "RENAME from")
        self.log(door, other, label, inv, resp, "RENAME to", life)
        if door.own:
            self.look(other)

    def do_flushdb(self, door, key, _):
        inv, _, resp = door.ask(self.db(key), ("FLUSHDB",))
        for k in self.keys:
            self.log(door, k, None, inv, resp, "FLUSHDB")
        if door.own:
            self.look(key)

    def do_swapdb(self, door, key, _):
        """All keys of the two databases change places; the key list has them in equal order."""
        if self.settling:
            return  # what nobody knows would move
        first, second = sorted({self.db(k) for k in self.keys})
        inv, _, resp = door.ask(first, ("SWAPDB", first, second))
        bound = OWN if door.own else AGE
        ones, others = ([k for k in self.keys if self.db(k) == db] for db in (first, second))
        for one, other in zip(ones, others):
            there, here = self.state[one], self.state[other]
            self.log(door, one, here[0], inv, resp, "SWAPDB", here[1], bound)
            self.log(door, other, there[0], inv, resp, "SWAPDB", there[1], bound)
        if door.own:
            self.look(key)

    def do_unheard(self, _, key, other):
        """Kills the tracked connections and writes before anybody can connect again."""
        door = self.direct
        listed = door.ask(0, ("CLIENT", "LIST"))[1][0].decode().splitlines()
        rows = [dict(f.split("=", 1) for f in line.split(" ") if "=" in f) for line in listed]
        kills = [("CLIENT", "KILL", "ID", row["id"]) for row in rows if "t" in row["flags"]]
        values = {k: self.value(k) for k in {key, other}}
        writes = [self.write(k, text) for k, (_, text) in values.items()]
        inv, _, resp = door.ask(self.db(key), ("MULTI",), *kills, *writes, ("EXEC",))
        for k, (label, _) in values.items():
            self.log(door, k, label, inv, resp, "KILL and SET")


def label_of(value):
    return int(value.split(b".")[2]) if value else NIL


def run(plan):
    writers = [Writer(plan, spec, n) for n, spec in enumerate(plan["writers"])]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    done, broken = {}, {}
    for writer in writers:
        for total, part in ((done, writer.done), (broken, writer.broken)):
            for name, n in part.items():
                total[name] = total.get(name, 0) + n
    notes = Notes()
    for writer in writers:
        for mine, theirs in zip(notes.columns, writer.notes.columns):
            mine.extend(theirs)
    notes.write(plan["out"])
    with open(plan["out"] + ".json", "w") as out:
        json.dump({"ops": [op for w in writers for op in w.ops], "hazy": [h for w in writers for h in w.hazy],
                   "done": done, "broken": broken}, out)


if __name__ == "__main__":
    run(json.load(sys.stdin))
