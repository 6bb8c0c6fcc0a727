"""The server and the proxies of lab.json: starting, stopping, talking to them."""
import json
import os
import shutil
import signal
import socket
import ssl
import string
import subprocess
import time

from . import prepare, proc

HOST = "127.0.0.1"


class Lab:
    """Starts what lab.json describes on free ports, and stops nothing but that."""

    def __init__(self, directory, binaries, fds):
        with open(os.path.join(prepare.BENCHES, "lab.json")) as f:
            d = json.load(f)
        self.server = d["server"]
        self.targets = {t["name"]: t for t in d["targets"]}
        self.running = {}                                  # name -> Popen
        self.base = self._free_base()
        redis = self.base + self.server["port"]
        self.upstream_ports = [redis, self.base + self.server["tls_port"]]
        self.tls_dir = os.path.join(directory, "tls")
        self.run_dir = os.path.join(directory, "run")
        os.makedirs(self.run_dir, exist_ok=True)
        self.vars = {k: os.environ.get(k) or v for k, v in d["binaries"].items()}
        self.vars.update(binaries, RUN=self.run_dir, TLS=self.tls_dir, MAXCLIENTS=str(min(19900, fds - 100)),
                         REDIS_PORT=str(redis), REDIS_TLS_PORT=str(self.upstream_ports[1]),
                         STATS_PORT=str(self.base + 901))

    def _free_base(self):
        offsets = [self.server["port"], self.server["tls_port"], 901] + [t["port"] for t in self.targets.values()]
        for base in range(27000, 19000, -1000):
            if not any(proc.listening(base + o) for o in offsets):
                return base
        raise SystemExit("no free range of ports below 28000")

    def port(self, d):
        return self.base + d["port"]

    def binary(self, d):
        """The path of a target's program, or None; a direct target has none."""
        return shutil.which(string.Template(d["start"][0]).safe_substitute(self.vars)) if d.get("start") else None

    def usable(self, d):
        return not d.get("start") or self.binary(d) is not None

    def command(self, d):
        """The start command; '@conf/x' is rendered with the lab's variables into the run directory first."""
        values = dict(self.vars, PORT=str(self.port(d)))
        out = []
        for arg in d["start"]:
            if arg.startswith("@"):
                rendered = os.path.join(self.run_dir, os.path.basename(arg))
                with open(os.path.join(prepare.BENCHES, arg[1:])) as src, open(rendered, "w") as dst:
                    dst.write(string.Template(src.read()).safe_substitute(values))
                arg = rendered
            out.append(string.Template(arg).safe_substitute(values))
        return out

    def spawn(self, d, command=None):
        """Starts without waiting for the port."""
        with open(self.log(d), "ab") as log:
            p = subprocess.Popen(command or self.command(d), stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                 cwd=self.run_dir, start_new_session=True)
        self.running[d["name"]] = p
        return p

    def log(self, d):
        return os.path.join(self.run_dir, d["name"] + ".log")

    def start(self, d):
        """Starts and waits until it accepts."""
        p = self.spawn(d)
        end = time.monotonic() + 15
        while time.monotonic() < end and p.poll() is None:
            try:
                socket.create_connection((HOST, self.port(d)), 1).close()
                return
            except OSError:
                time.sleep(0.02)
        self.stop(d["name"])
        with open(self.log(d), errors="replace") as f:
            last = f.read().strip().splitlines()[-1:]
        raise RuntimeError(f"{d['name']} does not listen: {''.join(last) or 'no message'}")

    def restart(self, d):
        """A fresh process; a direct target is the server and stays as it is."""
        if d.get("start"):
            self.stop(d["name"])
            self.start(d)
            time.sleep(0.5)

    def stop(self, name, how=signal.SIGTERM):
        p = self.running.pop(name, None)
        if p is None:
            return
        p.send_signal(how)
        try:
            p.wait(5)
        except subprocess.TimeoutExpired:
            p.kill()
            p.wait()

    def stop_all(self):
        for name in list(self.running):
            self.stop(name)

    def pid(self, d):
        return self.running[d["name"] if d.get("start") else self.server["name"]].pid

    def server_pid(self):
        return self.running[self.server["name"]].pid

    def connect(self, d, timeout=20):
        s = socket.create_connection((HOST, self.port(d)), timeout)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._context().wrap_socket(s, server_hostname="localhost") if d.get("tls") else s

    def _context(self):
        if not hasattr(self, "_tls"):
            self._tls = ssl.create_default_context(cafile=os.path.join(self.tls_dir, "ca.crt"))
        return self._tls

    def fill(self, size=64, keys=10000):
        """The keys that redis-benchmark -r 10000 asks for."""
        s = socket.create_connection((HOST, self.port(self.server)), 5)
        replies, value = s.makefile("rb"), b"x" * size
        for i in range(0, keys, 500):
            s.sendall(b"".join(resp(b"SET", b"key:%012d" % k, value) for k in range(i, min(i + 500, keys))))
            for _ in range(i, min(i + 500, keys)):
                replies.readline()
        s.close()


def resp(*args):
    return b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%s\r\n" % (len(a), a) for a in args)
