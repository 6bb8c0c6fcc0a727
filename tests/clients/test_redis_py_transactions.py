"""redis-py's transactions, unchanged, in both protocols: MULTI/EXEC pipelines, WATCH, `transaction()` under contention.

A transaction is applied whole, alone and in order, or not at all; its replies and errors are its own client's.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from redis.exceptions import ResponseError, WatchError

from harness.ports import eventually
from harness.resp import array, bulk, encode


@pytest.fixture
def other(endpoint, protocol):
    """A client that changes what the first one watches."""
    options = {"protocol": protocol, "socket_timeout": 30, "decode_responses": True}
    with redis.Redis(endpoint.host, endpoint.port, **options) as other:
        yield other


def test_a_transaction_answers_every_command_in_order(text_client):
    pipe = text_client.pipeline()
    pipe.set("k", "v").get("k").get("none").incr("n").hset("h", mapping={"a": 1}).hgetall("h").zadd("z", {"m": 1.5})
    pipe.zscore("z", "m").lrange("none", 0, -1).sadd("s", "x").smembers("s").exists("k", "none").ping()
    assert pipe.execute() == [True, "v", None, 1, 1, {"a": "1"}, 1, 1.5, [], 1, {"x"}, 1, True]
    assert pipe.set("again", 1).execute() == [True]
    assert pipe.execute() == []


def test_large_transactions_and_values_come_whole(client):
    values = [b"%d" % n * 20_000 for n in range(20)]
    pipe = client.pipeline()
    for n, value in enumerate(values):
        pipe.set(f"k{n}", value)
    for n in range(2000):
        pipe.incr("n")
    pipe.mget([f"k{n}" for n in range(20)])
    assert pipe.execute() == [True] * 20 + list(range(1, 2001)) + [values]


def test_an_error_at_execution_leaves_the_other_commands_applied(text_client):
    r = text_client
    pipe = r.pipeline().set("k", "text").incr("k").lpush("l", "x")
    replies = pipe.execute(raise_on_error=False)
    assert replies[0] is True and replies[2] == 1
    assert isinstance(replies[1], ResponseError) and "not an integer" in str(replies[1])
    with pytest.raises(ResponseError, match=r"Command # 2 \(LPUSH k x\) of pipeline caused error: WRONGTYPE"):
        r.pipeline().set("a", 1).lpush("k", "x").set("b", 2).execute()
    assert r.mget("a", "b") == ["1", "2"]


@pytest.mark.parametrize("wrong", [("NOSUCHCOMMAND", "x"), ("GET",), ("SET", "k")], ids=["unknown", "arity", "arity2"])
def test_an_error_while_queueing_discards_all(text_client, wrong):
    pipe = text_client.pipeline().set("a", 1)
    pipe.execute_command(*wrong)
    with pytest.raises(ResponseError, match="unknown command|wrong number of arguments"):
        pipe.set("b", 2).execute()
    assert text_client.mget("a", "b") == [None, None]
    assert text_client.pipeline().set("a", 1).execute() == [True]


def test_blocking_commands_do_not_block_in_a_transaction(text_client):
    pipe = text_client.pipeline()
    pipe.blpop("none", timeout=0).brpop("none", timeout=0).blmove("none", "to", timeout=0).bzpopmin("none", timeout=0)
    pipe.rpush("l", "x").blpop("l", timeout=0).xread({"none": "$"}, block=0).execute_command("WAIT", 1, 0)
    replies = pipe.execute()
    assert replies[:4] == [None] * 4
    assert replies[4] == 1 and list(replies[5]) == ["l", "x"]
    assert not replies[6] and replies[7] == 0


def test_transactions_of_many_clients_do_not_mix(endpoint, protocol):
    def work(n):
        with redis.Redis(endpoint.host, endpoint.port, protocol=protocol, socket_timeout=30) as r:
            for turn in range(10):
                pipe = r.pipeline()
                for i in range(10):
                    pipe.rpush("log", f"{n}.{turn}.{i}")
                    pipe.incr("count")
                replies = pipe.execute()
                counts = replies[1::2]
                assert counts == list(range(counts[0], counts[0] + 10))

    with ThreadPoolExecutor(20) as threads:
        list(threads.map(work, range(20)))
    log = [entry.decode().rsplit(".", 1) for entry in endpoint.server.control("LRANGE", "log", 0, -1)]
    assert len(log) == 2000
    for at in range(0, 2000, 10):
        assert log[at:at + 10] == [[log[at][0], str(i)] for i in range(10)]


def test_a_watched_key_that_changed_aborts(text_client, other):
    changes = {
        "set": lambda: other.set("k", 2),
        "delete": lambda: other.delete("k"),
        "expire": lambda: other.pexpire("k", 1),
        "transaction": lambda: other.pipeline().incr("k").execute(),
        "script": lambda: other.eval("return redis.call('INCR', KEYS[1])", 1, "k"),
        "flush": other.flushdb,
        "rename": lambda: other.rename("k", "l"),
    }
    for name, change in changes.items():
        text_client.set("k", 1)
        with text_client.pipeline() as pipe:
            pipe.watch("k", "another")
            assert pipe.get("k") == "1", name
            change()
            if name == "expire":
                eventually(lambda: other.get("k") is None, what="the key expires")
            with pytest.raises(WatchError):
                pipe.multi()
                pipe.set("applied", 1).execute()
        assert text_client.get("applied") is None, name


def test_a_watched_key_that_did_not_change_lets_the_transaction_through(text_client, other):
    text_client.set("k", 1)
    with text_client.pipeline() as pipe:
        pipe.watch("k")
        value = int(pipe.get("k"))
        other.set("unrelated", 1)
        pipe.multi()
        assert pipe.set("k", value + 1).get("k").execute() == [True, "2"]
        # The watch ended with EXEC.
        other.set("k", 5)
        pipe.multi()
        assert pipe.get("k").execute() == ["5"]


def test_the_clients_own_write_breaks_its_watch_and_unwatch_ends_it(text_client, other):
    with text_client.pipeline() as pipe:
        pipe.watch("k")
        pipe.set("k", "own")
        pipe.multi()
        with pytest.raises(WatchError):
            pipe.get("k").execute()
        pipe.watch("k")
        other.set("k", "others")
        pipe.unwatch()
        pipe.watch("elsewhere")
        pipe.multi()
        assert pipe.get("k").execute() == ["others"]
        # `reset` says UNWATCH: the connection goes back to the pool clean.
        pipe.watch("k")
        other.set("k", "changed")
        pipe.reset()
        assert pipe.get("k").execute() == ["changed"]


def test_counters_under_contention_lose_nothing(endpoint, protocol):
    """The optimistic loop of redis-py's own documentation, by many threads on few keys."""
    client = redis.Redis(endpoint.host, endpoint.port, protocol=protocol, socket_timeout=30)

    def increment(pipe):
        value = int(pipe.get("counter") or 0)
        pipe.multi()
        pipe.set("counter", value + 1)
        pipe.rpush("seen", value + 1)
        return value + 1

    def work(_):
        return [client.transaction(increment, "counter", value_from_callable=True) for _ in range(15)]

    with ThreadPoolExecutor(8) as threads:
        returned = [value for values in threads.map(work, range(8)) for value in values]
    assert sorted(returned) == list(range(1, 121))
    assert client.get("counter") == b"120"
    assert client.lrange("seen", 0, -1) == [b"%d" % n for n in range(1, 121)]


def test_a_transfer_between_accounts_keeps_the_sum(endpoint, protocol):
    client = redis.Redis(endpoint.host, endpoint.port, protocol=protocol, socket_timeout=30)
    accounts = [f"account:{n}" for n in range(5)]
    client.mset({account: 100 for account in accounts})

    def work(n):
        for turn in range(10):
            source, target = accounts[(n + turn) % 5], accounts[(n + 2 * turn + 1) % 5]
            if source == target:
                continue

            def transfer(pipe, source=source, target=target):
                left, right = (int(v) for v in pipe.mget(source, target))
                pipe.multi()
                pipe.set(source, left - 7)
                pipe.set(target, right + 7)

            assert client.transaction(transfer, source, target) == [True, True]

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(work, range(6)))
    assert sum(int(v) for v in client.mget(accounts)) == 500


def test_a_script_object_runs_inside_a_transaction(text_client):
    add = text_client.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    pipe = text_client.pipeline()
    add(keys=["n"], args=[5], client=pipe)
    add(keys=["n"], args=[6], client=pipe)
    assert pipe.execute() == [5, 11]


def test_a_message_published_in_a_transaction_arrives_after_it(text_client):
    with text_client.pubsub(ignore_subscribe_messages=True) as subscriber:
        subscriber.subscribe("news")
        assert subscriber.get_message(timeout=20) is None
        text_client.pipeline().set("k", 1).publish("news", "written").set("k", 2).execute()
        message = eventually(lambda: subscriber.get_message(timeout=1))
        assert message["data"] == "written"
        assert text_client.get("k") == "2"


def test_a_transaction_of_one_write_answers_byte_for_byte(endpoint):
    with endpoint.connect() as raw:
        raw.send(encode("MULTI") + encode("SET", "k", 1) + encode("GET", "k") + encode("EXEC") + encode("GET", "k"))
        raw.exactly(b"+OK\r\n+QUEUED\r\n+QUEUED\r\n" + array(b"+OK\r\n", bulk(1)) + bulk(1))
        raw.send(encode("MULTI") + encode("MULTI") + encode("WATCH", "k") + encode("INCR", "k") + encode("EXEC"))
        raw.exactly(b"+OK\r\n-ERR MULTI calls can not be nested\r\n-ERR WATCH inside MULTI is not allowed\r\n")
        raw.exactly(b"+QUEUED\r\n" + array(b":2\r\n"))
        raw.send(encode("EXEC") + encode("DISCARD") + encode("MULTI") + encode("SET", "k", "x") + encode("DISCARD"))
        raw.exactly(b"-ERR EXEC without MULTI\r\n-ERR DISCARD without MULTI\r\n+OK\r\n+QUEUED\r\n+OK\r\n")
        raw.send(encode("MULTI") + encode("NOSUCH") + encode("EXEC") + encode("MULTI") + encode("EXEC"))
        assert raw.reply_bytes() == b"+OK\r\n"
        assert raw.reply_bytes().startswith(b"-ERR unknown command 'NOSUCH'")
        raw.exactly(b"-EXECABORT Transaction discarded because of previous errors.\r\n+OK\r\n*0\r\n")
        raw.nothing_left()


def test_a_client_lost_in_a_transaction_leaves_nothing(endpoint, text_client):
    for last in (None, "WATCH"):
        with endpoint.connect() as raw:
            if last:
                raw.command("WATCH", "k")
            raw.command("MULTI")
            assert raw.raw("SET", "k", "half") == b"+QUEUED\r\n"
        with endpoint.connect() as raw:
            # Whoever comes next is in no transaction and watches nothing.
            assert raw.raw("EXEC") == b"-ERR EXEC without MULTI\r\n"
            raw.command("SET", "other", 1)
            raw.send(encode("MULTI") + encode("GET", "other") + encode("EXEC"))
            raw.exactly(b"+OK\r\n+QUEUED\r\n" + array(bulk(1)))
    assert text_client.get("k") is None
