"""The program: its command line, its settings, its admin pages, its end."""

import json
import os
import re
import signal
import threading
import time

import pytest

from harness.nearkey import run
from harness.ports import eventually, free_port
from harness.resp import Raw, bulk, encode

SECRET = "planted-secret-5f1e9c"
# Some server; without one, there is no configuration.
SERVER = {"REDIS_URL": "redis://127.0.0.1:1"}

DIRECT = os.environ.get("NEARKEY_TEST_DIRECT") == "1"

pytestmark = pytest.mark.skipif(DIRECT, reason="about the proxy itself")


# The command line and the settings.

def test_help_teaches_with_examples():
    shown = run("--help")
    assert shown.returncode == 0
    for word in ("--config", "--listen", "--upstream", "--upstream-ca", "--admin", "--workers", "--log-format",
                 "config", "healthcheck", "rediss://"):
        assert word in shown.stdout, word
    assert shown.stdout.count("nearkey ") >= 3
    for command in ("config", "healthcheck"):
        assert run(command, "--help").returncode == 0


def test_the_version_is_told():
    assert re.match(r"nearkey \d+\.\d+\.\d+", run("--version").stdout)


def test_config_shows_every_value_with_its_origin_and_no_secret(tmp_path):
    file = tmp_path / "proxy.toml"
    file.write_text(f'[listen]\nmax_clients = 77\npassword = "{SECRET}-a"\n\n[upstream]\nconnections = 3\n')
    shown = run("config", "--config", file, "--workers", "2", env={
        "REDIS_URL": f"rediss://user:{SECRET}-b@cache.example.com:6380/4", "NEARKEY_UPSTREAM__COMMAND_TIMEOUT": "7s"})
    assert shown.returncode == 0, shown.stderr
    text = shown.stdout
    assert SECRET not in text + shown.stderr
    lines = text.splitlines()

    def line(*words):
        found = [x for x in lines if all(w in x for w in words)]
        assert found, f"no line with {words}:\n{text}"
        return found[0]

    assert "proxy.toml" in line("max_clients", "77")
    assert "proxy.toml" in line("connections", "3")
    assert "NEARKEY_UPSTREAM__COMMAND_TIMEOUT" in line("command_timeout", "7s")
    assert "--workers" in line("workers", "2")
    assert "REDIS_URL" in line("cache.example.com")
    assert "default" in line("max_connections", "10")


@pytest.mark.parametrize("env, expected", [
    ({"REDIS_URL": "redis://a.example.com:7000"}, "a.example.com"),
    ({"UPSTASH_REDIS_URL": "rediss://:x@u.example.com:7000", "REDIS_URL": "redis://a.example.com:7000"}, "u.example.com"),
    ({"UPSTASH_REDIS_URL": "upstash://default:x@u.example.com:7000"}, "u.example.com"),
    ({"REDIS_ENDPOINT": "e.example.com", "REDIS_PORT": "7001", "REDIS_SSL": "true"}, "e.example.com"),
    ({"REDIS_HOST": "h.example.com", "REDIS_PORT": "7002", "REDIS_PASSWORD": "x"}, "h.example.com"),
    ({"NEARKEY_UPSTREAM__URL": "redis://n.example.com", "REDIS_URL": "redis://a.example.com"}, "n.example.com"),
    ({"REDIS_URL": "redis://a.example.com", "REDIS_MAX_CONNECTIONS": "23"}, "23"),
    ({"REDIS_URL": "redis://a.example.com", "REDIS_TIMEOUT": "31"}, "31s"),
], ids=lambda v: "+".join(v) if isinstance(v, dict) else v)
def test_the_environment_of_the_guides_is_understood(env, expected):
    shown = run("config", env=env)
    assert shown.returncode == 0, shown.stderr
    assert expected in shown.stdout


def test_a_later_source_wins(tmp_path):
    file = tmp_path / "proxy.toml"
    file.write_text("[process]\nworkers = 2\n[listen]\nmax_clients = 100\n")
    shown = run("config", "--config", file, "--workers", "4",
                env={"NEARKEY_LISTEN__MAX_CLIENTS": "200", "NEARKEY_PROCESS__WORKERS": "3", **SERVER}).stdout
    assert re.search(r"workers\s*=\s*4\b", shown)
    assert re.search(r"max_clients\s*=\s*200\b", shown)


@pytest.mark.parametrize("text, words", [
    ("[upstream]\nmax_conections = 4\n", ["max_conections", "max_connections"]),
    ("[upstrem]\nurl = 'redis://x'\n", ["upstrem", "upstream"]),
    ("[listen]\nmax_clients = 'many'\n", ["max_clients"]),
    ("[listen]\nmax_clients = -1\n", ["max_clients"]),
    ("[upstream]\ncommand_timeout = 'soon'\n", ["command_timeout"]),
    ("[upstream]\nurl = 'http://x'\n", ["url"]),
    ("[upstream\n", [":1"]),
    ("[log]\nformat = 'yaml'\n", ["format", "json"]),
    ("[upstream]\nmax_connections = 0\n", ["max_connections"]),
    ("[upstream]\nconnections = 20\nmax_connections = 10\n", ["connections"]),
])
@pytest.mark.parametrize("command", [[], ["config"]], ids=["run", "config"])
def test_a_wrong_setting_is_one_clear_error(tmp_path, text, words, command):
    file = tmp_path / "proxy.toml"
    file.write_text(text)
    # A URL in the environment would win over the file's.
    env = {} if "url" in text else SERVER
    ended = run(*command, "--config", file, "--listen", f"127.0.0.1:{free_port()}", "--admin", "off", env=env)
    assert ended.returncode == 2
    for word in ["proxy.toml", *words]:
        assert word in ended.stderr, ended.stderr
    assert "panicked" not in ended.stderr


@pytest.mark.parametrize("env, words", [
    ({"NEARKEY_LISTEN__MAX_CLIENT": "4"}, ["NEARKEY_LISTEN__MAX_CLIENT", "MAX_CLIENTS"]),
    ({"NEARKEY_LISTEN__MAX_CLIENTS": "x"}, ["NEARKEY_LISTEN__MAX_CLIENTS"]),
    ({"REDIS_URL": f"redis://:{SECRET}@host:port"}, ["REDIS_URL"]),
    ({"REDIS_PORT": "x", "REDIS_HOST": "h"}, ["REDIS_PORT"]),
])
def test_a_wrong_environment_is_one_clear_error(env, words):
    ended = run("config", env=env)
    assert ended.returncode == 2
    for word in words:
        assert word in ended.stderr, ended.stderr
    assert SECRET not in ended.stdout + ended.stderr


@pytest.mark.parametrize("args, word", [
    (["--nosuch"], "--nosuch"), (["--workers", "x"], "--workers"), (["--listen", "nowhere"], "listen"),
    (["nosuch"], "nosuch"), (["--config", "/no/such/proxy.toml"], "/no/such/proxy.toml"),
    (["--upstream-ca", "/no/such/ca.crt", "--upstream", "rediss://localhost"], "/no/such/ca.crt"),
])
def test_a_wrong_flag_is_one_clear_error(args, word):
    ended = run(*args, "--admin", "off") if args != ["nosuch"] else run(*args)
    assert ended.returncode == 2
    assert word in ended.stderr


def test_no_server_named_anywhere_is_one_clear_error():
    for command in ([], ["config"]):
        ended = run(*command)
        assert ended.returncode == 2
        assert "REDIS_URL" in ended.stderr and "--upstream" in ended.stderr


# Running.

def test_port_zero_picks_a_free_port_and_logs_it(redis_server, nearkey):
    proxy = nearkey(redis_server(), listen=("127.0.0.1", 0), admin=0, wait=False)
    proxy.admin_port = None

    def logged():
        return {line["message"]: int(line["address"].rpartition(":")[2]) for line in proxy.log_lines() if "address" in line}

    eventually(lambda: len(logged()) >= 2, 10)
    ports = logged()
    with Raw("127.0.0.1", ports["listening"]) as raw:
        assert raw.command("PING") == b"PONG"
    proxy.admin_port = next(port for message, port in ports.items() if "admin" in message)
    assert proxy.http("/live")[0] == 200


def test_every_line_of_the_json_log_is_json(redis_server, nearkey):
    server = redis_server(password=SECRET)
    proxy = nearkey(server)
    with proxy.connect() as raw:
        raw.command("SET", "k", "v")
        raw.send(b'*1\r\n$-7"}\r\n{"level":"fatal"}\r\n')
        raw.until_eof()
    proxy.stop()
    lines = proxy.log_lines()
    assert lines
    for line in lines:
        assert isinstance(line, dict) and {"timestamp", "level"} <= set(line)


def test_the_text_log_is_for_people(redis_server, nearkey):
    proxy = nearkey(redis_server(), log_format="text")
    with proxy.connect() as raw:
        raw.command("PING")
    assert str(proxy.port) in proxy.log()
    assert "\x1b[" not in proxy.log()


def test_health_has_the_shape_that_dashboards_know(redis_server, nearkey):
    server = redis_server(password=SECRET)
    proxy = nearkey(server, upstream__max_connections=20)
    with proxy.connect() as raw:
        raw.command("SET", "k", "v")
        status, health = proxy.health()
        assert status == 200
        assert health["status"] == "healthy"
        assert health["redis"]["available"] is True
        assert isinstance(health["redis"]["provider"], str)
        assert 0 <= health["redis"]["latency_ms"] < 10_000
        assert health["redis"]["connection_pool"]["max"] == 20
        assert 1 <= health["redis"]["connection_pool"]["active"] <= 4


def test_health_and_ready_tell_the_server_apart_from_the_process(redis_server, nearkey):
    server = redis_server()
    proxy = nearkey(server, upstream__backoff_min="5ms", upstream__backoff_max="100ms", upstream__queue_timeout="200ms")
    with proxy.connect() as raw:
        raw.command("SET", "k", "v")
        assert proxy.http("/ready")[0] == 200
        server.stop()
        eventually(lambda: raw.raw("GET", "k").startswith(b"-LOADING"), 10)
        eventually(lambda: proxy.http("/ready")[0] == 503, 10)
        assert proxy.http("/live")[0] == 200
        status, health = proxy.health()
        assert health["redis"]["available"] is False
        assert health["status"] != "healthy"
        server.start()
        eventually(lambda: raw.raw("GET", "k") == b"$-1\r\n", 10)
        eventually(lambda: proxy.http("/ready")[0] == 200 and proxy.health()[1]["status"] == "healthy", 10)


def test_metrics_are_prometheus_text_and_count_what_happened(redis_server, nearkey):
    server = redis_server(password="pw")
    proxy = nearkey(server)
    with proxy.connect() as raw, proxy.connect() as second:
        second.command("PING")
        raw.send(encode("SET", "k", "v") + encode("GET", "k") * 99 + encode("PING") * 10 + encode("MULTI"))
        for _ in range(111):
            raw.reply_bytes()
        status, body = proxy.http("/metrics")
        assert status == 200
        for line in body.splitlines():
            assert re.match(r"^(# (HELP|TYPE) [a-z_:][a-z0-9_:]* .+|[a-z_:][a-z0-9_:]*(\{[^}]*\})? [0-9.eE+-]+|[a-z_:][a-z0-9_:]*\S* (\+Inf|NaN))?$",
                            line), line
        names = {re.split(r"[{ ]", k)[0] for k in proxy.metrics()}
        for name in ("redis_up", "redis_connected_clients", "redis_commands_total"):
            assert name in names, sorted(names)
        assert any(n.startswith("nearkey_") for n in names)
        assert proxy.metrics()["redis_up"] == 1
        assert proxy.metric("redis_connected_clients") == 2
        assert proxy.metric("redis_commands_total") >= 111
        typed = {line.split()[2] for line in body.splitlines() if line.startswith("# TYPE")}
        assert all(n in typed or re.sub(r"_(bucket|sum|count)$", "", n) in typed for n in names)


def test_the_admin_pages_are_strict(redis_server, nearkey):
    proxy = nearkey(redis_server())
    assert proxy.http("/nosuch")[0] == 404
    assert proxy.http("/metrics", method="DELETE")[0] in (404, 405)
    with Raw("127.0.0.1", proxy.admin_port, timeout=10) as raw:
        raw.send(b"\x00\xff garbage\r\n\r\n")
        raw.until_eof(15)
    slow = [Raw("127.0.0.1", proxy.admin_port) for _ in range(50)]
    for raw in slow:
        raw.send(b"GET /met")
    assert proxy.http("/live")[0] == 200
    for raw in slow:
        raw.close()


def test_the_admin_endpoint_can_be_off(redis_server, nearkey):
    proxy = nearkey(redis_server(), admin=False)
    with proxy.connect() as raw:
        assert raw.command("PING") == b"PONG"


def test_healthcheck_tells_containers_by_its_exit_code(redis_server, nearkey):
    server = redis_server()
    proxy = nearkey(server, upstream__backoff_min="5ms", upstream__backoff_max="100ms", upstream__queue_timeout="200ms")
    admin = ["--admin", f"127.0.0.1:{proxy.admin_port}"]
    with proxy.connect() as raw:
        raw.command("GET", "k")
    assert run("healthcheck", *admin).returncode == 0
    server.stop()
    with proxy.connect() as raw:
        eventually(lambda: raw.raw("GET", "k").startswith(b"-LOADING"), 10)
    # Whatever it says of a lost server, it says so without hanging; a lost proxy is unhealthy.
    assert run("healthcheck", *admin).returncode in (0, 1)
    proxy.stop()
    assert run("healthcheck", *admin).returncode == 1


# The end.

def test_sigterm_ends_an_idle_proxy_with_zero(redis_server, nearkey):
    for how in (signal.SIGTERM, signal.SIGINT):
        proxy = nearkey(redis_server())
        with proxy.connect() as raw:
            raw.command("SET", "k", "v")
        assert proxy.stop(how) == 0


def test_sigterm_lets_commands_in_flight_finish(redis_server, nearkey):
    server = redis_server()
    proxy = nearkey(server, process__drain_delay="0s", process__drain_timeout="8s", upstream__command_timeout="20s")
    with proxy.connect() as raw:
        raw.command("GET", "warm")
        server.freeze()
        raw.send(encode("INCR", "n") * 50 + encode("ECHO", "last"))
        time.sleep(0.2)
        proxy.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert proxy.process.poll() is None
        server.thaw()
        raw.exactly(b"".join(b":%d\r\n" % n for n in range(1, 51)) + bulk("last"))
        assert raw.until_eof(10) == b""
    assert proxy.process.wait(10) == 0


def test_while_draining_clients_are_served_and_ready_says_no(redis_server, nearkey):
    proxy = nearkey(redis_server(), process__drain_delay="2s", process__drain_timeout="3s")
    with proxy.connect() as raw:
        raw.command("SET", "k", "v")
        eventually(lambda: proxy.http("/ready")[0] == 200, 10)
        proxy.process.send_signal(signal.SIGTERM)
        eventually(lambda: proxy.http("/ready")[0] == 503, 5)
        assert proxy.http("/live")[0] == 200
        # Load balancers take a moment to notice: until then, new clients are still let in.
        with proxy.connect() as late:
            assert late.command("GET", "k") == b"v"
        assert raw.command("GET", "k") == b"v"
    assert proxy.process.wait(20) == 0


def test_no_reply_is_cut_short_by_the_end(redis_server, nearkey):
    proxy = nearkey(redis_server(), process__drain_delay="0s", process__drain_timeout="8s")
    wrong = []
    started = threading.Barrier(21)

    def work(n):
        with proxy.connect() as raw:
            raw.command("SET", f"d:{n}", "x" * 1000)
            started.wait()
            expected = (bulk("x" * 1000) + bulk(n)) * 50
            try:
                while True:
                    raw.send((encode("GET", f"d:{n}") + encode("ECHO", n)) * 50)
                    raw.exactly(expected)
            except (EOFError, OSError):
                # Whole replies up to the end, if any of this pipeline was taken on.
                got = bytes(raw.buffer)
                if not expected.startswith(got) or got and not ends_whole(got, n):
                    wrong.append(got[-100:])

    def ends_whole(got, n):
        reply, echo = bulk("x" * 1000), bulk(n)
        rest = len(got) % len(reply + echo)
        return rest in (0, len(reply))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(20)]
    for t in threads:
        t.start()
    started.wait()
    time.sleep(0.3)
    assert proxy.stop() == 0
    for t in threads:
        t.join()
    assert not wrong, wrong[:3]


def test_a_second_signal_ends_it_at_once(redis_server, nearkey):
    proxy = nearkey(redis_server(), process__drain_delay="30s", process__drain_timeout="30s")
    with proxy.connect() as raw:
        raw.command("SET", "k", "v")
        proxy.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert proxy.process.poll() is None
        proxy.process.send_signal(signal.SIGTERM)
        proxy.process.wait(10)


# Secrets.

def test_no_secret_is_ever_shown(redis_server, nearkey):
    server = redis_server(password=SECRET)
    proxy = nearkey(server, listen__password=f"{SECRET}-client", log__level="trace",
                    upstream__backoff_min="5ms", upstream__backoff_max="50ms", upstream__queue_timeout="200ms")
    with proxy.connect() as raw:
        raw.raw("AUTH", f"{SECRET}-wrong")
        raw.raw("HELLO", 3, "AUTH", f"{SECRET}-user", f"{SECRET}-pass")
        raw.raw("AUTH", f"{SECRET}-client")
        raw.raw("SET", "k", f"{SECRET}-value")
        raw.raw("CONFIG", "SET", "requirepass", SECRET)
        raw.raw("ACL", "SETUSER", "x", f">{SECRET}-acl")
        raw.raw("NOSUCH", f"{SECRET}-argument")
        shown = raw.raw("INFO", "nearkey") + raw.raw("CLIENT", "LIST")
        server.stop()
        eventually(lambda: raw.raw("GET", "k").startswith(b"-LOADING"), 10)
        shown += raw.raw("GET", "k")
    pages = "".join(proxy.http(p)[1] for p in ("/metrics", "/health", "/ready", "/live", "/"))
    proxy.stop()
    for text in (shown.decode(), pages, proxy.log()):
        assert SECRET not in text
    # Arguments of a process can be read by all users of a machine; the harness gives the URL there only for the test's ease.
    assert json.dumps(SECRET) not in run("config", env={"NEARKEY_LISTEN__PASSWORD": SECRET,
                                                        "REDIS_URL": f"redis://:{SECRET}@h"}).stdout
