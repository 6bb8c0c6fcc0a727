"""redis-py's use of connection state, unchanged, in both protocols: MONITOR, its client-side cache, CLIENT TRACKING by
hand, RESET, HELLO and QUIT, several databases, scripts and functions.

What one client turns on is on for it alone and off after RESET or its end.
"""

import pytest
import redis
from redis.exceptions import NoScriptError, ResponseError

from harness.ports import eventually
from harness.resp import array, bulk, encode

LIBRARY = """#!lua name=%s
redis.register_function('add', function(keys, args) return redis.call('INCRBY', keys[1], args[1]) end)
redis.register_function{function_name='peek', callback=function(keys) return redis.call('GET', keys[1]) end,
                        flags={'no-writes'}}
"""


def push(*items):
    return b">" + array(*items)[1:]


def invalidation(*keys):
    return push(bulk("invalidate"), array(*map(bulk, keys)))


# MONITOR.

def test_a_monitor_sees_what_others_do(text_client, endpoint, protocol):
    with endpoint.connect() as writer, text_client.monitor() as monitor:
        writer.command("SELECT", 3)
        writer.command("SET", "seen", 'a "quoted" value')
        text_client.eval("return redis.call('INCR', KEYS[1])", 1, "counted")
        text_client.get("end")
        seen = []
        for event in monitor.listen():
            seen.append((event["db"], event["command"]))
            if event["command"] == "GET end":
                break
        assert (3, 'SET seen a "quoted" value') in seen or (3, 'SET seen a \\"quoted\\" value') in seen
        assert (0, "INCR counted") in seen
    # Its connection is of use to nobody, and nobody else gets its lines.
    assert text_client.echo("on") == "on"


def test_a_monitor_ends_with_reset(endpoint):
    with endpoint.connect() as raw, endpoint.connect() as other:
        assert raw.raw("MONITOR") == b"+OK\r\n"
        other.command("SET", "k", 1)
        while b'"SET" "k" "1"' not in raw.line():
            pass
        raw.send(encode("RESET"))
        while raw.line() != b"+RESET\r\n":
            pass
        other.command("SET", "k", 2)
        assert raw.raw("GET", "k") == bulk(2)
        raw.nothing_left()


# redis-py's client-side cache.

@pytest.fixture
def cached(endpoint, monkeypatch):
    """Clients with redis-py's cache, which it refuses to older servers though they can do all that it needs."""
    cache = pytest.importorskip("redis.cache", reason="this redis-py has no client-side cache")
    from redis.connection import CacheProxyConnection
    monkeypatch.setattr(CacheProxyConnection, "MIN_ALLOWED_VERSION", "6.0.0")
    clients = []

    def start():
        client = redis.Redis(endpoint.host, endpoint.port, protocol=3, decode_responses=True, socket_timeout=30,
                             cache_config=cache.CacheConfig())
        clients.append(client)
        return client

    yield start
    for client in clients:
        client.close()


def entries(client):
    return client.get_cache().size


def test_the_clients_own_cache_never_stays_stale(cached, endpoint):
    reader, writer = cached(), endpoint.server
    writer.control("MSET", "a", 1, "b", 1)
    writer.control("HSET", "h", "f", 1)
    for n in range(1, 30):
        assert reader.mget("a", "b") == [str(n), "1"]
        assert [reader.get("a") for _ in range(3)] == [str(n)] * 3
        assert reader.hgetall("h") == {"f": str(n)}
        assert entries(reader) >= 3
        writer.control("INCR", "a")
        writer.control("HINCRBY", "h", "f", 1)
        # The invalidation comes by itself; a command reads it before it looks into the cache.
        eventually(lambda: reader.get("a") == str(n + 1), what="the write is seen")
        eventually(lambda: reader.hgetall("h") == {"f": str(n + 1)}, what="the write is seen")
    for end in (("DEL", "a"), ("FLUSHALL",)):
        writer.control("MSET", "a", "x", "b", "x")
        eventually(lambda: reader.get("a") == "x")
        writer.control(*end)
        eventually(lambda: reader.get("a") is None, what=f"{end} is seen")


def test_a_cached_value_costs_no_command_until_it_changes(cached, endpoint):
    reader, writer = cached(), cached()
    writer.set("k", "old")
    assert reader.get("k") == "old"
    before = endpoint.server.calls().get("get", 0)
    assert [reader.get("k") for _ in range(50)] == ["old"] * 50
    assert endpoint.server.calls().get("get", 0) == before
    writer.set("k", "new")
    eventually(lambda: reader.get("k") == "new")
    # The client's own writes count too.
    reader.set("k", "own")
    assert eventually(lambda: reader.get("k") == "own") and eventually(lambda: writer.get("k") == "own")


def test_caching_clients_are_independent_of_each_other(cached, text_client):
    readers = [cached() for _ in range(5)]
    text_client.mset({f"k{n}": "old" for n in range(5)})
    for n, reader in enumerate(readers):
        assert reader.get(f"k{n}") == "old" and entries(reader) == 1
    text_client.set("k3", "new")
    eventually(lambda: readers[3].get("k3") == "new")
    for n, reader in enumerate(readers):
        reader.echo("pending invalidations are read")
        assert entries(reader) == 1 and reader.get(f"k{n}") == ("new" if n == 3 else "old")


# CLIENT TRACKING by hand.

def test_tracking_tells_of_changed_keys_once(endpoint):
    with endpoint.connect() as raw, endpoint.connect() as other:
        raw.command("HELLO", 3)
        raw.send(encode("CLIENT", "TRACKING", "ON") + encode("GET", "k") + encode("MGET", "l", "m"))
        raw.exactly(b"+OK\r\n_\r\n*2\r\n_\r\n_\r\n")
        other.command("SET", "unread", 1)
        other.command("SET", "k", 1)
        raw.exactly(invalidation("k"))
        other.command("SET", "k", 2)
        other.command("SET", "m", 2)
        raw.exactly(invalidation("m"))
        assert raw.raw("GET", "k") == bulk(2)
        other.command("FLUSHALL")
        raw.exactly(push(bulk("invalidate"), b"_\r\n"))
        raw.send(encode("CLIENT", "TRACKING", "OFF") + encode("GET", "k"))
        raw.exactly(b"+OK\r\n_\r\n")
        other.command("SET", "k", 3)
        raw.nothing_left()


def test_tracking_has_its_modes(endpoint):
    with endpoint.connect() as raw, endpoint.connect() as other:
        raw.command("HELLO", 3)
        raw.send(encode("CLIENT", "TRACKING", "ON", "OPTIN") + encode("GET", "k") + encode("CLIENT", "CACHING", "YES")
                 + encode("GET", "l") + encode("GET", "m"))
        raw.exactly(b"+OK\r\n_\r\n+OK\r\n_\r\n_\r\n")
        other.command("MSET", "k", 1, "l", 1, "m", 1)
        raw.exactly(invalidation("l"))
        info = raw.command("CLIENT", "TRACKINGINFO")
        assert set(info[b"flags"]) == {b"on", b"optin"} and info[b"redirect"] == 0
        assert raw.command("CLIENT", "GETREDIR") == 0
        # Modes cannot be changed while on.
        assert raw.raw("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "p:").startswith(b"-ERR You can't switch")
        raw.command("CLIENT", "TRACKING", "OFF")
        assert raw.command("CLIENT", "GETREDIR") == -1
        raw.command("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "p:", "NOLOOP")
        other.command("SET", "q:1", 1)
        assert raw.raw("SET", "p:own", 1) == b"+OK\r\n"
        other.command("SET", "p:1", 1)
        raw.exactly(invalidation("p:1"))
        assert raw.raw("CLIENT", "CACHING", "YES").startswith(b"-ERR CLIENT CACHING YES is only valid when")
        raw.send(encode("RESET") + encode("GET", "p:1"))
        raw.exactly(b"+RESET\r\n" + bulk(1))
        other.command("SET", "p:1", 2)
        raw.nothing_left()


def test_tracking_can_be_redirected_to_another_connection(endpoint):
    with endpoint.connect() as ear, endpoint.connect() as raw, endpoint.connect() as other:
        identity = ear.command("CLIENT", "ID")
        ear.send(encode("SUBSCRIBE", "__redis__:invalidate"))
        ear.exactly(array(bulk("subscribe"), bulk("__redis__:invalidate"), b":1\r\n"))
        answer = raw.raw("CLIENT", "TRACKING", "ON", "REDIRECT", identity)
        if not endpoint.direct:
            # The other client has no connection of its own to the server; RESP3 needs none.
            assert b"REDIRECT is not carried" in answer
            return
        assert answer == b"+OK\r\n"
        assert raw.command("CLIENT", "GETREDIR") == identity
        assert raw.raw("GET", "k") == b"$-1\r\n"
        other.command("SET", "k", 1)
        ear.exactly(array(bulk("message"), bulk("__redis__:invalidate"), array(bulk("k"))))
        reply = raw.raw("CLIENT", "TRACKING", "ON", "REDIRECT", 2**40)
        assert reply.startswith(b"-ERR The client ID you want redirect to")
        raw.nothing_left()


# State and its end.

def test_reset_ends_every_state(endpoint):
    with endpoint.connect() as raw, endpoint.connect() as other:
        for state in ([("MULTI",), ("SET", "never", 1)], [("WATCH", "k"), ("MULTI",)], [("SUBSCRIBE", "c")],
                      [("PSUBSCRIBE", "*")], [("SSUBSCRIBE", "s")], [("SELECT", 4)], [("CLIENT", "SETNAME", "x")],
                      [("HELLO", 3), ("CLIENT", "TRACKING", "ON"), ("GET", "k")]):
            for command in state:
                assert not raw.raw(*command).startswith(b"-"), command
            assert raw.raw("RESET") == b"+RESET\r\n", state
            other.command("SET", "k", 1)
            other.command("PUBLISH", "c", "unheard")
            raw.send(encode("GET", "never") + encode("GET", "k") + encode("CLIENT", "GETNAME") + encode("EXEC"))
            raw.exactly(b"$-1\r\n" + bulk(1) + b"$-1\r\n-ERR EXEC without MULTI\r\n")
        raw.nothing_left()


def test_a_new_client_finds_no_state_of_former_ones(endpoint):
    states = [("SUBSCRIBE", "c"), ("SELECT", 4), ("HELLO", 3), ("CLIENT", "SETNAME", "x"), ("MULTI",), ("WATCH", "k"),
              ("MONITOR",), ("CLIENT", "REPLY", "OFF")]
    for state in states * 3:
        with endpoint.connect() as raw:
            raw.send(encode(*state) + encode("GET", "k"))
        with endpoint.connect() as raw:
            raw.send(encode("GET", "k") + encode("HGETALL", "k") + encode("CLIENT", "GETNAME") + encode("EXEC"))
            raw.exactly(b"$-1\r\n*0\r\n$-1\r\n-ERR EXEC without MULTI\r\n")
            assert b" db=0 " in raw.command("CLIENT", "INFO")
            raw.nothing_left()


def test_unknown_commands_are_answered_as_redis_does(text_client):
    for _ in range(3):
        with pytest.raises(ResponseError, match=r"unknown command '(NO\.SUCH|no\.such)'"):
            text_client.execute_command("NO.SUCH", "a", "b")
    with pytest.raises(ResponseError, match="[Uu]nknown subcommand"):
        text_client.execute_command("CLIENT", "NOSUCH")
    assert text_client.echo("on") == "on"


# Several databases.

@pytest.fixture
def databases(endpoint, protocol):
    options = {"protocol": protocol, "decode_responses": True}
    clients = [redis.Redis(endpoint.host, endpoint.port, db=db, **options) for db in range(6)]
    yield clients
    for client in clients:
        client.close()


def test_databases_can_be_swapped_moved_and_copied_between(databases):
    a, b, c = databases[1:4]
    a.mset({"x": "from a", "y": "from a"})
    b.set("x", "from b")
    assert a.swapdb(1, 2) is True
    assert a.get("x") == "from b" and b.mget("x", "y") == ["from a"] * 2
    assert b.move("y", 3) in (1, True) and c.get("y") == "from a" and b.get("y") is None
    assert b.move("y", 3) in (0, False)
    assert b.copy("x", "copied", destination_db=3) in (1, True) and c.get("copied") == "from a"
    with pytest.raises(ResponseError, match="out of range"):
        b.copy("x", "y", destination_db=99)
    with pytest.raises(ResponseError, match="out of range"):
        b.swapdb(0, 99)
    assert c.flushdb() is True
    assert [client.dbsize() for client in databases] == [0, 1, 1, 0, 0, 0]


def test_transactions_watches_and_waits_stay_in_their_database(databases, endpoint):
    for db, client in enumerate(databases):
        assert client.pipeline().set("k", db).get("k").execute() == [True, str(db)]
    with databases[4].pipeline() as pipe:
        pipe.watch("k")
        # The same name in another database is another key.
        databases[5].set("k", "changed")
        pipe.multi()
        assert pipe.get("k").execute() == ["4"]
    for db, client in enumerate(databases):
        client.rpush("q", f"of {db}")
    for db, client in reversed(list(enumerate(databases))):
        assert list(client.blpop("q", timeout=20)) == ["q", f"of {db}"]
    # Channels know no databases.
    with databases[4].pubsub(ignore_subscribe_messages=True) as subscriber:
        subscriber.subscribe("c")
        subscriber.get_message(timeout=20)
        databases[5].publish("c", "heard")
        assert subscriber.get_message(timeout=20)["data"] == "heard"


def test_a_waiting_pop_is_served_across_swapdb(databases, endpoint):
    with endpoint.connect() as raw:
        raw.command("SELECT", 1)
        raw.send(encode("BLPOP", "q", 0))
        endpoint.server.wait_for_blocked(1)
        databases[2].rpush("q", "swapped in")
        databases[0].swapdb(1, 2)
        raw.exactly(array(bulk("q"), bulk("swapped in")))
        raw.nothing_left()


# Scripts and functions.

def test_a_forgotten_script_is_loaded_again(text_client):
    add = text_client.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    assert add(keys=["n"], args=[1]) == 1
    text_client.script_flush()
    with pytest.raises(NoScriptError):
        text_client.evalsha(add.sha, 1, "n", 1)
    assert add(keys=["n"], args=[1]) == 2
    assert text_client.evalsha_ro(text_client.script_load("return redis.call('GET', KEYS[1])"), 1, "n") == "2"
    with pytest.raises(ResponseError, match="[Ww]rite commands are not allowed from read-only scripts"):
        text_client.eval_ro("return redis.call('SET', KEYS[1], 1)", 1, "n")


def test_functions_are_loaded_called_and_moved(text_client, client):
    r = text_client
    r.function_flush()
    try:
        assert r.function_load(LIBRARY % "lib") == "lib"
        assert [r.fcall("add", 1, "n", 5) for _ in range(2)] == [5, 10]
        assert r.fcall_ro("peek", 1, "n") == "10"
        with pytest.raises(ResponseError, match="Can not execute a script with write flag using"):
            r.fcall_ro("add", 1, "n", 5)
        with pytest.raises(ResponseError, match="already exists"):
            r.function_load(LIBRARY % "lib")
        assert r.function_load(LIBRARY % "lib", replace=True) == "lib"
        assert "lib" in str(r.function_list())
        assert r.pipeline().fcall("add", 1, "n", 1).get("n").execute() == [11, "11"]
        dump = client.function_dump()
        assert r.function_delete("lib") in (True, "OK")
        with pytest.raises(ResponseError, match="Function not found"):
            r.fcall("add", 1, "n", 5)
        assert client.function_restore(dump)
        assert r.fcall("add", 1, "n", 4) == 15
    finally:
        r.function_flush()
