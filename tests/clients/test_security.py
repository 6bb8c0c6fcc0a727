"""What must never come out, and what must never be let in."""

import http.client
import json
import socket
import ssl
import struct
import threading
import time

import pytest

from harness.nearkey import run
from harness.ports import eventually, free_port
from harness.resp import Raw, ReplyError, encode

# Twelve secrets, each where one can stand. No two have a part in common.
CANARIES = {
    "password in a URL": "c4-urlpass-81f3",
    "token in the place of the user": "c4-usertoken-92ab",
    "content of password_file": "c4-filepass-07de",
    "listen.password": "c4-listen-55c1",
    "AUTH with the wrong password": "c4-wrongauth-3e90",
    "HELLO AUTH": "c4-hello-6b27",
    "ACL SETUSER": "c4-setuser-d410",
    "CONFIG SET requirepass": "c4-config-1f88",
    "MIGRATE AUTH": "c4-migrate-a9c5",
    "script body": "c4-script-70e2",
    "value": "c4-value-e613",
    "unknown command": "c4-unknown-48bd",
}


def shown_by(proxy, raw, **settings):
    """All that a proxy shows of itself."""
    pages = [proxy.http(path)[1] for path in ("/", "/health", "/metrics", "/ready", "/live", "/hotkeys", "/nothing")]
    pages.append(proxy.http("/hotkeys?format=text&n=50")[1])
    words = [("INFO", "nearkey"), ("NEARKEY", "STATS"), ("NEARKEY", "HOTKEYS"), ("NEARKEY", "INFO"), ("NEARKEY", "KEY", "k"),
             ("CLIENT", "LIST"), ("CLIENT", "INFO")]
    pages += [repr(raw.command(*w)) for w in words]
    return {"pages": "\n".join(pages), "log": proxy.log(), "config": config_of(**settings)}


def config_of(**settings):
    done = run("config", env={f"NEARKEY_{k.upper()}": str(v) for k, v in settings.items()})
    return done.stdout + done.stderr


def assert_hidden(shown):
    for where, text in shown.items():
        for what, canary in CANARIES.items():
            assert canary not in text, f"the {what} is in the {where}"


def say(raw, *args):
    """A command whose reply does not matter, errors included; they go to the client who knows the secret."""
    try:
        raw.command(*args)
    except ReplyError:
        pass


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_no_secret_comes_out_at_the_finest_log_level(nearkey, redis_server, tmp_path, log_format):
    c = CANARIES
    server = redis_server(tls=False, args=["--user", "app", "on", "~*", "&*", "+@all", f">{c['password in a URL']}"])
    settings = {
        "upstream__url": f"redis://app:{c['password in a URL']}@127.0.0.1:{server.port}",
        "listen__password": c["listen.password"], "log__level": "trace", "cache__default": "cache",
    }
    proxy = nearkey(None, log_format=log_format, **settings)
    with proxy.connect() as raw:
        say(raw, "AUTH", c["AUTH with the wrong password"])
        say(raw, "AUTH", c["AUTH with the wrong password"], "too", "many")
        say(raw, "HELLO", "3", "AUTH", "default", c["HELLO AUTH"])
        say(raw, c["unknown command"], c["unknown command"])
        raw.command("HELLO", "3", "AUTH", "default", c["listen.password"])
        raw.command("AUTH", c["listen.password"])
        say(raw, "ACL", "SETUSER", "other", "on", f">{c['ACL SETUSER']}")
        say(raw, "CONFIG", "SET", "requirepass", c["CONFIG SET requirepass"])
        say(raw, "MIGRATE", "127.0.0.1", "1", "k", "0", "10", "AUTH", c["MIGRATE AUTH"])
        say(raw, "EVAL", f"return redis.call('SET', KEYS[1], '{c['script body']}')", "1", "s")
        say(raw, "EVAL", f"this is no script {c['script body']}", "0")
        say(raw, "SET", "k", c["value"])
        say(raw, "LPUSH", "k", c["value"])
        say(raw, c["unknown command"], c["unknown command"])
        for _ in range(5):
            raw.command("GET", "k")
        with proxy.connect() as broken:
            broken.send(encode("AUTH", c["listen.password"]) + b"*1\r\n$" + c["value"].encode() + b"\r\n")
            broken.until_eof()
        server.stop()
        try:
            say(raw, "SET", "k", c["value"])
        except (EOFError, ConnectionError):
            pass
    server.start()
    with proxy.connect() as raw:
        raw.command("AUTH", c["listen.password"])
        # For a moment the server is still known to be away.
        eventually(lambda: raw.raw("SET", "k", c["value"]) == b"+OK\r\n", what="the server is back")
        shown = shown_by(proxy, raw, **settings)
    assert_hidden(shown)
    assert "DEBUG" in shown["log"], "the finest level was on"


def test_no_secret_comes_out_where_the_upstream_refuses_it(nearkey, redis_server, tmp_path):
    server = redis_server(tls=False, password="another")
    path = tmp_path / "password"
    path.write_text(CANARIES["content of password_file"] + "\n")
    token = CANARIES["token in the place of the user"]
    for settings in (
        {"upstream__url": f"redis://127.0.0.1:{server.port}", "upstream__password_file": str(path)},
        {"upstream__url": f"redis://{token}@127.0.0.1:{server.port}"},
        {"upstream__url": f"redis://app:{CANARIES['password in a URL']}@127.0.0.1:{server.port}"},
    ):
        settings = {**settings, "log__level": "trace", "upstream__queue_timeout": "300ms"}
        proxy = nearkey(None, **settings)
        with proxy.connect() as raw:
            with pytest.raises(ReplyError) as refused:
                raw.command("GET", "k")
            shown = shown_by(proxy, raw, **settings)
        assert_hidden({**shown, "error": str(refused.value)})


def test_a_wrong_configuration_names_no_secret(tmp_path):
    secret = CANARIES["password in a URL"]
    file = tmp_path / "proxy.toml"
    file.write_text(f'[upstream]\nurl = "redis://u:{secret}@h:port"\npasword = "{secret}"\n')
    for args, env in (
        (["config", "--config", file], {}),
        (["config", "--upstream", f"redis://u:{secret}@:1"], {}),
        (["config"], {"REDIS_URL": f"http://u:{secret}@h"}),
        ([f"redis://u:{secret}@h"], {}),
    ):
        done = run(*args, env=env)
        assert done.returncode == 2 and done.stderr
        assert secret not in done.stdout + done.stderr


def test_no_admin_page_shows_a_key_where_names_are_hashed(nearkey, redis_server):
    server = redis_server(tls=False)
    proxy = nearkey(server, tls=False, cache__default="cache", cache__hash_key_names="true", log__level="trace")
    key = "customer:4711:jane"
    with proxy.connect() as raw:
        raw.command("SET", key, CANARIES["value"])
        for _ in range(20):
            raw.command("GET", key)
        eventually(lambda: json.loads(proxy.http("/hotkeys")[1]).get("keys"), 10, what="a key is hot")
        shown = shown_by(proxy, raw)
    del shown["config"]
    for where, text in shown.items():
        assert key not in text and "jane" not in text, f"a name is in the {where}"
    assert_hidden(shown)


# The admin endpoint.


def test_the_admin_endpoint_is_on_loopback_unless_told_otherwise():
    shown = run("config", env={"REDIS_URL": "redis://r:1"}).stdout
    assert 'address = "127.0.0.1:9180"' in shown


def admin(proxy, request, seconds=20):
    with socket.create_connection(("127.0.0.1", proxy.admin_port), timeout=seconds) as sock:
        sock.sendall(request)
        received = b""
        while part := sock.recv(65536):
            received += part
        return received


def test_the_admin_endpoint_answers_get_and_head_alone(nearkey, redis_server):
    proxy = nearkey(redis_server(tls=False))
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "CONNECT", "BREW"):
        target = "x:1" if method == "CONNECT" else "/metrics"
        reply = admin(proxy, f"{method} {target} HTTP/1.1\r\nConnection: close\r\n\r\n".encode())
        assert reply.startswith(b"HTTP/1.1 405 ") and b"Allow: GET, HEAD\r\n" in reply, method
    head = admin(proxy, b"HEAD /metrics HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ") and head.endswith(b"\r\n\r\n")
    for garbage in (b"*1\r\n$4\r\nPING\r\n", b"\x16\x03\x01\x00\x05hello", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"):
        assert admin(proxy, garbage).startswith(b"HTTP/1.1 400 "), garbage


def test_the_admin_endpoint_bounds_long_and_slow_heads(nearkey, redis_server):
    proxy = nearkey(redis_server(tls=False))
    for head in (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nA: " + b"x" * 20_000):
        assert admin(proxy, head).startswith(b"HTTP/1.1 431 ")
    with socket.create_connection(("127.0.0.1", proxy.admin_port), timeout=30) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\n")
        assert proxy.http("/live")[0] == 200, "others do not wait"
        # A byte now and then does not keep it open.
        def drip():
            try:
                while True:
                    slow.sendall(b"A")
                    time.sleep(0.3)
            except OSError:
                pass
        threading.Thread(target=drip, daemon=True).start()
        try:
            assert slow.recv(100) == b""
        except ConnectionError:
            pass


def test_a_web_page_cannot_read_the_admin_endpoint_under_a_name_of_its_own(nearkey, redis_server):
    """DNS rebinding: the page's name leads to 127.0.0.1, so the browser takes the answer for the page's own."""
    proxy = nearkey(redis_server(tls=False))
    for host, status in (("evil.example:9180", 421), ("localhost", 200), (f"127.0.0.1:{proxy.admin_port}", 200), ("[::1]", 200)):
        connection = http.client.HTTPConnection("127.0.0.1", proxy.admin_port, timeout=20)
        connection.request("GET", "/hotkeys", headers={"Host": host})
        reply = connection.getresponse()
        assert reply.status == status, host
        headers = {name.lower() for name, _ in reply.getheaders()}
        assert not any(name.startswith("access-control") for name in headers), "no page may read it across origins"
        told = reply.read().decode()
        assert status != 421 or ("localhost" in told and "admin.address" in told), told
        connection.close()
    # They name no key, and probes may know this machine by any name.
    for path in ("/live", "/ready", "/health"):
        connection = http.client.HTTPConnection("127.0.0.1", proxy.admin_port, timeout=20)
        connection.request("GET", path, headers={"Host": "this-machine.example"})
        assert connection.getresponse().status == 200, path
        connection.close()


# TLS.


def client_hello(record):
    """The versions that a ClientHello offers."""
    at = 5 + 4 + 2 + 32
    at += 1 + record[at]
    at += 2 + struct.unpack_from(">H", record, at)[0]
    at += 1 + record[at]
    end = at + 2 + struct.unpack_from(">H", record, at)[0]
    at += 2
    while at < end:
        kind, length = struct.unpack_from(">HH", record, at)
        if kind == 43:
            return [struct.unpack_from(">H", record, at + 5 + 2 * n)[0] for n in range(record[at + 4] // 2)]
        at += 4 + length
    return []


class OldServer:
    """Knows TLS 1.1 at most: answers with a ServerHello of that version, or with an alert."""

    def __init__(self, answer):
        self.answer = answer
        self.hellos = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            with sock:
                sock.settimeout(10)
                try:
                    record = sock.recv(16384)
                    self.hellos.append(record)
                    sock.sendall(self.answer)
                    self.hellos.append(sock.recv(16384))
                except OSError:
                    pass


# Version 1.1, a random, no session, TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA.
HELLO_BODY = b"\x03\x02" + bytes(range(32)) + b"\x00" + b"\xc0\x13" + b"\x00"
HELLO = b"\x02" + struct.pack(">I", len(HELLO_BODY))[1:] + HELLO_BODY
OLD_HELLO = b"\x16\x03\x02" + struct.pack(">H", len(HELLO)) + HELLO
OLD_ALERT = b"\x15\x03\x02\x00\x02\x02\x46"


@pytest.mark.parametrize("answer", [OLD_HELLO, OLD_ALERT], ids=["hello", "alert"])
def test_an_upstream_with_old_tls_alone_is_refused(nearkey, certs, answer):
    old = OldServer(answer)
    password = CANARIES["password in a URL"]
    proxy = nearkey(f"rediss://:{password}@localhost:{old.port}", args=["--upstream-ca", certs.ca], upstream__queue_timeout="2s")
    with proxy.connect() as raw, pytest.raises(ReplyError) as refused:
        raw.command("GET", "k")
    text = str(refused.value)
    assert "TLS" in text and "1.2" in text and "1.3" in text, text
    assert sorted(client_hello(old.hellos[0])) == [0x0303, 0x0304]
    assert not any(password.encode() in hello for hello in old.hellos), "nothing is said before TLS stands"
    status, health = proxy.health()
    assert status == 503, health
    old.listener.close()


def test_clients_with_old_tls_alone_are_refused(nearkey, redis_server, certs):
    proxy = nearkey(redis_server(), listen__tls_cert=certs.crt("server"), listen__tls_key=certs.key("server"))
    for version in (b"\x03\x01", b"\x03\x02"):
        # Its highest version, a random, no session, one cipher of that time.
        body = version + bytes(range(32)) + b"\x00" + b"\x00\x02\xc0\x13" + b"\x01\x00"
        hello = b"\x01" + struct.pack(">I", len(body))[1:] + body
        with Raw("127.0.0.1", proxy.port) as raw:
            raw.send(b"\x16\x03\x01" + struct.pack(">H", len(hello)) + hello)
            reply = raw.until_eof()
        assert reply[:1] == b"\x15" and len(reply) <= 14, "an alert and no more"
    context = ssl.create_default_context(cafile=certs.ca)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.maximum_version = version
        with Raw("127.0.0.1", proxy.port, tls=context) as raw:
            assert raw.command("PING") == b"PONG"
