"""The configuration read anew while clients work: SIGHUP and NEARKEY RELOAD."""

import signal
import threading
import time
from pathlib import Path

import pytest

from harness.nearkey import Nearkey
from harness.ports import eventually
from harness.resp import Raw, ReplyError

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
                    raw.send("SET", f"load:{n}", f"{n}:{at}")
                    raw.send("INCR", f"count:{n}")
                    raw.send("GET", f"load:{n}")
                    replies = [raw.read() for _ in range(3)]
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
            url = "" if "[upstream]" in broken else f"\n[upstream]\nurl = '{server.url()}'\n"
            file.path.write_text(broken + ("" if broken in ("[upstream\n", "= 3") else url) if broken != "[upstream]\n" else broken)
            problem = refused(nearkey)
            assert problem.startswith("ERR configuration not reloaded: "), (broken, problem)
            load.goes_on(6)
        assert nearkey.metric("nearkey_config_reload_failed") == 1
        assert nearkey.metric("nearkey_config_reloads_total", "refused") == len(BROKEN)
        assert "config_problem" in nearkey.health()[1]
        # By signal, the log alone tells.
        file.path.write_text("\n\n[listen]\nmax_client = 5\n")
        nearkey.process.send_signal(signal.SIGHUP)
        told = eventually(lambda: [l for l in nearkey.log_lines() if "max_client;" in l["message"] or "listen.max_client" in l["message"]])
        assert "proxy.toml:4" in told[-1]["message"] and "did you mean listen.max_clients" in told[-1]["message"]
        assert told[-1]["level"] == "ERROR"
        file.path.unlink()
        assert "not there any more" in refused(nearkey)  or "cannot be read" in refused(nearkey)
        assert links(server) == before
        file.write()
        assert reload(nearkey) == b"OK no setting changed"
        assert nearkey.metric("nearkey_config_reload_failed") == 0
        assert "config_problem" not in nearkey.health()[1]
        assert links(server) == before
