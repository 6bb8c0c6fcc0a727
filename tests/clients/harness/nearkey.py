"""The proxy as a process: started with settings, driven from outside, judged by its log and its metrics."""

import json
import os
import re
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from .ports import accepts, eventually, free_port
from .resp import Raw

ROOT = Path(__file__).resolve().parents[3]

# Settings of the machine that the tests run on must not reach a proxy under test.
FOREIGN = re.compile(r"^(NEARKEY_|REDIS_|UPSTASH_)")


def binary():
    return os.environ.get("NEARKEY_BIN") or str(ROOT / "target" / "release" / "nearkey")


def clean_environment(**extra):
    env = {k: v for k, v in os.environ.items() if not FOREIGN.match(k)}
    env.update(extra)
    return env


def run(*args, env=None, timeout=20, **options):
    """Runs the program to its end."""
    return subprocess.run(
        [binary(), *map(str, args)], env=clean_environment(**(env or {})), timeout=timeout,
        capture_output=True, text=True, stdin=subprocess.DEVNULL, **options,
    )


# One worker by default; with more than two, some have no connection of their own and hand commands over.
WORKERS = int(os.environ.get("NEARKEY_TEST_WORKERS", "1"))


class Nearkey:
    """A running proxy. `settings` are `SECTION__KEY=value`, as in the environment but without `NEARKEY_`.

    `admin` is True for a free port, False for none, or the port.
    """

    def __init__(self, upstream, directory, *, args=(), listen=None, workers=None, admin=True, log_format="json", wait=True,
                 env=None, program=None, **settings):
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.host, self.port = listen or ("127.0.0.1", free_port())
        self.admin_port = free_port() if admin is True else None if admin is False else admin
        self.log_path = self.directory / "nearkey.log"
        address = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        command = [
            program or binary(), "--listen", address, "--workers", str(workers or WORKERS), "--log-format", log_format,
            "--admin", "off" if self.admin_port is None else f"127.0.0.1:{self.admin_port}",
        ]
        if upstream:
            command += ["--upstream", upstream]
        command += [str(a) for a in args]
        extra = {f"NEARKEY_{k.upper()}": str(v) for k, v in settings.items()}
        extra.update(env or {})
        self.started = time.monotonic()
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                command, env=clean_environment(**extra), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )
        if wait:
            eventually(self._is_up, 15, pause=0.005, what=f"nearkey accepts on {address}")

    def _is_up(self):
        if self.process.poll() is not None:
            raise AssertionError(f"nearkey ended with {self.process.returncode}:\n{self.log()}")
        return accepts(self.host, self.port) and (not self.admin_port or accepts("127.0.0.1", self.admin_port))

    @property
    def pid(self):
        return self.process.pid

    def connect(self, **options):
        return Raw(self.host, self.port, **options)

    def stop(self, how=signal.SIGTERM, seconds=20):
        """Ends it and returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"nearkey did not end within {seconds} s of {how!r}") from None

    def log(self):
        return self.log_path.read_text(errors="replace")

    def log_lines(self):
        """The log's JSON objects; a line that is none is an error of its own."""
        return [json.loads(line) for line in self.log().splitlines() if line.strip()]

    def http(self, path, method="GET"):
        """Status and body from the admin endpoint."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.admin_port}{path}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as e:
            return e.code, e.read().decode()

    def health(self):
        status, body = self.http("/health")
        return status, json.loads(body)

    def metrics(self):
        """Samples of /metrics: `name{labels}` to value."""
        status, body = self.http("/metrics")
        assert status == 200
        samples = {}
        for line in body.splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                samples[name] = float(value)
        return samples

    def metric(self, *words):
        """Sum of all samples whose name has all these words."""
        found = [v for k, v in self.metrics().items() if all(w in k for w in words)]
        assert found, f"no metric with {words}: {sorted(self.metrics())}"
        return sum(found)

    # Memory as the kernel counts it, in KiB.

    def memory(self, field="VmRSS"):
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(rf"^{field}:\s+(\d+) kB", text, re.M).group(1))

    def reset_peak(self):
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def verdict(self):
        """What no run may leave behind, whatever the test was about."""
        log = self.log()
        # The program's own words for a panic, in both formats of the log.
        assert not re.search(r'"panic":\s*true|\bpanic=true|panicked', log), log[-4000:]


class MemoryWatch:
    """Highest resident size of a process while the block runs, above what it was at its start."""

    def __init__(self, nearkey, pause=0.02):
        self.nearkey = nearkey
        self.pause = pause
        self.samples = []

    def __enter__(self):
        self.start = self.nearkey.memory()
        try:
            self.nearkey.reset_peak()
            self.exact = True
        except OSError:
            self.exact = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def _sample(self):
        while not self._stop.wait(self.pause):
            self.samples.append(self.nearkey.memory())

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        self.peak = max([*self.samples, self.nearkey.memory("VmHWM") if self.exact else 0])

    @property
    def growth_mib(self):
        return (self.peak - self.start) / 1024
