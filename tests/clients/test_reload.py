"""The configuration read anew while clients work: SIGHUP and NEARKEY RELOAD."""

import asyncio
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path

import pytest

from harness.fake_redis import FakeRedis
from harness.frames import elements, frame_end, word
from harness.nearkey import Nearkey, run
from harness.ports import accepts, eventually
from harness.resp import ReplyError, encode

from conftest import DIRECT

pytestmark = pytest.mark.skipif(DIRECT, reason="about the proxy itself")


class Load:
    """Clients that write and read all the time; every surprise is an error."""

    def __init__(self, nearkey, clients=8):
        self.errors = []
        self.done = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(nearkey, n), daemon=True) for n in range(clients)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        eventually(lambda: self.done > 50 or self.errors, what="traffic flows")
        return self

    def _run(self, nearkey, n):
        try:
            with nearkey.connect() as raw:
                at = 0
                while not self._stop.is_set():
                    at += 1
                    commands = [("SET", f"load:{n}", f"{n}:{at}"), ("INCR", f"count:{n}"), ("GET", f"load:{n}")]
                    raw.send(b"".join(encode(*c) for c in commands))
                    replies = [raw.reply() for _ in range(3)]
                    assert replies == [b"OK", at, f"{n}:{at}".encode()], (n, at, replies)
                    self.done += 3
        except Exception as e:
            self.errors.append(repr(e))

    def goes_on(self, more=60):
        """Until so many more commands were answered."""
        wanted = self.done + more
        eventually(lambda: self.done > wanted or self.errors, what="traffic goes on")

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(20)
        assert not self.errors, self.errors[:3]
        assert self.done > 0


class File:
    """A configuration file."""

    def __init__(self, path, **settings):
        self.path = Path(path)
        self.settings = settings
        self.write()

    def write(self, extra="", **changes):
        self.settings.update(changes)
        sections = {}
        for key, value in self.settings.items():
            section, name = key.split("__")
            value = value if isinstance(value, (int, list)) else f'"{value}"'
            sections.setdefault(section, []).append(f"{name} = {value}")
        text = "\n".join(f"[{section}]\n" + "\n".join(lines) for section, lines in sections.items())
        self.path.write_text(text + "\n" + extra)


@pytest.fixture
def start(tmp_path):
    started = []

    def start(file, **options):
        proxy = Nearkey(None, tmp_path / f"nearkey-{len(started)}", args=["--config", file.path], **options)
        started.append(proxy)
        return proxy

    yield start
    for proxy in started:
        proxy.stop()
        proxy.verdict()


def reload(nearkey):
    with nearkey.connect() as raw:
        return raw.command("NEARKEY", "RELOAD")


def refused(nearkey):
    with nearkey.connect() as raw:
        with pytest.raises(ReplyError) as e:
            raw.command("NEARKEY", "RELOAD")
        return str(e.value)


def links(server):
    """The proxy's connections as the server has them, by id."""
    return {row["id"] for row in server.clients()}


BROKEN = [
    "[upstream]\n", "[upstream\n", "= 3", "max_clients", "[listen]\nmax_clients = ", "[listen]\nmax_clients = 0",
    "[listen]\nmax_clients = 'many'", "[listen]\nmax_client = 5", "[lisen]\nmax_clients = 5", "[listen]\nidle_timeout = '5 parsecs'",
    "[listen]\naddress = '300.1.1.1:1'", "[listen]\ntls_cert = '/nonexistent.pem'", "[listen]\npassword_file = '/nonexistent'",
    "[upstream]\nurl = 'http://example.org'", "[upstream]\nurl = 'redis://'", "[upstream]\nurl = 'redis://h:99999'",
    "[upstream]\nurl = 'redis://h'\nverify = 'maybe'", "[upstream]\nurl = 'rediss://h'\nca = '/nonexistent.pem'",
    "[upstream]\nurl = 'redis://h'\npassword_file = '/nonexistent'", "[upstream]\nurl = 'redis://h'\ncommand_timeout = '0s'",
    "[upstream]\nurl = 'redis://h'\nclient_cert = '/nonexistent.pem'", "[upstream]\nurl = 'redis://h'\nmax_connections = -1",
    "[cache]\nmode = 'psychic'", "[cache]\nmax_bytes = 'lots'", "[[cache.rules]]\nttl = '5s'", "[[cache.rules]]\nmatch = 3",
    "[commands]\ndeny = ['no such command at all']", "[log]\nlevel = 'loud'", "[process]\ndrain_timeout = 'soon'",
    "\x00\x01\x02", "[cost]\nper_gb = 'cheap'",
]


def test_broken_files_change_nothing(start, redis_server, tmp_path):
    server = redis_server(tls=False)
    file = File(tmp_path / "proxy.toml", upstream__url=server.url())
    nearkey = start(file)
    assert len(BROKEN) >= 30
    with Load(nearkey) as load:
        before = links(server)
        for broken in BROKEN:
            # Without the address of the server a file is wrong, too.
            url = "" if "upstream" in broken else f"[upstream]\nurl = '{server.url()}'\n"
            file.path.write_text(url + broken)
            problem = refused(nearkey)
            assert problem.startswith("ERR configuration not reloaded: "), (broken, problem)
            load.goes_on(6)
        assert nearkey.metric("nearkey_config_reload_failed") == 1
        assert nearkey.metric("nearkey_config_reloads_total", "refused") == len(BROKEN)
        assert "config_problem" in nearkey.health()[1]
        # By signal, the log alone tells.
        file.path.write_text("\n\n[listen]\nmax_client = 5\n")
        nearkey.process.send_signal(signal.SIGHUP)
        told = eventually(lambda: [line for line in nearkey.log_lines() if "listen.max_client;" in line["message"]])
        assert "proxy.toml:4" in told[-1]["message"] and "did you mean listen.max_clients" in told[-1]["message"]
        assert told[-1]["level"] == "ERROR"
        file.path.unlink()
        assert "proxy.toml" in refused(nearkey)
        assert links(server) == before
        file.write()
        assert reload(nearkey) == b"OK no setting changed"
        assert nearkey.metric("nearkey_config_reload_failed") == 0
        assert "config_problem" not in nearkey.health()[1]
        assert links(server) == before


def test_what_changes_at_once_and_what_needs_a_restart(start, redis_server, tmp_path):
    server = redis_server(tls=False)
    file = File(tmp_path / "proxy.toml", upstream__url=server.url())
    nearkey = start(file)
    with nearkey.connect() as old, nearkey.connect() as idle, Load(nearkey):
        assert old.command("SET", "k", "v") == b"OK"
        assert idle.command("PING") == b"PONG"
        before = links(server)
        file.write(listen__max_clients=11, upstream__large_request="2mb", log__level="debug", listen__backlog=77, cache__max_bytes="1mb")
        assert reload(nearkey) == (
            b"OK changed: listen.max_clients, upstream.large_request, log.level; needs a restart: listen.backlog, cache.max_bytes"
        )
        assert nearkey.metric("nearkey_clients_max") == 11
        with nearkey.connect(), pytest.raises((ReplyError, EOFError, ConnectionError)):
            with nearkey.connect() as one_too_many:
                one_too_many.command("PING")
        # What waits for a restart is said each time; what is in force is no news.
        assert reload(nearkey) == b"OK no setting changed; needs a restart: listen.backlog, cache.max_bytes"
        # A client that is silent is closed from here on; the others are not.
        file.write(listen__idle_timeout="300ms", log__level="info")
        assert b"listen.idle_timeout" in reload(nearkey)
        assert idle.until_eof() == b""
        assert links(server) == before
    # A command that is denied from here on.
    with nearkey.connect() as raw:
        assert raw.command("TIME")
        file.write("", listen__idle_timeout="0s", commands__deny=["TIME"])
        assert b"commands.deny" in reload(nearkey)
        with pytest.raises(ReplyError, match="commands.deny"):
            raw.command("TIME")
        file.write(commands__deny=["WAIT"])
        assert b"commands.deny" in reload(nearkey)
        assert raw.command("TIME")


def test_the_clients_password_is_rotated(start, redis_server, tmp_path):
    server = redis_server(tls=False)
    secret = tmp_path / "listen-password"
    secret.write_text("planted-secret-one\n")
    file = File(tmp_path / "proxy.toml", upstream__url=server.url(), listen__password_file=secret)
    nearkey = start(file)
    with nearkey.connect() as old:
        assert old.command("AUTH", "planted-secret-one") == b"OK"
        secret.write_text("planted-secret-two\n")
        assert reload_as(nearkey, "planted-secret-one") == b"OK changed: listen.password"
        # Who is in stays in, as with Redis's requirepass.
        assert old.command("SET", "k", "v") == b"OK"
        with nearkey.connect() as new:
            with pytest.raises(ReplyError, match="WRONGPASS"):
                new.command("AUTH", "planted-secret-one")
            assert new.command("AUTH", "planted-secret-two") == b"OK"
            assert new.command("GET", "k") == b"v"
    assert "planted-secret" not in nearkey.log()


def reload_as(nearkey, password):
    with nearkey.connect() as raw:
        raw.command("AUTH", password)
        return raw.command("NEARKEY", "RELOAD")


def test_the_servers_password_is_rotated(start, redis_server, tmp_path):
    server = redis_server(tls=False, password="planted-secret-one")
    secret = tmp_path / "password"
    secret.write_text("planted-secret-one")
    file = File(tmp_path / "proxy.toml", upstream__url=f"redis://127.0.0.1:{server.port}", upstream__password_file=secret)
    nearkey = start(file, workers=2)
    with Load(nearkey) as load:
        before = links(server)
        server.control("CONFIG", "SET", "requirepass", "planted-secret-two")
        server.password = "planted-secret-two"
        load.goes_on()
        secret.write_text("planted-secret-two")
        assert reload(nearkey) == b"OK changed: upstream.password"
        load.goes_on()
        # The connections that are up are left alone; new ones know the new password.
        assert links(server) >= before
        with nearkey.connect() as raw:
            assert raw.command("BLPOP", "nothing", "0.05") is None
    assert "planted-secret" not in nearkey.log()


def test_the_rules_of_l1_are_changed(start, redis_server, tmp_path):
    server = redis_server(tls=False)
    file = File(tmp_path / "proxy.toml", upstream__url=server.url(), cache__mode="tracking")
    rules = "[[cache.rules]]\nmatch = 'a:*'\n"
    file.write(rules)
    nearkey = start(file, workers=2)

    def served(key):
        with nearkey.connect() as raw:
            before = nearkey.metric("nearkey_l1_hits_total")
            for _ in range(6):
                assert raw.command("GET", key) == b"v"
            return nearkey.metric("nearkey_l1_hits_total") > before

    server.control("MSET", "a:1", "v", "b:1", "v")
    with Load(nearkey, clients=3):
        eventually(lambda: served("a:1"))
        assert not served("b:1")
        file.write("[[cache.rules]]\nmatch = 'b:*'\n")
        assert reload(nearkey) == b"OK changed: cache.rules"
        assert not served("a:1")
        eventually(lambda: served("b:1"))
        # Still coherent: what another client writes is seen.
        server.control("SET", "b:1", "w")
        with nearkey.connect() as raw:
            eventually(lambda: raw.command("GET", "b:1") == b"w")
        server.control("SET", "b:1", "v")
        file.write("", cache__mode="off")
        reload(nearkey)
        eventually(lambda: not served("b:1"))
        file.write("[[cache.rules]]\nmatch = 'a:*'\n", cache__mode="tracking")
        reload(nearkey)
        eventually(lambda: served("a:1"))


def certificate_of(nearkey, certs):
    context = ssl.create_default_context(cafile=certs.ca)
    with socket.create_connection((nearkey.host, nearkey.port), timeout=10) as plain:
        with context.wrap_socket(plain, server_hostname="localhost") as tls:
            return tls.getpeercert()["serialNumber"]


def test_the_certificate_for_clients_is_rotated(start, redis_server, certs, tmp_path):
    server = redis_server(tls=False)
    crt, key = tmp_path / "l.crt", tmp_path / "l.key"

    def put(name):
        shutil.copy(certs.crt(name), crt)
        shutil.copy(certs.key(name), key)

    put("server")
    file = File(tmp_path / "proxy.toml", upstream__url=server.url(), listen__tls_cert=crt, listen__tls_key=key)
    nearkey = start(file)
    context = ssl.create_default_context(cafile=certs.ca)
    with nearkey.connect(tls=context) as old:
        assert old.command("SET", "k", "v") == b"OK"
        first = certificate_of(nearkey, certs)
        crt.write_text("no certificate")
        with pytest.raises(ReplyError, match="l.crt"):
            old.command("NEARKEY", "RELOAD")
        assert certificate_of(nearkey, certs) == first
        make_another(certs, crt, key)
        assert old.command("NEARKEY", "RELOAD") == b"OK no setting changed"
        assert certificate_of(nearkey, certs) != first
        assert old.command("GET", "k") == b"v"


def make_another(certs, crt, key):
    """A certificate for localhost of the same CA."""
    request, extensions = crt.with_suffix(".csr"), crt.with_suffix(".ext")
    extensions.write_text("subjectAltName=DNS:localhost\n")
    run = lambda *args: subprocess.run(args, check=True, capture_output=True)  # noqa: E731
    run("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", request, "-subj", "/CN=localhost")
    run("openssl", "x509", "-req", "-in", request, "-CA", certs.ca, "-CAkey", certs.key("ca"), "-set_serial", "4711",
        "-days", "2", "-extfile", extensions, "-out", crt)


@pytest.mark.parametrize("workers", [1, 3])
def test_the_server_is_moved(start, redis_server, tmp_path, workers):
    """Both servers hold what was written while they were the one; nobody is told of the move."""
    old, new = redis_server(tls=False), redis_server(tls=True)
    for n in range(8):
        new.control("SET", f"count:{n}", "0")
    file = File(tmp_path / "proxy.toml", upstream__url=old.url())
    nearkey = start(file, workers=workers)
    listener = nearkey.connect()
    listener.command("SUBSCRIBE", "news")
    blocked = nearkey.connect()
    blocked.send(encode("BLPOP", "jobs", "0"))
    old.wait_for_blocked(1)
    stop, errors, done = threading.Event(), [], [0] * 8

    def count(n):
        try:
            with nearkey.connect() as raw:
                while not stop.is_set():
                    raw.send(encode("INCR", f"count:{n}") * 5)
                    assert all(isinstance(raw.reply(), int) for _ in range(5))
                    done[n] += 5
        except Exception as e:
            errors.append(repr(e))

    threads = [threading.Thread(target=count, args=(n,), daemon=True) for n in range(8)]
    for thread in threads:
        thread.start()
    eventually(lambda: min(done) > 20 or errors)
    file.write(upstream__url=f"rediss://localhost:{new.tls_port}", upstream__ca=Path(new.certs.ca), process__drain_timeout="1s")
    told = reload(nearkey)
    assert b"upstream.url" in told and b"opened anew" in told
    eventually(lambda: any("lead to the configured server" in line["message"] for line in nearkey.log_lines()))
    before = list(done)
    eventually(lambda: all(n > b + 20 for n, b in zip(done, before)) or errors)
    stop.set()
    for thread in threads:
        thread.join(20)
    assert not errors, errors[:3]
    for n in range(8):
        assert int(old.control("GET", f"count:{n}")) + int(new.control("GET", f"count:{n}")) == done[n]
        assert int(new.control("GET", f"count:{n}")) > 0
    # Whoever waits for jobs of the old server is told by the end of its connection, and asks again.
    assert blocked.until_eof() == b""
    eventually(lambda: not old.clients(), what="nobody is left at the old server")
    eventually(lambda: new.control("PUBSUB", "NUMSUB", "news") == [b"news", 1])
    new.control("PUBLISH", "news", "moved")
    assert listener.reply() == [b"message", b"news", b"moved"]
    assert nearkey.health()[1]["redis"]["address"] == f"localhost:{new.tls_port}"
    assert len(new.clients()) <= 10
    listener.close()
    blocked.close()


class Slow(FakeRedis):
    """Takes its time over one key, and says who it is for another."""

    def __init__(self, name, mood=None):
        super().__init__()
        self.mood, self.values[b"who"] = mood, name

    async def _serve(self, reader, writer):
        self.accepted += 1
        buffer = bytearray()
        try:
            while data := await self._read(reader):
                buffer += data
                while (end := frame_end(buffer)) is not None:
                    words = [word(e) for e in elements(bytes(buffer[:end]))]
                    del buffer[:end]
                    await asyncio.sleep(2 if words[1:] == [b"slow"] else 0)
                    writer.write(self.answer([words[0].upper(), *words[1:]]))
                await writer.drain()
        except (OSError, asyncio.CancelledError):
            pass
        writer.close()


def test_a_move_is_not_forgotten_where_a_failover_is_under_way(start, tmp_path):
    """A connection that could not be drained for READONLY in time goes on, but not beyond a reload."""
    old, new = Slow(b"old", mood="readonly"), Slow(b"new")
    file = File(tmp_path / "proxy.toml", upstream__url=f"redis://127.0.0.1:{old.port}", upstream__connections=2)
    proxy = start(file, workers=1)
    # Each has a connection of its own once both are open.
    clients = [proxy.connect(timeout=30) for _ in range(2)]
    for _ in range(5):
        for client in clients:
            assert client.command("GET", "who") == b"old"
            time.sleep(0.1)
    # Both connections carry a command that takes longer than draining may.
    clients[1].send(encode("GET", "slow"))
    clients[0].send(encode("SET", "k", "v") + encode("GET", "slow"))
    assert clients[0].reply_bytes().startswith(b"-READONLY")
    assert eventually(lambda: proxy.metric("nearkey_upstream_reopened_total"), 5) and old.accepted >= 2
    file.write(upstream__url=f"redis://127.0.0.1:{new.port}")
    proxy.process.send_signal(signal.SIGHUP)
    for client in clients:
        client.reply_bytes()
    for client in clients:
        eventually(lambda c=client: c.command("GET", "who") == b"new", 15, what="everybody is with the new server")
        client.close()
    old.close()
    new.close()


def test_a_hangup_while_the_configuration_is_read_reloads_it_later(start, redis_server, tmp_path):
    """The password's file is a pipe, which holds up the start for as long as the test wants."""
    server, pipe = redis_server(tls=False, password="of-the-pipe"), tmp_path / "pipe"
    os.mkfifo(pipe)
    url = f"redis://127.0.0.1:{server.port}"
    file = File(tmp_path / "nearkey.toml", upstream__url=url, upstream__password_file=str(pipe))
    nearkey = start(file, wait=False)
    with open(pipe, "w") as reading:  # goes on once it reads
        nearkey.process.send_signal(signal.SIGHUP)
        reading.write("of-the-pipe")
    eventually(lambda: accepts(nearkey.host, nearkey.port), what="it serves")
    with open(pipe, "w") as again:
        again.write("of-the-pipe")
    eventually(lambda: "reloading the configuration" in nearkey.log(), what="it is read again")
    assert nearkey.process.poll() is None
    with nearkey.connect() as raw:
        assert raw.command("PING") == b"PONG"


def test_who_comes_first_may_ask_for_a_reload(start, redis_server, tmp_path):
    file = File(tmp_path / "nearkey.toml", upstream__url=redis_server(tls=False).url())
    for _ in range(5):
        nearkey = start(file, wait=False, admin=False)
        deadline = time.monotonic() + 20
        while True:  # as fast as can be
            try:
                raw = nearkey.connect()
                break
            except OSError:
                assert time.monotonic() < deadline and nearkey.process.poll() is None, nearkey.log()
        with raw:
            assert raw.command("NEARKEY", "RELOAD")


def test_what_steers_the_proxy_can_be_denied_by_itself(start, redis_server, tmp_path):
    url = redis_server(tls=False).url()
    file = File(tmp_path / "nearkey.toml", upstream__url=url, commands__deny=["NEARKEY PAUSE", "nearkey|reload"])
    nearkey = start(file)
    with nearkey.connect() as raw:
        for denied in (("NEARKEY", "PAUSE", "10"), ("nearkey", "reload")):
            with pytest.raises(ReplyError, match="refused by the setting commands.deny"):
                raw.command(*denied)
        with pytest.raises(ReplyError, match="unknown subcommand 'NOPE'. Try NEARKEY HELP."):
            raw.command("NEARKEY", "NOPE")
        with pytest.raises(ReplyError, match="wrong number of arguments for 'nearkey|stats' command"):
            raw.command("NEARKEY", "STATS", "x")
        assert raw.command("NEARKEY", "RESUME") is not None
        assert raw.command("NEARKEY")[0].startswith(b"NEARKEY <subcommand>")
    # What cannot be denied is told with its place, also where the program is not started.
    file.write(commands__deny=["FLUSHALL ASYNC"])
    shown = run("config", "--config", file.path)
    assert shown.returncode == 2 and "FLUSHALL has no subcommands" in shown.stderr, shown
    assert f"{file.path}:" in shown.stderr
