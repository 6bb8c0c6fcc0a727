"""Malformed and hostile input of every kind: what Nearkey says of it, and that nobody else notices."""

import shutil
import socket

import pytest

from harness import bad_input
from harness.bad_input import ENVIRONMENT, FILE, GROUPS, PROTOCOL, SERVER, SILENCE, START, UPSTREAM, URLS, WAITS
from harness.nearkey import ROOT, run
from harness.ports import free_port
from harness.resp import Raw, bulk

OFF = ["--listen", "127.0.0.1:0", "--admin", "off"]


def each(rows):
    return pytest.mark.parametrize("row", rows, ids=lambda row: row.given)


def test_the_page_is_the_table():
    assert sum(len(rows) for _, _, rows in GROUPS) >= 60
    assert (ROOT / "docs" / "bad-input.md").read_text() == bad_input.page(), "see the head of harness/bad_input.py"


def answer(raw, payload):
    """All that comes until the peer closes, or has no more to say."""
    raw.send(payload)
    try:
        return raw.until_silent(0.2)[0]
    except ConnectionResetError:
        return b""


def told(text):
    return b"" if text in (SILENCE, WAITS) else text.encode("latin-1") + b"\r\n"


def test_malformed_requests(endpoint, reference):
    with endpoint.connect() as bystander:
        assert bystander.command("SET", "bystander", "here") == b"OK"
        for row in PROTOCOL:
            if not endpoint.direct:
                with endpoint.connect() as raw:
                    assert answer(raw, row.of["payload"]) == told(row.says), row.given
            with Raw("127.0.0.1", reference.port) as raw:
                assert answer(raw, row.of["payload"]).startswith(told(row.peer)), row.given
            assert bystander.raw("GET", "bystander") == bulk("here")
        bystander.nothing_left()


def refused(ended, row, says=None):
    assert ended.returncode not in (0, 101) and "panicked" not in ended.stderr
    output = ended.stdout + ended.stderr
    pattern = row.pattern() if says is None else bad_input.Row("", "", says).pattern()
    assert pattern.search(output), f"{row.says}\n{output}"


@each(FILE)
def test_files(tmp_path, row):
    (tmp_path / "proxy.toml").write_bytes(row.of["text"])
    refused(run("--config", tmp_path / "proxy.toml", *OFF, env=SERVER), row)


@each(ENVIRONMENT)
def test_environments(row):
    refused(run("--admin", "off", env=row.of["env"]), row)


@each(URLS)
def test_urls(row):
    refused(run("--upstream", row.of["url"], *OFF), row)


@each(START)
def test_starts(tmp_path, certs, row):
    for name in ("server.crt", "server.key", "client.key"):
        shutil.copy(certs.directory / name, tmp_path)
    (tmp_path / "file").write_text("precious")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        def filled(text):
            return text.replace("{dir}", str(tmp_path)).replace("{port}", str(taken.getsockname()[1]))

        args = [filled(arg) for arg in row.of["args"]]
        for n, default in ((0, OFF[:2]), (2, OFF[2:])):
            if default[0] not in args:
                args += default
        env = {f"NEARKEY_{name.upper()}": filled(value) for name, value in row.of["settings"].items()}
        refused(run(*args, env={**SERVER, **env}), row, filled(row.says))
    # What it was pointed at by mistake is still there.
    assert (tmp_path / "file").read_text() == "precious"


@each(UPSTREAM)
def test_servers(redis_server, nearkey, certs, row):
    options = dict(row.of["server"])
    settings = {"upstream__queue_timeout": "3s"}
    if options.pop("nobody", False):
        proxy = nearkey(f"redis://127.0.0.1:{free_port()}", **settings)
    elif options.pop("plain", False):
        server = redis_server(tls=False)
        proxy = nearkey(f"rediss://localhost:{server.port}", args=["--upstream-ca", certs.ca], **settings)
    elif "password" in options:
        server = redis_server(tls=False, **options)
        proxy = nearkey(server.url(password="wrong"), **settings)
    else:
        proxy = nearkey(redis_server(**options), **settings)
    with proxy.connect() as raw:
        said = raw.raw("GET", "k").decode()
        assert row.pattern().match(said), said
        assert raw.raw("PING") == b"+PONG\r\n"
