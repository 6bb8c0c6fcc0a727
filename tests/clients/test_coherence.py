"""Dozens of readers and writers through the proxy, past it and around it: no read may break what L1 promises."""

import signal

import pytest

from conftest import DIRECT
from harness.coherence import STRINGS, Checker, Group, everything, l1_settings, seconds
from harness.history import AGE, ERROR, FOREIGN, MS, NIL, OWN, Judge, Op
from harness.ports import eventually
from harness.slow_link import SlowLink
from harness.stale_cache import FAULTS, StaleCache


class Lab:
    """A server, the proxy under test behind a slow link, another proxy."""

    def __init__(self, redis_server, nearkey, tmp_path):
        self.start_server, self.start_nearkey, self.directory = redis_server, nearkey, tmp_path
        self.links = []

    def build(self, *, args=(), link=True, other=True, check=None, tls=False, **settings):
        self.server = self.start_server(tls=tls, args=args)
        place = ("127.0.0.1", self.server.port)
        self.link = SlowLink(self.server.port) if link else None
        self.links += [self.link] if link else []
        # Scripts that keep to their keys, so that L1 is not emptied by each; the others have a run of their own.
        check = {"undeclared": False, **(check or {})}
        settings = {"cache__scripts": "declared", **settings} if l1_settings() else settings
        if DIRECT:
            return Checker(("127.0.0.1", self.link.port) if link else place, place, self.directory / "run", **check)
        url = f"redis://127.0.0.1:{self.link.port if link else self.server.port}"
        url = self.server if tls else url
        patient = {"upstream__command_timeout": "20s", "upstream__stall_timeout": "20s", "upstream__max_connections": 100}
        self.proxy = self.start_nearkey(url, **{**patient, **l1_settings(), **settings})
        second = self.start_nearkey(self.server, tls=False, **patient, **l1_settings()) if other else None
        return Checker((self.proxy.host, self.proxy.port), place, self.directory / "run", metrics=self.proxy.metrics,
                       other=(second.host, second.port) if second else None, **check)

    def kill_tracked(self):
        rows = [row for row in self.server.clients() if "t" in row["flags"]]
        for row in rows:
            self.server.control("CLIENT", "KILL", "ID", row["id"])
        self.killed = getattr(self, "killed", 0) + len(rows)

    def signal_proxy(self, what):
        if not DIRECT:
            self.proxy.process.send_signal(what)


@pytest.fixture
def lab(redis_server, request, tmp_path):
    lab = Lab(redis_server, None if DIRECT else request.getfixturevalue("nearkey"), tmp_path)
    yield lab
    for link in lab.links:
        link.close()


def acquit(result, reads, hits=0.01):
    print(result)
    assert not result.verdict.counts, str(result)
    assert not result.unanswered, str(result)
    # Floors: a run in which nothing happens proves nothing.
    assert result.reads > reads, str(result)
    if result.hits is not None:
        assert result.hit_share > hits, str(result)


def test_nothing_is_read_that_an_honest_cache_could_not_have_given(lab):
    check = lab.build(link=False)
    length = seconds(5)
    result = check.run(length)
    acquit(result, 2000 * length)
    assert not result.errors and not result.closed and not result.broken, str(result)
    kinds = {done.split(" ")[0] for done in result.done}
    assert {"set", "px", "delete", "script", "exec", "rename", "getdel", "flushdb", "swapdb", "persist"} <= kinds, result.done
    # Others' writes are shown by their pushes, not by the lease.
    assert result.verdict.lag(0.99) < 50, str(result)


def test_pushes_that_come_through_tls(lab):
    check = lab.build(link=False, other=False, tls=True)
    length = seconds(3)
    result = check.run(length, events=[(1.2, lab.kill_tracked)])
    acquit(result, 1000 * length)
    if result.hits is not None:
        assert lab.killed > 0


def test_scripts_that_reach_keys_which_they_do_not_declare(lab):
    check = lab.build(link=False, check={"undeclared": True, "special": 0.0002}, cache__scripts="any")
    length = seconds(4)
    acquit(check.run(length), 2000 * length, hits=0.01)


def test_a_network_that_cuts_delays_and_falls_silent(lab):
    # Delays are part of the way: twice 50 ms there and back.
    check = lab.build(check={"round_trip": 0.4})
    tracked, other = lab.link.tracked, lab.link.other
    events = [
        (0.5, lab.kill_tracked), (0.8, lab.kill_tracked),
        (0.9, lambda: setattr(tracked, "reply_delay", 0.05)), (1.5, lambda: setattr(tracked, "reply_delay", 0)),
        (1.6, lambda: setattr(other, "reply_delay", 0.03)), (2.0, lambda: setattr(other, "reply_delay", 0)),
        # Longer than the lease: pushes are on their way and do not arrive.
        (2.1, lambda: tracked.hold()), (3.9, lambda: tracked.hold(False)),
        (4.1, lambda: lab.signal_proxy(signal.SIGSTOP)), (7.1, lambda: lab.signal_proxy(signal.SIGCONT)),
        (7.4, lambda: (tracked.hold(), other.hold())), (8.6, lambda: (tracked.hold(False), other.hold(False))),
        (8.9, lambda: lab.link.cut(tracked)), (9.3, lambda: lab.link.cut()),
    ]
    result = check.run(max(10, seconds(10)), events=events)
    acquit(result, 10_000, hits=0.01)
    if result.hits is not None:
        assert lab.killed > 0


def test_a_server_that_freezes_reloads_changes_roles_and_is_lost(lab, redis_server):
    check = lab.build(args=["--repl-diskless-sync-delay", 0])
    server = lab.server
    replica = redis_server(tls=False, args=["--replicaof", f"127.0.0.1 {server.port}", "--repl-diskless-sync-delay", 0])
    eventually(lambda: replica.info("replication")["master_link_status"] == "up")

    def fail_over(there, back):
        there.control("FAILOVER", "TO", "127.0.0.1", back.port)
        eventually(lambda: there.info("replication")["role"] == "slave" and there.info("replication")["master_link_status"] == "up")

    def lose():
        server.stop()
        # What DEBUG RELOAD had saved.
        (server.directory / "dump.rdb").unlink(missing_ok=True)
        server.start()

    events = [
        (0.7, server.freeze), (2.2, server.thaw), (2.5, lambda: server.control("DEBUG", "RELOAD")),
        (2.9, lambda: server.control("DEBUG", "RELOAD")), (3.3, lambda: fail_over(server, replica)),
        (4.2, lambda: fail_over(replica, server)), (6.0, replica.stop), (6.2, lose, True),
    ]
    # Whoever swaps databases must know what is in them, which no writer does after a loss.
    groups = [group for group in everything() if "swapdb" not in group.kinds]
    result = check.run(max(8, seconds(8)), groups, events)
    acquit(result, 10_000, hits=0.01)
    assert any("READONLY" in text for text in result.broken), result.broken
    assert int(server.info("server")["uptime_in_seconds"]) < result.seconds, "the server was never lost"


def test_keys_that_expire_beside_a_hundred_thousand_others(lab):
    check = lab.build(link=False)
    lab.server.control("EVAL", "for i = 1, 100000 do redis.call('SET', 'v:' .. i, 'x', 'PX', 3600000) end", 0)
    group = Group((0,), {"px": 40, "expire": 20, "persist": 8, "set": 20}, rate=25)
    result = check.run(seconds(3), [group, Group((1,), group.kinds, rate=25)])
    acquit(result, 6000)
    assert any(kind.startswith("px") for kind in result.done), result.done


def test_a_tracking_table_that_overflows(lab):
    check = lab.build(link=False, args=["--tracking-table-max-keys", 10])
    acquit(check.run(seconds(2)), 4000, hits=0.002)


def test_a_server_that_evicts(lab):
    check = lab.build(link=False, check={"evicts": True})
    lab.server.control("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    lab.server.control("CONFIG", "SET", "maxmemory", int(lab.server.info("memory")["used_memory"]) + (12 << 20))

    def fill(n):
        return lambda: lab.server.control(
            "EVAL", "for i = 1, 200 do redis.call('SET', 'f:' .. ARGV[1] .. ':' .. i, string.rep('x', 4096)) end", 0, n)

    result = check.run(seconds(3), [Group((0,), STRINGS), Group((1,), STRINGS)], [(n / 20, fill(n)) for n in range(50)])
    acquit(result, 6000, hits=0.01)
    assert int(lab.server.info("stats")["evicted_keys"]) > 100


def test_nobody_is_served_what_only_another_may_read(lab, redis_server, request, tmp_path):
    server = redis_server(tls=False, password="admin-77")
    server.control("ACL", "SETUSER", "alice", "reset", "on", ">alice-41", "~*", "+@all")
    server.control("ACL", "SETUSER", "bob", "reset", "on", ">bob-93", "~other:*", "+@all")
    place = ("127.0.0.1", server.port)
    options = {"reader_options": {"user": "alice", "password": "alice-41"}, "forbidden": {"user": "bob", "password": "bob-93"},
               "undeclared": False}
    if DIRECT:
        check = Checker(place, place, tmp_path / "run", **options)
    else:
        proxy = request.getfixturevalue("nearkey")(server, tls=False, upstream__auth="passthrough", upstream__max_connections=100,
                                                   **l1_settings(scripts="declared"))
        check = Checker((proxy.host, proxy.port), place, tmp_path / "run", metrics=proxy.metrics, **options)
    result = check.run(seconds(3), [Group((0,), STRINGS), Group((1,), STRINGS)])
    acquit(result, 6000, hits=0.01)
    denied = sum(n for text, n in result.errors.items() if text.startswith("NOPERM"))
    assert denied > 500 and denied == sum(result.errors.values()), result.errors


@pytest.mark.parametrize("fault", FAULTS)
def test_a_cache_with_a_fault_is_convicted(fault, redis_server, tmp_path):
    server = redis_server(tls=False)
    cache = StaleCache(server.port, fault)
    try:
        place = ("127.0.0.1", server.port)
        doors = {"ignores writes of others": ("direct",), "ignores expiry": ("own", "direct"), "ignores the database": ("direct",),
                 "fills late": ("own", "own", "own")}
        check = Checker(("127.0.0.1", cache.port), place, tmp_path / "run", readers=8, doors=(*doors.get(fault, ("own",)), "direct"),
                        lease=0.3, special=0)
        groups = [Group((db,), {"set": 10, "px": 10, "delete": 3}, keys=8, rate=60 if fault == "fills late" else 20) for db in (0, 1)]
        result = check.run(1.5, groups)
    finally:
        cache.close()
    print(result)
    wanted = {
        "ignores writes of others": "staler than the bound", "ignores its own writes": "an acknowledged write of this proxy not seen",
        "ignores expiry": "served past its expiry", "ignores the database": "never a value of this key",
        "fills late": "an acknowledged write of this proxy not seen",
    }
    assert cache.hits > 100
    assert wanted[fault] in result.verdict.counts, str(result)


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
