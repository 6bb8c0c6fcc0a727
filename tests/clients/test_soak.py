"""Constant load, clients that come and go, faults now and then: after a while nothing grows any more.

Runs only with `NEARKEY_SOAK_SECONDS` (`./test soak`). `NEARKEY_SOAK_CHURN` is how many connections come and go per
second, `NEARKEY_SOAK_CLIENTS` how many stay.
"""

import asyncio
import math
import os
import random
import time

import pytest

from harness.chaos_run import Run
from harness.chaos import DEADLINE
from harness.resp import encode

SECONDS = float(os.environ.get("NEARKEY_SOAK_SECONDS", "0"))
CHURN = float(os.environ.get("NEARKEY_SOAK_CHURN", "500"))
CLIENTS = int(os.environ.get("NEARKEY_SOAK_CLIENTS", "60"))

# A kibibyte a second would be 3.5 MiB in an hour.
NOTABLE = 1.0

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not SECONDS, reason="NEARKEY_SOAK_SECONDS does not say how long")]


def slope(points):
    """Of a straight line through (second, value), and how far it may be off with a confidence of 95 %.

    Neighbours in a series are alike, so what they tell together is less than what so many measurements would: the points are
    gathered in twenty blocks, which are taken as measurements.
    """
    size = max(1, len(points) // 20)
    blocks = [points[i:i + size] for i in range(0, len(points) - size + 1, size)]
    xs, ys = zip(*((sum(x for x, _ in b) / len(b), sum(y for _, y in b) / len(b)) for b in blocks))
    n, mx, my = len(xs), sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mx) ** 2 for x in xs)
    rise = sum((x - mx) * (y - my) for x, y in zip(xs, ys)) / spread
    rest = sum((y - my - rise * (x - mx)) ** 2 for x, y in zip(xs, ys))
    # Student's t for some twenty blocks.
    return rise, 2.1 * math.sqrt(rest / (n - 2) / spread)


class Soak(Run):
    """A run in which little breaks and many come and go."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.samples, self.visits, self.refused = [], 0, 0

    async def break_things(self, address, end):
        began = time.monotonic()
        helpers = [asyncio.ensure_future(self.visit(address, end)) for _ in range(max(1, round(CHURN / 20)))]
        while time.monotonic() < end and not self.chronicle.over:
            await asyncio.sleep(1)
            self.calm.set()
            usage = self.usage()
            self.samples.append((time.monotonic() - began, usage["rss"], usage["fds"], usage["threads"]))
            if len(self.samples) % 20 == 0:
                await self.break_path(self.random.choice(("hold", "reset all", "delay")), 0.3)
            if len(self.samples) % 31 == 0:
                await self.break_server("client kill", 0)
        await asyncio.gather(*helpers)

    async def visit(self, address, end):
        """One connection after the other, twenty per second."""
        rnd, due = random.Random(f"visits/{id(self)}"), time.monotonic()
        while time.monotonic() < end and not self.chronicle.over:
            due = max(due + 0.05, time.monotonic() - 1)
            await asyncio.sleep(max(0, due - time.monotonic()))
            try:
                reader, writer = await asyncio.open_connection(*address)
            except OSError:
                self.refused += 1
                continue
            try:
                writer.write(encode("INCR", "visits") + encode("GET", "whoami"))
                if rnd.random() < 0.8:
                    await asyncio.wait_for(reader.readline(), DEADLINE)
                self.visits += 1
            except OSError:
                pass
            except asyncio.TimeoutError:
                self.chronicle.accuse("a visitor got no answer and no end")
            finally:
                writer.transport.abort() if rnd.random() < 0.5 else writer.close()

    def lines(self):
        settled = [s for s in self.samples if s[0] > min(120, SECONDS / 4)]
        return {what: ([s[column] for s in settled], slope([(s[0], s[column]) for s in settled]))
                for column, what in ((1, "KiB"), (2, "fds"), (3, "threads"))}

    def wound_pause(self):
        return self.random.uniform(2, 5)


@pytest.mark.parametrize("workers", [2])
def test_nothing_grows(workers, redis_server, certs, tmp_path):
    soak = Soak(redis_server, tmp_path, certs, clients=CLIENTS, workers=workers, pause=(0.0, 0.2))
    try:
        soak.run(SECONDS)
    finally:
        soak.close()
    print(soak)
    rate = soak.visits / SECONDS
    print(f"{soak.visits} visits ({rate:.0f}/s), {soak.refused} not let in, {soak.chronicle.checked / SECONDS:.0f} replies/s")
    lines = soak.lines()
    for what, (values, (rise, doubt)) in lines.items():
        print(f"{what}: {min(values)} to {max(values)}, last {values[-1]}; per second {rise:+.5f} +- {doubt:.5f}, "
              f"per hour {rise * 3600:+.0f}")
    assert not soak.chronicle.wrong, soak.story()
    assert soak.chronicle.checked > 20 * SECONDS and soak.visits > min(50, CHURN) / 4 * SECONDS, soak.story()
    for what, (values, (rise, doubt)) in lines.items():
        assert rise - doubt <= 0 or rise < (NOTABLE if what == "KiB" else 0.001), (what, rise, doubt, soak.samples[::30])
    soak.nearkey.verdict()


def test_the_slope_of_what_grows_is_seen():
    rnd = random.Random(1)
    for grows in (0, 2.0):
        rise, doubt = slope([(x, 10_000 + grows * x + rnd.uniform(-500, 500)) for x in range(600)])
        assert (rise - doubt > 0) == bool(grows) and abs(rise - grows) <= 1.5 * doubt
