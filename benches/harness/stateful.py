"""Transactions and fan-out: what needs the load generator of floor/src/load.rs. Yields records like measure.py."""
import json
import os
import select
import socket
import subprocess

from . import proc
from .lab import HOST, resp
from .measure import rotated
from .prepare import say

CLIENTS, SUBSCRIBERS = 50, 1000
WARM_UP = 0.2


class Refused(RuntimeError):
    """The target answered something else than what must come from the start: it does not carry this."""


class Load:
    """The load generator, connected to one target. Its connections stay open until it is stopped."""

    def __init__(self, lab, d, kind, connections):
        command = [os.path.join(lab.vars["FLOOR"], "load"), kind, f"{HOST}:{lab.port(d)}", str(connections)]
        if kind == "fanout":
            command.append(f"{HOST}:{lab.port(lab.server)}")
        if d.get("tls"):
            command.append(os.path.join(lab.tls_dir, "ca.crt"))
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.pid = self.process.pid

    def __enter__(self):
        try:
            self._line(60)
            self.run(WARM_UP)
            return self
        except RuntimeError as e:
            self.__exit__()
            raise Refused(e) from None
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def run(self, secs):
        self.process.stdin.write(b"%f\n" % secs)
        self.process.stdin.flush()
        return json.loads(self._line(secs + 20))

    def _line(self, timeout):
        if not select.select([self.process.stdout], [], [], timeout)[0]:
            raise RuntimeError(f"no answer within {timeout:.0f} s")
        line = self.process.stdout.readline().decode()
        if line.startswith('{"error"'):
            raise RuntimeError(json.loads(line)["error"])
        if not line:
            raise RuntimeError("the load generator ended without a word")
        return line


def transactions(lab, targets, opts):
    """Transactions/s of 50 clients in a closed loop, CPU per million, upstream connections."""
    def one(d):
        with Load(lab, d, "tx", CLIENTS) as load:
            r, m = _calm(lab, d, load, opts)
            upstream = _upstream(lab, d, load)
        return {"clients": CLIENTS, "tx_per_s": r["units"] / r["secs"], "p50_us": r["p50_us"], "p99_us": r["p99_us"],
                "upstream": upstream, "foreign": m.foreign, **_each(lab, d, m, r["units"] / 1e6, "s_per_m")}

    def told(rec):
        return f"{rec['tx_per_s']:9,.0f} transactions/s"

    yield from _rounds("tx", targets, opts, one, told)


def fanout(lab, targets, opts):
    """One message after the other to all subscribers of a channel: latency, bytes from the server, CPU."""
    def one(d):
        with Load(lab, d, "fanout", SUBSCRIBERS) as load:
            output = ServerOutput(lab)
            r, m = _calm(lab, d, load, opts, output)
            upstream = _upstream(lab, d, load) - (not d.get("start"))       # the publisher is no subscriber
        messages = r["units"]
        return {"clients": SUBSCRIBERS, "messages_per_s": messages / r["secs"], "p50_us": r["p50_us"],
                "p99_us": r["p99_us"], "last_us": r["last_us"], "upstream": upstream, "foreign": m.foreign,
                "bytes_per_message": (output.bytes - r["publisher_bytes"]) / messages,
                **_each(lab, d, m, messages, "s_per_message")}

    def told(rec):
        return f"p99 {rec['p99_us'] / 1e3:6.2f} ms, {rec['bytes_per_message']:9,.0f} B from the server per message"

    yield from _rounds("fanout", targets, opts, one, told)


def _rounds(kind, targets, opts, measured, told):
    """Records of all rounds; a target that refuses is asked once."""
    refused = set()
    for rnd in range(opts.rounds):
        for d in rotated(targets, rnd):
            if d["name"] in refused:
                continue
            rec = {"kind": kind, "target": d["name"], "round": rnd}
            try:
                rec.update(measured(d))
                say(f"{kind} round {rnd + 1}/{opts.rounds} {d['name']:12} {told(rec)}  foreign {rec['foreign']:.2f}")
            except Refused as e:
                refused.add(d["name"])
                rec["error"] = f"left out, {e}"
                say(f"{kind} {d['name']}: left out of this section, {e}")
            except (RuntimeError, OSError) as e:
                rec["error"] = f"{type(e).__name__}: {e}"[:300]
                say(f"{kind} {d['name']}: {rec['error']}")
            yield rec


def _calm(lab, d, load, opts, *around):
    """One run of `secs`, again when others used the machine; each of `around` is entered for the run."""
    for _ in range(opts.retries + 1):
        for other in around:
            other.__enter__()
        with proc.Meter(lab.pid(d), lab.server_pid(), load.pid) as m:
            r = load.run(opts.secs)
        for other in around:
            other.__exit__()
        if not r["units"]:
            raise RuntimeError("nothing was done in this time")
        if m.foreign <= opts.max_foreign:
            break
    return r, m


def _each(lab, d, m, units, suffix):
    """CPU of each side for one unit; a direct target has no proxy."""
    proxy = m.cpu / units if d.get("start") else None
    return {f"proxy_{suffix}": proxy, f"server_{suffix}": m.server / units, f"gen_{suffix}": m.gen / units}


def _upstream(lab, d, load):
    """Connections to the server: the proxy's, or the clients' own where there is none."""
    return proc.sockets_to(lab.pid(d) if d.get("start") else load.pid, lab.upstream_ports)


class ServerOutput:
    """Bytes that the server wrote to all its clients within a `with` block, by its own count (TLS not counted)."""

    def __init__(self, lab):
        self.lab, self.bytes = lab, 0

    def __enter__(self):
        self._before, own = self._asked()
        self._before += own               # counted once it is sent
        return self

    def __exit__(self, *_):
        self.bytes = self._asked()[0] - self._before

    def _asked(self):
        """The count before this very reply, and the length of the reply."""
        with socket.create_connection((HOST, self.lab.port(self.lab.server)), 5) as s:
            s.sendall(resp(b"INFO", b"stats"))
            replies = s.makefile("rb")
            head = replies.readline()
            body = replies.read(int(head[1:]) + 2)
        fields = dict(line.split(b":", 1) for line in body.split(b"\r\n") if b":" in line)
        return int(fields[b"total_net_output_bytes"]), len(head) + len(body)
