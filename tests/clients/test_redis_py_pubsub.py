"""redis-py's publish/subscribe, unchanged, in both protocols: channels, patterns, shard channels, threads, key events.

Every subscriber gets every message once and in order, after the confirmation of its subscription, and nothing else;
what one client subscribes to changes nothing for another on the same channel.
"""

import threading

import pytest
import redis
from redis.exceptions import ResponseError

from harness.ports import eventually
from harness.resp import array, bulk, encode


@pytest.fixture
def subscriber(text_client):
    with text_client.pubsub() as subscriber:
        yield subscriber


def take(subscriber, count):
    """So many messages, confirmations among them, as (type, channel, data) and with the pattern where there is one."""
    messages = []
    while len(messages) < count:
        message = subscriber.get_message(timeout=20)
        assert message, f"only {messages}"
        pattern = [message["pattern"]] if message["pattern"] else []
        messages.append((message["type"], *pattern, message["channel"], message["data"]))
    return messages


def nothing_more(subscriber):
    """A PING's answer is next: no message is on its way."""
    subscriber.ping("nothing else")
    assert subscriber.parse_response() in (["pong", "nothing else"], "nothing else")


def test_messages_arrive_in_order_after_the_confirmation(text_client, subscriber):
    text_client.publish("news", "too early")
    subscriber.subscribe("news", "weather")
    assert take(subscriber, 2) == [("subscribe", "news", 1), ("subscribe", "weather", 2)]
    for n in range(500):
        text_client.publish("news" if n % 2 else "weather", n)
    assert take(subscriber, 500) == [("message", "news" if n % 2 else "weather", str(n)) for n in range(500)]
    nothing_more(subscriber)
    subscriber.unsubscribe("news")
    assert take(subscriber, 1) == [("unsubscribe", "news", 1)]
    text_client.publish("news", "too late")
    text_client.publish("weather", "rain")
    assert take(subscriber, 1) == [("message", "weather", "rain")]
    subscriber.unsubscribe()
    assert take(subscriber, 1) == [("unsubscribe", "weather", 0)]
    assert not subscriber.subscribed


def test_patterns_and_channels_are_counted_together_and_both_deliver(text_client, subscriber):
    subscriber.psubscribe("n*", "?ews")
    subscriber.subscribe("news")
    assert take(subscriber, 3) == [("psubscribe", "n*", 1), ("psubscribe", "?ews", 2), ("subscribe", "news", 3)]
    text_client.publish("news", "hello")
    assert sorted(take(subscriber, 3)) == [
        ("message", "news", "hello"), ("pmessage", "?ews", "news", "hello"), ("pmessage", "n*", "news", "hello")]
    subscriber.punsubscribe("n*")
    assert take(subscriber, 1) == [("punsubscribe", "n*", 2)]
    text_client.publish("nothing", "unheard")
    text_client.publish("mews", "heard")
    assert take(subscriber, 1) == [("pmessage", "?ews", "mews", "heard")]
    subscriber.punsubscribe()
    subscriber.unsubscribe("never subscribed")
    assert take(subscriber, 2) == [("punsubscribe", "?ews", 1), ("unsubscribe", "never subscribed", 1)]
    nothing_more(subscriber)


def test_shard_channels_are_a_world_of_their_own(text_client, subscriber):
    subscriber.ssubscribe("shard")
    subscriber.subscribe("shard")
    assert take(subscriber, 2) == [("ssubscribe", "shard", 1), ("subscribe", "shard", 1)]
    assert text_client.spublish("shard", "to the shard") == 1
    text_client.publish("shard", "to all")
    assert take(subscriber, 2) == [("smessage", "shard", "to the shard"), ("message", "shard", "to all")]
    assert text_client.pubsub_shardchannels() == ["shard"]
    assert [tuple(pair) for pair in text_client.pubsub_shardnumsub("shard", "none")] == [("shard", 1), ("none", 0)]
    subscriber.sunsubscribe("shard")
    assert take(subscriber, 1) == [("sunsubscribe", "shard", 0)]
    nothing_more(subscriber)


def test_confirmations_can_be_ignored(text_client):
    with text_client.pubsub(ignore_subscribe_messages=True) as subscriber:
        subscriber.subscribe("a", "b")
        subscriber.psubscribe("c*")
        assert [subscriber.get_message(timeout=20) for _ in range(3)] == [None] * 3
        text_client.publish("b", "hello")
        assert take(subscriber, 1) == [("message", "b", "hello")]


def test_listen_ends_with_the_last_subscription(text_client, subscriber):
    subscriber.subscribe("news")
    heard = []
    for message in subscriber.listen():
        if message["type"] == "subscribe":
            text_client.publish("news", 1)
        if message["type"] == "message":
            heard.append(message["data"])
            text_client.publish("news", len(heard) + 1) if len(heard) < 10 else subscriber.unsubscribe()
    assert heard == [str(n) for n in range(1, 11)]


def test_handlers_run_in_threads(text_client):
    heard = {name: [] for name in ("orders", "users.*")}
    done = threading.Event()

    def hear(message):
        heard[message["pattern"] or message["channel"]].append(message["data"])
        if sum(map(len, heard.values())) == 200:
            done.set()

    subscriber = text_client.pubsub(ignore_subscribe_messages=True)
    subscriber.subscribe(orders=hear)
    subscriber.psubscribe(**{"users.*": hear})
    thread = subscriber.run_in_thread(sleep_time=0.1, daemon=True)
    eventually(lambda: text_client.pubsub_numsub("orders")[0][1] == 1 and text_client.pubsub_numpat() == 1)
    for n in range(100):
        text_client.publish("orders", n)
        text_client.publish(f"users.{n % 3}", n)
    assert done.wait(20)
    thread.stop()
    thread.join(20)
    assert heard == {name: [str(n) for n in range(100)] for name in heard}
    eventually(lambda: text_client.pubsub_numsub("orders")[0][1] == 0)


def test_publish_and_pubsub_count_what_redis_counts(text_client, endpoint):
    assert text_client.publish("nobody", "x") == 0
    with text_client.pubsub() as subscriber:
        subscriber.subscribe("only.one")
        subscriber.psubscribe("p.*")
        take(subscriber, 2)
        assert text_client.publish("only.one", "x") == 1
        assert text_client.publish("p.1", "x") == 1
        assert text_client.pubsub_channels() == ["only.one"]
        assert text_client.pubsub_channels("other.*") == []
        assert text_client.pubsub_numsub("only.one", "p.1") == [("only.one", 1), ("p.1", 0)]
        assert text_client.pubsub_numpat() == 1
        others = [text_client.pubsub() for _ in range(3)]
        for n, other in enumerate(others):
            other.subscribe("only.one")
            other.psubscribe("p.*", f"p.{n}")
            take(other, 3)
        assert text_client.pubsub_numsub("only.one") == [("only.one", 4)]
        # Distinct patterns, not subscriptions.
        assert text_client.pubsub_numpat() == 4
        for other in others:
            other.close()
        eventually(lambda: text_client.pubsub_numsub("only.one") == [("only.one", 1)])
        eventually(lambda: text_client.pubsub_numpat() == 1)
        # Who is subscribed at the server itself counts too.
        with endpoint.server.connect() as direct:
            direct.command("SUBSCRIBE", "only.one", "elsewhere")
            assert dict(text_client.pubsub_numsub("only.one", "elsewhere")) == {"only.one": 2, "elsewhere": 1}
            assert sorted(text_client.pubsub_channels()) == ["elsewhere", "only.one"]


def test_replies_to_publishes_and_questions_come_in_the_order_asked(endpoint):
    """socket.io's adapter counts its servers by a PUBSUB NUMSUB in one write with the PUBLISH before it."""
    numsub = array(bulk("news"), b":1\r\n")
    for kind in ("", "S"):
        with endpoint.connect() as subscriber:
            subscriber.send(encode(f"{kind}SUBSCRIBE", "news"))
            subscriber.exactly(array(bulk(f"{kind}SUBSCRIBE".lower()), bulk("news"), b":1\r\n"))
            publish = encode(f"{kind}PUBLISH", "news", "x")
            ask = encode("PUBSUB", "SHARDNUMSUB" if kind else "NUMSUB", "news")
            for _ in range(20):
                with endpoint.connect() as raw:
                    raw.send(publish + ask)
                    raw.exactly(b":1\r\n" + numsub)
                    raw.send(encode("GET", "k") + ask + encode("INCR", "n") + ask + encode("DEL", "n") + ask + publish)
                    raw.exactly(b"$-1\r\n" + numsub + b":1\r\n" + numsub + b":1\r\n" + numsub + b":1\r\n")
                    raw.nothing_left()


def test_a_hundred_subscribers_hear_everything_once(text_client):
    text_client.connection_pool.max_connections = 200
    subscribers = [text_client.pubsub(ignore_subscribe_messages=True) for _ in range(100)]
    for n, subscriber in enumerate(subscribers):
        subscriber.subscribe("all", f"half.{n % 2}", f"own.{n}")
    for subscriber in subscribers:
        assert [subscriber.get_message(timeout=20) for _ in range(3)] == [None] * 3
    for n in range(20):
        text_client.publish("all", n)
        text_client.publish(f"half.{n % 2}", n)
    for n in range(100):
        text_client.publish(f"own.{n}", n)
    # One goes away in the middle; nobody else notices.
    subscribers.pop().close()
    for n, subscriber in enumerate(subscribers):
        heard = [(channel, int(data)) for _, channel, data in take(subscriber, 31)]
        assert [data for channel, data in heard if channel == "all"] == list(range(20))
        assert [data for channel, data in heard if channel == f"half.{n % 2}"] == list(range(n % 2, 20, 2))
        assert heard[-1] == (f"own.{n}", n)
        nothing_more(subscriber)
        subscriber.close()


def test_names_and_payloads_are_bytes(client):
    channel, payload = bytes(range(256)), bytes(reversed(range(256))) * 5000
    with client.pubsub() as subscriber:
        subscriber.subscribe(channel)
        subscriber.psubscribe(b"\x00\x01*")
        take(subscriber, 2)
        client.publish(channel, payload)
        heard = take(subscriber, 2)
        assert heard == [("message", channel, payload), ("pmessage", b"\x00\x01*", channel, payload)]


def test_a_killed_subscriber_subscribes_again(text_client):
    with text_client.pubsub() as subscriber, text_client.pubsub() as other:
        for one in (subscriber, other):
            one.subscribe("news")
            take(one, 1)
        text_client.client_kill("%s:%s" % subscriber.connection._sock.getsockname()[:2])
        # redis-py connects and subscribes by itself at the next read.
        assert take(subscriber, 1) == [("subscribe", "news", 1)]
        text_client.publish("news", "still here")
        for one in (subscriber, other):
            assert take(one, 1) == [("message", "news", "still here")]


def test_health_checks_of_a_subscriber_stay_out_of_its_messages(endpoint, protocol):
    options = {"protocol": protocol, "decode_responses": True, "health_check_interval": 60}
    with redis.Redis(endpoint.host, endpoint.port, **options) as r:
        with r.pubsub() as subscriber:
            subscriber.subscribe("news")
            take(subscriber, 1)
            for n in range(3):
                subscriber.connection.next_health_check = 0
                subscriber.check_health()
                r.publish("news", n)
                # A health check's answer is None.
                message = eventually(lambda: subscriber.get_message(timeout=1))
                assert (message["type"], message["data"]) == ("message", str(n))


def test_a_script_can_publish(text_client, subscriber):
    subscriber.subscribe("news")
    take(subscriber, 1)
    text_client.eval("return redis.call('PUBLISH', KEYS[1], ARGV[1])", 1, "news", "from Lua")
    assert take(subscriber, 1) == [("message", "news", "from Lua")]


def test_key_events_arrive(text_client, subscriber, endpoint):
    endpoint.server.control("CONFIG", "SET", "notify-keyspace-events", "KEA")
    try:
        subscriber.psubscribe("__keyspace@0__:watched:*")
        subscriber.subscribe("__keyevent@0__:expired", "__keyevent@0__:del")
        take(subscriber, 3)
        text_client.set("watched:1", "x")
        text_client.lpush("watched:2", "x")
        text_client.delete("watched:2")
        text_client.psetex("watched:1", 1, "x")
        keyspace = "__keyspace@0__:watched:"
        pattern = keyspace + "*"
        heard = []
        while len(heard) < 8:
            heard += take(subscriber, 1)
            # The key expires when it is looked at, or in the background.
            text_client.get("watched:1")
        assert heard[:4] == [
            ("pmessage", pattern, keyspace + "1", "set"), ("pmessage", pattern, keyspace + "2", "lpush"),
            ("pmessage", pattern, keyspace + "2", "del"), ("message", "__keyevent@0__:del", "watched:2")]
        assert heard[4:] == [
            ("pmessage", pattern, keyspace + "1", "set"), ("pmessage", pattern, keyspace + "1", "expire"),
            ("pmessage", pattern, keyspace + "1", "expired"), ("message", "__keyevent@0__:expired", "watched:1")]
    finally:
        endpoint.server.control("CONFIG", "SET", "notify-keyspace-events", "")


def test_a_subscribed_resp2_client_may_do_little_else(endpoint):
    with endpoint.connect() as raw:
        raw.send(encode("SUBSCRIBE", "a", "b", "a") + encode("GET", "k") + encode("PING") + encode("PING", "hi"))
        for name, count in (("a", 1), ("b", 2), ("a", 2)):
            raw.exactly(array(bulk("subscribe"), bulk(name), b":%d\r\n" % count))
        allowed = b"(P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET"
        assert raw.reply_bytes().startswith(b"-ERR Can't execute 'get': only " + allowed)
        raw.exactly(array(bulk("pong"), bulk("")) + array(bulk("pong"), bulk("hi")))
        raw.send(encode("UNSUBSCRIBE") + encode("GET", "k"))
        left = {raw.reply_bytes(), raw.reply_bytes()}
        a_first = {array(bulk("unsubscribe"), bulk("a"), b":1\r\n"), array(bulk("unsubscribe"), bulk("b"), b":0\r\n")}
        b_first = {array(bulk("unsubscribe"), bulk("b"), b":1\r\n"), array(bulk("unsubscribe"), bulk("a"), b":0\r\n")}
        assert left in (a_first, b_first)
        raw.exactly(b"$-1\r\n")
        raw.send(encode("UNSUBSCRIBE") + encode("PUNSUBSCRIBE", "none"))
        raw.exactly(array(bulk("unsubscribe"), b"$-1\r\n", b":0\r\n"))
        raw.exactly(array(bulk("punsubscribe"), bulk("none"), b":0\r\n"))
        raw.send(encode("SUBSCRIBE", "c") + encode("RESET") + encode("GET", "k"))
        raw.exactly(array(bulk("subscribe"), bulk("c"), b":1\r\n") + b"+RESET\r\n$-1\r\n")
        endpoint.server.control("PUBLISH", "c", "unheard")
        raw.nothing_left()


def test_a_subscribed_resp3_client_goes_on_with_everything(endpoint):
    def push(*items):
        return b">" + array(*items)[1:]

    with endpoint.connect() as raw, endpoint.connect() as other:
        raw.command("HELLO", 3)
        raw.send(encode("SUBSCRIBE", "news") + encode("SET", "k", 1) + encode("GET", "k") + encode("PING"))
        raw.exactly(push(bulk("subscribe"), bulk("news"), b":1\r\n") + b"+OK\r\n" + bulk(1) + b"+PONG\r\n")
        for n in range(20):
            other.command("PUBLISH", "news", n)
        raw.exactly(b"".join(push(bulk("message"), bulk("news"), bulk(n)) for n in range(20)))
        raw.send(encode("MULTI") + encode("INCR", "k") + encode("EXEC"))
        raw.exactly(b"+OK\r\n+QUEUED\r\n" + array(b":2\r\n"))
        raw.send(encode("UNSUBSCRIBE", "news") + encode("HELLO", 2) + encode("GET", "k"))
        raw.exactly(push(bulk("unsubscribe"), bulk("news"), b":0\r\n"))
        assert raw.reply_bytes().startswith(b"*")
        raw.exactly(bulk(2))
        raw.nothing_left()


def test_subscribing_in_a_script_is_refused(text_client):
    with pytest.raises(ResponseError, match="not allowed from script"):
        text_client.eval("return redis.call('SUBSCRIBE', 'news')", 0)


def test_both_protocols_hear_the_same_message(endpoint):
    clients = [redis.Redis(endpoint.host, endpoint.port, protocol=protocol, decode_responses=True)
               for protocol in (2, 3, 2, 3)]
    subscribers = [client.pubsub() for client in clients]
    for subscriber in subscribers:
        subscriber.subscribe("news")
        subscriber.psubscribe("n*")
        take(subscriber, 2)
    clients[0].publish("news", "same")
    for subscriber in subscribers:
        assert take(subscriber, 2) == [("message", "news", "same"), ("pmessage", "n*", "news", "same")]
        subscriber.close()
