"""The thirty ways in which caches in front of Redis are known to fail, each by itself and without chance.

Every case is about values, so each also runs with L1 off and against redis-server itself; where L1 is on, its counters must
say that it took part.
"""

import signal
import threading
import time

import pytest

from conftest import DIRECT
from harness.coherence import has_l1, l1_settings
from harness.liar import Liar
from harness.ports import eventually, freeze
from harness.resp import Raw, ReplyError, bulk, encode
from harness.slow_link import SlowLink

LEASE = 1.0
# What a value written elsewhere may take at most, with room for a busy machine.
SOON = LEASE + 1.0


class Stage:
    """A server, a slow link and a proxy that caches everything; clients of all of them."""

    def __init__(self, server, start_nearkey, **settings):
        self.server, self.raws = server, []
        self.link = SlowLink(server.port)
        self.tracked, self.other = self.link.tracked, self.link.other
        self.proxy = None
        if not DIRECT:
            patient = {"upstream__command_timeout": "20s", "upstream__stall_timeout": "20s", "upstream__max_connections": 50}
            self.proxy = start_nearkey(f"redis://127.0.0.1:{self.link.port}", **{**patient, **settings})

    def client(self, protocol=2, db=0):
        raw = self.proxy.connect() if self.proxy else Raw("127.0.0.1", self.link.port)
        self.raws.append(raw)
        if protocol == 3:
            raw.command("HELLO", 3)
        if db:
            raw.command("SELECT", db)
        return raw

    def direct(self, *args, db=0):
        """A command of somebody else: past link and proxy."""
        raw = Raw("127.0.0.1", self.server.port)
        self.raws.append(raw)
        if db:
            raw.command("SELECT", db)
        return raw.command(*args)

    @property
    def has_l1(self):
        return self.proxy is not None and has_l1()

    def counter(self, word):
        samples = self.proxy.metrics()
        return sum(v for k, v in samples.items() if k.split("{")[0] == f"nearkey_l1_{word}_total")

    def heat(self, raw, *keys, command="GET"):
        """Reads keys until they come from L1."""
        for key in keys:
            if not self.has_l1:
                raw.command(command, key)
                continue

            def is_hit(key=key):
                before = self.counter("hits")
                raw.command(command, key)
                return self.counter("hits") > before

            eventually(is_hit, what=f"{key} is read from L1")

    def hits(self, at_least=1, at_most=None):
        return Hits(self, at_least, at_most)

    def close(self):
        for raw in self.raws:
            raw.close()
        self.link.close()


class Hits:
    """The block gets so many hits, if there is an L1."""

    def __init__(self, stage, at_least, at_most):
        self.stage, self.at_least, self.at_most = stage, at_least, at_most

    def __enter__(self):
        self.before = self.stage.counter("hits") if self.stage.has_l1 else 0

    def __exit__(self, kind, *_):
        if kind is None and self.stage.has_l1:
            got = self.stage.counter("hits") - self.before
            assert got >= self.at_least and (self.at_most is None or got <= self.at_most), f"{got} hits"


@pytest.fixture
def stages(redis_server, request):
    """Starts stages: `stages(server, max_age="2s")`; settings are those of `[cache]`."""
    built = []
    start_nearkey = None if DIRECT else request.getfixturevalue("nearkey")

    def build(server=None, args=(), **cache):
        built.append(Stage(server or redis_server(tls=False, args=args), start_nearkey, **l1_settings(**cache)))
        return built[-1]

    yield build
    for stage in built:
        stage.close()


@pytest.fixture
def stage(stages):
    return stages()


def soon(raw, key, value, seconds=SOON):
    """From somewhere within the lease on the value is this, and stays so."""
    want = value.encode() if isinstance(value, str) else value
    end = time.monotonic() + seconds
    while (got := raw.command("GET", key)) != want:
        assert time.monotonic() < end, f"{key} is {got!r} still, not {want!r}"
        time.sleep(0.01)
    assert raw.command("GET", key) == want


def test_01_a_push_that_follows_the_reply_it_ends(stage):
    one = stage.client()
    stage.tracked.reply_delay = stage.other.reply_delay = 0.05
    for n in range(8):
        key = f"k:{n}"
        stage.direct("SET", key, "old")
        one.command("GET", key)
        # The second sight orders a fill; the server has answered it when the write comes.
        one.send(encode("GET", key))
        time.sleep(0.02)
        stage.direct("SET", key, "new")
        assert one.reply() in (b"old", b"new")
        time.sleep(0.11)
        assert one.command("GET", key) == b"new"


def test_02_fills_beside_pushes_leave_nothing_old(stage):
    """Three hundred keys are read while they are written; then everything is as it was written last."""
    keys = [f"k:{n}" for n in range(300)]
    for key in keys:
        stage.server.control("SET", key, "0")
    stop = threading.Event()

    def read(protocol):
        raw = stage.client(protocol)
        while not stop.is_set():
            for at in range(0, 300, 5):
                raw.send(b"".join(encode("GET", key) for key in keys[at:at + 5]))
                for _ in range(5):
                    raw.reply()

    readers = [threading.Thread(target=read, args=(2 + n % 2,)) for n in range(4)]
    for reader in readers:
        reader.start()
    try:
        with stage.hits(100):
            for version in range(1, 6):
                for key in keys:
                    stage.server.control("SET", key, version)
                time.sleep(0.15)
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    time.sleep(0.2)
    raw = stage.client()
    assert [raw.command("GET", key) for key in keys] == [b"5"] * 300


def test_03_nobody_joins_a_fetch_older_than_an_acknowledged_write(stage):
    reader, writer, late = stage.client(3), stage.client(2), stage.client(3)
    for n in range(8):
        key = f"k:{n}"
        stage.direct("SET", key, "old")
        reader.command("GET", key)
        stage.tracked.reply_delay = 0.1
        reader.send(encode("GET", key))
        time.sleep(0.02)
        writer.command("SET", key, "new")
        assert late.command("GET", key) == b"new"
        reader.reply()
        stage.tracked.reply_delay = 0
        assert late.command("GET", key) == b"new"


def test_04_an_older_reply_that_arrives_last(stage):
    slow, reader = stage.client(2), stage.client(3)
    stage.direct("SET", "k", "old")
    stage.heat(reader, "k")
    stage.other.hold_replies = True
    slow.send(encode("EVAL_RO", "return redis.call('GET', KEYS[1])", 1, "k"))
    time.sleep(0.05)
    stage.direct("SET", "k", "new")
    if not stage.has_l1:
        stage.other.hold_replies = False
    soon(reader, "k", "new")
    stage.other.hold_replies = False
    assert slow.reply() in (b"old", b"new")
    for raw in (reader, slow):
        assert raw.command("GET", "k") == b"new"


@pytest.mark.parametrize("protocol", [2, 3])
def test_05_a_script_that_writes_then_a_read_of_the_same_pipeline(stage, protocol):
    raw = stage.client(protocol)
    raw.command("FUNCTION", "LOAD", "#!lua name=l\nredis.register_function('put', "
                "function(k, a) return redis.call('SET', k[1] or 'k', a[1]) end)")
    raw.command("SET", "k", "0")
    stage.tracked.reply_delay = 0.03
    for n in range(1, 10):
        stage.heat(raw, "k")
        writes = [("EVAL", "return redis.call('SET', 'k', ARGV[1])", 0, n), ("EVAL", "return redis.call('SET', KEYS[1], ARGV[1])", 1, "k", n),
                  ("FCALL", "put", 1, "k", n)]
        raw.send(encode(*writes[n % 3]) + encode("GET", "k"))
        assert raw.reply() == b"OK" and raw.reply() == str(n).encode()
        assert stage.client().command("GET", "k") == str(n).encode()


@pytest.mark.parametrize("protocol", [2, 3])
def test_06_a_read_is_not_older_than_what_the_pipeline_read_before_it(stage, protocol):
    raw = stage.client(protocol)
    for n in range(5):
        key = f"k:{n}"
        stage.direct("SET", key, "old")
        stage.direct("SET", "cold", "of the pipeline")
        stage.heat(raw, key)
        stage.other.hold_requests = stage.tracked.hold_requests = True
        raw.send(encode("GET", f"cold:{n}") + encode("EVAL_RO", "return redis.call('GET', KEYS[1])", 1, key) + encode("GET", key))
        time.sleep(0.03)
        stage.direct("SET", key, "new")
        stage.other.hold_requests = stage.tracked.hold_requests = False
        assert raw.reply() is None
        assert raw.reply() == b"new" and raw.reply() == b"new"


def with_a_write_not_heard_of(stage, raw, key):
    """`key` is in L1 as `old`; the server has `new`, and the push is held back."""
    stage.direct("SET", key, "old")
    stage.heat(raw, key)
    if stage.has_l1:
        stage.tracked.hold_replies = True
    stage.direct("SET", key, "new")


@pytest.mark.parametrize("protocol", [2, 3])
def test_07_after_watch_reads_are_the_servers(stage, protocol):
    raw = stage.client(protocol)
    with_a_write_not_heard_of(stage, raw, "k")
    assert raw.command("WATCH", "k") == b"OK"
    release = threading.Timer(0.5, lambda: setattr(stage.tracked, "hold_replies", False))
    release.start()
    with stage.hits(0, 0):
        assert raw.command("GET", "k") == b"new"
    release.join()
    raw.send(encode("MULTI") + encode("SET", "k", "mine") + encode("EXEC"))
    assert [raw.reply() for _ in range(3)] == [b"OK", b"QUEUED", [b"OK"]]
    assert raw.command("GET", "k") == b"mine"
    # And a change after the WATCH ends the transaction.
    raw.command("WATCH", "k")
    raw.command("GET", "k")
    stage.direct("SET", "k", "other")
    raw.send(encode("MULTI") + encode("SET", "k", "lost") + encode("EXEC"))
    assert [raw.reply() for _ in range(3)] == [b"OK", b"QUEUED", None]


@pytest.mark.parametrize("protocol", [2, 3])
def test_08_reads_inside_a_transaction_are_the_servers(stage, protocol):
    raw = stage.client(protocol)
    with_a_write_not_heard_of(stage, raw, "k")
    release = threading.Timer(0.5, lambda: setattr(stage.tracked, "hold_replies", False))
    release.start()
    with stage.hits(0, 0):
        raw.send(encode("MULTI") + encode("GET", "k") + encode("EXEC"))
        assert [raw.reply() for _ in range(3)] == [b"OK", b"QUEUED", [b"new"]]
    release.join()
    # What the transaction has shown is not taken back.
    assert raw.command("GET", "k") == b"new"


def test_09_a_tracked_connection_that_falls_silent(stage):
    raw = stage.client(2)
    with_a_write_not_heard_of(stage, raw, "k")
    silent = time.monotonic()
    while time.monotonic() < silent + LEASE + 0.3:
        assert raw.command("GET", "k") in (b"old", b"new")
        time.sleep(0.01)
    with stage.hits(0, 0):
        for _ in range(20):
            assert raw.command("GET", "k") == b"new"
    stage.tracked.hold_replies = False
    stage.heat(raw, "k")
    with stage.hits(10):
        for _ in range(20):
            assert raw.command("GET", "k") == b"new"


def test_10_a_connection_lost_loses_its_entries_and_replays_nothing(stage):
    raw = stage.client(2)
    stage.direct("SET", "k", "old")
    stage.heat(raw, "k")
    stage.link.cut()
    stage.direct("SET", "k", "new")
    if DIRECT:
        raw = stage.client()
    soon(raw, "k", "new")
    # Waiters get an end, and what they had asked for does not run again.
    stage.tracked.hold_replies = stage.other.hold_replies = True
    waiting = [stage.client() for _ in range(4)]
    for n, waiter in enumerate(waiting):
        waiter.send(encode("GET", f"cold:{n}") if n % 2 else encode("INCR", "n"))
    time.sleep(0.1)
    stage.link.cut()
    stage.tracked.hold_replies = stage.other.hold_replies = False
    for waiter in waiting:
        try:
            waiter.reply()
        except (EOFError, ConnectionError):
            pass
    time.sleep(0.2)
    assert int(stage.direct("GET", "n") or 0) <= 2


@pytest.mark.skipif(DIRECT, reason="about the proxy itself")
def test_11_a_proxy_that_was_frozen(stage):
    raw = stage.client(2)
    stage.direct("SET", "k", "old")
    stage.heat(raw, "k")
    freeze(stage.proxy.process)
    try:
        stage.direct("SET", "k", "new")
        time.sleep(LEASE + 1)
    finally:
        stage.proxy.process.send_signal(signal.SIGCONT)
    assert raw.command("GET", "k") == b"new"


def test_12_a_server_that_was_frozen(stage):
    raw = stage.client(2)
    stage.direct("SET", "k", "old")
    stage.heat(raw, "k")
    writer = Raw("127.0.0.1", stage.server.port)
    stage.server.freeze()
    try:
        # Executed as soon as the server goes on.
        writer.send(encode("SET", "k", "new"))
        time.sleep(LEASE + 0.5)
        with stage.hits(0, 0):
            raw.send(encode("GET", "k"))
            time.sleep(0.1)
    finally:
        stage.server.thaw()
    assert writer.reply() == b"OK"
    assert raw.reply() in (b"old", b"new")
    soon(raw, "k", "new")
    writer.close()


def test_13_flushes_of_this_and_of_other_databases(stage):
    raw = stage.client(2)
    stage.direct("SET", "k", "v")
    stage.heat(raw, "k")
    stage.direct("FLUSHDB", db=5)
    assert raw.command("GET", "k") == b"v"
    stage.heat(raw, "k")
    stage.direct("FLUSHALL")
    soon(raw, "k", None)
    for flush in (("FLUSHALL",), ("FLUSHDB",), ("FLUSHALL", "ASYNC")):
        raw.command("SET", "k", "v")
        stage.heat(raw, "k")
        stage.client().command(*flush)
        assert raw.command("GET", "k") is None


def test_14_databases_that_change_places(stages):
    stage = stages(max_age="2s")
    raw, other = stage.client(), stage.client(db=1)
    stage.direct("SET", "k", "of 0")
    stage.direct("SET", "k", "of 1", db=1)
    stage.heat(raw, "k")
    stage.heat(other, "k")
    stage.client().command("SWAPDB", 0, 1)
    assert raw.command("GET", "k") == b"of 1" and other.command("GET", "k") == b"of 0"
    stage.heat(raw, "k")
    stage.direct("SWAPDB", 0, 1)
    # No push tells of it: the age alone ends what is known.
    soon(raw, "k", "of 0", seconds=2.5)
    soon(other, "k", "of 1", seconds=2.5)


def test_15_an_expiry_that_no_push_tells_of(stage):
    stage.direct("EVAL", "for i = 1, 100000 do redis.call('SET', 'v:' .. i, 'x', 'PX', 3600000) end", 0)
    raw = stage.client(2)
    for px in (150, 400, 800):
        stage.direct("SET", "k", "v", "PX", px)
        written = time.monotonic()
        with stage.hits():
            while (got := raw.command("GET", "k")) is not None:
                assert got == b"v"
                assert time.monotonic() - written < px / 1000 + 0.3, "served past its life"
        assert time.monotonic() - written > px / 1000 - 0.005, "gone before its time"
        assert raw.command("GET", "k") is None


def test_16_lives_that_change_while_they_are_asked_for(stage):
    raw = stage.client(2)
    stage.direct("SET", "stays", "v", "PX", 500)
    stage.direct("SET", "goes", "v")
    stage.heat(raw, "stays", "goes")
    stage.direct("PERSIST", "stays")
    stage.direct("PEXPIRE", "goes", 300)
    time.sleep(0.7)
    assert raw.command("GET", "stays") == b"v" and raw.command("GET", "goes") is None
    # In the middle of the fill: the read has been executed, its answer is on the way.
    for n in range(6):
        stays, goes = f"stays:{n}", f"goes:{n}"
        stage.direct("SET", stays, "v", "PX", 300)
        stage.direct("SET", goes, "v")
        raw.send(b"".join(encode("GET", key) for key in (stays, goes)))
        assert [raw.reply(), raw.reply()] == [b"v", b"v"]
        stage.tracked.reply_delay = 0.04
        raw.send(b"".join(encode("GET", key) for key in (stays, goes)))
        time.sleep(0.001 * n)
        stage.direct("PERSIST", stays)
        stage.direct("PEXPIRE", goes, 60)
        # The second may be asked again once its life is in doubt, and be over by then.
        answers = [raw.reply(), raw.reply()]
        assert answers[0] == b"v" and answers[1] in (b"v", None) or DIRECT
        time.sleep(0.4)
        assert raw.command("GET", stays) == b"v" and raw.command("GET", goes) is None
        stage.tracked.reply_delay = 0


def test_17_keys_that_the_server_evicts(stages):
    stage = stages(args=["--maxmemory-policy", "allkeys-random"])
    raw = stage.client(2)
    stage.direct("SET", "k", "v")
    stage.heat(raw, "k")
    stage.direct("CONFIG", "SET", "maxmemory", int(stage.server.info("memory")["used_memory"]) + (4 << 20))
    end = time.monotonic() + 20
    n = 0
    while stage.server.control("EXISTS", "k"):
        n += 1
        stage.server.control("EVAL", "for i = 1, 200 do redis.call('SET', 'f:' .. ARGV[1] .. ':' .. i, string.rep('x', 4096)) end", 0, n)
        assert time.monotonic() < end
    soon(raw, "k", None)


def test_18_a_tracking_table_that_overflows(stages):
    stage = stages(args=["--tracking-table-max-keys", 10])
    raw, keys = stage.client(3), [f"k:{n}" for n in range(100)]
    for key in keys:
        stage.server.control("SET", key, "old")
    for _ in range(4):
        assert [raw.command("GET", key) for key in keys] == [b"old"] * 100
    stage.heat(raw, "k:99")
    for key in keys:
        stage.server.control("SET", key, "new")
    time.sleep(0.1)
    assert [raw.command("GET", key) for key in keys] == [b"new"] * 100


def test_19_a_master_that_becomes_a_replica(stages, redis_server):
    stage, new = stages(), redis_server(tls=False)
    raw = stage.client(2)
    stage.direct("SET", "k", "of the old master")
    new.control("SET", "k", "of the new master")
    stage.heat(raw, "k")
    stage.server.control("CONFIG", "SET", "repl-diskless-sync-delay", 0)
    new.control("CONFIG", "SET", "repl-diskless-sync-delay", 0)
    stage.server.control("REPLICAOF", "127.0.0.1", new.port)
    eventually(lambda: stage.server.info("replication")["master_link_status"] == "up", 20)
    soon(raw, "k", "of the new master")
    # Proxies may answer with the server's refusal, or with their own.
    with pytest.raises(ReplyError):
        raw.command("SET", "k", "x")
    assert raw.command("GET", "k") == b"of the new master"
    # Replicated writes are told of as well.
    new.control("SET", "k", "replicated")
    soon(raw, "k", "replicated", seconds=SOON + 2)
    # Promotion changes nothing.
    stage.server.control("REPLICAOF", "NO", "ONE")
    stage.direct("SET", "k", "promoted")
    soon(raw, "k", "promoted")
    assert raw.command("SET", "k", "mine") == b"OK" and raw.command("GET", "k") == b"mine"


def test_20_a_server_that_loads_its_data_anew(stage):
    raw = stage.client(2)
    stage.direct("SET", "k", "old")
    stage.heat(raw, "k")
    stage.direct("DEBUG", "RELOAD")
    assert raw.command("GET", "k") == b"old"
    stage.direct("SET", "k", "new")
    soon(raw, "k", "new")
    stage.heat(raw, "k")


def test_21_what_clients_say_of_their_connection_is_theirs(stage):
    raw, rude = stage.client(3), stage.client(3)
    stage.direct("SET", "k", "0")
    stage.heat(raw, "k")
    for n, words in enumerate([("HELLO", 2), ("RESET",), ("CLIENT", "TRACKING", "OFF"), ("CLIENT", "REPLY", "OFF"), ("QUIT",)], 1):
        rude.send(encode("HELLO", 3) + encode(*words))
        rude.until_silent(0.1)
        rude.sock.settimeout(20)
        stage.direct("SET", "k", n)
        soon(raw, "k", str(n))
        stage.heat(raw, "k")


def test_22_one_name_in_two_databases(stage):
    here, there = [stage.client(p) for p in (2, 3)], [stage.client(p, db=3) for p in (2, 3)]
    for n in range(5):
        here[n % 2].command("SET", "k", f"here {n}")
        there[n % 2].command("SET", "k", f"there {n}")
        for a, b in zip(here, there):
            stage.heat(a, "k")
            stage.heat(b, "k")
            assert a.command("GET", "k") == f"here {n}".encode() and b.command("GET", "k") == f"there {n}".encode()
    moving = here[0]
    with stage.hits(1):
        for _ in range(5):
            moving.command("SELECT", 3)
            assert moving.command("GET", "k") == b"there 4"
            moving.command("SELECT", 0)
            assert moving.command("GET", "k") == b"here 4"


def test_23_every_fill_is_tracked_whatever_goes_beside_it(stage):
    """Pipelines of all sorts beside fills: were a CACHING YES eaten by another command, the key would stay old for long."""
    keys = [f"k:{n}" for n in range(120)]
    for key in keys:
        stage.server.control("SET", key, "old")
    raws = [stage.client(2 + n % 2) for n in range(8)]

    def talk(raw, n):
        for _ in range(6):
            for key in keys[n % 3::3]:
                raw.send(encode("PING") + encode("GET", key) + encode("EXISTS", key) + encode("SELECT", 0) + encode("GET", key))
                got = [raw.reply() for _ in range(5)]
                assert got[1] == got[4] == b"old"
                raw.command("GET", key)

    threads = [threading.Thread(target=talk, args=(raw, n)) for n, raw in enumerate(raws)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with stage.hits(100):
        for _ in range(4):
            assert [raws[0].command("GET", key) for key in keys] == [b"old"] * len(keys)
    for key in keys:
        stage.server.control("SET", key, "new")
    time.sleep(0.2)
    assert [raws[0].command("GET", key) for key in keys] == [b"new"] * len(keys)


@pytest.mark.skipif(DIRECT, reason="about the proxy itself")
@pytest.mark.parametrize("how", ["refused", "pushes lost"])
def test_24_without_pushes_nothing_is_kept(how, redis_server, nearkey):
    server = redis_server(tls=False)
    liar = Liar(server.port, "misses an invalidation") if how == "pushes lost" else None
    if how == "refused":
        server.control("ACL", "SETUSER", "default", "-client|tracking")
    try:
        proxy = nearkey(f"redis://127.0.0.1:{liar.port if liar else server.port}", **l1_settings(mode="tracking"))
        with proxy.connect() as raw:
            for n in range(30):
                server.control("SET", "k", n)
                assert [raw.command("GET", "k") for _ in range(4)] == [str(n).encode()] * 4
                time.sleep(0.02)
        if has_l1():
            assert proxy.metric("nearkey_l1_hits_total") == 0
    finally:
        if liar:
            liar.close()


def test_25_a_client_that_wants_to_track_by_itself(stage):
    raw = stage.client(3)
    raw.command("SET", "k", "old")
    raw.send(encode("CLIENT", "TRACKING", "ON"))
    if isinstance(raw.reply(), ReplyError):
        return  # refused: it will ask the server, as before
    raw.command("GET", "k")
    raw.command("GET", "k")
    stage.direct("SET", "k", "new")
    raw.sock.settimeout(3)
    assert raw.reply() == [b"invalidate", [b"k"]]


@pytest.mark.parametrize("protocol", [2, 3])
def test_26_values_that_are_huge_missing_or_of_another_kind(stage, protocol):
    raw = stage.client(protocol)
    huge = b"x" * (1 << 20)
    raw.command("SET", "huge", huge)
    raw.command("RPUSH", "list", "item")
    raw.command("SET", "empty", "")
    for _ in range(5):
        assert raw.command("GET", "huge") == huge
        assert raw.raw("GET", "missing") == (b"$-1\r\n" if protocol == 2 else b"_\r\n")
        assert raw.raw("GET", "list") == b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"
        assert raw.raw("GET", "empty") == b"$0\r\n\r\n"
    stage.direct("SET", "missing", "there")
    soon(raw, "missing", "there")
    stage.direct("DEL", "list")
    stage.direct("SET", "list", "no more")
    soon(raw, "list", "no more")


def test_27_a_client_that_does_not_read_its_hits(stage):
    value = "v" * 1000
    slow, quick = stage.client(2), stage.client(2)
    slow.command("SET", "k", value)
    stage.heat(slow, "k")
    n = 10_000
    sender = threading.Thread(target=lambda: slow.send(encode("GET", "k") * n))
    sender.start()
    for _ in range(200):
        assert quick.command("GET", "k") == value.encode()
    with stage.hits(0):
        for _ in range(n):
            slow.exactly(bulk(value))
    sender.join()


def test_28_a_tracked_connection_that_is_killed(stage):
    raw = stage.client(2)
    stage.direct("SET", "k", "0")
    for n in range(1, 6):
        stage.heat(raw, "k")
        killer = Raw("127.0.0.1", stage.server.port)
        rows = [row for row in stage.server.clients() if "t" in row["flags"]]
        if stage.has_l1:
            assert rows, "nothing is tracked"
        # In one unit, so that nobody can have connected again when the write comes.
        killer.send(encode("MULTI") + b"".join(encode("CLIENT", "KILL", "ID", row["id"]) for row in rows)
                    + encode("SET", "k", n) + encode("EXEC"))
        assert [killer.reply() for _ in range(len(rows) + 3)][0] == b"OK"
        killer.close()
        soon(raw, "k", str(n))


@pytest.mark.skipif(DIRECT, reason="about the proxy itself")
def test_29_a_user_who_is_no_more_is_served_nothing(redis_server, nearkey):
    server = redis_server(tls=False, password="admin-77")
    server.control("ACL", "SETUSER", "alice", "on", ">alice-41", "~*", "+@all")
    server.control("SET", "k", "secret")
    proxy = nearkey(server, tls=False, upstream__auth="passthrough", **l1_settings())
    with proxy.connect() as raw:
        raw.command("AUTH", "alice", "alice-41")
        for _ in range(20):
            assert raw.command("GET", "k") == b"secret"
            time.sleep(0.01)
        server.control("ACL", "DELUSER", "alice")
        time.sleep(LEASE + 0.2)
        try:
            with pytest.raises(ReplyError):
                raw.command("GET", "k")
        except (EOFError, ConnectionError):
            pass


@pytest.mark.skipif(DIRECT, reason="about the proxy itself")
@pytest.mark.parametrize("end", ["closed", "cut"])
def test_30_tls_connections_that_end_in_order_and_that_are_cut(end, redis_server, nearkey, certs):
    server = redis_server()
    link = SlowLink(server.tls_port)
    try:
        proxy = nearkey(f"rediss://localhost:{link.port}", args=["--upstream-ca", certs.ca], **l1_settings())
        with proxy.connect() as raw:
            for n in range(5):
                server.control("SET", "k", n)
                soon(raw, "k", str(n))
                for _ in range(5):
                    assert raw.command("GET", "k") == str(n).encode()
                if end == "cut":
                    link.cut()
                else:
                    server.control("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                server.control("SET", "k", f"{n} changed")
                eventually(lambda: raw.command("GET", "k") in (str(n).encode(), f"{n} changed".encode()), what="it goes on")
                soon(raw, "k", f"{n} changed")
    finally:
        link.close()
