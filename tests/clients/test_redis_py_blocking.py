"""redis-py's blocking commands, unchanged, in both protocols: lists, sorted sets, streams with consumer groups, WAIT.

A waiting client gets the element or its time-out and no other client's; nothing that was pushed is lost or popped
twice, even where clients go away, are unblocked or give up while they wait.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from redis.exceptions import ResponseError, TimeoutError

from harness.ports import eventually
from harness.resp import array, bulk, encode

# Each blocks on the key `q` for a time-out in seconds; where `q` has the one element "x" it answers what is beside it.
LIST_CALLS = {
    "blpop": (lambda r, t: r.blpop(["none", "q"], timeout=t), ["q", "x"]),
    "brpop": (lambda r, t: r.brpop("q", timeout=t), ["q", "x"]),
    "brpoplpush": (lambda r, t: r.brpoplpush("q", "to", timeout=t), "x"),
    "blmove": (lambda r, t: r.blmove("q", "to", t, "LEFT", "RIGHT"), "x"),
    "blmpop": (lambda r, t: r.blmpop(t, 2, "none", "q", direction="LEFT"), ["q", ["x"]]),
}
ZSET_CALLS = {
    "bzpopmin": (lambda r, t: r.bzpopmin(["none", "q"], timeout=t), ["q", "x", 1.5]),
    "bzpopmax": (lambda r, t: r.bzpopmax("q", timeout=t), ["q", "x", 1.5]),
    "bzmpop": (lambda r, t: r.bzmpop(t, 1, ["q"], min=True), ["q", [["x", 1.5]]]),
}


def fill(client, name):
    client.zadd("q", {"x": 1.5}) if name.startswith("bz") else client.rpush("q", "x")


def plain(reply):
    """Lists for tuples and numbers for texts of them, since redis-py's shapes depend on protocol and version."""
    if isinstance(reply, (list, tuple)):
        return [plain(r) for r in reply]
    return 1.5 if reply == "1.5" else reply


@pytest.fixture
def waiting(endpoint, protocol):
    """`waiting(call)` runs it with a client and connection of its own and returns its future once the server has it."""
    threads = ThreadPoolExecutor(50)
    clients = []

    def start(call):
        client = redis.Redis(endpoint.host, endpoint.port, protocol=protocol, socket_timeout=60, decode_responses=True,
                             single_connection_client=True, retry=None)
        clients.append(client)
        blocked = int(endpoint.server.info("clients")["blocked_clients"])
        future = threads.submit(call, client)
        endpoint.server.wait_for_blocked(blocked + 1)
        return future

    yield start
    # A wait that a failed test left behind ends with its connection.
    for client in clients:
        client.connection.disconnect()
    threads.shutdown()


@pytest.mark.parametrize("name", [*LIST_CALLS, *ZSET_CALLS])
def test_an_element_comes_at_once_or_later_and_a_wait_ends_without(text_client, waiting, name):
    call, expected = {**LIST_CALLS, **ZSET_CALLS}[name]
    assert call(text_client, 0.05) is None
    fill(text_client, name)
    assert plain(call(text_client, 20)) == expected
    for seconds in (0, 30):
        future = waiting(lambda r: call(r, seconds))
        fill(text_client, name)
        assert plain(future.result(20)) == expected
    assert text_client.exists("q") == 0
    assert text_client.lrange("to", 0, -1) == (["x"] * 3 if expected == "x" else [])


def test_the_first_of_several_keys_wins(text_client):
    text_client.rpush("b", "b1")
    text_client.rpush("c", "c1")
    assert list(text_client.blpop(["a", "b", "c"], timeout=20)) == ["b", "b1"]
    assert list(text_client.blpop(["a", "b", "c"], timeout=20)) == ["c", "c1"]


def test_errors_come_at_once(text_client):
    text_client.set("q", "a string")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        text_client.blpop("q", timeout=20)
    with pytest.raises(ResponseError, match="timeout is not a float or out of range"):
        text_client.execute_command("BLPOP", "none", "never")
    with pytest.raises(ResponseError, match="timeout is negative"):
        text_client.blpop("none", timeout=-1)


def test_who_waited_first_is_served_first(text_client, waiting):
    futures = [waiting(lambda r: r.blpop("q", timeout=30)) for _ in range(5)]
    text_client.rpush("q", *range(5))
    assert [list(f.result(20)) for f in futures] == [["q", str(n)] for n in range(5)]


def test_many_workers_pop_every_element_once(endpoint, protocol, text_client):
    def work(_):
        mine = []
        with redis.Redis(endpoint.host, endpoint.port, protocol=protocol, socket_timeout=60) as r:
            while (element := r.blpop("jobs", timeout=60)[1]) != b"end":
                mine.append(element)
                r.incr("done")
        return mine

    with ThreadPoolExecutor(6) as threads:
        workers = [threads.submit(work, n) for n in range(6)]
        for n in range(0, 800, 8):
            text_client.rpush("jobs", *range(n, n + 8))
        text_client.rpush("jobs", *["end"] * 6)
        popped = [element for worker in workers for element in worker.result(60)]
    assert sorted(map(int, popped)) == list(range(800))
    assert text_client.get("done") == "800" and text_client.exists("jobs") == 0


def test_a_chain_of_movers_loses_nothing(endpoint, protocol, text_client):
    """Reliable queues: each stage moves to the next list in one step."""
    def move(stage):
        with redis.Redis(endpoint.host, endpoint.port, protocol=protocol, socket_timeout=60) as r:
            for _ in range(100):
                if stage % 2:
                    assert r.brpoplpush(f"s{stage}", f"s{stage + 1}", timeout=60)
                else:
                    assert r.blmove(f"s{stage}", f"s{stage + 1}", 60, "RIGHT", "LEFT")

    with ThreadPoolExecutor(4) as threads:
        stages = [threads.submit(move, stage) for stage in range(4)]
        for n in range(100):
            text_client.lpush("s0", n)
        for stage in stages:
            stage.result(60)
    assert text_client.lrange("s4", 0, -1) == [str(n) for n in reversed(range(100))]


def test_a_client_that_leaves_while_it_waits_takes_nothing(endpoint, text_client, protocol):
    with endpoint.connect() as raw:
        raw.command("HELLO", protocol)
        raw.send(encode("BLPOP", "q", 0))
        endpoint.server.wait_for_blocked(1)
    endpoint.server.wait_for_blocked(0)
    assert text_client.rpush("q", "kept") == 1
    assert text_client.lrange("q", 0, -1) == ["kept"]


def test_a_client_that_is_killed_while_it_waits_takes_nothing(endpoint, text_client):
    with endpoint.connect() as raw:
        identity = raw.command("CLIENT", "ID")
        raw.send(encode("BLMOVE", "q", "to", "LEFT", "LEFT", 0))
        endpoint.server.wait_for_blocked(1)
        assert text_client.client_kill_filter(_id=identity) == 1
        assert raw.until_eof() == b""
    endpoint.server.wait_for_blocked(0)
    text_client.rpush("q", "kept")
    assert text_client.lrange("q", 0, -1) == ["kept"] and not text_client.exists("to")


def test_a_client_that_gives_up_takes_nothing(endpoint, text_client, protocol):
    with redis.Redis(endpoint.host, endpoint.port, protocol=protocol, socket_timeout=0.2, retry=None) as r:
        with pytest.raises(TimeoutError):
            r.blpop("q", timeout=0)
        endpoint.server.wait_for_blocked(0)
        text_client.rpush("q", "kept")
        eventually(lambda: r.echo("back") == b"back", what="it has a connection again")
    assert text_client.lrange("q", 0, -1) == ["kept"]


def test_a_waiting_client_can_be_unblocked(endpoint, text_client, waiting):
    for call in (lambda r: r.blpop("q", timeout=0), lambda r: r.xread({"s": "$"}, block=0)):
        for error in (False, True):
            identities = []
            future = waiting(lambda r: (identities.append(r.client_id()), call(r))[1])
            assert text_client.client_unblock(identities[0], error=error) == 1
            if error:
                with pytest.raises(ResponseError, match="UNBLOCKED client unblocked via CLIENT UNBLOCK"):
                    future.result(20)
            else:
                assert not future.result(20)
    assert text_client.client_unblock(text_client.client_id()) == 0


def test_what_is_sent_behind_a_blocking_command_waits_for_it(endpoint, text_client):
    with endpoint.connect() as raw:
        blpop = encode("BLPOP", "q", 0)
        raw.send(encode("SET", "k", 1) + blpop + encode("INCR", "k") + blpop + encode("GET", "k"))
        raw.exactly(b"+OK\r\n")
        endpoint.server.wait_for_blocked(1)
        assert text_client.get("k") == "1"
        text_client.rpush("q", "first")
        raw.exactly(array(bulk("q"), bulk("first")) + b":2\r\n")
        text_client.rpush("q", "second")
        raw.exactly(array(bulk("q"), bulk("second")) + bulk(2))
        raw.nothing_left()


def test_wait_counts_replicas(text_client):
    text_client.set("k", 1)
    assert text_client.wait(0, 1000) == 0
    assert text_client.wait(1, 50) == 0
    assert text_client.get("k") == "1"


def entries(reply):
    """Ids and fields of one stream, whatever shape redis-py gives them."""
    if isinstance(reply, dict):
        (found,) = reply.values()
        return found[0] if len(found) == 1 and isinstance(found[0], list) else found
    return reply[0][1]


def test_readers_of_a_stream_all_get_what_comes(text_client, waiting):
    assert not text_client.xread({"s": "$"}, block=30)
    futures = [waiting(lambda r: r.xread({"s": "$", "none": "$"}, block=30_000)) for _ in range(5)]
    text_client.xadd("s", {"n": 1}, id="1-1")
    for future in futures:
        assert [tuple(entry) for entry in entries(future.result(20))] == [("1-1", {"n": "1"})]
    assert len(entries(text_client.xread({"s": "0"}, block=30_000))) == 1


def test_consumers_of_a_group_share_the_work(endpoint, protocol, text_client):
    text_client.xgroup_create("s", "g", id="0", mkstream=True)

    def consume(name):
        mine = []
        options = {"protocol": protocol, "socket_timeout": 60, "decode_responses": True}
        with redis.Redis(endpoint.host, endpoint.port, **options) as r:
            while True:
                for entry, fields in entries(r.xreadgroup("g", name, {"s": ">"}, count=5, block=60_000)):
                    assert r.xack("s", "g", entry) == 1
                    if fields["n"] == "end":
                        return mine
                    mine.append(int(fields["n"]))

    with ThreadPoolExecutor(4) as threads:
        consumers = [threads.submit(consume, f"c{n}") for n in range(4)]
        endpoint.server.wait_for_blocked(4)
        for n in range(200):
            text_client.xadd("s", {"n": n})
        got = []
        # One "end" at a time, so that no consumer takes another's.
        for _ in consumers:
            text_client.xadd("s", {"n": "end"})
            eventually(lambda: sum(c.done() for c in consumers) > len(got), 60)
            got = [c for c in consumers if c.done()]
    assert sorted(n for c in consumers for n in c.result()) == list(range(200))
    assert text_client.xpending("s", "g")["pending"] == 0


def test_entries_of_a_dead_consumer_are_claimed(text_client, waiting):
    text_client.xgroup_create("s", "g", id="$", mkstream=True)
    dead = waiting(lambda r: r.xreadgroup("g", "dead", {"s": ">"}, block=30_000))
    ids = [text_client.xadd("s", {"n": n}) for n in range(10)]
    first = len(entries(dead.result(20)))
    rest = text_client.xreadgroup("g", "dead", {"s": ">"}) if first < 10 else None
    assert first + (len(entries(rest)) if rest else 0) == 10
    assert text_client.xpending("s", "g")["consumers"] == [{"name": "dead", "pending": 10}]
    claimed = text_client.xautoclaim("s", "g", "alive", min_idle_time=0, count=4)
    assert [entry[0] for entry in claimed[1]] == ids[:4]
    assert text_client.xautoclaim("s", "g", "alive", min_idle_time=0, start_id=claimed[0], justid=True) == ids[4:]
    assert [entry[0] for entry in text_client.xclaim("s", "g", "third", 0, ids[:1])] == ids[:1]
    assert text_client.xack("s", "g", *ids) == 10
    # The group's removal ends the wait of its readers.
    future = waiting(lambda r: r.xreadgroup("g", "alive", {"s": ">"}, block=0))
    text_client.xgroup_destroy("s", "g")
    with pytest.raises(ResponseError, match="NOGROUP|UNBLOCKED"):
        future.result(20)
