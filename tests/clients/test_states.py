"""Connections that stand for one client: what it left on one must not meet what it does next."""

import time

from harness.ports import eventually
from harness.resp import Raw, array, bulk, encode


def pipeline(*commands):
    return b"".join(encode(*command.split()) for command in commands)


def held(proxy):
    return proxy.metric("leases_held")


def test_a_connection_in_another_database_is_not_used_again(redis_server, nearkey):
    server = redis_server()
    proxy = nearkey(server, workers=1)
    server.control("RPUSH", "k", "db0")
    with server.connect() as other:
        other.command("SELECT", 1)
        other.command("RPUSH", "k", "db1")
    with proxy.connect() as raw:
        raw.send(pipeline("WATCH a", "SELECT 1"))
        raw.exactly(b"+OK\r\n+OK\r\n")
        raw.send(pipeline("MULTI", "DISCARD", "SELECT 0", "BLMOVE k k LEFT LEFT 1"))
        raw.exactly(b"+OK\r\n+OK\r\n+OK\r\n" + bulk("db0"))
        raw.nothing_left()


def test_a_quiet_watch_outlives_the_keepalive(redis_server, nearkey):
    server = redis_server()
    proxy = nearkey(server, upstream__keepalive="300ms", workers=1)
    with proxy.connect() as raw:
        assert raw.command("WATCH", "k") == b"OK"
        pings = server.calls().get("ping", 0)
        eventually(lambda: server.calls().get("ping", 0) >= pings + 3)
        raw.send(pipeline("MULTI", "SET k 1", "EXEC"))
        raw.exactly(b"+OK\r\n+QUEUED\r\n" + array(b"+OK\r\n"))
    assert proxy.metric("desync") == 0


def test_a_connection_comes_back_from_a_client_that_has_its_error_already(redis_server, nearkey):
    server = redis_server()
    proxy = nearkey(server, upstream__command_timeout="500ms", upstream__max_connections=2, workers=1)
    with proxy.connect() as idle, proxy.connect() as other:
        assert idle.command("WATCH", "k") == b"OK"
        server.freeze()
        idle.send(pipeline("MULTI", "SET k 1", "EXEC"))
        idle.exactly(b"+OK\r\n+QUEUED\r\n-ERR Nearkey: no reply from upstream within 500ms\r\n")
        server.thaw()
        eventually(lambda: held(proxy) == 0)
        server.control("RPUSH", "q", "x")
        assert other.command("BLPOP", "q", 5) == [b"q", b"x"]


def test_a_large_request_behind_others_on_a_watched_connection(redis_server, nearkey):
    server = redis_server()
    proxy = nearkey(server, upstream__command_timeout="1s", workers=1)
    value = "x" * 3_000_000
    with proxy.connect() as raw:
        raw.send(pipeline("WATCH k", "GET a") + encode("SET", "big", value) + pipeline("PING", "UNWATCH"))
        raw.exactly(b"+OK\r\n$-1\r\n+OK\r\n+PONG\r\n+OK\r\n")
    with proxy.connect() as raw:
        # The reply to GET is late while SET is half sent: what follows must not become its value.
        assert raw.command("WATCH", "k") == b"OK"
        server.freeze()
        large = encode("SET", "big", value)
        raw.send(encode("GET", "a") + large[: len(large) // 2])
        raw.exactly(b"-ERR Nearkey: no reply from upstream within 1s\r\n")
        server.thaw()
        raw.send(large[len(large) // 2 :] + pipeline(*(f"SET s:{n} v" for n in range(20))))
        raw.exactly(b"+OK\r\n" * 21)
    assert server.control("GET", "big") == value.encode()
    assert all(server.control("GET", f"s:{n}") == b"v" for n in range(20))


def test_an_upload_that_the_server_does_not_take_ends(redis_server, nearkey):
    server = redis_server()
    proxy = nearkey(server, upstream__command_timeout="500ms", upstream__stall_timeout="1s", workers=1)
    with proxy.connect() as raw:
        assert raw.command("SET", "big", "y" * 2_000_000) == b"OK"  # the connection for such requests is open now
        server.freeze()
        try:
            raw.send(encode("SET", "big", "y" * 60_000_000))
            raw.until_eof(20)
        except ConnectionError:
            pass
    server.thaw()
    eventually(lambda: proxy.metric("leases_held") == 0 and proxy.metric("in_flight") == 0)


def test_nothing_behind_a_block_is_heard_and_its_end_frees_everything(redis_server, nearkey):
    server = redis_server()
    proxy = nearkey(server, workers=1)
    for last in (encode("RESET"), encode("QUIT"), b"*1\r\n$-9\r\n", encode("PING")):
        raw = Raw(proxy.host, proxy.port)
        raw.send(encode("BLPOP", "none", 0) + last)
        eventually(lambda: server.info("clients")["blocked_clients"] == "1")
        time.sleep(0.05)
        raw.close()
        eventually(lambda: server.info("clients")["blocked_clients"] == "0")
    eventually(lambda: held(proxy) == 0 and proxy.metric("in_flight") == 0)
    server.control("RPUSH", "none", "kept")
    assert server.control("LLEN", "none") == 1


def test_a_state_is_judged_by_its_own_reply(redis_server, nearkey):
    server = redis_server()
    proxy = nearkey(server, workers=1)
    server.control("SET", "text", "x")
    with proxy.connect() as raw:
        raw.send(pipeline("HELLO 3", "WATCH k"))
        raw.reply_bytes()
        raw.exactly(b"+OK\r\n")
        raw.send(pipeline("LPUSH text x", "CLIENT TRACKING ON", "UNWATCH", "GET foo"))
        assert raw.reply_bytes().startswith(b"-WRONGTYPE")
        raw.exactly(b"+OK\r\n+OK\r\n_\r\n")
        server.control("SET", "foo", 1)
        raw.exactly(b">2\r\n" + bulk("invalidate") + array(bulk("foo")))


def test_a_client_that_kills_itself_is_not_heard_any_more(redis_server, nearkey):
    server = redis_server()
    proxy = nearkey(server, workers=1)
    with proxy.connect() as raw:
        own = raw.command("CLIENT", "ID")
        raw.send(encode("CLIENT", "KILL", "ID", own, "SKIPME", "no") + encode("SET", "x", "executed"))
        raw.exactly(b":1\r\n")
        raw.until_eof(5)
    assert server.control("GET", "x") is None


def test_a_user_who_may_not_use_multi_changes_nothing(redis_server, nearkey):
    server = redis_server(args=["--user", "u", "on", ">pw", "~*", "&*", "+@all", "-multi"])
    proxy = nearkey(f"redis://u:pw@127.0.0.1:{server.port}", tls=False, workers=1)
    with proxy.connect() as raw:
        raw.send(pipeline("MULTI", "SET a 1", "EXEC", "GET a"))
        raw.exactly(b"+OK\r\n+QUEUED\r\n-NOPERM this user has no permissions to run the 'multi' command\r\n$-1\r\n")


def test_a_subscriber_can_leave_more_channels_than_fit_into_a_large_request(redis_server, nearkey):
    server = redis_server()
    proxy = nearkey(server, upstream__large_request="4kb", workers=1)
    names = [f"channel-{n}-{'x' * 40}" for n in range(300)]
    with proxy.connect() as raw:
        for command in ("SUBSCRIBE", "UNSUBSCRIBE"):
            raw.send(encode(command, *names))
            for _ in names:
                assert command.lower().encode() in raw.reply_bytes()
        assert raw.command("PING") == b"PONG"
