"""L1 while the server is away, and what it costs where it cannot help."""

import time

import pytest

from conftest import DIRECT
from harness.ports import eventually
from harness.resp import ReplyError, encode

pytestmark = pytest.mark.skipif(DIRECT, reason="about L1")


def ask(raw, *words):
    """The reply, an error too."""
    try:
        return raw.command(*words)
    except ReplyError as error:
        return error


def heat(raw, *keys, times=4):
    for _ in range(times):
        for key in keys:
            ask(raw, "GET", key)
            time.sleep(0.01)


def is_loading(reply):
    return isinstance(reply, ReplyError) and "LOADING" in str(reply)


@pytest.mark.parametrize("settings", [
    {"cache__mode": "observe", "cache__rules": "k* max_age=200ms stale_if_down=1m"},
    {"cache__rules": "k* mode=observe max_age=200ms stale_if_down=1m"},
])
def test_what_is_only_observed_is_never_an_answer(redis_server, nearkey, settings):
    server = redis_server(tls=False)
    proxy = nearkey(server, tls=False, upstream__queue_timeout="200ms", **settings)
    raw, other = proxy.connect(), proxy.connect()
    server.control("SET", "k", "v")
    heat(raw, "k")
    assert not [row for row in server.clients() if "t" in row["flags"]], "nothing is tracked for it"
    server.stop()
    eventually(lambda: is_loading(ask(other, "GET", "elsewhere")), 10, what="the outage is noticed")
    time.sleep(0.3)
    for command in (("GET", "k"), ("MGET", "k", "k")):
        assert is_loading(ask(raw, *command))
        assert ask(raw, "PING") in ("PONG", b"PONG")


def test_the_key_that_is_being_read_when_the_server_goes_is_served_too(redis_server, nearkey):
    server = redis_server(tls=False)
    proxy = nearkey(server, tls=False, upstream__queue_timeout="200ms", cache__lease="200ms",
                    cache__rules="k* max_age=300ms stale_if_down=1m")
    raw = proxy.connect()
    server.control("SET", "k", "v")
    heat(raw, "k")
    server.stop()
    time.sleep(0.6)
    # The first may find out that there is nobody; it takes nothing away.
    ask(raw, "GET", "k")
    ask(raw, "STRLEN", "k")
    eventually(lambda: ask(raw, "GET", "k") == b"v", 10, what="the old value is served")
    assert ask(raw, "GET", "k") == b"v"
    assert proxy.metrics()["nearkey_l1_stale_hits_total"] > 0
    told = ask(raw, "NEARKEY", "KEY", "k")
    told = dict(zip(told[::2], told[1::2]))
    [entry] = [dict(zip(row[::2], row[1::2])) for row in told[b"entries"]]
    assert told[b"cached"] == 1 and entry[b"served"] == 1 and b"stale_if_down" in entry[b"why"], told
    l1 = proxy.health()[1]["l1"]
    assert l1["mode"] != "off", l1


@pytest.mark.parametrize("most", [1, 2, 3])
def test_l1_starves_nobody_of_connections_and_works_where_one_is_free(redis_server, nearkey, most):
    server = redis_server(tls=False)
    server.control("SET", "k", "v")
    proxy = nearkey(server, tls=False, cache__default="cache", upstream__max_connections=most,
                    upstream__connections=1, process__workers=1, upstream__lease_timeout="10s",
                    upstream__idle_timeout="1s")
    readers = [proxy.connect() for _ in range(3)]
    waiter, transactor, writer = (proxy.connect() for _ in range(3))
    for turn in range(20):
        for raw in readers:
            assert raw.command("GET", "k") == b"v"
            assert raw.command("MGET", "k", "k") == [b"v", b"v"]
        assert writer.command("SET", f"w{turn}", "x") == b"OK"
        if most > 1:  # a leased connection is to be had beside the shared one, whoever has it now
            assert waiter.command("BLPOP", "nothing", "0.01") is None
            transactor.command("WATCH", "k")
            assert transactor.command("MULTI") == b"OK"
            assert transactor.command("GET", "k") == b"QUEUED"
            assert transactor.command("EXEC") == [b"v"]
    assert int(server.info("clients")["connected_clients"]) <= most + 1, "and the one that asks"
    hits = proxy.metrics()["nearkey_l1_hits_total"]
    # With one there is none beside the shared one. Else it is given up whenever a client waits, and comes back when
    # the leased connection is closed for want of use.
    if most > 1:
        eventually(lambda: readers[0].command("GET", "k") and proxy.metrics()["nearkey_l1_hits_total"] > hits + 5, 20)
    else:
        assert hits == 0


def test_a_large_mget_costs_no_more_than_without_l1(redis_server, nearkey):
    server = redis_server(tls=False)
    proxy = nearkey(server, tls=False, cache__default="cache", cache__max_age="100ms")
    raw = proxy.connect()
    keys = [f"k:{n}" for n in range(100)]
    server.control("MSET", *[word for key in keys for word in (key, "v")])
    heat(raw, "warm")
    before = server.info("stats")["total_commands_processed"]
    for _ in range(60):
        assert ask(raw, "MGET", *keys) == [b"v"] * 100
        time.sleep(0.02)
    spent = int(server.info("stats")["total_commands_processed"]) - int(before)
    assert spent < 120, spent


def test_what_a_user_may_no_longer_read_is_denied_within_the_lease(redis_server, nearkey):
    server = redis_server(tls=False, password="admin-77")
    server.control("ACL", "SETUSER", "alice", "reset", "on", ">alice-41", "~*", "+@all")
    proxy = nearkey(server, tls=False, upstream__auth="passthrough", cache__default="cache", cache__lease="500ms")
    raw = proxy.connect()
    ask(raw, "AUTH", "alice", "alice-41")
    server.control("SET", "k", "v")
    eventually(lambda: ask(raw, "GET", "k") == b"v" and proxy.metrics()["nearkey_l1_hits_total"] > 0, 10, what="hits")
    server.control("ACL", "SETUSER", "alice", "resetkeys", "~other:*")

    def denied():
        reply = ask(raw, "GET", "k")
        return isinstance(reply, ReplyError) and "NOPERM" in str(reply)
    eventually(denied, 3, what="the user is denied")


def test_a_script_that_says_readonly_does_not_end_l1(redis_server, nearkey):
    server = redis_server(tls=False)
    proxy = nearkey(server, tls=False, cache__default="cache", cache__scripts="declared")
    raw = proxy.connect()
    server.control("SET", "k", "v")
    heat(raw, "k")
    tracked = [row["id"] for row in server.clients() if "t" in row["flags"]]
    for _ in range(5):
        reply = ask(raw, "EVAL_RO", "return redis.error_reply('READONLY of its own')", 0)
        assert isinstance(reply, ReplyError)
        ask(raw, "GET", "k")
    assert tracked == [row["id"] for row in server.clients() if "t" in row["flags"]]


def test_a_frozen_server_costs_no_reads_of_what_may_be_served_stale(redis_server, nearkey):
    server = redis_server(tls=False)
    proxy = nearkey(server, tls=False, upstream__queue_timeout="200ms", upstream__command_timeout="20s",
                    upstream__stall_timeout="30s", upstream__connect_timeout="10s", cache__lease="200ms",
                    cache__rules="k* max_age=300ms stale_if_down=1m")
    raw = proxy.connect(timeout=30)
    server.control("SET", "k", "v")
    heat(raw, "k", times=10)
    server.freeze()
    try:
        # What is on its way when the server freezes can only wait. L1's connection is given up after 3 s.
        waiting = []

        def is_noticed():
            waiting.append(proxy.connect())
            waiting[-1].send(encode("GET", "k"))
            return proxy.metrics()['nearkey_upstream_cause{cause="stall"}'] == 1
        eventually(is_noticed, 15, pause=0.2, what="it is noticed")
        for _ in range(10):
            with proxy.connect(timeout=8) as other:
                assert ask(other, "GET", "k") == b"v"
            time.sleep(0.1)
        assert proxy.health()[1]["cause"] in ("stall", "timeout")
    finally:
        server.thaw()
    with proxy.connect(timeout=30) as other:
        eventually(lambda: ask(other, "STRLEN", "k") == 1, 20)
    eventually(lambda: proxy.health()[1]["status"] == "healthy", 20)
