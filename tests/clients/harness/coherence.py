"""Runs readers and writers against a cache and judges what they saw.

`Checker` knows where the doors are: the proxy under test, another proxy, the server itself. Readers and writers are
processes of their own; what happens meanwhile (`events`) is done here.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from .coherence_readers import by_key, read_notes
from .history import AGE, FOREIGN, MS, NEVER, OWN, Judge, Op
from .nearkey import run as run_nearkey

CLIENTS = Path(__file__).resolve().parents[1]

# Reads of a run: what the judge can keep in mind.
MOST = 6_000_000

# Weights of what writers do.
STRINGS = {"set": 30, "px": 14, "delete": 6, "script": 8, "undeclared": 1, "exec": 8, "mset": 5, "rename": 5, "getdel": 4,
           "expire": 8, "persist": 5}
# HSET keeps a key's life, so nothing here gives one.
HASHES = {"set": 30, "delete": 6, "script": 8, "exec": 8, "rename": 5}
FLUSHED = {"set": 40, "px": 5, "delete": 5, "flushdb": 2}
SWAPPED = {"set": 40, "px": 5, "delete": 5, "swapdb": 1}


@dataclass
class Group:
    """Keys of one writer. A group of two databases has the same names in both."""

    dbs: tuple
    kinds: dict
    keys: int = 30
    prefix: str = "k"
    kind: str = "string"
    rate: float = 80.0


def everything():
    """All kinds of writes, in five databases; the names are the same in all of them."""
    return [
        Group((0,), STRINGS), Group((0,), STRINGS, prefix="l"), Group((0,), HASHES, prefix="h", kind="hash", keys=10, rate=40),
        Group((1,), STRINGS), Group((2,), FLUSHED, rate=60), Group((3, 4), SWAPPED, keys=15, rate=60),
    ]


@dataclass
class Result:
    verdict: object
    hits: float | None
    misses: float | None
    reads: int
    seconds: float
    closed: int
    unanswered: int
    errors: dict
    done: dict
    broken: dict

    @property
    def hit_share(self):
        return self.hits / max(1, self.reads) if self.hits is not None else None

    def __str__(self):
        share = "no L1" if self.hits is None else f"{self.hit_share:.0%} hits"
        return (f"{self.reads / self.seconds * 60:,.0f} reads a minute, {share}, {sum(self.done.values())} writes, {self.closed} closed, "
                f"{self.unanswered} unanswered, errors {self.errors}, writes lost {self.broken}\n{self.verdict.summary()}\n"
                f"{self.verdict.excerpts()}")


@dataclass
class Checker:
    """`own` is what is tested: host and port. `metrics` gives its metrics, if it has any."""

    own: tuple
    direct: tuple
    directory: Path
    other: tuple | None = None
    metrics: object = None
    # What the proxy promises, in seconds.
    lease: float = 1.0
    max_age: float = 30.0
    round_trip: float = 0.1
    readers: int = 64
    depths: tuple = (1, 1, 4, 16)
    # The share of reads past L1. Each makes it forget a key.
    special: float = 0.004
    undeclared: bool = True
    evicts: bool = False
    seed: int = 1
    password: str | None = None
    # Which doors writers use, and how often.
    doors: tuple = ("own", "own", "other", "direct")
    reader_options: dict = field(default_factory=dict)
    forbidden: dict | None = None
    # Reads a second: more would only take time from the writers.
    pace: int = 70_000
    # Seconds after which nothing that was lost on the way can still run.
    settle: float = 2.5

    def run(self, seconds, groups=None, events=()):
        """`events` are (second, action, whether the data is lost): an action runs when its second has come."""
        groups = groups or everything()
        self.directory = Path(self.directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        keys, writers = self._keys(groups)
        before, start = self._counters(), time.monotonic_ns() + 400 * MS
        end = start + int(seconds * 1e9)
        common = {"keys": keys, "start": start, "end": end, "seed": self.seed, "settle": self.settle,
                  "pace": min(self.pace, MOST / seconds) / 2}
        processes, specs = [], self._readers(keys)
        for n in range(2):
            # Times of a connection are its process's: each reader stays in one.
            processes.append(self._start("coherence_readers", f"readers-{n}", {
                **common, "readers": specs[n::2], "next_id": 100_000 * (n + 1)}))
        processes.append(self._start("coherence_writers", "writers", {
            **common, "writers": writers, "doors": self._doors(), "undeclared": self.undeclared, "next_id": 10_000}))
        try:
            losses = self._happen(start, events)
            for process in processes:
                assert process.wait(seconds + 60) == 0, "a process of the checker failed"
        finally:
            for process in processes:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        return self._judge(keys, specs, losses, seconds, before)

    def _keys(self, groups):
        keys, writers = [], []
        for group in groups:
            first = len(keys)
            keys += [{"db": db, "name": f"{group.prefix}:{i}", "kind": group.kind} for db in group.dbs for i in range(group.keys)]
            writers.append({"keys": list(range(first, len(keys))), "kinds": group.kinds, "rate": group.rate})
        return keys, writers

    def _readers(self, keys):
        dbs = [key["db"] for key in keys]
        host, port = self.own
        # As many readers for a database as it has keys, about.
        shares = [dbs[int(i * len(dbs) / self.readers)] for i in range(self.readers)]
        specs = [{"id": i, "db": db, "protocol": 2 + i // 2 % 2, "depth": self.depths[i // 4 % len(self.depths)], "special": self.special,
                  "host": host, "port": port, **self.reader_options} for i, db in enumerate(shares)]
        for spec in specs[::4] if self.forbidden else ():
            spec.update(self.forbidden, special=0, forbidden=True)
        return specs

    def _doors(self):
        places = {"own": self.own, "other": self.other, "direct": self.direct}
        doors = []
        for n, name in enumerate(self.doors):
            if places[name]:
                host, port = places[name]
                doors.append({"name": name, "host": host, "port": port, "protocol": 2 + n % 2, **self.reader_options})
        return doors

    def _start(self, module, name, plan):
        plan["out"] = str(self.directory / name)
        errors = open(self.directory / f"{name}.log", "wb")
        process = subprocess.Popen([sys.executable, "-m", f"harness.{module}"], cwd=CLIENTS, stdin=subprocess.PIPE, stderr=errors)
        process.stdin.write(json.dumps(plan).encode())
        process.stdin.close()
        return process

    def _happen(self, start, events):
        """Does what is to be done; spans in which data was lost."""
        losses = []
        for second, action, *lost in sorted(events, key=lambda event: event[0]):
            time.sleep(max(0, start / 1e9 + second - time.monotonic()))
            began = time.monotonic_ns()
            action()
            if any(lost):
                losses.append((began, time.monotonic_ns()))
        return losses

    def _counters(self):
        if self.metrics is None:
            return None
        samples = self.metrics()
        return {w: sum(v for k, v in samples.items() if k.split("{")[0] == f"nearkey_l1_{w}_total") for w in ("hits", "misses")} \
            if any(k.startswith("nearkey_l1_hits_total") for k in samples) else None

    def _judge(self, keys, specs, losses, seconds, before):
        log = json.loads((self.directory / "writers.json").read_text())
        ops = [Op(key, label, inv, resp, bound, what, life and tuple(life)) for key, label, inv, resp, bound, what, life in log["ops"]]
        hazy = {}
        for key, since, until in log["hazy"]:
            hazy.setdefault(key, []).append((since, until if until is not None else NEVER))
        ops = with_losses(ops, losses, len(keys), hazy)
        foreign = int((self.lease + self.round_trip) * 1e9)
        bounds = {OWN: 0, FOREIGN: foreign, AGE: int((self.max_age + self.round_trip) * 1e9)}
        forbidden = [spec["id"] for spec in specs if spec.get("forbidden")]
        names = [f"{key['name']} of database {key['db']}" for key in keys]
        judge = Judge(ops, bounds, hazy=hazy, names=names, evicts=self.evicts, forbidden=forbidden)
        notes, tallies = [read_notes(self.directory / "writers")], []
        for n in range(2):
            notes.append(read_notes(self.directory / f"readers-{n}"))
            tallies.append(json.loads((self.directory / f"readers-{n}.json").read_text()))
        after, errors = self._counters(), {}
        for tally in tallies:
            for text, n in tally["errors"].items():
                errors[text] = errors.get(text, 0) + n
        # A proxy that was started anew counts from zero.
        gained = {w: after[w] - (before[w] if after[w] >= before[w] else 0) for w in after} if before and after else {}
        verdict = judge.judge_keys(by_key(notes))
        return Result(verdict, gained.get("hits"), gained.get("misses"), verdict.reads, seconds,
                      sum(t["closed"] for t in tallies), sum(t["unanswered"] for t in tallies), errors, log["done"], log["broken"])


def with_losses(ops, losses, keys, hazy):
    """Adds what a crash of the server does: everything is gone that was acknowledged before it was up again. Of a write that
    was under way meanwhile nobody knows whether it came before or after: its key is in doubt until the next one."""
    for began, ended in losses:
        merged = []
        by_key = {key: [] for key in range(keys)}
        for op in ops:
            by_key[op.key].append(op)
        for key, of_key in by_key.items():
            before = [op for op in of_key if op.resp < ended]
            if any(op.inv <= ended and op.resp >= began for op in of_key):
                after = [op.resp for op in of_key if op.inv > ended]
                hazy.setdefault(key, []).append((began, after[0] if after else NEVER))
            merged += [*before, Op(key, None, max([began, *(op.inv for op in before[-1:])]), ended, FOREIGN, "lost by the server"),
                       *of_key[len(before):]]
        ops = merged
    return ops


@cache
def has_l1():
    """The program under test knows L1."""
    if os.environ.get("NEARKEY_TEST_DIRECT") == "1":
        return False
    done = run_nearkey("config", env={"NEARKEY_CACHE__DEFAULT": "cache", "REDIS_URL": "redis://redis.invalid"})
    return done.returncode == 0


def l1_settings(**more):
    """Settings that cache every key; none for a program without L1."""
    if not has_l1():
        return {}
    return {f"cache__{k}": v for k, v in {"default": "cache", "mode": "auto", "lease": "1s", **more}.items()}


def seconds(short):
    """How long a run lasts: `NEARKEY_COHERENCE_SECONDS`, else `short`."""
    return float(os.environ.get("NEARKEY_COHERENCE_SECONDS") or short)
