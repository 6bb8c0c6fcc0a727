"""Commands that Nearkey answers itself get Redis's own words; commands it cannot carry yet never travel."""

import re

import pytest

from harness.resp import Raw, encode

# Each row is one connection's life. It is played to a redis-server and to the endpoint; the replies must be the same.
LIVES = [
    ("ping", [("PING",), ("PING", "text"), ("ping", ""), ("PING", b"\r\n\0"), ("PING", "a", "b")]),
    ("echo", [("ECHO", "x"), ("echo", b"\xff\r\n"), ("ECHO",), ("ECHO", "a", "b")]),
    ("select", [("SELECT", "1"), ("SELECT", "-1"), ("SELECT", "16"), ("SELECT", ""), ("SELECT", "1x"), ("SELECT",),
                ("SELECT", "1", "2"), ("SELECT", "99999999999999999999"), ("SELECT", " 1"), ("SELECT", "01")]),
    ("names", [("CLIENT", "GETNAME"), ("CLIENT", "SETNAME", "a"), ("CLIENT", "GETNAME"), ("CLIENT", "SETNAME", "a b"),
               ("CLIENT", "SETNAME", "a\nb"), ("CLIENT", "SETNAME", b"\xc3"), ("CLIENT", "SETNAME", "~!"),
               ("CLIENT", "GETNAME"), ("CLIENT", "SETNAME"), ("CLIENT", "SETNAME", ""), ("CLIENT", "GETNAME"),
               ("CLIENT", "GETNAME", "x")]),
    ("names resp3", [("HELLO", "3"), ("CLIENT", "GETNAME"), ("CLIENT", "SETNAME", "a"), ("CLIENT", "GETNAME")]),
    ("client forms", [("CLIENT",), ("CLIENT", "NOSUCH"), ("CLIENT", "ID", "x"), ("CLIENT", "NO-EVICT", "on"),
                      ("CLIENT", "NO-EVICT", "maybe"), ("CLIENT", "NO-EVICT"), ("CLIENT", "REPLY"),
                      ("CLIENT", "REPLY", "maybe"), ("CLIENT", "REPLY", "on"), ("CLIENT", "GETREDIR"),
                      ("CLIENT", "LIST", "TYPE", "nosuch"), ("CLIENT", "LIST", "NOSUCH"), ("CLIENT", "LIST", "ID"),
                      ("CLIENT", "LIST", "ID", "x"), ("CLIENT", "LIST", "ID", "0"), ("CLIENT", "LIST", "TYPE", "replica")]),
    ("client kill forms", [("CLIENT", "KILL"), ("CLIENT", "KILL", "1.2.3.4:5"), ("CLIENT", "KILL", "ID", "x"),
                           ("CLIENT", "KILL", "ID", "0"), ("CLIENT", "KILL", "ID", "-3"),
                           ("CLIENT", "KILL", "ID", "999999999"), ("CLIENT", "KILL", "TYPE", "nosuch"),
                           ("CLIENT", "KILL", "TYPE", "replica"), ("CLIENT", "KILL", "ADDR", "1.2.3.4:5"),
                           ("CLIENT", "KILL", "LADDR", "1.2.3.4:5"), ("CLIENT", "KILL", "SKIPME", "maybe"),
                           ("CLIENT", "KILL", "ADDR", "1.2.3.4:5", "SKIPME", "yes"), ("CLIENT", "KILL", "A", "B"),
                           ("CLIENT", "KILL", "ID", "1", "ADDR")]),
    ("client unblock forms", [("CLIENT", "UNBLOCK", "999999999"), ("CLIENT", "UNBLOCK", "x"),
                              ("CLIENT", "UNBLOCK", "999999999", "ERROR"), ("CLIENT", "UNBLOCK", "1", "NOSUCH")]),
    ("tracking info", [("CLIENT", "TRACKINGINFO"), ("HELLO", "3"), ("CLIENT", "TRACKINGINFO"), ("CLIENT", "GETREDIR")]),
    ("unpause", [("CLIENT", "UNPAUSE"), ("CLIENT", "UNPAUSE", "x")]),
    ("hello errors", [("HELLO", "1"), ("HELLO", "4"), ("HELLO", "x"), ("HELLO", ""), ("HELLO", "2", "NOSUCH"),
                      ("HELLO", "3", "AUTH", "a"), ("HELLO", "3", "SETNAME"), ("HELLO", "3", "SETNAME", "a b"),
                      ("HELLO", "3 "), ("CLIENT", "GETNAME")]),
    ("hello", [("HELLO", "3", "SETNAME", "n"), ("CLIENT", "GETNAME"), ("HELLO",), ("HELLO", "2"), ("HELLO",),
               ("hello", "3", "setname", ""), ("CLIENT", "GETNAME")]),
    ("auth forms", [("AUTH",), ("AUTH", "a", "b", "c")]),
    ("reset", [("HELLO", "3"), ("CLIENT", "SETNAME", "x"), ("SELECT", "2"), ("RESET",), ("CLIENT", "GETNAME"),
               ("GET", "none"), ("RESET", "x")]),
    ("reset ends reply off", [("CLIENT", "REPLY", "OFF"), ("PING",), ("RESET",), ("PING",)]),
    ("reply skip", [("CLIENT", "REPLY", "SKIP"), ("PING",), ("PING", "seen"), ("CLIENT", "REPLY", "SKIP"), ("GET", "none"),
                    ("CLIENT", "REPLY", "SKIP"), ("CLIENT", "REPLY", "SKIP"), ("PING", "1"), ("PING", "2"),
                    ("CLIENT", "REPLY", "SKIP"), ("NOSUCH",), ("PING", "3")]),
    ("reply off", [("CLIENT", "REPLY", "OFF"), ("SET", "reply-off", "1"), ("NOSUCH",), ("CLIENT", "REPLY", "SKIP"),
                   ("PING",), ("CLIENT", "REPLY", "ON"), ("GET", "reply-off"), ("DEL", "reply-off")]),
    ("unknown", [("NOSUCH",), ("NOSUCH", "a", "b"), (b"NO\r\nSUCH", b"a\r\nb"), ("N" * 200, "a" * 200, "b"), ("", "a"),
                 ("NOSUCH", *"x" * 100), (b"\xff\xfe", b"\x00")]),
    ("arity", [("GET",), ("GET", "a", "b"), ("SET", "a"), ("MSET", "a"), ("DEL",), ("HSET", "h", "f"), ("CONFIG",),
               ("CONFIG", "GET"), ("OBJECT",), ("XINFO",), ("DBSIZE", "x")]),
    ("case", [("sEt", "case", "1"), ("GeT", "case"), ("dEl", "case"), ("pInG",), ("cLiEnT", "gEtNaMe")]),
    ("quit", [("QUIT",)]),
    ("quit with arguments", [("QUIT", "now", "please")]),
]


def play(connect, life):
    """Everything that comes back when a connection says these commands and then QUIT."""
    with connect() as raw:
        raw.send(b"".join(encode(*command) for command in life) + encode("QUIT"))
        return raw.until_eof()


@pytest.mark.parametrize("life", [life for _, life in LIVES], ids=[name for name, _ in LIVES])
def test_the_words_are_those_of_redis(endpoint, reference, life):
    here, there = even(play(endpoint.connect, life)), even(play(lambda: Raw("127.0.0.1", reference.port), life))
    assert here == there, f"first differs at {difference(there, here)}"


def difference(expected, got):
    at = next((i for i, (a, b) in enumerate(zip(expected, got)) if a != b), min(len(expected), len(got)))
    return f"byte {at}: expected {expected[max(0, at - 60):at + 60]!r}, got {got[max(0, at - 60):at + 60]!r}"


def even(replies):
    """Connection ids differ between the server and the proxy."""
    return re.sub(rb"(\$2\r\nid\r\n):\d+", rb"\1:ID", replies)


@pytest.mark.parametrize("life", [life for _, life in LIVES], ids=[name for name, _ in LIVES])
def test_one_command_at_a_time_gives_the_same(endpoint, life):
    """As above, byte by byte in time: whatever came before, a reply does not depend on what is already in the buffer."""
    whole = play(endpoint.connect, life)
    with endpoint.connect() as raw:
        for command in [*life, ("QUIT",)]:
            for part in cut_up(encode(*command)):
                try:
                    raw.send(part)
                except OSError:
                    break
        assert even(raw.until_eof()) == even(whole)


def cut_up(data):
    middle = len(data) // 2
    return data[:1], data[1:middle], data[middle:-1], data[-1:]


# Denied by default: it would end or re-shape the server for everybody.
DENIED = [
    ("SHUTDOWN", "NOSAVE"), ("REPLICAOF", "NO", "ONE"), ("SLAVEOF", "NO", "ONE"), ("SYNC",), ("PSYNC", "?", "-1"),
    ("REPLCONF", "listening-port", "1"), ("FAILOVER",), ("CLUSTER", "RESET"), ("DEBUG", "SEGFAULT"),
]


@pytest.mark.parametrize("command", DENIED, ids=lambda c: " ".join(c[:2]))
def test_what_is_denied_gets_an_error_and_never_travels(endpoint, command):
    if endpoint.direct:
        pytest.skip("about the proxy itself")
    with endpoint.connect() as raw:
        raw.command("GET", "warm")
        before = endpoint.server.calls()
        reply = raw.raw(*command)
        assert re.match(rb"-ERR Nearkey: '.*' is refused by the setting commands.deny", reply), reply
        assert raw.raw("ECHO", "still here") == b"$10\r\nstill here\r\n"
        assert raw.raw("GET", "none") == b"$-1\r\n"
        assert travelled(before, endpoint.server.calls()) == {"get": 1}
        raw.nothing_left()


@pytest.mark.parametrize("command", [("CLUSTER", "INFO"), ("XREAD", "COUNT", "1", "STREAMS", "block", "0"),
                                     ("SORT", "block"), ("XADD", "block", "*", "block", "BLOCK")],
                         ids=lambda c: " ".join(c[:2]))
def test_harmless_forms_of_such_commands_travel(endpoint, command):
    with endpoint.connect() as raw, endpoint.server.connect() as direct:
        expected, reply = direct.raw(*command), raw.raw(*command)
        assert reply[:1] == expected[:1] and b"Nearkey" not in reply
        raw.nothing_left()


def travelled(before, after):
    """Calls at the server in between, without those that Nearkey makes for itself."""
    own = {"ping", "hello", "auth", "select", "command", "info", "client|setinfo", "client|setname", "config|get"}
    delta = {k: n - before.get(k, 0) for k, n in after.items()}
    return {k: n for k, n in delta.items() if n and k not in own}


def test_local_commands_need_no_server(endpoint):
    if endpoint.direct:
        pytest.skip("about the proxy itself")
    with endpoint.connect() as raw:
        before = endpoint.server.calls()
        raw.send(b"".join(encode(*c) for c in [
            ("PING",), ("ECHO", "x"), ("CLIENT", "ID"), ("CLIENT", "SETNAME", "n"), ("CLIENT", "GETNAME"),
            ("CLIENT", "INFO"), ("CLIENT", "LIST"), ("CLIENT", "NO-EVICT", "ON"), ("AUTH", "anything"), ("RESET",)] * 10))
        for _ in range(100):
            raw.reply_bytes()
        assert travelled(before, endpoint.server.calls()) == {}
        raw.nothing_left()


def test_a_configured_clients_auth_is_accepted(endpoint):
    if endpoint.direct:
        pytest.skip("about the proxy itself")
    with endpoint.connect() as raw:
        assert raw.raw("AUTH", "whatever") == b"+OK\r\n"
        assert raw.raw("AUTH", "default", "whatever") == b"+OK\r\n"
        assert raw.command("HELLO", 3, "AUTH", "default", "whatever", "SETNAME", "n")[b"proto"] == 3
        assert raw.raw("SET", "k", "v") == b"+OK\r\n"


def test_every_command_of_the_server_has_a_class(endpoint):
    """Each command that the server knows either gets the server's own answer or is refused by name."""
    if endpoint.direct:
        pytest.skip("about the proxy itself")
    with endpoint.connect() as raw:
        names = sorted(row[0].decode().upper() for row in raw.command("COMMAND"))
        assert len(names) > 200
    for name in names:
        if name in ("QUIT", "DEBUG", "MULTI"):
            continue
        with endpoint.connect() as raw:
            # Too few arguments for most: answered by somebody, and the connection stays in step.
            raw.raw(name)
            assert raw.raw("ECHO", name).endswith(name.encode() + b"\r\n"), name


@pytest.mark.parametrize("between", ["INFO", "CLIENT REPLY SKIP"])
def test_replies_keep_their_order_around_one_that_is_not_passed_on_as_it_came(endpoint, between):
    """What is answered in one read of the server's connection: a plain reply, one that is changed or dropped, a local one."""
    with endpoint.connect() as raw:
        raw.command("SET", "k", "first")
        inner = encode("INFO", "server") if between == "INFO" else encode("CLIENT", "REPLY", "SKIP") + encode("SET", "s", "x")
        raw.send((encode("GET", "k") + inner + encode("ECHO", "local") + encode("GET", "none")) * 20)
        for _ in range(20):
            assert raw.reply_bytes() == b"$5\r\nfirst\r\n"
            if between == "INFO":
                assert b"redis_version" in raw.reply_bytes()
            assert raw.reply_bytes() == b"$5\r\nlocal\r\n"
            assert raw.reply_bytes() == b"$-1\r\n"
        raw.nothing_left()
