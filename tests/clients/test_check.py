"""`nearkey check`: what it says of a server, in text and JSON, and its exit code. Secrets never show."""

import json
import socket
import threading

import pytest

from harness.nearkey import run
from harness.ports import free_port

from conftest import DIRECT

pytestmark = pytest.mark.skipif(DIRECT, reason="about the program itself")

SECRET = "planted-secret-8c41d7"


def check(*args, env=None):
    """Exit code, text and findings; the two forms must agree."""
    text, told = run("check", *args, env=env, timeout=60), run("check", "--json", *args, env=env, timeout=60)
    shown = text.stdout + text.stderr + told.stdout + told.stderr
    assert SECRET not in shown, "a secret was printed"
    assert text.returncode == told.returncode, shown
    report = json.loads(told.stdout)
    assert report["works"] == (text.returncode == 0) == ("It works" in text.stdout), shown
    for problem in report["problems"]:
        assert problem["cure"] in text.stdout, shown
    return text.returncode, text.stdout, report


def fails(cause, *args, env=None):
    """It does not work for want of a connection: message and advice."""
    code, text, report = check(*args, env=env)
    failure, problems = report["findings"]["failure"], report["problems"]
    assert code == 1 and failure["cause"] == cause, text
    assert [p["severity"] for p in problems] == ["error"] and problems[0]["what"] == failure["message"]
    return failure["message"], problems[0]["cure"]


def found(report, severity):
    return [p["what"] for p in report["problems"] if p["severity"] == severity]


def test_a_server_that_works(redis_server):
    server = redis_server(tls=False, password=SECRET)
    code, text, report = check("--upstream", server.url(), env={"NEARKEY_CACHE__DEFAULT": "cache"})
    findings = report["findings"]
    assert code == 0 and report["problems"] == [], text
    assert findings["failure"] is None and findings["role"] == "master" and findings["clients"] >= 1
    assert findings["tracking"] == {"works": True, "why": None}
    assert findings["l1"] == {"mode": "tracking", "why": ""}
    assert "changes are pushed" in text and "It works." in text


def test_nobody_listens():
    message, cure = fails("tcp", "--upstream", f"redis://127.0.0.1:{free_port()}")
    assert "refused" in message and "is the port right" in cure


def test_the_password_is_wrong_or_missing(redis_server):
    server = redis_server(tls=False, password="right")
    message, cure = fails("auth", "--upstream", server.url(password=SECRET))
    assert message.startswith("WRONGPASS") and "password" in cure
    message, _ = fails("auth", "--upstream", f"redis://127.0.0.1:{server.port}")
    assert message.startswith("NOAUTH")


def test_certificates(redis_server, certs):
    server = redis_server()
    if server.tls_port is None:
        pytest.skip("this redis-server has no TLS")
    url = server.url(tls=True)
    code, text, report = check("--upstream", url, "--upstream-ca", certs.ca)
    assert code == 0 and report["findings"]["tls"]["verify"] == "full", text
    _, cure = fails("certificate", "--upstream", url)
    assert "upstream.ca" in cure, "of a CA that nobody knows"
    other = {"NEARKEY_UPSTREAM__SERVER_NAME": "elsewhere.example"}
    _, cure = fails("certificate", "--upstream", url, "--upstream-ca", certs.ca, env=other)
    assert "upstream.server_name" in cure
    brief, plain = {"NEARKEY_UPSTREAM__CONNECT_TIMEOUT": "1s"}, f"rediss://127.0.0.1:{server.port}"
    message, cure = fails("timeout", "--upstream", plain, "--upstream-ca", certs.ca, env=brief)
    assert "is it a TLS port?" in message and "the port speaks TLS" in cure


def test_a_replica_and_a_node_of_a_cluster(redis_server):
    primary = redis_server(tls=False)
    replica = redis_server(tls=False, args=["--replicaof", "127.0.0.1", str(primary.port)])
    code, text, report = check("--upstream", replica.url())
    assert code == 0 and any("replica" in what for what in found(report, "warning")), text
    tracking = report["findings"]["tracking"]
    assert not tracking["works"] and "READONLY" in tracking["why"]
    code, text, report = check("--upstream", redis_server(tls=False, args=["--cluster-enabled", "yes"]).url())
    assert code == 1 and any("Cluster" in what for what in found(report, "error")), text


def test_a_unix_socket(redis_server, tmp_path):
    redis_server(tls=False, args=["--unixsocket", str(tmp_path / "redis.sock")])
    code, text, report = check("--upstream", f"unix://{tmp_path}/redis.sock")
    assert code == 0 and report["findings"]["provider"] == "local", text
    fails("tcp", "--upstream", f"unix://{tmp_path}/none.sock")


def test_rights_that_a_user_lacks(redis_server):
    server = redis_server(tls=False)
    server.control("ACL", "SETUSER", "plain", "on", f">{SECRET}", "~*", "+@all", "-info", "-command", "-client")
    server.control("ACL", "SETUSER", "tiny", "on", f">{SECRET}", "~app:*", "+get", "+set")
    code, text, report = check("--upstream", f"redis://plain:{SECRET}@127.0.0.1:{server.port}")
    assert code == 0 and report["findings"]["clients"] is None and "unknown" in text
    assert "NOPERM" in report["findings"]["tracking"]["why"]
    message, cure = fails("auth", "--upstream", f"redis://tiny:{SECRET}@127.0.0.1:{server.port}")
    assert "'ping'" in message and "+ping" in cure and "password is right" in cure


def test_a_database_that_is_not_there(redis_server):
    _, text, report = check("--upstream", redis_server(tls=False).url() + "/99")
    assert "DB index is out of range" in text and "upstream.database" in report["problems"][0]["cure"]


@pytest.fixture
def odd_server():
    """A server that answers every read with the same bytes, or not at all."""
    listeners = []

    def start(answer):
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        threading.Thread(target=serve, args=(listener, answer), daemon=True).start()
        return f"redis://127.0.0.1:{listener.getsockname()[1]}"

    def serve(listener, answer):
        kept = []
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            kept.append(sock)
            threading.Thread(target=speak, args=(sock, answer), daemon=True).start()

    def speak(sock, answer):
        try:
            while sock.recv(4096):
                sock.sendall(answer)
        except OSError:
            pass

    yield start
    for listener in listeners:
        listener.close()


def test_what_is_no_redis(odd_server):
    code, text, report = check("--upstream", odd_server(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    assert code == 1 and "is that a Redis port?" in text, text


def test_a_black_hole(odd_server):
    message, cure = fails("timeout", "--upstream", odd_server(b""), env={"NEARKEY_UPSTREAM__CONNECT_TIMEOUT": "1s"})
    assert "1s" in message and "packets are dropped" in cure


def test_a_servers_words_do_not_steer_the_terminal(odd_server):
    _, text, _ = check("--upstream", odd_server(b"-ERR \x1b[31mred\x07\r\n"))
    assert "\x1b" not in text and "\x07" not in text and "\\u{1b}[31mred" in text


def test_a_wrong_configuration_is_told_apart():
    for args in ((), ("--json",), ("--upstream", "http://example.org")):
        done = run("check", *args)
        assert done.returncode == 2 and not done.stdout and "upstream.url" in done.stderr, done
    assert "2 for a wrong configuration" in run("check", "--help").stdout.replace("\n", " ").replace("  ", " ")
