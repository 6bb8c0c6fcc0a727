#!/usr/bin/env python3
"""What L1 saves and what it costs: workloads of reads and writes, with and without Nearkey.

    benches/l1_workloads.py                       # 100,000 operations on loopback, 20,000 with a round trip of 50 ms
    benches/l1_workloads.py --slow-ops 100000     # about 10 minutes
    benches/l1_workloads.py --ops 20000 --only "99/1" --networks loopback

Prints a Markdown table. 1,000 keys of 1 KB; 95% of the operations are reads, a tenth of the writes go to the server
directly, past Nearkey. Every value read is compared with what was written: wrong is a value of another key, one older than
what was acknowledged through Nearkey, and one older than what was acknowledged elsewhere longer ago than the lease;
"late" are those that are older than a write elsewhere, within the lease. Commands at the server are its own count
(INFO commandstats). NEARKEY_BIN names the program (default: target/release/nearkey). Needs redis-server and Python 3.10.
"""

import argparse
import itertools
import random
import re
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path

CLIENTS = Path(__file__).resolve().parents[1] / "tests" / "clients"
sys.path.insert(0, str(CLIENTS))

from harness.coherence import l1_settings  # noqa: E402
from harness.nearkey import Nearkey  # noqa: E402
from harness.redis_server import RedisServer  # noqa: E402
from harness.resp import encode  # noqa: E402
from harness.slow_link import SlowLink  # noqa: E402

KEYS, READS, ELSEWHERE, SIZE, LEASE = 1000, 0.95, 0.1, 1024, 1.0
VALUE = re.compile(rb"\$\d+\r\n(\d+)\.(\d+)\.x*\r\n")

# Each gives the key of operation `n` of `ops`.
WORKLOADS = {
    "uniform": lambda rnd, n, ops: rnd.randrange(KEYS),
    "80/20": lambda rnd, n, ops: rnd.randrange(KEYS // 5) if rnd.random() < 0.8 else rnd.randrange(KEYS // 5, KEYS),
    "99/1": lambda rnd, n, ops: rnd.randrange(KEYS // 100) if rnd.random() < 0.99 else rnd.randrange(KEYS // 100, KEYS),
    # Half of all operations go to one key, another one after each fiftieth of the run.
    "moving hot key": lambda rnd, n, ops: n * 50 // ops * 17 % KEYS if rnd.random() < 0.5 else rnd.randrange(KEYS),
}


def value(key, version):
    text = f"{key}.{version}."
    return text + "x" * (SIZE - len(text))


class Truth:
    """What was written to each key and acknowledged."""

    def __init__(self):
        self.sent, self.own = [0] * KEYS, [0] * KEYS
        # Writes elsewhere: version and when it was acknowledged.
        self.elsewhere = [deque(maxlen=50) for _ in range(KEYS)]
        self.writing = set()
        self.wrong, self.late, self.examples = 0, 0, []

    def floor(self, key, now):
        """The oldest version that may be read, and the one that is newest."""
        newest = due = self.own[key]
        for version, at in self.elsewhere[key]:
            newest = max(newest, version)
            if at < now - LEASE - 0.2:
                due = max(due, version)
        return due, newest

    def check(self, key, floor, reply):
        found = VALUE.fullmatch(reply)
        known = found and int(found[1]) == key and int(found[2]) <= self.sent[key]
        if not known or int(found[2]) < floor[0]:
            self.wrong += 1
            self.examples = self.examples[:4] + [(key, floor, bytes(reply[:40]))]
        elif int(found[2]) < floor[1]:
            self.late += 1


class Client:
    """A connection with one request under way."""

    def __init__(self, port, elsewhere=False):
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.elsewhere = elsewhere

    def ask(self, request, key, version, floor):
        self.key, self.version, self.floor, self.reply = key, version, floor, b""
        self.since = time.perf_counter()
        self.sock.sendall(request)

    def handle_readable(self):
        self.reply += self.sock.recv(1 << 16)
        if self.version:
            return self.reply.endswith(b"\r\n")
        return len(self.reply) > SIZE and self.reply.endswith(b"\r\n") or self.reply[:1] == b"-" or self.reply[:3] == b"$-1"


def drive(workload, port, server_port, ops, clients, seed):
    """Runs a workload; the latencies of what went through `port`, the truth, and how long it took."""
    rnd, truth, latencies = random.Random(seed), Truth(), []
    free, others = [Client(port) for _ in range(clients)], [Client(server_port, True) for _ in range(4)]
    selector = selectors.DefaultSelector()
    for client in free + others:
        selector.register(client.sock, selectors.EVENT_READ, client)
    pick, gets = WORKLOADS[workload], [encode("GET", f"key:{i}") for i in range(KEYS)]
    plan = ((pick(rnd, n, ops), rnd.random() >= READS, rnd.random() < ELSEWHERE) for n in range(ops))
    waiting, done, started = next(plan, None), 0, time.monotonic()
    while done < ops:
        while waiting:
            key, writes, elsewhere = waiting
            pool = others if writes and elsewhere else free
            # One write of a key at a time, so that its versions have an order.
            if not pool or (writes and key in truth.writing):
                break
            if writes:
                truth.sent[key] += 1
                truth.writing.add(key)
                version = truth.sent[key]
                pool.pop().ask(encode("SET", f"key:{key}", value(key, version)), key, version, None)
            else:
                pool.pop().ask(gets[key], key, 0, truth.floor(key, time.monotonic()))
            waiting = next(plan, None)
        for event, _ in selector.select(5):
            client = event.data
            if not client.handle_readable():
                continue
            done += 1
            if not client.elsewhere:
                latencies.append(time.perf_counter() - client.since)
            if not client.version:
                truth.check(client.key, client.floor, client.reply)
            else:
                assert client.reply == b"+OK\r\n", client.reply
                truth.writing.discard(client.key)
                if client.elsewhere:
                    truth.elsewhere[client.key].append((client.version, time.monotonic()))
                else:
                    truth.own[client.key] = client.version
            (others if client.elsewhere else free).append(client)
    took = time.monotonic() - started
    for key in list(selector.get_map().values()):
        key.data.sock.close()
    return sorted(latencies), truth, took


def measure(target, workload, network, options, directory):
    """One row of the table."""
    server = RedisServer(directory / "redis")
    link = proxy = None
    try:
        for at in range(0, KEYS, 100):
            server.control("MSET", *itertools.chain(*((f"key:{i}", value(i, 0)) for i in range(at, at + 100))))
        port = server.port
        if network != "loopback":
            link = Link(port, 0.05)
            port = link.port
        if target != "direct":
            settings = l1_settings(lease=f"{LEASE:g}s") if target == "Nearkey, L1" else {}
            proxy = Nearkey(f"redis://127.0.0.1:{port}", directory / "nearkey", **settings)
            port = proxy.port
        ops = options.ops if network == "loopback" else options.slow_ops
        before = server.calls()
        latencies, truth, took = drive(workload, port, server.port, ops, options.clients, options.seed)
        calls = {name: n - before.get(name, 0) for name, n in server.calls().items()}
        hits = proxy.metrics().get("nearkey_l1_hits_total") if proxy else None
        return {"gets": calls.get("get", 0), "commands": sum(calls.values()), "hits": hits, "truth": truth, "reads": ops * READS,
                "p50": latencies[len(latencies) // 2] * 1000, "p99": latencies[int(len(latencies) * 0.99)] * 1000, "rate": ops / took}
    finally:
        if proxy:
            proxy.stop()
        if link:
            link.close()
        server.stop()


class Link:
    """A slow link in a process of its own, so that it takes no time from the clients."""

    def __init__(self, port, delay):
        self.process = subprocess.Popen([sys.executable, __file__, "--link", str(port), str(delay)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait(10)


def serve_link(port, delay):
    link = SlowLink(int(port))
    for lane in (link.tracked, link.other):
        lane.reply_delay = float(delay)
    print(link.port, flush=True)
    sys.stdin.read()
    link.close()


def row(network, workload, target, got, direct):
    truth, share = got["truth"], lambda n, of: f"{n:,} ({n / of:.0%})" if of else f"{n:,}"
    hits = "" if got["hits"] is None else f"{got['hits'] / got['reads']:.0%}"
    return (f"| {network} | {workload} | {target} | {share(got['gets'], direct['gets'])} | {share(got['commands'], direct['commands'])} "
            f"| {hits} | {truth.wrong} | {truth.late} | {got['p50']:.2f} | {got['p99']:.2f} | {got['rate']:,.0f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ops", type=int, default=100_000)
    parser.add_argument("--slow-ops", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="append", choices=WORKLOADS, help="a workload; may be given more than once")
    parser.add_argument("--networks", default="loopback,50 ms")
    parser.add_argument("--link", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.link:
        return serve_link(*options.link)
    targets = ["direct", "Nearkey"] + (["Nearkey, L1"] if l1_settings() else [])
    print("| network | workload | target | GETs at the server | commands at the server | hits of reads | wrong | late | p50 ms | p99 ms "
          "| operations/s |\n|---|---|---|---|---|---|---|---|---|---|---|")
    wrong = 0
    for network in options.networks.split(","):
        for workload in options.only or WORKLOADS:
            direct = None
            for target in targets:
                with tempfile.TemporaryDirectory() as directory:
                    got = measure(target, workload, network, options, Path(directory))
                direct = direct or got
                wrong += got["truth"].wrong
                print(row(network, workload, target, got, direct), flush=True)
                for example in got["truth"].examples:
                    print(f"wrong: key {example[0]}, due and newest {example[1]}, got {example[2]}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
