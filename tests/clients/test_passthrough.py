"""`upstream.auth = "passthrough"`: every client's commands run as the client's own user, and as nobody else."""

import json
import random
import threading
import time

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from harness.nearkey import run
from harness.ports import eventually
from harness.resp import Raw, ReplyError, array, bulk, encode

ADMIN = "admin-secret-77"
ALICE, BOB = "alice-secret-41", "bob-secret-93"
PROXY = "proxy-secret-58"

# What the server runs for the proxy itself.
OWN_COMMANDS = {"hello", "ping", "command", "client|setname", "select", "auth", "NULL"}


def user(server, name, password, *rules):
    server.control("ACL", "SETUSER", name, "reset", "on", b">" + password if isinstance(password, bytes) else f">{password}", *rules)


@pytest.fixture
def server(redis_server):
    """alice may touch a:*, bob b:*, proxy nothing but what the proxy itself needs."""
    server = redis_server(tls=False, password=ADMIN)
    user(server, "alice", ALICE, "~a:*", "+@all")
    user(server, "bob", BOB, "~b:*", "+@all", "-@dangerous")
    user(server, "proxy", PROXY, "+ping", "+command", "+client|setname")
    server.control("SET", "a:1", "of alice")
    server.control("SET", "b:1", "of bob")
    return server


@pytest.fixture
def passthrough(nearkey, server):
    """Starts a proxy without credentials of its own: `passthrough()`; with them: `passthrough("proxy:" + PROXY)`."""

    def start(own=None, **settings):
        url = f"redis://{own + '@' if own else ''}127.0.0.1:{server.port}"
        return nearkey(url, upstream__auth="passthrough", **settings)

    return start


def error(raw, *args):
    with pytest.raises(ReplyError) as caught:
        raw.command(*args)
    return str(caught.value)


def connect_as(proxy, name, password):
    raw = proxy.connect()
    assert raw.command("AUTH", name, password) == b"OK"
    return raw


def health(proxy):
    """The admin endpoint is up a moment after the listener."""
    return eventually(proxy.health, 5)


def names(server):
    return [row["user"] for row in server.clients()]


def test_each_client_is_the_user_that_it_says(passthrough):
    proxy = passthrough()
    alice, bob = connect_as(proxy, "alice", ALICE), connect_as(proxy, "bob", BOB)
    for _ in range(20):
        for raw, name, own, foreign in [(alice, b"alice", "a:1", "b:1"), (bob, b"bob", "b:1", "a:1")]:
            assert raw.command("ACL", "WHOAMI") == name
            assert raw.command("GET", own) == b"of " + name
            assert error(raw, "GET", foreign).startswith("NOPERM")
    alice.nothing_left()
    bob.nothing_left()


LIFE = [
    ("PING",), ("GET", "a:1"), ("NOSUCH",), ("AUTH",), ("AUTH", "a", "b", "c"), ("HELLO", "3"), ("GET",),
    ("AUTH", "alice", ALICE), ("ACL", "WHOAMI"), ("GET", "a:1"), ("GET", "b:1"), ("SET", "a:2", "x"),
    ("AUTH", "bob", BOB), ("ACL", "WHOAMI"), ("GET", "b:1"), ("GET", "a:1"), ("FLUSHALL",),
    ("AUTH", "bob", "wrong"), ("ACL", "WHOAMI"), ("AUTH", "nobody", "x"), ("AUTH", ADMIN), ("ACL", "WHOAMI"), ("GET", "a:2"),
    ("SELECT", "3"), ("SET", "a:3", "there"), ("AUTH", "alice", ALICE), ("GET", "a:3"), ("ACL", "WHOAMI"),
    ("RESET",), ("GET", "a:1"), ("AUTH", "alice", BOB), ("GET", "a:1"), ("AUTH", "alice", ALICE), ("GET", "a:1"), ("GET", "a:3"),
    ("AUTH", "default", ADMIN), ("ACL", "WHOAMI"), ("DEL", "a:2"), ("QUIT",),
]


def test_one_pipeline_of_many_users_is_answered_as_by_redis(passthrough, server):
    life = b"".join(encode(*command) for command in LIFE)
    with Raw("127.0.0.1", server.port) as direct:
        direct.send(life)
        expected = direct.until_eof()
    proxy = passthrough()
    for _ in range(5):
        with proxy.connect() as raw:
            raw.send(life)
            assert raw.until_eof() == expected
    # The same in pieces of any size.
    with proxy.connect() as raw:
        rest = life
        while rest:
            n = random.randint(1, 60)
            raw.send(rest[:n])
            rest = rest[n:]
            time.sleep(0.001)
        assert raw.until_eof() == expected


def test_a_stranger_opens_no_connection(passthrough, server):
    proxy = passthrough()
    before = int(server.info("stats")["total_connections_received"])
    with proxy.connect() as raw:
        for command in [("GET", "a:1"), ("PING",), ("CLIENT", "LIST"), ("SELECT", "1"), ("BLPOP", "a:1", "0"), ("MULTI",),
                        ("SUBSCRIBE", "c"), ("INFO",), ("NEARKEY", "INFO"), ("COMMAND",), ("SET", "a:1", "x" * 5000)]:
            assert error(raw, *command) == "NOAUTH Authentication required."
        assert error(raw, "HELLO", "3").startswith("NOAUTH HELLO")
        raw.command("RESET")
    assert int(server.info("stats")["total_connections_received"]) == before


def test_wrong_passwords_are_refused_and_not_remembered_for_long(passthrough, server):
    proxy = passthrough()
    with proxy.connect() as raw:
        assert error(raw, "AUTH", "alice", "new").startswith("WRONGPASS")
        assert raw.command("AUTH", "alice", ALICE) == b"OK", "the right one is judged by itself"
        assert error(raw, "AUTH", "alice", "new").startswith("WRONGPASS")
        server.control("ACL", "SETUSER", "alice", ">new")
        time.sleep(0.6)
        assert raw.command("AUTH", "alice", "new") == b"OK"
        server.control("ACL", "SETUSER", "alice", f"<{ALICE}")
        # Its connection is open still, and what runs on it goes on, as in Redis; but nobody gets in with it.
        assert "alice" in names(server)
        assert error(raw, "AUTH", "alice", ALICE).startswith("WRONGPASS")
        assert error(raw, "HELLO", "2", "AUTH", "alice", ALICE).startswith("WRONGPASS")
        assert raw.command("ACL", "WHOAMI") == b"alice"
    assert proxy.metric("auth_failures") == 4


def test_a_password_set_in_the_same_pipeline_counts(passthrough):
    proxy = passthrough()
    alice = connect_as(proxy, "alice", ALICE)
    for i in range(20):
        new = f"set-just-now-{i}"
        alice.send(encode("GET", "a:1") + encode("ACL", "SETUSER", "alice", f">{new}") + encode("AUTH", "alice", new)
                   + encode("ACL", "WHOAMI") + encode("GET", "a:1"))
        assert [alice.reply() for _ in range(5)] == [b"of alice", b"OK", b"OK", b"alice", b"of alice"]


def test_many_equal_refusals_cost_the_server_little(passthrough, server):
    proxy = passthrough()
    before = int(server.info("stats")["total_connections_received"])
    raws = [proxy.connect() for _ in range(50)]
    started = time.monotonic()
    for raw in raws:
        for _ in range(10):
            raw.send(encode("AUTH", "alice", "wrong"))
    for raw in raws:
        for _ in range(10):
            assert isinstance(reply := raw.reply(), ReplyError) and str(reply).startswith("WRONGPASS")
    rounds = (time.monotonic() - started) / 0.5 + 1
    assert int(server.info("stats")["total_connections_received"]) - before <= 2 * rounds


def test_what_strangers_present_is_forgotten(passthrough):
    proxy = passthrough(upstream__max_connections=4, upstream__opens_per_second=1000)

    def guess(n):
        for _ in range(n // 3):
            # Who goes on guessing after that is made to wait.
            with proxy.connect() as raw:
                for i in range(3):
                    assert error(raw, "AUTH", "alice", f"guess-{i}-{random.random()}").startswith("WRONGPASS")

    guess(300)
    time.sleep(2.5)
    before = proxy.memory()
    guess(1500)
    time.sleep(2.5)
    assert proxy.memory() - before < 2000, "KiB"
    with proxy.connect() as raw:
        assert raw.command("AUTH", "alice", ALICE) == b"OK"


def test_clients_of_one_user_share_connections(passthrough, server):
    proxy = passthrough()
    raws = [connect_as(proxy, "alice", ALICE) for _ in range(30)]
    for raw in raws:
        assert raw.command("ACL", "WHOAMI") == b"alice"
    assert 1 <= names(server).count("alice") <= 2
    one = connect_as(proxy, "bob", BOB)
    assert one.command("GET", "b:1") == b"of bob"
    time.sleep(0.2)
    assert names(server).count("bob") == 1, "one client has no use for two"
    assert set(names(server)) == {"alice", "bob"}
    for raw in raws:
        raw.close()


def test_no_command_ever_runs_as_another(passthrough, server):
    users = {f"u{i}": f"pw-{i}-{'x' * i}" for i in range(8)}
    for name, password in users.items():
        user(server, name, password, f"~{name}:*", "+@all")
        server.control("SET", f"{name}:who", name)
    proxy = passthrough(upstream__max_connections=40)
    problems, done = [], threading.Event()
    rounds = [0] * 50

    def plan(rng, me):
        """One pipeline, what must come back, and who the session is after it."""
        pipeline, expected = [], []
        for _ in range(rng.randint(1, 6)):
            step = rng.random()
            name = rng.choice(list(users))
            if step < 0.45:
                pipeline.append(("AUTH", name, users[name]))
                expected.append(b"OK")
                me = name
            elif step < 0.5:
                pipeline.append(("AUTH", name, users[rng.choice([n for n in users if n != name])]))
                expected.append("WRONGPASS")
            elif step < 0.6:
                pipeline.append(("RESET",))
                expected.append(b"RESET")
                me = None
            elif step < 0.65:
                pipeline.append(("SELECT", "0"))
                expected.append(b"OK" if me else "NOAUTH")
            elif step < 0.7:
                pipeline.append(("GET", f"{name}:who"))
                expected.append("NOAUTH" if me is None else name.encode() if name == me else "NOPERM")
            else:
                pipeline.append(("ACL", "WHOAMI"))
                expected.append(me.encode() if me else "NOAUTH")
        return pipeline, expected, me

    def live(seed):
        rng = random.Random(seed)
        raw, me = proxy.connect(), None
        while not done.is_set() and not problems:
            pipeline, expected, me = plan(rng, me)
            raw.send(b"".join(encode(*command) for command in pipeline))
            for command, wanted in zip(pipeline, expected):
                if rng.random() < 0.01:
                    raw.close()
                    raw, me = proxy.connect(), None
                    break
                got = raw.reply()
                fits = str(got).startswith(wanted) if isinstance(wanted, str) else got == wanted
                if not fits or isinstance(got, ReplyError) != isinstance(wanted, str):
                    problems.append((seed, command, wanted, got))
            rounds[seed] += 1
        raw.close()

    def guarded(seed):
        try:
            live(seed)
        except Exception as e:  # noqa: BLE001 - told by the main thread
            problems.append((seed, repr(e)))

    threads = [threading.Thread(target=guarded, args=(i,)) for i in range(50)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 6
    while time.monotonic() < end and not problems:
        time.sleep(0.3)
        server.control("CLIENT", "PAUSE", "5")  # so that clients are met in the middle of something
    done.set()
    for thread in threads:
        thread.join(30)
    assert not problems, problems[:3]
    assert min(rounds) >= 3, rounds


def test_twenty_users_under_a_ceiling_of_four(passthrough, server):
    for i in range(20):
        user(server, f"u{i}", f"pw-{i}", f"~u{i}:*", "+@all")
        server.control("SET", f"u{i}:who", f"u{i}")
    proxy = passthrough(upstream__max_connections=4)
    raws = [proxy.connect() for _ in range(20)]
    for round in range(2):
        for i, raw in enumerate(raws):
            if round == 0:
                assert raw.command("AUTH", f"u{i}", f"pw-{i}") == b"OK"
            assert raw.command("GET", f"u{i}:who") == f"u{i}".encode()
            assert raw.command("ACL", "WHOAMI") == f"u{i}".encode()
            assert len(server.clients()) <= 4
    # All at once: there is not room for all, and who gets none is told so.
    busy, fine, wrong = [], [], []

    def hammer(i, raw):
        end = time.monotonic() + 4
        while time.monotonic() < end:
            raw.send(encode("GET", f"u{i}:who"))
            reply = raw.reply()
            if reply == f"u{i}".encode():
                fine.append(i)
            elif isinstance(reply, ReplyError) and "all 4 upstream connections are busy" in str(reply):
                busy.append(i)
            else:
                wrong.append((i, reply))

    threads = [threading.Thread(target=hammer, args=pair) for pair in enumerate(raws)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert len(server.clients()) <= 4
        time.sleep(0.05)
    assert not wrong, wrong[:3]
    assert fine and proxy.metrics()["nearkey_upstream_connections_peak"] <= 4
    for i, raw in enumerate(raws):
        assert eventually(lambda: raw.command("GET", f"u{i}:who") == f"u{i}".encode())


def test_reset_leaves_nobody(passthrough):
    proxy = passthrough()
    raw = connect_as(proxy, "alice", ALICE)
    raw.command("CLIENT", "SETNAME", "me")
    assert raw.command("RESET") == b"RESET"
    assert error(raw, "GET", "a:1").startswith("NOAUTH")
    assert raw.command("AUTH", "bob", BOB) == b"OK"
    assert raw.command("CLIENT", "GETNAME") is None
    assert raw.command("ACL", "WHOAMI") == b"bob"


def test_a_deleted_user_is_out_and_nobody_else_notices(passthrough, server):
    proxy = passthrough()
    alice, bob = connect_as(proxy, "alice", ALICE), connect_as(proxy, "bob", BOB)
    assert alice.command("GET", "a:1") == b"of alice"
    before = int(server.info("stats")["total_connections_received"])
    server.control("ACL", "DELUSER", "alice")
    for _ in range(100):
        assert error(alice, "GET", "a:1").startswith("WRONGPASS")
        assert bob.command("GET", "b:1") == b"of bob"
    assert int(server.info("stats")["total_connections_received"]) - before < 10, "the server is not asked each time"
    assert error(alice, "AUTH", "alice", ALICE).startswith("WRONGPASS")
    user(server, "alice", ALICE, "~a:*", "+@all")
    time.sleep(0.6)
    assert alice.command("GET", "a:1") == b"of alice", "the session is alice's still"


def test_a_lost_connection_comes_back_in_the_same_name(passthrough, server):
    proxy = passthrough(upstream__on_lost_reply="error")  # ACL WHOAMI may be in flight when it is lost
    alice, bob = connect_as(proxy, "alice", ALICE), connect_as(proxy, "bob", BOB)
    for _ in range(5):
        server.control("CLIENT", "KILL", "USER", "alice")
        assert eventually(lambda: alice.command("ACL", "WHOAMI") == b"alice")
        assert bob.command("ACL", "WHOAMI") == b"bob"
    server.stop()
    assert error(alice, "GET", "a:1").startswith("LOADING")
    server.start()
    user(server, "alice", ALICE, "~a:*", "+@all")  # bob is gone with the restart
    assert eventually(lambda: alice.command("ACL", "WHOAMI") == b"alice")
    assert eventually(lambda: error(bob, "GET", "b:1").startswith("WRONGPASS"))


def test_secrets_stay_secret(passthrough, server):
    proxy = passthrough(f"proxy:{PROXY}", log__level="trace")
    secrets = [ADMIN, ALICE, BOB, PROXY, "tried-secret-12"]
    with proxy.connect() as raw:
        assert error(raw, "AUTH", "alice", "tried-secret-12").startswith("WRONGPASS")
        for name, password in [("alice", ALICE), ("bob", BOB), ("default", ADMIN), ("alice", ALICE)]:
            raw.command("AUTH", name, password)
            raw.command("PING")
        raw.command("HELLO", "3", "AUTH", "bob", BOB)
        raw.command("HELLO", "2", "AUTH", "alice", ALICE)
        shown = [raw.command("INFO", "nearkey"), raw.command("CLIENT", "LIST"), raw.command("NEARKEY", "INFO")]
        server.control("CLIENT", "KILL", "USER", "alice")
        eventually(lambda: raw.command("GET", "a:1"))
        shown += [proxy.http(path)[1].encode() for path in ("/metrics", "/health", "/ready", "/live")]
    config = run("config", "--upstream", f"redis://proxy:{PROXY}@127.0.0.1:1", env={"NEARKEY_UPSTREAM__AUTH": "passthrough"})
    assert config.returncode == 0 and 'auth = "passthrough"' in config.stdout
    proxy.stop()
    text = proxy.log() + config.stdout + config.stderr + b"".join(shown).decode()
    assert not [secret for secret in secrets if secret in text]
    # Nor as bytes, as a careless log would have them.
    assert not [secret for secret in secrets if ", ".join(str(byte) for byte in secret.encode()) in text]


def test_the_proxys_own_name_is_for_itself(passthrough, server):
    proxy = passthrough(f"proxy:{PROXY}")
    assert health(proxy)[1]["redis"]["available"]
    with proxy.connect() as raw:
        raw.command("HELLO", "3", "AUTH", "alice", ALICE)
        assert raw.command("ACL", "WHOAMI") == b"alice"
        assert "unknown command" in error(raw, "NOSUCH", "x")
        raw.command("SELECT", "2")
        raw.command("GET", "a:1")
        assert error(raw, "AUTH", "proxy", PROXY).startswith("NOPERM"), "a user who may not SELECT cannot be in database 2"
        assert raw.command("ACL", "WHOAMI") == b"alice"
        raw.command("SELECT", "0")
        server.control("ACL", "LOG", "RESET")
        for _ in range(50):
            raw.command("SET", "a:own", "1")
            assert raw.command("ACL", "WHOAMI") == b"alice"
            raw.command("RESET")
            assert error(raw, "GET", "a:1").startswith("NOAUTH")
            raw.command("AUTH", "alice", ALICE)
    for row in server.clients():
        if row["user"] == "proxy":
            assert row["cmd"] in OWN_COMMANDS, row
    denied = [dict(zip(entry[::2], entry[1::2])) for entry in server.control("ACL", "LOG")]
    assert not [entry for entry in denied if entry[b"username"] == b"proxy"]
    # Who knows the proxy's password is that user, on connections of his own.
    own = names(server).count("proxy")
    with connect_as(proxy, "proxy", PROXY) as raw:
        assert error(raw, "ACL", "WHOAMI").startswith("NOPERM")
        assert names(server).count("proxy") == own + 1


def test_health_without_credentials(passthrough, server):
    proxy = passthrough()
    status, body = health(proxy)
    assert status == 200 and body["status"] == "healthy" and body["redis"]["available"]
    server.stop()

    def is_down():
        try:
            with proxy.connect() as raw:
                raw.command("AUTH", "alice", ALICE)
        except ReplyError as e:
            assert str(e).startswith("LOADING Nearkey: upstream unreachable"), e
        return proxy.health()[0] == 503

    assert eventually(is_down)
    server.start()
    assert eventually(lambda: proxy.health()[0] == 200, 20)


def test_wrong_credentials_of_the_proxys_own_harm_no_client(passthrough):
    proxy = passthrough("proxy:wrong")
    with proxy.connect() as raw:
        assert raw.command("HELLO", "3", "AUTH", "alice", ALICE)[b"proto"] == 3
        assert raw.command("ACL", "WHOAMI") == b"alice"
        assert raw.command("GET", "a:1") == b"of alice"


def test_a_server_that_does_not_answer_lets_nobody_in(passthrough, server):
    proxy = passthrough(upstream__command_timeout="400ms", upstream__connect_timeout="600ms")
    alice = connect_as(proxy, "alice", ALICE)
    assert alice.command("ACL", "WHOAMI") == b"alice"
    server.freeze()
    try:
        with proxy.connect() as raw:
            for name, password in [("alice", ALICE), ("bob", BOB)]:
                started = time.monotonic()
                assert error(raw, "AUTH", name, password).startswith("LOADING Nearkey: ")
                assert time.monotonic() - started < 1.5
                assert error(raw, "GET", "a:1").startswith("NOAUTH")
    finally:
        server.thaw()
    assert eventually(lambda: alice.command("AUTH", "bob", BOB) == b"OK")
    assert alice.command("ACL", "WHOAMI") == b"bob"


def test_hello_and_restricted_users(passthrough, server):
    user(server, "reader", "pw", "~*", "+get")
    proxy = passthrough()
    with proxy.connect() as raw:
        hello = raw.command("HELLO", "3", "AUTH", "reader", "pw", "SETNAME", "r")
        assert hello[b"proto"] == 3 and hello[b"version"].decode() == server.info("server")["redis_version"]
        assert raw.command("GET", "a:1") == b"of alice"
        assert error(raw, "SET", "a:1", "x").startswith("NOPERM")
        # What the proxy answers about others is for those only whom the server lets ask.
        assert error(raw, "CLIENT", "LIST").startswith("NOPERM")
        assert error(raw, "CLIENT", "KILL", "USER", "reader", "SKIPME", "no").startswith("NOPERM")
        assert b" user=reader " in raw.command("CLIENT", "INFO")
        assert error(raw, "SELECT", "1").startswith("NOPERM")
        assert raw.command("HELLO", "2")[1] == b"redis"
        assert raw.command("GET", "b:1") == b"of bob"


def test_client_list_and_kill_know_users(passthrough):
    proxy = passthrough()
    alice, bob = connect_as(proxy, "alice", ALICE), connect_as(proxy, "bob", BOB)
    with proxy.connect() as stranger:
        eventually(lambda: len(alice.command("CLIENT", "LIST").splitlines()) == 3)
        rows = alice.command("CLIENT", "LIST").decode().splitlines()
        users = sorted(dict(f.split("=", 1) for f in row.split(" "))["user"] for row in rows)
        assert users == ["alice", "bob", "default"]
        assert b" user=bob " in bob.command("CLIENT", "INFO")
        assert error(bob, "CLIENT", "KILL", "USER", "alice").startswith("NOPERM")
        assert alice.command("CLIENT", "KILL", "USER", "bob") == 1
        assert bob.until_eof() == b""
        assert error(stranger, "PING").startswith("NOAUTH")


def test_redis_py_unchanged(passthrough):
    proxy = passthrough()
    for protocol in (2, 3):
        for db in (0, 5):
            # redis-py would ask a refused password again for seconds.
            options = dict(retry=Retry(NoBackoff(), 0), host=proxy.host, port=proxy.port, protocol=protocol, db=db, decode_responses=True)
            with redis.Redis(username="alice", password=ALICE, **options) as alice, \
                    redis.Redis(username="bob", password=BOB, **options) as bob:
                alice.set("a:py", f"{protocol}-{db}")
                assert alice.get("a:py") == f"{protocol}-{db}"
                assert (alice.acl_whoami(), bob.acl_whoami()) == ("alice", "bob")
                with pytest.raises(redis.exceptions.NoPermissionError):
                    bob.get("a:py")
                with alice.pipeline(transaction=False) as pipe:
                    assert pipe.get("a:py").ping().echo("x").execute() == [f"{protocol}-{db}", True, "x"]
            with redis.Redis(username="alice", password="wrong", **options) as wrong:
                with pytest.raises(redis.exceptions.AuthenticationError):
                    wrong.ping()
            with redis.Redis(**options) as nobody:
                with pytest.raises(redis.exceptions.AuthenticationError):
                    nobody.get("a:py")


def test_a_server_that_asks_for_no_password(nearkey, redis_server):
    server = redis_server(tls=False)
    proxy = nearkey(server, tls=False, upstream__auth="passthrough")
    assert health(proxy)[1]["redis"]["available"]
    with proxy.connect() as raw:
        assert error(raw, "GET", "x").startswith("NOAUTH")
        for _ in range(3):
            assert raw.command("AUTH", "default", "anything") == b"OK"
            assert raw.command("AUTH", "anything") == b"OK"
        assert raw.command("ACL", "WHOAMI") == b"default"


def test_any_bytes_are_a_password(passthrough, server):
    secret = bytes(range(1, 256)).replace(b"\n", b"").replace(b"\r", b"")
    user(server, "binary", secret, "~*", "+@all")
    proxy = passthrough()
    with proxy.connect() as raw:
        assert error(raw, "AUTH", "binary", secret[:-1]).startswith("WRONGPASS")
        assert raw.command("AUTH", "binary", secret) == b"OK"
        assert raw.command("ACL", "WHOAMI") == b"binary"
        with proxy.connect() as other:
            assert other.command("AUTH", "binary", secret) == b"OK"
        assert error(raw, "AUTH", "binary", b"\xff\xfe").startswith("WRONGPASS")


def test_large_requests_travel_in_the_clients_name(passthrough):
    proxy = passthrough()
    alice = connect_as(proxy, "alice", ALICE)
    value = b"v" * 3_000_000
    alice.send(encode("SET", "a:big", value) + encode("AUTH", "bob", BOB) + encode("SET", "a:big", value)
               + encode("ACL", "WHOAMI") + encode("AUTH", "alice", ALICE) + encode("STRLEN", "a:big"))
    assert alice.reply() == b"OK"
    assert alice.reply() == b"OK"
    assert str(alice.reply()).startswith("NOPERM")
    assert alice.reply() == b"bob"
    assert alice.reply() == b"OK"
    assert alice.reply() == len(value)


def test_connections_of_users_who_left_close_when_idle(passthrough, server):
    proxy = passthrough(upstream__idle_timeout="300ms")
    for i in range(3):
        with connect_as(proxy, "alice", ALICE) as raw:
            assert raw.command("ACL", "WHOAMI") == b"alice"
        assert eventually(lambda: not server.clients(), 5)
        time.sleep(1.3 if i == 1 else 0)  # in between, everything about her is forgotten


def test_a_password_of_the_proxys_own_contradicts(server):
    done = run("--upstream", server.url(), "--listen", "127.0.0.1:0",
               env={"NEARKEY_UPSTREAM__AUTH": "passthrough", "NEARKEY_LISTEN__PASSWORD": "word"})
    assert done.returncode == 2
    assert "upstream.auth" in done.stderr and "listen.password" in done.stderr and "word\n" not in done.stderr


def subscribed_as(proxy, name, password, *commands, protocol="2"):
    raw = proxy.connect()
    raw.command("HELLO", protocol, "AUTH", name, password)
    for command in commands:
        raw.send(encode(*command))
        for _ in command[1:]:
            raw.reply_bytes()
    return raw


def hears(server, raw, channel):
    """What is published next comes, once the subscription is restored."""
    assert eventually(lambda: server.control("PUBLISH", channel, "x") == 1)
    raw.exactly(encode("message", channel, "x"))
    return True


def closed_log(proxy):
    return [line for line in proxy.log_lines() if "its subscribers are closed" in json.dumps(line)]


@pytest.mark.parametrize("workers", [1, 3])
def test_subscribers_of_a_user_who_is_refused_are_closed(passthrough, server, workers):
    for name in ("alice", "bob"):
        server.control("ACL", "SETUSER", name, "allchannels")
    proxy = passthrough(upstream__backoff_max="50ms", workers=workers)
    commands = [("SUBSCRIBE", "c1", "c2"), ("PSUBSCRIBE", "p*")]
    alices = [subscribed_as(proxy, "alice", ALICE, *commands[: 1 + n % 2], protocol=str(2 + n % 2)) for n in range(6)]
    bob = subscribed_as(proxy, "bob", BOB, ("SUBSCRIBE", "b1"))
    server.control("ACL", "DELUSER", "alice")
    for raw in alices:
        assert raw.until_eof() == b""
    assert eventually(lambda: proxy.metric("nearkey_pubsub_clients") == 1)
    assert hears(server, bob, "b1")
    # Nobody asks for alice any more.
    time.sleep(0.3)
    before = proxy.metric("connect_failures")
    time.sleep(0.7)
    assert proxy.metric("connect_failures") == before
    (line,) = closed_log(proxy)
    assert line["level"] == "WARN" and "WRONGPASS" in json.dumps(line)
    # As long as she is, her subscriptions come back with the connection, another password ends them.
    user(server, "alice", ALICE, "+@all", "allchannels")
    with subscribed_as(proxy, "alice", ALICE, ("SUBSCRIBE", "c1")) as alice:
        server.control("CLIENT", "KILL", "USER", "alice")
        assert hears(server, alice, "c1")
        server.control("ACL", "SETUSER", "alice", "resetpass", ">another-secret-17")
        assert hears(server, alice, "c1"), "what is open stays open, as in Redis"
        server.control("CLIENT", "KILL", "USER", "alice")
        assert alice.until_eof() == b""
    assert hears(server, bob, "b1")
    assert len(closed_log(proxy)) == 2
    assert not any(secret in proxy.log() for secret in (ALICE, BOB, ADMIN, "another-secret-17"))


def test_subscribers_wait_for_a_server_that_refuses_everybody(passthrough, server):
    server.control("ACL", "SETUSER", "bob", "allchannels")
    proxy = passthrough(upstream__backoff_max="50ms")
    with server.connect() as admin, subscribed_as(proxy, "bob", BOB, ("SUBSCRIBE", "b1")) as bob:
        admin.command("AUTH", "default", ADMIN)
        admin.command("CONFIG", "SET", "maxclients", "1")
        admin.command("CLIENT", "KILL", "USER", "bob")
        assert eventually(lambda: proxy.metric("connect_failures") >= 3)
        admin.command("CONFIG", "SET", "maxclients", "1000")
        assert hears(server, bob, "b1")
    assert not closed_log(proxy)


def test_who_subscribed_and_left_is_forgotten(nearkey, redis_server):
    """Any password is good here: each is somebody else."""
    proxy = nearkey(redis_server(tls=False), tls=False, upstream__auth="passthrough", upstream__idle_timeout="50ms", workers=2)
    channels = [f"channel-{n}" for n in range(3000)]
    said = encode("SUBSCRIBE", *channels)
    confirmed = b"".join(array(bulk("subscribe"), bulk(c), b":%d\r\n" % n) for n, c in enumerate(channels, 1))

    def live(people):
        for n in people:
            with proxy.connect() as raw:
                assert raw.command("AUTH", "default", f"password-{n}") == b"OK"
                raw.send(said)
                raw.exactly(confirmed)
        assert eventually(lambda: proxy.metric("nearkey_pubsub_upstream_subscriptions") == 0)
        time.sleep(2.5)
        return proxy.memory()

    before = live(range(80))
    after = live(range(80, 160))
    assert after - before < 10_000, f"{before} to {after} KiB"
