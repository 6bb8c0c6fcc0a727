"""Dozens of readers and writers through the proxy, past it and around it: no read may break what L1 promises."""

import time

import pytest

from conftest import DIRECT
from harness.coherence import Checker, l1_settings, seconds
from harness.history import AGE, ERROR, FOREIGN, MS, NIL, OWN, Judge, Op
from harness.slow_link import SlowLink
from harness.stale_cache import StaleCache


class Lab:
    """A server, the proxy under test behind a slow link, another proxy."""

    def __init__(self, redis_server, nearkey, tmp_path):
        self.start_server, self.start_nearkey, self.directory = redis_server, nearkey, tmp_path
        self.links = []

    def build(self, *, args=(), link=True, other=True, check=None, **settings):
        self.server = self.start_server(tls=False, args=args)
        place = ("127.0.0.1", self.server.port)
        self.link = SlowLink(self.server.port) if link else None
        self.links += [self.link] if link else []
        check = dict(check or {})
        if DIRECT:
            return Checker(("127.0.0.1", self.link.port) if link else place, place, self.directory / "run", **check)
        url = f"redis://127.0.0.1:{self.link.port if link else self.server.port}"
        patient = {"upstream__command_timeout": "20s", "upstream__stall_timeout": "20s", "upstream__max_connections": 100}
        self.proxy = self.start_nearkey(url, **{**patient, **l1_settings(), **settings})
        second = self.start_nearkey(self.server, tls=False, **patient, **l1_settings()) if other else None
        return Checker((self.proxy.host, self.proxy.port), place, self.directory / "run", metrics=self.proxy.metrics,
                       other=(second.host, second.port) if second else None, **check)


@pytest.fixture
def lab(redis_server, request, tmp_path):
    lab = Lab(redis_server, None if DIRECT else request.getfixturevalue("nearkey"), tmp_path)
    yield lab
    for link in lab.links:
        link.close()


def acquit(result, reads, hits=0.2):
    print(result)
    assert not result.verdict.counts, str(result)
    assert not result.unanswered, str(result)
    # Floors: a run in which nothing happens proves nothing.
    assert result.reads > reads, str(result)
    if result.hits is not None:
        assert result.hit_share > hits, str(result)


def test_nothing_is_read_that_an_honest_cache_could_not_have_given(lab):
    check = lab.build(link=False)
    length = seconds(8)
    result = check.run(length)
    acquit(result, 2000 * length)
    assert not result.errors and not result.closed and not result.broken, str(result)
    kinds = {done.split(" ")[0] for done in result.done}
    assert {"set", "px", "delete", "script", "exec", "rename", "getdel", "flushdb", "swapdb", "persist"} <= kinds, result.done
    # Others' writes are shown by their pushes, not by the lease.
    assert result.verdict.lag(0.99) < 50, str(result)


# The judge itself: made-up histories, each with one thing wrong.

BOUNDS = {OWN: 0, FOREIGN: 1000 * MS, AGE: 5000 * MS}


def wrote(label, start, end, bound=OWN, life=None, key=0):
    return Op(key, label, start * MS, end * MS if end is not None else None, bound, "SET", life and (life[0] * MS, life[1] * MS))


def saw(label, start, end, conn=0, key=0):
    return (start * MS, end * MS, conn, key, label)


HONEST = {
    "the old value while the write is under way": ([wrote(1, 0, 1), wrote(2, 10, 20)], [saw(2, 11, 12), saw(2, 21, 22)]),
    "old or new beside the write": ([wrote(1, 0, 1), wrote(2, 10, 20)], [saw(1, 11, 12), saw(2, 12, 13, 1), saw(2, 14, 15)]),
    "a write of others within the lease": ([wrote(1, 0, 1), wrote(2, 10, 20, FOREIGN)], [saw(1, 1000, 1001)]),
    "a foreign SWAPDB within the age": ([wrote(1, 0, 1), wrote(2, 10, 20, AGE)], [saw(1, 4000, 4001)]),
    "missing after its life": ([wrote(1, 0, 1, life=(50, 51))], [saw(1, 40, 41), saw(NIL, 55, 56)]),
    "back by SWAPDB": ([wrote(1, 0, 1), wrote(None, 5, 6), wrote(1, 10, 11)], [saw(1, 2, 3), saw(NIL, 7, 8), saw(1, 12, 13)]),
    "a write nobody knows the fate of": ([wrote(1, 0, 1), wrote(2, 10, None)], [saw(1, 30, 31), saw(2, 40, 41)]),
    "an error": ([wrote(1, 0, 1)], [saw(ERROR, 30, 31)]),
}

GUILTY = {
    "never a value of this key": ([wrote(1, 0, 1), wrote(7, 0, 1, key=1)], [saw(7, 5, 6)]),
    "a value from the future": ([wrote(1, 0, 1), wrote(2, 10, 20)], [saw(2, 5, 9)]),
    "an acknowledged write of this proxy not seen": ([wrote(1, 0, 1), wrote(2, 10, 20)], [saw(1, 21, 22)]),
    "staler than the bound": ([wrote(1, 0, 1), wrote(2, 10, 20, FOREIGN)], [saw(1, 1021, 1022)]),
    "older than its connection had read": ([wrote(1, 0, 1), wrote(2, 10, 20, FOREIGN)], [saw(2, 21, 22), saw(1, 23, 24)]),
    "older than another connection had read": ([wrote(1, 0, 1), wrote(2, 10, 20, FOREIGN)], [saw(2, 21, 22), saw(1, 23, 24, 1)]),
    "served past its expiry": ([wrote(1, 0, 1, life=(50, 51))], [saw(1, 60, 61)]),
}

ALSO_GUILTY = [
    ("an acknowledged write of this proxy not seen", [wrote(1, 0, 1)], [saw(NIL, 5, 6)]),
    ("an acknowledged write of this proxy not seen", [wrote(1, 0, 1), wrote(None, 5, 6)], [saw(1, 7, 8)]),
    ("an acknowledged write of this proxy not seen", [wrote(1, 0, 1, life=(50, 51))], [saw(NIL, 20, 21)]),
    ("older than its connection had read", [wrote(1, 0, 1), wrote(None, 5, 6, FOREIGN)], [saw(NIL, 7, 8), saw(1, 9, 10)]),
    ("staler than the bound", [wrote(1, 0, 1), wrote(1, 5, 6, FOREIGN, life=(50, 51))], [saw(1, 1100, 1101)]),
    # Pipelined: what the connection wrote it has seen.
    ("older than its connection had read", [wrote(1, 0, 1), wrote(2, 10, 20)], [saw(2, 10, 20), saw(1, 10, 20)]),
]


@pytest.mark.parametrize("name", HONEST)
def test_the_judge_acquits(name):
    ops, reads = HONEST[name]
    verdict = Judge(ops, BOUNDS).judge(reads)
    assert not verdict.counts, verdict.excerpts()


@pytest.mark.parametrize("kind,ops,reads", [(k, *case) for k, case in GUILTY.items()] + ALSO_GUILTY)
def test_the_judge_convicts(kind, ops, reads):
    verdict = Judge(ops, BOUNDS).judge(reads)
    assert verdict.counts == {kind: 1}, verdict.summary()
    assert "asked at 0" in verdict.excerpts()


def test_the_judge_knows_who_may_read_nothing_and_what_is_in_doubt():
    ops, reads = [wrote(1, 0, 1)], [saw(1, 5, 6, conn=3)]
    assert Judge(ops, BOUNDS, forbidden=[3]).judge(reads).counts == {"a value for a user without permission": 1}
    stale = [wrote(1, 0, 1), wrote(2, 10, 20)], [saw(1, 30, 31)]
    assert not Judge(stale[0], BOUNDS, hazy={0: [(0, 40 * MS)]}).judge(stale[1]).counts
    assert not Judge(ops, BOUNDS, evicts=True).judge([saw(NIL, 5, 6)]).counts


def test_the_judge_counts_how_late_writes_of_others_are_shown():
    ops = [wrote(1, 0, 1, FOREIGN), wrote(2, 10, 20, FOREIGN)]
    verdict = Judge(ops, BOUNDS).judge([saw(1, 5, 6), saw(1, 60, 61), saw(1, 90, 91), saw(2, 100, 101)])
    assert verdict.lags == [0, 70 * MS] and verdict.staleness == [40 * MS, 70 * MS]
