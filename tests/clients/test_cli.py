"""redis-cli and redis-benchmark, unchanged."""

import re
import shutil
import subprocess

import pytest

from harness.resp import encode

needs_cli = pytest.mark.skipif(not shutil.which("redis-cli"), reason="no redis-cli")
needs_benchmark = pytest.mark.skipif(not shutil.which("redis-benchmark"), reason="no redis-benchmark")


def cli(endpoint, *args, stdin=None, host=None, port=None):
    """redis-cli's output; it must end well."""
    ended = subprocess.run(["redis-cli", "-h", host or endpoint.host, "-p", str(port or endpoint.port), *map(str, args)],
                           input=stdin, capture_output=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@needs_cli
@pytest.mark.parametrize("flag", [[], ["-3"]], ids=["resp2", "resp3"])
def test_redis_cli_sets_gets_and_lists(endpoint, flag):
    assert cli(endpoint, *flag, "PING") == b"PONG\n"
    assert cli(endpoint, *flag, "SET", "k", "two words") == b"OK\n"
    assert cli(endpoint, *flag, "GET", "k") == b"two words\n"
    assert cli(endpoint, *flag, "-n", 5, "GET", "k") == b"\n"
    assert cli(endpoint, *flag, "HSET", "h", "f", "v") == b"1\n"
    assert cli(endpoint, *flag, "HGETALL", "h").split() == ([b"f", b"v"])
    assert cli(endpoint, *flag, "--no-raw", "EVAL", "return {1,'two',{3}}", 0).startswith(b'1) (integer) 1\n2) "two"\n3) 1) (integer) 3')
    assert cli(endpoint, *flag, "-x", "SET", "from-stdin", stdin=bytes(range(256))) == b"OK\n"
    assert cli(endpoint, *flag, "GET", "from-stdin") == bytes(range(256)) + b"\n"
    assert b"ERR unknown command" in cli(endpoint, *flag, "NOSUCH")


@needs_cli
def test_redis_cli_reads_commands_from_a_file(endpoint):
    script = b"".join(b"SET line:%d 'value %d'\n" % (n, n) for n in range(1000)) + b"GET line:999\nDBSIZE\n"
    out = cli(endpoint, stdin=script).splitlines()
    assert out == [b"OK"] * 1000 + [b"value 999", b"1000"]


@needs_cli
def test_redis_cli_shows_info_with_a_nearkey_section(endpoint):
    out = cli(endpoint, "INFO").decode()
    assert "redis_version:" in out and "# Keyspace" in out
    assert ("# Nearkey" in out) == (not endpoint.direct)
    if not endpoint.direct:
        assert cli(endpoint, "INFO", "nearkey").decode().startswith("# Nearkey")
        assert cli(endpoint, "NEARKEY", "HELP").decode().startswith("NEARKEY")


@needs_cli
def test_redis_cli_pipes_a_mass_insert(endpoint):
    stream = b"".join(encode("SET", f"mass:{n}", f"value {n}" * 3) for n in range(100_000))
    out = cli(endpoint, "--pipe", stdin=stream).decode()
    assert "errors: 0, replies: 100000" in out
    assert endpoint.server.control("DBSIZE") == 100_000
    assert endpoint.server.control("GET", "mass:99999") == b"value 99999" * 3


@needs_cli
def test_redis_cli_scans_and_finds_big_keys(endpoint):
    cli(endpoint, stdin=b"".join(b"SET s:%d v\n" % n for n in range(500)) + b"RPUSH biglist " + b"x " * 500 + b"\n")
    assert len(cli(endpoint, "--scan", "--pattern", "s:*").splitlines()) == 500
    assert b"biglist" in cli(endpoint, "--bigkeys")


@needs_cli
def test_redis_cli_speaks_tls_to_the_proxy(endpoint, request, certs):
    if subprocess.run(["redis-cli", "--tls", "--version"], capture_output=True).returncode:
        pytest.skip("redis-cli was built without TLS")
    if endpoint.direct:
        port = endpoint.server.tls_port
    else:
        port = request.getfixturevalue("nearkey")(
            endpoint.server, listen__tls_cert=certs.crt("server"), listen__tls_key=certs.key("server")).port
    assert cli(endpoint, "--tls", "--cacert", certs.ca, "PING", host="localhost", port=port) == b"PONG\n"
    assert cli(endpoint, "--tls", "--cacert", certs.ca, "SET", "t", "1", host="localhost", port=port) == b"OK\n"


@needs_benchmark
@pytest.mark.parametrize("options", [[], ["-3"], ["-P", "16"], ["-P", "16", "-3"], ["-P", "100", "-d", "5000"]],
                         ids=lambda o: " ".join(o) or "plain")
def test_redis_benchmark_completes_without_errors(endpoint, options):
    tests = "ping_inline,ping_mbulk,set,get,incr,lpush,rpush,lpop,rpop,sadd,hset,spop,zadd,zpopmin,lrange_100,mset"
    if "-d" in options:
        tests = "set,get,incr"
    ended = subprocess.run(
        ["redis-benchmark", "-h", endpoint.host, "-p", str(endpoint.port), "-t", tests, "-n", "10000", "-c", "50", "-r",
         "1000", "--csv", *options], capture_output=True, text=True, timeout=120)
    # An error reply makes redis-benchmark stop with a message.
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "rror" not in ended.stdout + ended.stderr
    rows = [line for line in ended.stdout.splitlines() if re.match(r'"[A-Z]', line)]
    assert len(rows) >= len(tests.split(","))
    if not endpoint.direct:
        assert len(endpoint.server.clients()) <= 10
