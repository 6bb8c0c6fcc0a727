"""Pub/sub through the hub: what each client is told, byte for byte, and what the server sees of it."""

import re
import signal
import threading
import time

import pytest
import redis

from harness.ports import eventually
from harness.resp import array, bulk, encode

BOTH = pytest.mark.parametrize("protocol", [2, 3], ids=["resp2", "resp3"])


def subscriber(where, *command, protocol=2, **options):
    """A connection that has subscribed; its confirmations are read."""
    raw = where.connect(**options)
    if protocol == 3:
        raw.command("HELLO", 3)
    if command:
        raw.send(encode(*command))
        for _ in command[1:]:
            raw.reply_bytes()
    return raw


def message(channel, payload, protocol=2):
    return frame(protocol, "message", channel, payload)


def frame(protocol, *parts):
    items = [bulk(p) for p in parts]
    return (b">" if protocol == 3 else b"*") + array(*items)[1:]


# Each script is one client's; "!" publishes from elsewhere and reads what comes of it.
SCRIPTS = {
    "arity": ["SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "PING a b"],
    "counts": ["SUBSCRIBE a a b", "PSUBSCRIBE x* x* y*", "SSUBSCRIBE s1 s1 s2", "SUBSCRIBE b", "UNSUBSCRIBE zz a a",
               "PUNSUBSCRIBE zz", "SUNSUBSCRIBE zz s1", "PUNSUBSCRIBE", "UNSUBSCRIBE", "SUNSUBSCRIBE", "UNSUBSCRIBE",
               "PUNSUBSCRIBE", "SUNSUBSCRIBE", "GET k"],
    "none": ["UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE", "UNSUBSCRIBE a b", "PUNSUBSCRIBE a", "GET k"],
    "said while subscribed": [
        "SUBSCRIBE a", "PING", "PING hi", "PING a b", "GET k", "GET", "NOSUCH k", "CLIENT NO-EVICT OFF", "CLIENT NOSUCH",
        "CLIENT", "SELECT 1", "SELECT 0", "ECHO x", "CONFIG GET nosuch", "CLUSTER", "OBJECT HELP x", "UNSUBSCRIBE",
        "GET k", "PING", "PING hi"],
    "shards alone": ["SSUBSCRIBE s", "GET k", "PING", "?s x", "SUNSUBSCRIBE", "GET k"],
    "messages": ["SUBSCRIBE a", "!a 1", "PSUBSCRIBE a*", "!a 2", "!ab 3", "UNSUBSCRIBE a", "!a 4", "PUNSUBSCRIBE", "!a 5",
                 "SUBSCRIBE a", "!a 6", "!b 7"],
    "shard messages": ["SSUBSCRIBE a", "!a 1", "?a 2", "SUBSCRIBE a", "!a 3", "?a 4", "SUNSUBSCRIBE a", "?a 5", "!a 6"],
    "reset": ["SUBSCRIBE a", "PSUBSCRIBE a*", "SSUBSCRIBE a", "RESET", "!a 1", "?a 1", "GET k", "UNSUBSCRIBE"],
    "reply off": ["CLIENT REPLY OFF", "SUBSCRIBE a", "!a 1", "UNSUBSCRIBE b", "PING", "GET k", "UNSUBSCRIBE",
                  "CLIENT REPLY ON", "GET k"],
    "reply skip": ["CLIENT REPLY SKIP", "SUBSCRIBE a", "PING", "!a 1"],
    "quit": ["SUBSCRIBE a", "!a 1", "QUIT"],
}
IN_RESP2 = {
    "refused by name": ["SUBSCRIBE a", "MULTI", "EXEC", "DISCARD", "WATCH k", "HELLO", "HELLO 3", "AUTH x", "BLPOP k 0",
                        "MONITOR", "CLIENT ID", "PUBLISH a x", "SHUTDOWN NOSAVE", "!a 1"],
}
IN_RESP3 = {
    "commands go on": ["SUBSCRIBE a", "SET k v", "!a 1", "GET k", "INCR n", "!a 2", "PUBSUB NUMSUB a nosuch", "UNSUBSCRIBE"],
    "back to RESP2": ["SUBSCRIBE a", "HELLO 2", "GET k", "!a 1", "PING", "UNSUBSCRIBE", "GET k"],
}


def replies(where, control, script, protocol, expected=None):
    """What the client reads after each step. What is expected may take its time; what is not, comes soon or not at all."""
    got = []
    with where.connect() as raw:
        if protocol == 3:
            raw.command("HELLO", 3)
        for n, step in enumerate(script):
            if step[0] in "!?":
                channel, payload = step[1:].split(" ")
                control("PUBLISH" if step[0] == "!" else "SPUBLISH", channel, payload)
            else:
                raw.send(encode(*step.split(" ")))
            if expected:
                raw.sock.settimeout(10)
                came = raw.take(len(expected[n][1][0]))
                more, closed = raw.until_silent(0.02)
                got.append((step, (came + more, closed)))
            else:
                got.append((step, raw.until_silent(0.08)))
    return got


def cases():
    for protocol in (2, 3):
        for name, script in {**SCRIPTS, **(IN_RESP2 if protocol == 2 else IN_RESP3)}.items():
            yield pytest.param(script, protocol, id=f"{name}-resp{protocol}")


@pytest.mark.parametrize("script, protocol", cases())
def test_every_reply_is_redis_own(endpoint, reference, script, protocol):
    reference.control("FLUSHALL")
    expected = replies(reference, reference.control, script, protocol)
    got = replies(endpoint, endpoint.server.control, script, protocol, expected)
    for (step, wanted), (_, came) in zip(expected, got):
        if step == "HELLO 2":  # ids differ
            came, wanted = (re.sub(rb":\d+", b"", text) for text, _ in (came, wanted))
        assert came == wanted, step


@BOTH
def test_names_and_messages_of_any_bytes(endpoint, protocol):
    names = [b"", b"\r\n", b"*3\r\n$7\r\nmessage\r\n", bytes(range(256)), b"x" * 70_000]
    with subscriber(endpoint, protocol=protocol) as raw:
        raw.send(encode("SUBSCRIBE", *names))
        for n, name in enumerate(names, 1):
            mark = b">" if protocol == 3 else b"*"
            raw.exactly(mark + array(bulk("subscribe"), bulk(name), b":%d\r\n" % n)[1:])
        for name in names:
            for payload in (b"", b"\r\n$-1\r\n", b"y" * 300_000):
                assert endpoint.server.control("PUBLISH", name, payload) == 1
                raw.exactly(message(name, payload, protocol))
        raw.nothing_left()


def test_subscribing_waits_for_replies_before_it(endpoint):
    with endpoint.connect() as raw:
        raw.send(b"".join(encode(*c) for c in [
            ("SET", "k", "v"), ("GET", "k"), ("SUBSCRIBE", "a", "b"), ("PING",), ("UNSUBSCRIBE", "a"), ("UNSUBSCRIBE",),
            ("GET", "k")]))
        raw.exactly(b"+OK\r\n$1\r\nv\r\n" + b"".join([
            array(bulk("subscribe"), bulk("a"), b":1\r\n"), array(bulk("subscribe"), bulk("b"), b":2\r\n"),
            array(bulk("pong"), bulk("")), array(bulk("unsubscribe"), bulk("a"), b":1\r\n"),
            array(bulk("unsubscribe"), bulk("b"), b":0\r\n"), bulk("v")]))
        raw.nothing_left()


@BOTH
def test_what_was_published_before_comes_before_and_nothing_from_before_at_all(endpoint, protocol):
    """PUBLISH is answered on another connection than messages come on: no client may notice."""
    with endpoint.connect() as publisher, subscriber(endpoint, "SUBSCRIBE", "c", protocol=protocol) as old:
        for n in range(200):
            publisher.command("PUBLISH", "c", f"before {n}")
            with subscriber(endpoint, protocol=protocol) as fresh:
                fresh.send(encode("SUBSCRIBE", "c"))
                mark = b">" if protocol == 3 else b"*"
                fresh.exactly(mark + array(bulk("subscribe"), bulk("c"), b":1\r\n")[1:])
                publisher.command("PUBLISH", "c", f"during {n}")
                fresh.send(encode("UNSUBSCRIBE", "c"))
                fresh.exactly(message("c", f"during {n}", protocol))
                fresh.exactly(mark + array(bulk("unsubscribe"), bulk("c"), b":0\r\n")[1:])
                publisher.command("PUBLISH", "c", f"after {n}")
                fresh.nothing_left()
            for when in ("before", "during", "after"):
                old.exactly(message("c", f"{when} {n}", protocol))


def test_many_subscribers_share_one_connection(endpoint):
    if endpoint.direct:
        pytest.skip("about the proxy itself")
    eventually(lambda: len(hubs(endpoint.server)) == 0 or endpoint.nearkey.metric("pubsub_upstream_subscriptions") == 0)
    raws = [subscriber(endpoint, "SUBSCRIBE", f"ch{n % 50}", protocol=2 + n % 2) for n in range(500)]
    try:
        for raw in raws[:100]:
            raw.send(encode("PSUBSCRIBE", "ch*"))
            raw.reply_bytes()
        listed = hubs(endpoint.server)
        assert len(listed) == 1 and (listed[0]["sub"], listed[0]["psub"]) == ("50", "1")
        for n in range(50):
            assert endpoint.server.control("PUBLISH", f"ch{n}", n) == 2
        for n, raw in enumerate(raws):
            protocol = 2 + n % 2
            patterns = [frame(protocol, "pmessage", "ch*", f"ch{i}", i) for i in range(50)] if n < 100 else []
            got = [raw.reply_bytes() for _ in range(1 + len(patterns))]
            own = message(f"ch{n % 50}", n % 50, protocol)
            assert own in got and [g for g in got if g != own] == patterns
        assert endpoint.nearkey.metric("pubsub_clients") == 500
        assert endpoint.nearkey.metric("pubsub_subscriptions", "channel") == 500
        assert endpoint.nearkey.metric("pubsub_subscriptions", "pattern") == 100
        assert endpoint.nearkey.metric("pubsub_upstream_subscriptions") == 51
    finally:
        for raw in raws:
            raw.close()
    eventually(lambda: endpoint.nearkey.metric("pubsub_clients") == 0)
    eventually(lambda: endpoint.nearkey.metric("pubsub_subscriptions") == 0)
    eventually(lambda: all((row["sub"], row["psub"]) == ("0", "0") for row in endpoint.server.clients()))


def test_a_confirmed_subscription_is_counted_at_once(endpoint, nearkey):
    proxy = nearkey(endpoint.server)
    with proxy.connect() as raw:
        eventually(lambda: proxy.health()[0] == 200)
        steps = [("SUBSCRIBE", 1), ("UNSUBSCRIBE", -1), ("PSUBSCRIBE", 1), ("SSUBSCRIBE", 1), ("PUNSUBSCRIBE", -1)]
        count = 0
        for n in range(4):
            for command, change in steps:
                raw.send(encode(command, f"n{n}"))
                raw.reply_bytes()
                count += change
                assert proxy.metric("pubsub_upstream_subscriptions") == count, (n, command)


def hubs(server):
    return [row for row in server.clients() if "P" in row["flags"]]


def test_a_burst_reaches_everybody_whole_and_in_order(endpoint):
    channels = [f"c{n}" for n in range(5)]
    raws = []
    for n in range(30):
        protocol = 2 + n % 2
        raw = subscriber(endpoint, "SUBSCRIBE", *channels[: n % 6 or 1], protocol=protocol)
        if n % 3 == 0:
            raw.send(encode("PSUBSCRIBE", "c[0-2]"))
            raw.reply_bytes()
        raws.append((raw, set(channels[: n % 6 or 1]), n % 3 == 0, protocol))
    sent = [(channels[n * 7 % 5], f"{n}-" + "x" * (n * 31 % 700)) for n in range(3000)]
    with endpoint.server.connect() as publisher:
        publisher.send(b"".join(encode("PUBLISH", *m) for m in sent))
        for raw, own, has_pattern, protocol in raws:
            expected = []
            for channel, payload in sent:
                if channel in own:
                    expected.append(message(channel, payload, protocol))
                if has_pattern and channel in ("c0", "c1", "c2"):
                    expected.append(frame(protocol, "pmessage", "c[0-2]", channel, payload))
            raw.exactly(b"".join(expected))
            raw.nothing_left()
            raw.close()
        for _ in sent:
            publisher.reply()


def test_numsub_counts_clients_and_not_the_hub(endpoint):
    outside = endpoint.server.connect()
    outside.send(encode("SUBSCRIBE", "a"))
    outside.reply_bytes()
    raws = [subscriber(endpoint, "SUBSCRIBE", "a", "b", protocol=2 + n % 2) for n in range(3)]
    shard = subscriber(endpoint, "SSUBSCRIBE", "a")
    try:
        for hello in ([], ["HELLO", 3]):
            with endpoint.connect() as raw:
                if hello:
                    raw.command(*hello)
                assert raw.raw("PUBSUB", "NUMSUB", "a", "nosuch", "b") == array(
                    bulk("a"), b":4\r\n", bulk("nosuch"), b":0\r\n", bulk("b"), b":3\r\n")
                assert raw.raw("PUBSUB", "SHARDNUMSUB", "a") == array(bulk("a"), b":1\r\n")
                assert raw.raw("PUBSUB", "NUMSUB") == b"*0\r\n"
                assert sorted(raw.command("PUBSUB", "CHANNELS")) == [b"a", b"b"]
        raws.pop().close()
        with endpoint.connect() as raw:
            eventually(lambda: raw.command("PUBSUB", "NUMSUB", "a", "b") == [b"a", 3, b"b", 2])
            for other in raws:
                other.send(encode("UNSUBSCRIBE", "b"))
                other.reply_bytes()
            assert raw.command("PUBSUB", "NUMSUB", "a", "b") == [b"a", 3, b"b", 0]
    finally:
        for raw in [outside, shard, *raws]:
            raw.close()


def test_client_list_and_kill_know_subscribers(endpoint):
    with subscriber(endpoint, "SUBSCRIBE", "a", "b", protocol=3) as raw, endpoint.connect() as other:
        raw.send(encode("PSUBSCRIBE", "x*"))
        raw.send(encode("SSUBSCRIBE", "s"))
        raw.send(encode("CLIENT", "INFO"))
        raw.reply_bytes(), raw.reply_bytes()
        line = raw.reply().decode()
        assert " flags=P " in line and " sub=2 psub=1 ssub=1 " in line
        listed = other.command("CLIENT", "LIST", "TYPE", "pubsub").decode()
        assert len(listed.splitlines()) == 1 and " sub=2 " in listed
        normal = other.command("CLIENT", "LIST", "TYPE", "normal").decode()
        assert " flags=P" not in normal and "client|list" in normal
        assert other.command("CLIENT", "KILL", "TYPE", "pubsub") == 1
        assert raw.until_eof() == b""
        assert other.command("CLIENT", "LIST", "TYPE", "pubsub") == b""


@BOTH
def test_keyspace_notifications(endpoint, protocol):
    endpoint.server.control("CONFIG", "SET", "notify-keyspace-events", "KEA")
    try:
        with subscriber(endpoint, "PSUBSCRIBE", "__key*@0__:*", protocol=protocol) as raw, endpoint.connect() as other:
            other.command("SET", "k", "v")
            other.command("DEL", "k")
            for event in ("set", "del"):
                raw.exactly(frame(protocol, "pmessage", "__key*@0__:*", "__keyspace@0__:k", event))
                raw.exactly(frame(protocol, "pmessage", "__key*@0__:*", f"__keyevent@0__:{event}", "k"))
    finally:
        endpoint.server.control("CONFIG", "SET", "notify-keyspace-events", "")


def test_a_resp3_subscriber_reads_large_values_among_messages(endpoint):
    value = b"v" * 20_000_000
    endpoint.server.control("SET", "large", value)
    with subscriber(endpoint, "SUBSCRIBE", "c", protocol=3) as raw:
        sent = 0
        for _ in range(5):
            raw.send(encode("GET", "large") + encode("ECHO", "x"))
            for _ in range(50):
                endpoint.server.control("PUBLISH", "c", sent)
                sent += 1
            came, left = 0, 2
            expected = [b"$%d\r\n%s\r\n" % (len(value), value), b"$1\r\nx\r\n"]
            while left or came < 50:
                reply = raw.reply_bytes()
                if reply.startswith(b">"):
                    assert reply == message("c", sent - 50 + came, 3)
                    came += 1
                else:
                    assert reply == expected[2 - left]
                    left -= 1
        raw.nothing_left()


def test_a_slow_subscriber_is_cut_alone(endpoint, nearkey):
    proxy = nearkey(endpoint.server, listen__client_output_limit="1mb")
    payload = "p" * 10_000
    with subscriber(proxy, "SUBSCRIBE", "c") as slow, subscriber(proxy, "SUBSCRIBE", "c", protocol=3) as quick:
        for n in range(2000):
            endpoint.server.control("PUBLISH", "c", f"{n:04}{payload}")
            quick.exactly(message("c", f"{n:04}{payload}", 3))
        eventually(lambda: proxy.metric("clients_closed_total", "output_limit") == 1)
        got = slow.until_eof()
        one = len(message("c", f"0000{payload}"))
        whole = got[: len(got) // one * one]
        assert whole == b"".join(message("c", f"{n:04}{payload}") for n in range(len(whole) // one))
        endpoint.server.control("PUBLISH", "c", "last")
        quick.exactly(message("c", "last", 3))


def test_subscriptions_come_back_with_the_server(redis_server, nearkey):
    server = redis_server()
    proxy = nearkey(server, upstream__backoff_max="200ms")
    raws = [subscriber(proxy, "SUBSCRIBE", f"c{n % 3}", protocol=2 + n % 2) for n in range(12)]
    pattern = subscriber(proxy, "PSUBSCRIBE", "c*")
    for round_ in range(2):
        assert server.control("PUBLISH", "c0", "x") == 2
        for n, raw in enumerate(raws):
            if n % 3 == 0:
                raw.exactly(message("c0", "x", 2 + n % 2))
        pattern.exactly(frame(2, "pmessage", "c*", "c0", "x"))
        server.stop()
        time.sleep(0.3)
        with proxy.connect() as raw:  # leaving needs no server, joining does
            raw.send(encode("UNSUBSCRIBE", "a"))
            raw.exactly(array(bulk("unsubscribe"), bulk("a"), b":0\r\n"))
            raws[1].send(encode("UNSUBSCRIBE"))
            raws[1].reply_bytes()
            reply = raw.raw("SUBSCRIBE", "other")
            assert reply.startswith(b"-LOADING Nearkey: upstream unreachable ("), reply
        server.start()
        eventually(lambda: server.control("PUBSUB", "NUMPAT") == 1)
        raws[1].send(encode("SUBSCRIBE", "c1"))
        raws[1].reply_bytes()
    assert server.control("PUBLISH", "c1", "again") == 2
    for n, raw in enumerate(raws):
        if n % 3 == 1:
            raw.exactly(message("c1", "again", 2 + n % 2))
    assert proxy.metric("pubsub_gaps") == 2
    assert "messages may have been missed" in proxy.log()
    # What one proxy subscribes to is not forgotten by a kill of its connection alone.
    server.control("CLIENT", "KILL", "TYPE", "pubsub")
    eventually(lambda: server.control("PUBSUB", "NUMPAT") == 1 and proxy.metric("pubsub_gaps") == 3)
    server.control("PUBLISH", "c2", "still")
    for n, raw in enumerate(raws):
        if n % 3 == 2:
            raw.exactly(message("c2", "still", 2 + n % 2))
    for raw in [*raws, pattern]:
        raw.close()


def test_a_frozen_server_is_noticed(redis_server, nearkey):
    server = redis_server(tls=False)
    proxy = nearkey(server, tls=False, upstream__keepalive="300ms", upstream__stall_timeout="500ms",
                    upstream__command_timeout="400ms", upstream__connect_timeout="400ms", upstream__backoff_max="100ms")
    with subscriber(proxy, "SUBSCRIBE", "c") as raw:
        server.freeze()
        eventually(lambda: "pub/sub connection lost" in proxy.log())
        server.thaw()
        eventually(lambda: proxy.metric("pubsub_gaps") == 1 and "messages may have been missed" in proxy.log())
        eventually(lambda: server.control("PUBLISH", "c", "x") == 1)
        raw.exactly(message("c", "x"))


def test_a_forbidden_channel_is_refused_in_redis_words(redis_server, nearkey):
    server = redis_server()
    server.control("ACL", "SETUSER", "app", "on", ">secret", "+@all", "~*", "resetchannels", "&ok*")
    url = server.url(tls=True).replace("://", "://app:secret@")
    proxy = nearkey(url, args=["--upstream-ca", server.certs.ca])
    with server.connect() as direct:
        direct.command("AUTH", "app", "secret")
        expected = direct.raw("SUBSCRIBE", "ok1", "no")
    with subscriber(proxy, "SUBSCRIBE", "ok2") as raw, proxy.connect() as other:
        assert other.raw("SUBSCRIBE", "ok1", "no") == expected and expected.startswith(b"-NOPERM")
        assert other.raw("GET", "k") == b"$-1\r\n"  # not subscribed to the other one either
        eventually(lambda: server.control("PUBSUB", "CHANNELS") == [b"ok2"])
        assert other.raw("PSUBSCRIBE", "ok*") == array(bulk("psubscribe"), bulk("ok*"), b":1\r\n")
        # A right that is taken away ends what it allowed, as with Redis.
        server.control("ACL", "SETUSER", "app", "resetchannels", "&ok*")
        server.control("PUBLISH", "ok2", "x")
        raw.exactly(message("ok2", "x"))
        other.exactly(frame(2, "pmessage", "ok*", "ok2", "x"))
        server.control("ACL", "SETUSER", "app", "resetchannels", "&ok2")
        assert other.until_eof() == b""
        eventually(lambda: server.control("PUBLISH", "ok2", "y") == 1)
        raw.exactly(message("ok2", "y"))


def test_the_hub_counts_against_the_ceiling_and_gives_way_when_idle(endpoint, nearkey):
    proxy = nearkey(endpoint.server, upstream__max_connections=1, upstream__lease_timeout="300ms")
    with proxy.connect() as raw, proxy.connect() as other:
        assert other.raw("SET", "k", "v") == b"+OK\r\n"
        raw.send(encode("SUBSCRIBE", "c"))  # takes the idle connection's place
        raw.exactly(array(bulk("subscribe"), bulk("c"), b":1\r\n"))
        busy = b"-ERR Nearkey: all 1 upstream connections are busy (upstream.max_connections)\r\n"
        assert other.raw("GET", "k") == busy
        raw.send(encode("UNSUBSCRIBE"))
        raw.exactly(array(bulk("unsubscribe"), bulk("c"), b":0\r\n"))
        assert other.raw("GET", "k") == b"$1\r\nv\r\n"
        assert proxy.metric("nearkey_upstream_connections_peak") == 1


def test_no_connection_free_is_said_so(endpoint, nearkey):
    proxy = nearkey(endpoint.server, upstream__max_connections=1, upstream__lease_timeout="300ms")
    stop = threading.Event()

    def keep_busy():
        with proxy.connect() as raw:
            while not stop.is_set():
                raw.command("INCR", "n")

    thread = threading.Thread(target=keep_busy)
    thread.start()
    try:
        with proxy.connect() as raw:
            time.sleep(0.2)
            busy = b"-ERR Nearkey: all 1 upstream connections are busy (upstream.max_connections)\r\n"
            assert raw.raw("SUBSCRIBE", "c") == busy
            assert raw.raw("PING") == b"+PONG\r\n"
    finally:
        stop.set()
        thread.join()


def test_an_idle_hub_is_closed(endpoint, nearkey):
    proxy = nearkey(endpoint.server, upstream__idle_timeout="300ms")
    with subscriber(proxy, "SUBSCRIBE", "c") as raw:
        time.sleep(1)
        assert proxy.metrics()["nearkey_upstream_connections"] == 1
        raw.send(encode("UNSUBSCRIBE"))
        raw.reply_bytes()
        eventually(lambda: proxy.metrics()["nearkey_upstream_connections"] == 0)
        raw.send(encode("SUBSCRIBE", "c"))
        raw.exactly(array(bulk("subscribe"), bulk("c"), b":1\r\n"))
        endpoint.server.control("PUBLISH", "c", "x")
        raw.exactly(message("c", "x"))


def test_silent_subscribers_stay_and_a_drain_does_not_wait_for_them(endpoint, nearkey):
    proxy = nearkey(endpoint.server, listen__idle_timeout="400ms")
    raw, idle = subscriber(proxy, "SUBSCRIBE", "c"), proxy.connect()
    try:
        assert idle.until_eof() == b""
        time.sleep(0.5)
        endpoint.server.control("PUBLISH", "c", "x")
        raw.exactly(message("c", "x"))
        began = time.monotonic()
        assert proxy.stop(signal.SIGTERM) == 0
        assert time.monotonic() - began < 3
        assert raw.until_eof() == b""
    finally:
        raw.close()
        idle.close()


def test_clients_that_come_and_go_leave_nothing(endpoint):
    if endpoint.direct:
        pytest.skip("about the proxy itself")
    with subscriber(endpoint, "SUBSCRIBE", "stays") as stays:
        for n in range(300):
            with endpoint.connect() as raw:
                raw.send(encode("SUBSCRIBE", "stays", f"goes{n % 7}", "x") + encode("PSUBSCRIBE", "*"))
                if n % 3 == 0:
                    raw.reply_bytes()
                if n % 5 == 0:
                    raw.send(encode("UNSUBSCRIBE", "stays"))
        eventually(lambda: endpoint.server.control("PUBSUB", "CHANNELS") == [b"stays"])
        eventually(lambda: endpoint.server.control("PUBSUB", "NUMPAT") == 0)
        eventually(lambda: endpoint.nearkey.metric("pubsub_clients") == 1)
        endpoint.server.control("PUBLISH", "stays", "x")
        stays.exactly(message("stays", "x"))


@BOTH
def test_redis_py_pubsub(endpoint, protocol):
    client = redis.Redis(port=endpoint.port, protocol=protocol, decode_responses=True)
    got = []
    with client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(**{"news": lambda m: got.append(m["data"])})
        pubsub.psubscribe(**{"n?ws": lambda m: got.append(m["data"] + "!")})
        thread = pubsub.run_in_thread(sleep_time=0.01)
        try:
            eventually(lambda: client.pubsub_numsub("news") == [("news", 1)])
            for n in range(100):
                client.publish("news", n)
            eventually(lambda: len(got) == 200)
        finally:
            thread.stop()
            thread.join()
        assert got == [x for n in range(100) for x in (f"{n}", f"{n}!")]
    client.close()
