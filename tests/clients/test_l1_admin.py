"""What an operator sees of L1 and does to it: metrics, /health, /hotkeys, and NEARKEY over the Redis port."""

import json
import re
import urllib.request

import pytest

from harness.ports import eventually
from harness.resp import ReplyError

SECRET = "value-that-nobody-may-see-5571"


def flat(reply):
    """A map of either protocol."""
    if isinstance(reply, dict):
        return reply
    return dict(zip(reply[::2], reply[1::2]))


def stats(raw):
    return {name.decode(): value for name, value in flat(raw.command("NEARKEY", "STATS")).items()}


def about(raw, key):
    """NEARKEY KEY with names and words as text."""
    told = {name.decode(): value for name, value in flat(raw.command("NEARKEY", "KEY", key)).items()}
    entries = [{n.decode(): v for n, v in flat(entry).items()} for entry in told.pop("entries")]
    return {name: v.decode() if isinstance(v, bytes) else v for name, v in told.items()}, entries


def hot(raw, *options):
    rows = [flat(row) for row in raw.command("NEARKEY", "HOTKEYS", *options)]
    return {row[b"key"].decode(): {n.decode(): v for n, v in row.items()} for row in rows}


def error(raw, *args):
    with pytest.raises(ReplyError) as caught:
        raw.command(*args)
    return str(caught.value)


def mode(proxy):
    return eventually(proxy.health, 5)[1]["l1"]["mode"]


def warm(raw, *keys, command="GET"):
    """Reads until L1 answers."""
    for key in keys:
        before = stats(raw)["hits"]

        def is_hit():
            raw.command(command, key)
            return stats(raw)["hits"] > before

        eventually(is_hit, 10, what=f"{command} {key} is answered from L1")


@pytest.fixture
def server(redis_server):
    server = redis_server(tls=False)
    for key in ("a", "b", "product:1", "product:2"):
        server.control("SET", key, SECRET)
    return server


@pytest.fixture
def caching(nearkey, server):
    """A proxy that keeps whatever is hot: `caching(cache__mode="observe")`."""

    def start(**settings):
        return nearkey(server, tls=False, **{"cache__default": "cache", **settings})

    return start


def test_an_l1_that_observes_counts_and_serves_nothing(caching, server):
    proxy = caching(cache__mode="observe", cost__per_100k_commands="1.00")
    with proxy.connect() as raw:
        for _ in range(6):
            assert raw.command("GET", "a") == SECRET.encode()
        told = stats(raw)
        assert (told["mode"], told["configured"]) == (b"observe", b"observe")
        assert (told["hits"], told["saved_commands"]) == (0, 0)
        assert told["observed_hits"] == 4, "the first two sights are misses"
        # Less the two commands beside the read that would have been fetched.
        assert told["would_save_commands"] == 2 and float(told["would_save_money"]) == pytest.approx(0.00002)
        assert server.calls()["get"] == 6
        row = hot(raw)["a"]
        assert (row["reads"], row["hits"], row["misses"]) == (6, 4, 2)
        shown, _ = about(raw, "a")
        assert (shown["cached"], shown["rule"]) == (0, "none: cache.default")
    health = eventually(proxy.health, 5)[1]
    assert health["status"] == "healthy" and health["l1"]["mode"] == "observe"
    assert "nothing is served" in health["l1"]["why"]
    assert proxy.metrics()["nearkey_l1_observed_hits_total"] == 4
    assert proxy.metrics()['nearkey_l1_mode{mode="observe"}'] == 1


def test_keys_that_no_rule_matches_are_seen_with_advice(caching):
    proxy = caching(cache__default="bypass", cache__rules="product:*; a bypass")
    with proxy.connect() as raw:
        for key, times in [("a", 20), ("b", 3), ("product:1", 10)]:
            for _ in range(times):
                raw.command("GET", key)
        for _ in range(5):
            raw.command("SET", "product:2", SECRET)
        rows = hot(raw)
        assert list(rows) == ["a", "product:1", "b", "product:2"]
        assert rows["b"]["advice"].startswith(b"no rule matches")
        assert rows["a"]["advice"] == b"a rule excludes it"
        assert rows["product:2"]["writes"] == 5 and rows["product:2"]["advice"].startswith(b"changes about as often")
        assert list(hot(raw, "BY", "MISSES", "COUNT", "1")) == ["a"]
        assert about(raw, "b")[0]["why"] == 'no rule matches it, and cache.default is "bypass"'
        told = about(raw, "a")[0]
        assert (told["rule"], told["why"]) == ('rule 2 ("a")', 'its rule says "bypass"')
    assert proxy.metrics()['nearkey_l1_bypass_total{reason="rule"}'] == 23
    page = json.loads(proxy.http("/hotkeys?by=writes&n=1")[1])
    assert [row["key"] for row in page["keys"]] == ["product:2"]
    assert proxy.http("/hotkeys?n=0")[0] == 400


def test_the_page_of_hot_keys_is_text_for_a_terminal(caching):
    proxy = caching(cache__mode="observe")
    with proxy.connect() as raw:
        for _ in range(4):
            raw.command("GET", b"k\x1b[31m\r\n\xff")
    status, text = proxy.http("/hotkeys?format=text")
    assert status == 200 and text.startswith("L1: observe (")
    assert text.rstrip("\n").endswith("k\\u{1b}[31m\\r\\n\\xff")
    request = urllib.request.Request(f"http://127.0.0.1:{proxy.admin_port}/hotkeys", headers={"Accept": "text/plain"})
    with urllib.request.urlopen(request, timeout=10) as reply:
        assert reply.headers["Content-Type"].startswith("text/plain") and reply.read().decode() == text


def test_a_proxy_without_l1_says_why(nearkey, server):
    proxy = nearkey(server, tls=False, cache__mode="off")
    with proxy.connect() as raw:
        told = stats(raw)
        assert told["mode"] == b"off" and b"cache.mode" in told["why"]
        assert raw.command("NEARKEY", "HOTKEYS") == []
        assert raw.command("NEARKEY", "FLUSH") == 0
        shown, entries = about(raw, "a")
        assert shown["cached"] == 0 and "cache.mode" in shown["why"] and entries == []
    assert mode(proxy) == "off"


def test_mistakes_are_told_in_the_words_of_redis(caching):
    with caching(cache__mode="observe").connect() as raw:
        for words in [("KEY",), ("KEY", "a", "b"), ("STATS", "x"), ("FLUSH", "a", "b")]:
            expected = f"ERR wrong number of arguments for 'nearkey|{words[0].lower()}' command"
            assert error(raw, "NEARKEY", *words) == expected
        assert error(raw, "NEARKEY", "HOTKEYS", "BY", "age") == "ERR syntax error"
        assert error(raw, "NEARKEY", "HOTKEYS", "COUNT", "x") == "ERR value is not an integer or out of range"
        assert error(raw, "NEARKEY", "HOTKEYS", "COUNT", "0") == "ERR count should be greater than 0"
        assert "512 at most" in error(raw, "NEARKEY", "HOTKEYS", "COUNT", "513")
        assert error(raw, "NEARKEY", "NOSUCH") == "ERR unknown subcommand 'NOSUCH'. Try NEARKEY HELP."
        helped = b"\n".join(raw.command("NEARKEY", "HELP"))
        assert raw.command("NEARKEY") == raw.command("NEARKEY", "HELP")
        assert all(word in helped for word in (b"HOTKEYS", b"STATS", b"KEY", b"FLUSH"))


def test_stats_are_a_map_in_resp3_and_an_array_in_resp2(caching):
    with caching(cache__mode="observe").connect() as raw:
        two = raw.command("NEARKEY", "STATS")
        raw.command("HELLO", "3")
        three = raw.command("NEARKEY", "STATS")
        assert isinstance(two, list) and isinstance(three, dict)
        assert two[::2] == list(three)
        assert three[b"hit_ratio"] is None and three[b"saved_seconds"] == 0.0


def test_hits_are_counted_alike_everywhere(caching, server):
    proxy = caching(workers=2, cost__per_100k_commands="0.20", cost__per_gb="0.03")
    with proxy.connect() as raw, proxy.connect() as other:
        warm(raw, "a")
        sent = server.calls()["get"]
        for _ in range(50):
            assert raw.command("GET", "a") == other.command("GET", "a") == SECRET.encode()
        assert server.calls()["get"] - sent <= 2
        told = stats(raw)
        assert told["mode"] == b"tracking" and told["why"] == b""
        assert told["hits"] >= 98 and told["connections_tracking"] == 1
        assert told["entries"] >= 1 and 0 < told["bytes"] < told["max_bytes"]
        assert float(told["hit_ratio"]) == pytest.approx(told["hits"] / (told["hits"] + told["misses"]))
        assert told["saved_commands"] == told["hits"] + told["joins"] - told["overhead_commands"]
        info = dict(line.split(":", 1) for line in raw.command("INFO", "nearkey").decode().splitlines() if ":" in line)
        assert info["nearkey_l1_mode"] == "tracking" and int(info["nearkey_l1_hits"]) == told["hits"]
        metrics = proxy.metrics()
        assert metrics["nearkey_l1_hits_total"] == metrics["redis_keyspace_hits_total"] == told["hits"]
        assert metrics["nearkey_l1_misses_total"] == metrics["redis_keyspace_misses_total"] == told["misses"]
        assert metrics['nearkey_commands_total{class="l1"}'] == told["hits"] + told["fetched"]
        assert metrics["redis_commands_total"] == sum(v for k, v in metrics.items() if k.startswith("nearkey_commands_total"))
        assert metrics['nearkey_l1_connections{standing="tracking"}'] == 1
        assert metrics['nearkey_l1_hot_keys{fate="cached"}'] == 1
        assert "nearkey_l1_saved_money" in metrics
    health = proxy.health()[1]["l1"]
    assert health["mode"] == "tracking" and "why" not in health and health["hit_ratio"] > 0.9


def test_a_key_is_told_with_its_entries_until_somebody_changes_it(caching, server):
    server.control("HSET", "h", "field", SECRET)
    proxy = caching(cache__rules="a max_age=20s stale_if_down=1m")
    with proxy.connect() as raw:
        shown, entries = about(raw, "a")
        assert shown["cached"] == 0 and entries == [] and "read" in shown["why"]
        warm(raw, "a")
        shown, entries = eventually(lambda: (told := about(raw, "a"))[1] and told, 5)
        assert (shown["cached"], shown["why"], shown["rule"]) == (1, "", 'rule 1 ("a")')
        [entry] = entries
        assert (entry["command"], entry["served"], entry["absent"]) == (b"GET a", 1, 0)
        assert 0 < entry["left_ms"] <= 20_000 and entry["stale_if_down_ms"] == 60_000
        assert entry["bytes"] > len(SECRET)
        raw.command("HGET", "h", "field")
        raw.command("HGET", "h", "field")
        eventually(lambda: [e["command"] for e in about(raw, "h")[1]] == [b"HGET h field"], 5)

        server.control("SET", "a", "new")
        eventually(lambda: about(raw, "a")[0]["cached"] == 0, 5, what="the push has come")
        assert stats(raw)["pushes"] >= 1
        assert raw.command("GET", "a") == b"new"


def test_a_client_is_told_of_its_own_database_only(caching):
    proxy = caching()
    with proxy.connect() as raw, proxy.connect() as other:
        warm(raw, "a")
        eventually(lambda: about(raw, "a")[0]["cached"] == 1, 5)
        other.command("SELECT", 1)
        shown, entries = about(other, "a")
        assert shown["cached"] == 0 and entries == []


def test_flush_empties_l1_or_a_part_of_it(caching, server):
    proxy = caching()
    keys = ("a", "b", "product:1", "product:2")
    with proxy.connect() as raw:
        warm(raw, *keys)
        eventually(lambda: all(about(raw, key)[0]["cached"] for key in keys), 5)
        assert raw.command("NEARKEY", "FLUSH", "product:*") == 2
        assert [about(raw, key)[0]["cached"] for key in keys] == [1, 1, 0, 0]
        hits = stats(raw)["hits"]
        raw.command("GET", "product:1")
        assert stats(raw)["hits"] == hits, "what was flushed was served"
        raw.command("GET", "a")
        assert stats(raw)["hits"] == hits + 1, "what was not flushed was not served"
        warm(raw, *keys)
        eventually(lambda: all(about(raw, key)[0]["cached"] for key in keys), 5)
        assert raw.command("NEARKEY", "FLUSH") == 4
        assert not any(about(raw, key)[0]["cached"] for key in keys)
        hits = stats(raw)["hits"]
        assert all(raw.command("GET", key) == SECRET.encode() for key in keys)
        assert stats(raw)["hits"] == hits
        assert raw.command("NEARKEY", "FLUSH", "nothing:*") == 0


def test_a_value_that_is_too_large_is_told_apart(caching, server):
    server.control("SET", "large", "x" * 5000)
    proxy = caching(cache__max_value="1kb")
    with proxy.connect() as raw:
        def told():
            assert raw.command("GET", "large") == b"x" * 5000
            return stats(raw)["fills_rejected_large"] > 0
        eventually(told, 10)
        assert hot(raw)["large"]["advice"].startswith(b"larger than max_value")
        shown, entries = about(raw, "large")
        why = entries[0]["why"].decode() if entries else shown["why"]
        assert shown["cached"] == 0 and "er than max_value" in why
        assert proxy.metrics()['nearkey_l1_fills_rejected_total{reason="large"}'] > 0


def test_a_server_without_tracking_is_named_as_the_reason(nearkey, server):
    server.control("ACL", "SETUSER", "plain", "on", ">pw", "~*", "&*", "+@all", "-client|tracking")
    proxy = nearkey(f"redis://plain:pw@127.0.0.1:{server.port}", tls=False, cache__default="cache", cache__rules="b ttl=5s mode=tracking")
    with proxy.connect() as raw:
        def is_off():
            assert raw.command("GET", "a") == SECRET.encode()
            return mode(proxy) == "off"
        eventually(is_off, 10)
        told = stats(raw)
        assert told["mode"] == b"off" and b"NOPERM" in told["why"]
        assert "NOPERM" in about(raw, "a")[0]["why"]
        assert proxy.metrics()['nearkey_l1_bypass_total{reason="down"}'] > 0
    status, health = proxy.health()
    assert (status, health["status"]) == (200, "healthy") and proxy.http("/ready")[0] == 200


def test_replies_that_travel_count_among_the_bytes_of_their_key(caching, server):
    server.control("SET", "large", "x" * 20_000)
    proxy = caching(cache__default="bypass", cache__rules="nothing ttl=1s")
    with proxy.connect() as raw:
        for _ in range(20):
            raw.command("GET", "a")
        for _ in range(5):
            raw.command("GET", "large")
        first, *_ = hot(raw, "BY", "BYTES").items()
        assert first[0] == "large" and first[1]["bytes"] >= 100_000


def test_names_of_keys_can_be_kept_from_sight(caching):
    proxy = caching(cache__hash_key_names="true", cache__mode="observe")
    with proxy.connect() as raw:
        for _ in range(4):
            raw.command("GET", "user:jane@example.org")
        [name] = hot(raw)
        assert re.fullmatch("#[0-9a-f]{16}", name)
        assert about(raw, "user:jane@example.org")[0]["hash"] == name, "whoever knows the key finds it in the list"
        [row] = json.loads(proxy.http("/hotkeys")[1])["keys"]
        assert row["key"] == name
    shown = [proxy.http(path)[1] for path in ("/hotkeys", "/hotkeys?format=text", "/metrics", "/health")]
    assert "jane" not in "".join(shown) + proxy.log()


def test_values_are_shown_nowhere(caching, server):
    server.control("HSET", "h", "field", SECRET)
    proxy = caching(log__level="debug")
    with proxy.connect() as raw:
        warm(raw, "a", "product:1")
        warm(raw, "h", command="HGETALL")
        raw.command("SET", "b", SECRET)
        shown = [repr(raw.command("NEARKEY", *words)) for words in
                 [("STATS",), ("HOTKEYS",), ("KEY", "a"), ("KEY", "h"), ("KEY", "b"), ("INFO",)]]
    shown += [proxy.http(path)[1] for path in ("/hotkeys", "/hotkeys?format=text", "/metrics", "/health", "/ready")]
    assert SECRET not in "".join(shown) + proxy.log()


def test_users_see_their_own_entries_and_need_a_right_for_more(nearkey, server):
    server.control("CONFIG", "SET", "requirepass", "admin-pw")
    server.password = "admin-pw"
    for name, rules in [("alice", ["+@all"]), ("bob", ["+@all", "-client|list", "-client|kill"])]:
        server.control("ACL", "SETUSER", name, "reset", "on", f">{name}-pw", "~*", "&*", *rules)
    proxy = nearkey(f"redis://127.0.0.1:{server.port}", tls=False, upstream__auth="passthrough", cache__default="cache")
    with proxy.connect() as alice, proxy.connect() as bob:
        for raw, name in [(alice, "alice"), (bob, "bob")]:
            assert raw.command("AUTH", name, f"{name}-pw") == b"OK"
        assert error(proxy.connect(), "NEARKEY", "STATS").startswith("NOAUTH")
        warm(alice, "a")
        eventually(lambda: about(alice, "a")[0]["cached"] == 1, 5)
        assert about(bob, "a")[0]["cached"] == 0, "of another user"
        assert stats(bob)["hits"] >= 1
        for words in [("HOTKEYS",), ("FLUSH",), ("FLUSH", "a")]:
            assert error(bob, "NEARKEY", *words).startswith("NOPERM")
        assert about(alice, "a")[0]["cached"] == 1
        assert "a" in hot(alice)
        assert alice.command("NEARKEY", "FLUSH") >= 1
