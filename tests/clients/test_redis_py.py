"""redis-py, unchanged, sync and asyncio, in both protocols."""

import asyncio
import os
import random
import struct
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
import redis.asyncio
from redis.exceptions import NoScriptError, ResponseError

from harness.resp import bulk, encode

def test_strings_counters_and_expiry_work(text_client):
    r = text_client
    assert r.ping() is True
    assert r.set("k", "v") is True
    assert r.get("k") == "v"
    assert r.get("none") is None
    assert r.set("k", "w", nx=True) is None
    assert r.set("k", "w", xx=True, ex=60, get=True) == "v"
    assert 0 < r.ttl("k") <= 60
    assert r.persist("k") is True
    assert r.incr("n") == 1
    assert r.incrby("n", 2**62) == 2**62 + 1
    assert r.incrbyfloat("f", 0.1) == pytest.approx(0.1)
    assert r.decr("n", 5) == 2**62 - 4
    assert r.append("k", "xyz") == 4
    assert r.getrange("k", 1, 2) == "xy"
    assert r.setrange("k", 1, "AB") == 4
    assert r.getdel("k") == "wABz"
    assert r.mset({f"m{i}": i for i in range(100)}) is True
    assert r.mget([f"m{i}" for i in range(101)]) == [*map(str, range(100)), None]
    assert r.delete(*[f"m{i}" for i in range(100)]) == 100
    assert r.exists("k", "n", "f") == 2
    assert r.type("n") == "string"
    assert r.rename("n", "nn") is True
    assert r.touch("nn") == 1
    assert r.unlink("nn") == 1
    assert r.echo("hello") == "hello"


@pytest.mark.parametrize("options", [{}, {"protocol": 2}, {"protocol": 3}], ids=["default", "resp2", "resp3"])
def test_greetings_of_many_clients_take_no_connection(redis_server, nearkey, options):
    """The names, versions and wishes that each client begins with, CLIENT MAINT_NOTIFICATIONS among them."""
    proxy = nearkey(redis_server(tls=False), upstream__connections=1)

    def use(n):
        with redis.Redis(proxy.host, proxy.port, **options) as client:
            assert client.set(f"k{n}", n) and client.get(f"k{n}") == b"%d" % n

    with ThreadPoolExecutor(20) as threads:
        list(threads.map(use, range(100)))
    metrics = proxy.metrics()
    assert metrics["nearkey_commands_total{class=\"leased\"}"] == metrics["nearkey_lease_wait_seconds_count"] == 0
    # One that carries all, and L1's.
    assert metrics["nearkey_upstream_connects_total"] <= 2


def test_hashes_lists_sets_and_sorted_sets_work(text_client):
    r = text_client
    assert r.hset("h", mapping={"a": 1, "b": "two", "c": ""}) == 3
    assert r.hgetall("h") == {"a": "1", "b": "two", "c": ""}
    assert r.hmget("h", "a", "x") == ["1", None]
    assert r.hgetall("none") == {}
    assert r.hincrby("h", "a", 41) == 42
    assert r.rpush("l", *range(10)) == 10
    assert r.lrange("l", 0, -1) == [str(i) for i in range(10)]
    assert r.lrange("none", 0, -1) == []
    assert r.lpop("l", 2) == ["0", "1"]
    assert r.lpop("none") is None
    assert r.lpop("none", 2) is None
    assert r.linsert("l", "before", "5", "x") == 9
    assert r.lpos("l", "x") == 3
    assert r.sadd("s", "a", "b", "c") == 3
    assert r.smembers("s") == {"a", "b", "c"}
    assert r.smismember("s", ["a", "z"]) == [1, 0]
    assert r.sinter("s", "none") == set()
    assert r.zadd("z", {"one": 1, "two": 2.5, "inf": float("inf")}) == 3
    assert [tuple(i) for i in r.zrange("z", 0, -1, withscores=True)] == [
        ("one", 1.0), ("two", 2.5), ("inf", float("inf"))]
    assert r.zscore("z", "two") == 2.5
    assert r.zscore("z", "none") is None
    assert r.zrank("z", "two") == 1
    assert [tuple(i) for i in r.zpopmin("z", 2)] == [("one", 1.0), ("two", 2.5)]
    assert r.zrangebyscore("z", "-inf", 5) == []
    assert r.hrandfield("h", 10, withvalues=True)


def test_keys_and_values_are_binary_safe(client):
    random.seed(7)
    everything = bytes(range(256))
    for value in [b"", b"\r\n", b"\0", b"$-1\r\n", b"*1\r\n$4\r\nPING\r\n", everything, everything * 300,
                  random.randbytes(100_003)]:
        key = b"key:" + value[:2000]
        assert client.set(key, value) is True
        assert client.get(key) == value
        assert client.strlen(key) == len(value)
        assert client.hset(b"hash", key, value) in (0, 1)
        assert client.hget(b"hash", key) == value
        assert client.echo(value) == value
    assert len(client.keys(b"key:*")) == 8


def test_values_of_every_small_length_come_back_whole(client):
    pipe = client.pipeline(transaction=False)
    for n in range(3000):
        pipe.set(f"len:{n}", b"%d:" % n + b"x" * n).get(f"len:{n}")
    replies = pipe.execute()
    assert replies[1::2] == [b"%d:" % n + b"x" * n for n in range(3000)]


def test_a_pipeline_of_ten_thousand_answers_in_order(client):
    pipe = client.pipeline(transaction=False)
    for n in range(2500):
        pipe.set(f"p:{n}", n).get(f"p:{n}").echo(f"e{n}").incr("counter")
    assert len(pipe) == 10_000
    replies = pipe.execute()
    for n in range(2500):
        assert replies[4 * n:4 * n + 4] == [True, b"%d" % n, b"e%d" % n, n + 1]


def test_errors_stand_at_their_place_in_a_pipeline(client):
    client.set("string", "v")
    pipe = client.pipeline(transaction=False)
    pipe.get("string").lpush("string", 1).echo("between").execute_command("NOSUCHCOMMAND", "a").incr("string").get("string")
    replies = pipe.execute(raise_on_error=False)
    assert [type(r) for r in replies] == [bytes, ResponseError, bytes, ResponseError, ResponseError, bytes]
    assert "WRONGTYPE Operation against a key holding the wrong kind of value" in str(replies[1])
    assert "unknown command 'NOSUCHCOMMAND', with args beginning with: 'a'" in str(replies[3])
    assert "value is not an integer or out of range" in str(replies[4])
    assert (replies[0], replies[2], replies[5]) == (b"v", b"between", b"v")


@pytest.mark.parametrize("command, text", [
    (("GET",), "wrong number of arguments for 'get' command"),
    (("SET", "k", "v", "NOSUCH"), "syntax error"),
    (("SET", "k", "v", "EX", "-1"), "invalid expire time in 'set' command"),
    (("ECHO",), "wrong number of arguments for 'echo' command"),
    (("PING", "a", "b"), "wrong number of arguments for 'ping' command"),
    (("OBJECT", "NOSUCH", "k"), "unknown subcommand 'NOSUCH'. Try OBJECT HELP."),
    (("CLIENT", "NOSUCH"), "unknown subcommand 'NOSUCH'. Try CLIENT HELP."),
    (("CLIENT", "SETNAME", "with space"), "Client names cannot contain spaces, newlines or special characters."),
    (("SELECT", "nine"), "value is not an integer or out of range"),
    (("SELECT", "100000"), "DB index is out of range"),
    (("EVAL", "return redis.call('LPUSH',KEYS[1],1)", "1", "string"), "WRONGTYPE"),
    (("LRANGE", "string", "0", "-1"), "WRONGTYPE"),
])
def test_an_error_has_the_words_of_redis(client, endpoint, command, text):
    client.set("string", "v")
    with pytest.raises(ResponseError) as error:
        client.execute_command(*command)
    assert text in str(error.value)
    # Word for word what the server says, where it is asked directly.
    with endpoint.server.connect() as direct, endpoint.connect() as through:
        assert through.raw(*command) == direct.raw(*command)


def test_scan_iterates_over_everything_once_or_more(client):
    keys = {b"scan:%d" % n for n in range(5000)}
    client.mset({k: 1 for k in keys})
    assert set(client.scan_iter(match="scan:*", count=100)) == keys
    client.hset("hash", mapping={f"f{n}": n for n in range(1000)})
    assert len(dict(client.hscan_iter("hash", count=10))) == 1000
    client.sadd("set", *range(1000))
    assert len(set(client.sscan_iter("set"))) == 1000
    client.zadd("zset", {f"m{n}": n for n in range(1000)})
    assert len(dict(client.zscan_iter("zset"))) == 1000


def test_scripts_run_by_text_and_by_hash(text_client):
    r = text_client
    assert r.eval("return {KEYS[1], ARGV[1], 7, false, {'nested'}}", 1, "k", "a") == ["k", "a", 7, None, ["nested"]]
    with pytest.raises(NoScriptError):
        r.evalsha("f" * 40, 0)
    sha = r.script_load("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    assert r.evalsha(sha, 1, "n", 5) == 5
    assert r.script_exists(sha, "0" * 40) == [True, False]
    # register_script falls back from EVALSHA to SCRIPT LOAD by itself.
    r.script_flush()
    add = r.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    assert [add(keys=["n"], args=[1]) for _ in range(3)] == [6, 7, 8]
    with pytest.raises(ResponseError, match="my own words"):
        r.eval("return redis.error_reply('my own words')", 0)
    assert r.eval("return redis.status_reply('FINE')", 0) == "FINE"


def test_scripts_can_answer_in_resp3_types(endpoint):
    with redis.Redis(endpoint.host, endpoint.port, protocol=3, decode_responses=True) as r:
        script = "redis.setresp(3); return {map={a=1}}"
        assert r.eval(script, 0) == {"a": 1}
        assert r.eval("return {double=3.5}", 0) == 3.5
        assert r.eval("redis.setresp(3); return true", 0) in (True, 1)


def test_streams_work(text_client):
    r = text_client
    ids = [r.xadd("stream", {"n": n, "text": "x" * n}) for n in range(200)]
    assert r.xlen("stream") == 200
    entries = r.xrange("stream")
    assert [e[0] for e in entries] == ids
    assert entries[199][1] == {"n": "199", "text": "x" * 199}
    assert [e[0] for e in r.xrevrange("stream", count=3)] == ids[:-4:-1]
    assert r.xgroup_create("stream", "group", id="0") is True
    read = r.xreadgroup("group", "consumer", {"stream": ">"}, count=10)
    assert len(streams(read)["stream"]) == 10
    assert r.xack("stream", "group", *ids[:5]) == 5
    assert r.xpending("stream", "group")["pending"] == 5
    assert len(r.xread({"stream": ids[149]}, count=100)) == 1
    assert r.xtrim("stream", maxlen=10, approximate=False) == 190
    assert r.xinfo_stream("stream")["length"] == 10


def streams(reply):
    """XREADGROUP's reply by stream, whatever shape redis-py gives it."""
    if isinstance(reply, dict):
        return {k: v[0] if len(v) == 1 and isinstance(v[0], list) else v for k, v in reply.items()}
    return {name: entries for name, entries in reply}


def test_geo_bits_and_hyperloglogs_work(text_client, client):
    r = text_client
    assert r.geoadd("geo", (13.361389, 38.115556, "Palermo", 15.087269, 37.502669, "Catania")) == 2
    assert r.geodist("geo", "Palermo", "Catania", "km") == pytest.approx(166.27, abs=0.01)
    assert set(r.geosearch("geo", longitude=15, latitude=37, radius=200, unit="km")) == {"Palermo", "Catania"}
    position = r.geopos("geo", "Palermo", "none")
    assert position[0][0] == pytest.approx(13.361389, abs=1e-5) and position[1] is None
    assert r.setbit("bits", 7, 1) == 0
    assert r.bitcount("bits") == 1
    assert r.bitop("NOT", "inverse", "bits") == 1
    assert client.get("inverse") == b"\xfe"
    assert r.bitfield("fields").incrby("u8", 0, 255).incrby("u8", 0, 3).execute() == [255, 2]
    assert r.pfadd("hll", *range(1000)) == 1
    assert abs(r.pfcount("hll") - 1000) < 50
    assert r.pfmerge("merged", "hll", "none") is True


def test_values_can_be_dumped_restored_and_inspected(client):
    client.rpush("list", *range(100))
    dump = client.dump("list")
    assert client.restore("copy", 0, dump) in (b"OK", True)
    assert client.lrange("copy", 0, -1) == [b"%d" % n for n in range(100)]
    assert client.object("ENCODING", "list")
    assert client.object("REFCOUNT", "list") == 1
    assert client.memory_usage("list") > 0
    assert client.copy("list", "third") in (1, True)
    assert client.sort("list", desc=True, start=0, num=2) == [b"99", b"98"]


def test_a_database_is_the_clients_own(endpoint, protocol):
    clients = [redis.Redis(endpoint.host, endpoint.port, db=db, protocol=protocol) for db in range(4)]
    for db, client in enumerate(clients):
        client.set("where", db)
    for db, client in enumerate(clients):
        assert client.get("where") == b"%d" % db
        assert client.dbsize() == 1
        assert endpoint_db(client) == db
        client.close()


def endpoint_db(client):
    return int(client.client_info()["db"])


def test_select_changes_the_database_between_pipelined_commands(endpoint):
    with endpoint.connect() as raw:
        raw.send(b"".join(encode("SELECT", db) + encode("SET", "d", db) + encode("GET", "d") for db in (5, 6, 5, 0)))
        raw.exactly(b"".join(b"+OK\r\n+OK\r\n" + bulk(db) for db in (5, 6, 5, 0)))
        raw.send(encode("SELECT", 6) + encode("GET", "d") + encode("SELECT", 99999) + encode("GET", "d"))
        raw.exactly(b"+OK\r\n" + bulk(6) + b"-ERR DB index is out of range\r\n" + bulk(6))
        raw.nothing_left()


def test_a_client_can_name_find_and_describe_itself(text_client, endpoint, protocol):
    r = text_client.client()
    assert r.client_setname("reporting") is True
    assert r.client_getname() == "reporting"
    me = r.client_id()
    info = r.client_info()
    assert int(info["id"]) == me
    assert info["name"] == "reporting"
    assert info["resp"] == str(protocol) or "resp" not in info
    assert "addr" in info and "laddr" in info and "age" in info and "cmd" in info
    listed = {int(c["id"]): c for c in r.client_list()}
    assert listed[me]["name"] == "reporting"
    assert [int(c["id"]) for c in r.client_list(client_id=[me])] == [me]
    with endpoint.connect() as other:
        assert int(other.command("CLIENT", "ID")) > me
    assert r.client_no_evict("ON") in (True, "OK")
    assert r.client_setname("") is True
    assert not r.client_getname()


def test_a_client_can_say_which_library_it_is(endpoint):
    with endpoint.connect() as raw, endpoint.server.connect() as direct:
        if b"ERR" in direct.raw("CLIENT", "SETINFO", "LIB-NAME", "x") and endpoint.direct:
            pytest.skip("this redis-server has no CLIENT SETINFO")
        # Answered by Nearkey itself, so newer than the server behind it may be.
        assert raw.command("CLIENT", "SETINFO", "LIB-NAME", "redis-py(test_v1)") == b"OK"
        assert raw.command("CLIENT", "SETINFO", "LIB-VER", "1.2.3") == b"OK"
        assert b"lib-name=redis-py(test_v1) lib-ver=1.2.3" in raw.command("CLIENT", "INFO")


def test_a_client_can_kill_another(text_client, endpoint):
    with endpoint.connect() as victim:
        victim_id = victim.command("CLIENT", "ID")
        assert text_client.client_kill_filter(_id=victim_id) == 1
        assert victim.until_eof() == b""
    with endpoint.connect() as victim:
        address = "%s:%s" % victim.sock.getsockname()[:2]
        assert text_client.client_kill(address) in (True, "OK")
        assert victim.until_eof() == b""
    with pytest.raises(ResponseError, match="No such client"):
        text_client.client_kill("127.0.0.1:1")
    assert text_client.client_kill_filter(_id=2**50) == 0


def test_replies_can_be_turned_off(endpoint):
    with endpoint.connect() as raw:
        raw.send(encode("CLIENT", "REPLY", "SKIP") + encode("SET", "a", 1) + encode("GET", "a"))
        raw.exactly(b"$1\r\n1\r\n")
        raw.send(encode("CLIENT", "REPLY", "OFF") + encode("SET", "b", 2) + encode("INCR", "b") + encode("PING"))
        raw.send(encode("CLIENT", "REPLY", "ON") + encode("GET", "b"))
        raw.exactly(b"+OK\r\n$1\r\n3\r\n")
        raw.nothing_left()


def test_health_checks_keep_a_pool_going(endpoint):
    pool = redis.ConnectionPool(host=endpoint.host, port=endpoint.port, health_check_interval=1, max_connections=50)
    client = redis.Redis(connection_pool=pool)
    assert client.set("k", 1)
    for connection in list(pool._available_connections):
        connection.next_health_check = 0
    assert client.get("k") == b"1"


def test_info_has_the_servers_fields_and_nearkeys(text_client, endpoint):
    info = text_client.info()
    assert info["redis_version"] == endpoint.server.info()["redis_version"]
    assert info["role"] == "master"
    assert int(info["connected_clients"]) >= 1
    assert text_client.info("server")["tcp_port"] == endpoint.server.port
    if not endpoint.direct:
        with endpoint.connect() as raw:
            text = raw.command("INFO").decode()
            head, _, own = text.partition("# Nearkey\r\n")
            assert "# Server" in head and "# Stats" in head
            assert own and all(":" in line for line in own.splitlines() if line)
            only_own = raw.command("INFO", "nearkey").decode()
            assert only_own.startswith("# Nearkey\r\n") and "# Server" not in only_own


def test_questions_about_the_server_travel(client, endpoint):
    assert client.command_count() == endpoint.server.control("COMMAND", "COUNT")
    assert client.config_get("maxmemory") in ({b"maxmemory": b"0"}, {"maxmemory": "0"})
    assert client.dbsize() == 0
    assert client.lastsave()
    assert client.time()[0] > 1_600_000_000
    assert isinstance(client.slowlog_get(), list)
    assert client.command_getkeys("MSET", "a", 1, "b", 2) in ([b"a", b"b"], ["a", "b"])
    assert client.flushdb() is True
    assert client.acl_whoami() in (b"default", "default")


def test_empty_and_null_replies_are_told_apart(endpoint, protocol):
    null, null_array = (b"_\r\n", b"_\r\n") if protocol == 3 else (b"$-1\r\n", b"*-1\r\n")
    with endpoint.connect() as raw:
        raw.command("HELLO", protocol)
        raw.command("SET", "empty", "")
        assert raw.raw("GET", "empty") == b"$0\r\n\r\n"
        assert raw.raw("GET", "none") == null
        assert raw.raw("LRANGE", "none", 0, -1) == b"*0\r\n"
        assert raw.raw("LPOP", "none", 1) == (null if protocol == 3 else null_array)
        assert raw.raw("HGETALL", "none") == (b"%0\r\n" if protocol == 3 else b"*0\r\n")
        assert raw.raw("SMEMBERS", "none") == (b"~0\r\n" if protocol == 3 else b"*0\r\n")
        assert raw.raw("MGET", "none", "empty") == b"*2\r\n" + null + b"$0\r\n\r\n"
        assert raw.raw("EVAL", "return {}", 0) == b"*0\r\n"
        raw.nothing_left()


def test_hello_switches_protocol_name_and_user_in_one_go(endpoint):
    with endpoint.connect() as raw:
        hello = raw.command("HELLO")
        assert dict(zip(hello[::2], hello[1::2]))[b"proto"] == 2
        hello = raw.command("HELLO", 3, "SETNAME", "switched")
        assert hello[b"proto"] == 3
        assert hello[b"server"] and hello[b"version"] and hello[b"mode"] and hello[b"role"] == b"master"
        assert raw.command("CLIENT", "GETNAME") == b"switched"
        assert raw.raw("HGETALL", "none") == b"%0\r\n"
        assert raw.raw("HELLO", 4).startswith(b"-NOPROTO unsupported protocol version")
        assert raw.raw("HELLO", "x").startswith(b"-ERR Protocol version is not an integer or out of range")
        assert raw.raw("HELLO", 2, "NOSUCH").startswith(b"-ERR Syntax error in HELLO option 'NOSUCH'")
        assert raw.command("HELLO", 2)
        assert raw.raw("HGETALL", "none") == b"*0\r\n"


def test_reset_brings_a_connection_back_to_its_start(endpoint):
    with endpoint.connect() as raw:
        raw.command("HELLO", 3, "SETNAME", "before")
        raw.command("SELECT", 3)
        raw.command("SET", "in3", 1)
        assert raw.raw("RESET") == b"+RESET\r\n"
        assert raw.raw("GET", "in3") == b"$-1\r\n"
        assert raw.raw("CLIENT", "GETNAME") == b"$-1\r\n"
        assert b" db=0 " in raw.command("CLIENT", "INFO")


def test_many_threads_share_one_client(endpoint, protocol):
    client = redis.Redis(endpoint.host, endpoint.port, protocol=protocol)

    def work(n):
        for i in range(20):
            client.set(f"t:{n}", f"{n}:{i}")
            assert client.get(f"t:{n}") == f"{n}:{i}".encode()

    with ThreadPoolExecutor(50) as threads:
        list(threads.map(work, range(100)))


def test_asyncio_clients_work_side_by_side(endpoint, protocol):
    async def one(client, n):
        await client.set(f"a:{n}", n)
        assert await client.get(f"a:{n}") == b"%d" % n
        assert await client.hset(f"h:{n}", mapping={"n": n}) == 1
        async with client.pipeline(transaction=False) as pipe:
            for i in range(50):
                pipe.echo(f"{n}.{i}")
            assert await pipe.execute() == [b"%d.%d" % (n, i) for i in range(50)]

    async def main():
        async with redis.asyncio.Redis(host=endpoint.host, port=endpoint.port, protocol=protocol,
                                       max_connections=1000) as client:
            await asyncio.gather(*(one(client, n) for n in range(300)))
            found = [key async for key in client.scan_iter("a:*")]
            assert len(set(found)) == 300

    asyncio.run(asyncio.wait_for(main(), 60))


def test_cancelled_asyncio_requests_leave_no_reply_behind(endpoint):
    """The incident that made people read other people's chats: a cancelled request whose reply reaches the next."""
    async def main():
        client = redis.asyncio.Redis(host=endpoint.host, port=endpoint.port, single_connection_client=False,
                                     max_connections=20)
        for n in range(50):
            await client.set(f"c:{n}", n)
        for _ in range(300):
            n = random.randrange(50)
            task = asyncio.create_task(client.get(f"c:{n}"))
            await asyncio.sleep(random.random() * 0.002)
            task.cancel()
            m = random.randrange(50)
            assert await client.get(f"c:{m}") == b"%d" % m
        await client.aclose()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_numbers_keep_every_bit(client):
    raw = b"".join(struct.pack("<d", x) for x in (0.1, -0.0, 1e308, 5e-324))
    client.set("doubles", raw)
    assert client.get("doubles") == raw
    assert client.incrby("big", 2**63 - 1) == 2**63 - 1
    with pytest.raises(ResponseError, match="increment or decrement would overflow"):
        client.incr("big")
    client.zadd("z", {"m": 1.7976931348623157e308})
    assert client.zscore("z", "m") == 1.7976931348623157e308


def test_random_bytes_survive_in_bulk(client):
    pipe = client.pipeline(transaction=False)
    values = [os.urandom(random.randrange(5000)) for _ in range(500)]
    for n, value in enumerate(values):
        pipe.set(b"r:%d" % n, value)
    pipe.execute()
    assert client.mget([b"r:%d" % n for n in range(500)]) == values
