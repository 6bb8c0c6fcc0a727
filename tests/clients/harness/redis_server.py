"""A real redis-server with a plain and, if it was built for that, a TLS port."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

from .ports import eventually, free_port, freeze
from .resp import Raw, ReplyError

CONTROL_NAME = "test-control"


class RedisServer:
    """Starts at once; `stop`, `start`, `freeze` and `thaw` make it fail and return on the same ports."""

    def __init__(self, directory, *, certs=None, certificate="server", password=None, args=(), start=True):
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.password = password
        self.port = free_port()
        self.certs = certs
        self.tls_port = free_port() if certs else None
        self.process = None
        self._control = None
        self.args = [
            shutil.which("redis-server") or "redis-server",
            *("--port", str(self.port), "--bind", "127.0.0.1"),
            *("--save", "", "--appendonly", "no", "--dir", str(self.directory)),
            *("--logfile", str(self.directory / "redis.log"), "--enable-debug-command", "yes"),
        ]
        if certs:
            self.args += [
                *("--tls-port", str(self.tls_port), "--tls-auth-clients", "optional"),
                *("--tls-cert-file", certs.crt(certificate), "--tls-key-file", certs.key(certificate)),
                *("--tls-ca-cert-file", certs.ca),
            ]
        if password:
            self.args += ["--requirepass", password]
        self.args += [str(a) for a in args]
        if start:
            self.start()

    def start(self):
        assert self.process is None
        self._control = None
        self.process = subprocess.Popen(self.args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        eventually(self._is_up, 15, what=f"redis-server on port {self.port} answers")

    def _is_up(self):
        if self.process.poll() is not None:
            log = self.directory / "redis.log"
            raise AssertionError(f"redis-server ended: {log.read_text() if log.exists() else self.args}")
        return self.control("PING") == b"PONG"

    def stop(self, how=signal.SIGKILL):
        if self.process is None:
            return
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(how)
        self.process.wait(30)
        self.process = None
        if self._control:
            self._control.close()
            self._control = None

    def freeze(self):
        freeze(self.process)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    def connect(self, **options):
        """A direct connection of the test's own."""
        raw = Raw("127.0.0.1", self.port, **options)
        if self.password:
            raw.command("AUTH", self.password)
        raw.command("CLIENT", "SETNAME", CONTROL_NAME)
        return raw

    def control(self, *args):
        """One command past the proxy."""
        for attempt in (1, 2):
            if self._control is None:
                self._control = self.connect()
            try:
                return self._control.command(*args)
            except ReplyError:
                raise
            except Exception as e:
                self._control.close()
                self._control = None
                # A server with `timeout` closes the idle control connection, too.
                if attempt == 2 or not isinstance(e, (EOFError, ConnectionError)):
                    raise

    def clients(self):
        """Who is connected, as the server's CLIENT LIST tells it, without the tests' own control connections."""
        listed = self.control("CLIENT", "LIST").decode().splitlines()
        rows = [dict(field.split("=", 1) for field in line.split(" ") if "=" in field) for line in listed]
        return [row for row in rows if row.get("name") != CONTROL_NAME]

    def info(self, section="everything"):
        text = self.control("INFO", section).decode()
        pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
        return {k: v.strip() for k, v in pairs}

    def calls(self):
        """Calls by command name, the control connection's own INFO and CLIENT left out."""
        stats = self.info("commandstats")
        calls = {k.removeprefix("cmdstat_"): int(v.split("calls=")[1].split(",")[0]) for k, v in stats.items()}
        return {k: n for k, n in calls.items() if k not in ("info", "client|list", "client|setname")}

    def wait_for_blocked(self, n):
        """Until so many clients wait in blocking commands."""
        eventually(lambda: self.info("clients")["blocked_clients"] == str(n), what=f"{n} clients wait")

    def url(self, *, tls=False, password=None):
        password = self.password if password is None else password
        auth = f":{password}@" if password else ""
        if tls:
            return f"rediss://{auth}localhost:{self.tls_port}"
        return f"redis://{auth}127.0.0.1:{self.port}"


def build_has_tls():
    """Distributions build redis-server with TLS; one built by hand may lack it."""
    binary = shutil.which("redis-server")
    if not binary:
        return False
    if os.uname().sysname == "Linux":
        return "libssl" in subprocess.run(["ldd", binary], capture_output=True, text=True).stdout
    return True
