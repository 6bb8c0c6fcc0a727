"""The measurements. Each yields records (dicts) that report.py reads; every one of them names its round."""
import csv
import gc
import io
import os
import socket
import statistics
import subprocess
import time

from . import proc
from .lab import HOST, resp
from .prepare import say

GET = resp(b"GET", b"key:000000000001")


def rotated(items, n):
    """The order of round n: A B C, B C A, ..."""
    k = n % len(items) if items else 0
    return items[k:] + items[:k]


# ------------------------------------------------------------ closed loop
def redis_benchmark(lab, d, cell, n):
    command = [lab.vars["REDIS_BENCHMARK"], "-h", HOST, "-p", str(lab.port(d)), "-c", str(cell["clients"]),
               "-n", str(n), "-P", str(cell["pipeline"]), "-d", "64", "-r", "10000", "-t", "get", "--csv"]
    if d.get("tls"):
        command += ["--tls", "--cacert", os.path.join(lab.tls_dir, "ca.crt"), "--sni", "localhost"]
    r = subprocess.run(command, capture_output=True, text=True, timeout=180)
    rows = [x for x in csv.reader(io.StringIO(r.stdout)) if len(x) == 8 and x[0] == "GET"]
    if r.returncode or not rows:
        raise RuntimeError(f"redis-benchmark {r.returncode}: {(r.stderr + r.stdout).strip()[-200:]}")
    v = [float(x) for x in rows[-1][1:]]
    return {"rps": v[0], "p50_ms": v[3], "p99_ms": v[5]}


def throughput(lab, targets, name, cell, opts):
    """Requests/s and CPU seconds per million requests, connection set-up subtracted.

    A short run of one batch per connection (connects and TLS handshakes, mostly) is measured before each long one and
    taken off it; the long one lasts `secs`. A pair during which others used more than `max_foreign` cores is repeated.
    """
    lab.fill()
    speed = {}
    for rnd in range(opts.rounds):
        for d in rotated(targets, rnd):
            rec = {"kind": "run", "cell": name, "target": d["name"], "round": rnd, **cell}
            try:
                rec.update(_run(lab, d, cell, speed, opts))
                say(f"{name} round {rnd + 1}/{opts.rounds} {d['name']:12} {rec['cpu_s_per_m']:6.2f} CPU-s/M "
                    f"{rec['rps']:9,.0f} req/s  foreign {rec['foreign']:.2f}")
            except (RuntimeError, OSError, subprocess.TimeoutExpired) as e:   # recorded: a peer may fail a cell
                rec["error"] = f"{type(e).__name__}: {e}"[:300]
                say(f"{name} {d['name']}: {rec['error']}")
            yield rec


def _run(lab, d, cell, speed, opts):
    clients, few = cell["clients"], cell["clients"] * cell["pipeline"]
    if d["name"] not in speed:       # warm-up, which also sizes the first run
        speed[d["name"]] = redis_benchmark(lab, d, cell, max(3000, few * 10))["rps"]
    secs = opts.secs * cell.get("longer", 1)
    many = max(int(speed[d["name"]] * secs), few * 8, clients * opts.per_client)
    for _ in range(opts.retries + 1):
        with proc.Meter(lab.pid(d), lab.server_pid()) as short:
            redis_benchmark(lab, d, cell, few)
        with proc.Meter(lab.pid(d), lab.server_pid()) as long:
            r = redis_benchmark(lab, d, cell, many)
        with proc.Meter(lab.pid(d), lab.server_pid()) as storm:
            if "storm" in cell:      # connecting included, as redis-benchmark itself counts
                r["storm_rps"] = redis_benchmark(lab, d, cell, cell["storm"] * clients)["rps"]
        foreign = max(m.foreign for m in (short, long, storm) if m.wall > 0.05)
        if foreign <= opts.max_foreign:
            break
    n = many - few

    def steady(what):
        return (getattr(long, what) - getattr(short, what)) / n

    def setup(what):
        return (getattr(short, what) - few * steady(what)) / clients * 1e6

    if long.wall > short.wall:
        r["rps"] = n / (long.wall - short.wall)
    speed[d["name"]] = r["rps"]
    upstream = proc.sockets_to(lab.pid(d), lab.upstream_ports) if d.get("start") else clients
    return dict(r, n=many, cpu_s_per_m=steady("cpu") * 1e6, server_s_per_m=steady("server") * 1e6,
                gen_s_per_m=steady("gen") * 1e6, setup_us=setup("cpu"), server_setup_us=setup("server"),
                upstream=upstream, foreign=foreign, steal=long.steal)


# ------------------------------------------------------------ latency of one client
def latency(lab, targets, opts, block=100, blocks=20):
    """One client, one request at a time: microseconds from send to reply.

    The targets take turns every `block` requests, so that a change of the machine's speed meets all of them. The cost
    of this loop itself is in every figure; it falls out of what is added to the direct figure.
    """
    lab.fill()
    for rnd in range(opts.rounds):
        clients = [Client(lab, d) for d in targets]
        gc.disable()
        with proc.Meter(lab.server_pid(), lab.server_pid()) as m:
            before = [c.cpu() for c in clients]
            for b in range(blocks * opts.latency_factor):
                for c in rotated(clients, b):
                    c.ask(block)
            proxies = sum(c.cpu() - x for c, x in zip(clients, before))
        gc.enable()
        foreign = max(0.0, m.foreign - proxies / m.wall)
        for c in clients:
            yield {"kind": "latency", "target": c.name, "round": rnd, "foreign": foreign, **c.result()}
        say(f"latency round {rnd + 1}/{opts.rounds}  foreign {foreign:.2f}")


class Client:
    """One connection that asks again and again. After a failure it only remembers the error."""

    def __init__(self, lab, d):
        self.name, self.times, self.error, self.sock = d["name"], [], None, None
        self.pid = lab.pid(d) if d.get("start") else None
        try:
            self.sock = lab.connect(d)
        except OSError as e:
            self.error = str(e)
        self.ask(200)            # warm-up
        self.times.clear()

    def cpu(self):
        """CPU of the proxy so far; the server's is counted elsewhere."""
        try:
            return proc.cpu_of(self.pid) if self.pid else 0.0
        except OSError:
            return 0.0

    def ask(self, n):
        if self.error is None:
            try:
                self.times += _ask(self.sock, n)
            except (RuntimeError, OSError) as e:
                self.error = f"{type(e).__name__}: {e}"

    def result(self):
        if self.sock:
            self.sock.close()
        if self.error is not None:
            say(f"latency {self.name}: {self.error}")
            return {"error": self.error}
        t = sorted(self.times)
        return {"n": len(t), "p50_us": t[len(t) // 2] / 1e3, "mean_us": statistics.fmean(t) / 1e3,
                "p99_us": t[len(t) * 99 // 100] / 1e3}


def _ask(s, n):
    out, clock, length = [], time.perf_counter_ns, len(b"$64\r\n") + 64 + 2
    for _ in range(n):
        t = clock()
        s.sendall(GET)
        got = s.recv(4096)
        while len(got) < length:
            more = s.recv(4096)
            if not more or got[:1] == b"-":
                raise RuntimeError(f"a GET was answered with {got[:60]}")
            got += more
        out.append(clock() - t)
    return out


# ------------------------------------------------------------ memory of idle clients
def idle(lab, targets, opts):
    """Resident memory before and with `idle_clients` connections, each of which has sent one GET."""
    for d in targets:
        n = min(opts.idle_clients, d.get("max_idle", opts.idle_clients))
        rec = {"kind": "idle", "target": d["name"], "round": 0, "clients": n}
        socks = []
        try:
            if not d.get("start"):       # a server that has no freed memory of earlier clients
                lab.restart(lab.server)
            lab.fill()
            lab.restart(d)
            pid = lab.pid(d)
            rec["rss_start_kb"] = proc.rss_kb(pid)
            for _ in range(n):
                socks.append(lab.connect(d))
                if len(socks) % 200 == 0:
                    time.sleep(0.02)         # accepting keeps up
            rec["rss_connected_kb"] = proc.rss_kb(pid)
            rec["failed"] = _one_get_each(socks)
            time.sleep(1.0)
            rec["rss_kb"] = proc.rss_kb(pid)
            rec["upstream"] = proc.sockets_to(pid, lab.upstream_ports) if d.get("start") else n
            rec["bytes_per_client"] = (rec["rss_kb"] - rec["rss_start_kb"]) * 1024 / n
            if rec["failed"]:
                rec["error"] = f"{rec['failed']} of {n} clients got no value"
            say(f"idle {d['name']:12} {rec['bytes_per_client']:8,.0f} B per client, {n} clients")
        except (RuntimeError, OSError) as e:
            rec["error"] = f"{type(e).__name__}: {e}"[:300]
            say(f"idle {d['name']}: {rec['error']}")
        for s in socks:
            s.close()
        if d.get("start"):
            lab.stop(d["name"])
        yield rec


def _one_get_each(socks, batch=50):
    failed = 0
    for i in range(0, len(socks), batch):
        for s in socks[i:i + batch]:
            s.sendall(GET)
        for s in socks[i:i + batch]:
            try:
                failed += not s.recv(4096).startswith(b"$64")
            except OSError:
                failed += 1
    return failed


# ------------------------------------------------------------ start and size
def startup(lab, targets, opts):
    """Milliseconds from before fork and exec until a connection is accepted, and until a GET has its value."""
    lab.fill()
    for rnd in range(opts.starts):
        for d in rotated([t for t in targets if t.get("start")], rnd):
            rec = {"kind": "startup", "target": d["name"], "round": rnd}
            try:
                rec["accept_ms"], rec["first_reply_ms"] = _start_once(lab, d)
            except (RuntimeError, OSError) as e:
                rec["error"] = f"{type(e).__name__}: {e}"[:300]
            lab.stop(d["name"])
            yield rec
    say(f"startup: {opts.starts} rounds")


def _start_once(lab, d):
    address, command = (HOST, lab.port(d)), lab.command(d)
    t0 = time.perf_counter()
    p = lab.spawn(d, command)
    s = None
    while s is None:
        try:
            s = socket.create_connection(address, 1)
        except OSError:
            if p.poll() is not None or time.perf_counter() - t0 > 20:
                raise RuntimeError("does not listen") from None
            time.sleep(0.0002)
    t1 = time.perf_counter()
    while True:                  # it may accept before its upstream is there: ask until a value comes
        try:
            s.settimeout(5)
            s.sendall(GET)
            if s.recv(4096).startswith(b"$"):
                break
        except OSError:
            pass
        s.close()
        if time.perf_counter() - t1 > 10:
            raise RuntimeError("accepts but does not answer")
        time.sleep(0.001)
        s = socket.create_connection(address, 1)
    t2 = time.perf_counter()
    s.close()
    return (t1 - t0) * 1e3, (t2 - t0) * 1e3


def sizes(lab, targets, _opts):
    for d in targets:
        if d.get("start"):
            yield {"kind": "size", "target": d["name"], "round": 0, "bytes": os.stat(lab.binary(d)).st_size}
