"""Tables and goals from the records of measure.py."""
import os
import statistics

BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
STATEFUL = ("tx", "fanout")              # the kinds of stateful.py
NOTES = "<!-- notes: kept when this file is written again -->"


class Values(list):
    """Figures of several rounds; `noisy` when others disturbed every one of them."""

    def __init__(self, values, noisy=False):
        super().__init__(values)
        self.noisy = noisy


class Records:
    """All records of one invocation; answers by kind, cell and target."""

    def __init__(self, records, labels, max_foreign):
        self.meta = next((r for r in records if r["kind"] == "meta"), {})
        self.rows = [r for r in records if r["kind"] != "meta"]
        self.labels, self.max_foreign = labels, max_foreign

    def of(self, kind, target=None, cell=None):
        return [r for r in self.rows if r["kind"] == kind and target in (None, r["target"])
                and cell in (None, r.get("cell")) and "error" not in r]

    def targets(self, kind, cell=None):
        """In the order of lab.json, whatever the order of the first round was."""
        seen = {r["target"] for r in self.rows if r["kind"] == kind and cell in (None, r.get("cell"))}
        return [name for name in self.labels if name in seen]

    def error(self, kind, target, cell=None):
        return next((r["error"] for r in self.rows if r["kind"] == kind and r["target"] == target
                     and cell in (None, r.get("cell")) and "error" in r), None)

    def calm(self, rows):
        """The rows without much foreign load; all of them when none is calm."""
        return [r for r in rows if r.get("foreign", 0) <= self.max_foreign] or rows

    def values(self, key, kind, target, cell=None):
        rows = self.calm(self.of(kind, target, cell))
        return Values((r[key] for r in rows if r.get(key) is not None), self.noisy(rows))

    def noisy(self, rows):
        return any(r.get("foreign", 0) > self.max_foreign for r in rows)

    def median(self, *args):
        v = self.values(*args)
        return statistics.median(v) if v else None

    def ratios(self, value, kind, target, base, cell=None):
        """value(target) / value(base), one for each round that both of them finished, calm rounds if there are any."""
        a = {r["round"]: r for r in self.of(kind, target, cell)}
        b = {r["round"]: r for r in self.of(kind, base, cell)}
        pairs = [(a[k], b[k]) for k in sorted(a) if k in b]
        calm = [p for p in pairs if max(r.get("foreign", 0) for r in p) <= self.max_foreign] or pairs
        return Values((value(x) / value(y) for x, y in calm if value(y)), any(map(self.noisy, calm)))

    def added_latency(self, target, key):
        """What the target adds to a direct request over what twemproxy adds, one for each round."""
        rounds = {name: {r["round"]: r[key] for r in self.calm(self.of("latency", name))}
                  for name in (target, "nutcracker", "direct")}
        out = Values((), self.noisy(self.calm(self.of("latency", target))))
        for k in sorted(set.intersection(*(set(v) for v in rounds.values()))):
            mine, peer, direct = (rounds[n][k] for n in (target, "nutcracker", "direct"))
            if peer > direct:
                out.append((mine - direct) / (peer - direct))
        return out


# ------------------------------------------------------------ goals
class Goal:
    """A limit and what was measured of it; `floor` is the same figure of the bare multiplexer."""

    def __init__(self, text, limit, values, unit="", most=True, places=2, floor=()):
        self.text, self.limit, self.values, self.unit = text, limit, values, unit
        self.most, self.places, self.floor = most, places, floor

    def row(self):
        sign = "≤" if self.most else "≥"
        goal = f"{sign} {num(self.limit, self.places)}{self.unit}"
        floor = f"{num(statistics.median(self.floor), self.places)}{self.unit}" if self.floor else ""
        if not self.values:
            return f"| {self.text} | {goal} | not measured | | {floor} | |"
        m = statistics.median(self.values)
        met = m <= self.limit if self.most else m >= self.limit
        spread = span(self.values, self.places) if len(self.values) > 1 else ""
        return (f"| {self.text} | {goal} | {num(m, self.places)}{self.unit} | {spread} | {floor} | "
                f"{'met' if met else '**not met**'}{', noisy' if self.values.noisy else ''} |")


def goals(db):
    def cpu(target, cell):
        return db.ratios(lambda r: r["cpu_s_per_m"], "run", target, "nutcracker", cell)

    def tls_gain(target, key):
        return db.ratios(lambda r: r[key], "run", target, "direct-tls", "c1000")

    def memory(target):
        return db.values("bytes_per_client", "idle", target)

    return [
        Goal("CPU per request / twemproxy's, pipeline 16", 0.20, cpu("nearkey", "P16"), floor=cpu("mux", "P16")),
        Goal("the same with TLS upstream (twemproxy without TLS)", 0.20, cpu("nearkey-tls", "P16"),
             floor=cpu("mux-tls", "P16")),
        Goal("CPU per request / twemproxy's, pipeline 1", 0.95, cpu("nearkey", "P1"), floor=cpu("mux", "P1")),
        Goal("the same with TLS upstream (twemproxy without TLS)", 1.10, cpu("nearkey-tls", "P1"),
             floor=cpu("mux-tls", "P1")),
        Goal("1,000 clients, requests/s / those over direct TLS, connecting included", 1.8,
             tls_gain("nearkey-tls", "storm_rps"), most=False, floor=tls_gain("mux-tls", "storm_rps")),
        Goal("the same once all are connected", 1.8,
             tls_gain("nearkey-tls", "rps"), most=False, floor=tls_gain("mux-tls", "rps")),
        Goal("memory per idle client that has been active", 1200, memory("nearkey"), " B", places=0,
             floor=memory("mux")),
        Goal("latency added to one client's request / twemproxy's, p50", 1.0, db.added_latency("nearkey", "p50_us"),
             floor=db.added_latency("mux", "p50_us")),
        Goal("the same, mean", 1.0, db.added_latency("nearkey", "mean_us"),
             floor=db.added_latency("mux", "mean_us")),
        Goal("from exec to accepting", 10, db.values("accept_ms", "startup", "nearkey"), " ms", places=1,
             floor=db.values("accept_ms", "startup", "mux")),
        Goal("size of the binary", 12, Values(b / 1e6 for b in db.values("bytes", "size", "nearkey")), " MB", places=1),
    ]


def goal_table(db):
    head = ["| goal | | measured | min – max of rounds | bare multiplexer | |", "|---|--:|--:|--:|--:|---|"]
    return "\n".join(head + [g.row() for g in goals(db)])


# ------------------------------------------------------------ tables
def num(x, places=2):
    return "–" if x is None else f"{x:,.{places}f}"


def span(values, places=2):
    return f"{num(min(values), places)} – {num(max(values), places)}" if values else "–"


def table(head, rows):
    return "\n".join(["| " + " | ".join(head) + " |", "|---|" + "--:|" * (len(head) - 1)] +
                     ["| " + " | ".join(r) + " |" for r in rows])


def summary_table(db):
    """One row for each target over everything measured: the table that README shows."""
    names = [n for n in db.labels if any(r["target"] == n and r["kind"] not in STATEFUL for r in db.rows)]
    head = ["one worker each", "CPU-s/M, pipeline 16", "CPU-s/M, pipeline 1", "req/s, pipeline 16", "req/s, pipeline 1",
            "one client, p50 µs", "bytes per idle client", "start, ms"]
    rows = []
    for n in names:
        rows.append([db.labels[n],
                     num(db.median("cpu_s_per_m", "run", n, "P16")), num(db.median("cpu_s_per_m", "run", n, "P1")),
                     num(db.median("rps", "run", n, "P16"), 0), num(db.median("rps", "run", n, "P1"), 0),
                     num(db.median("p50_us", "latency", n), 0), num(db.median("bytes_per_client", "idle", n), 0),
                     num(db.median("accept_ms", "startup", n), 1)])
    return table(head, rows)


def cell_table(db, cell):
    head = ["target", "CPU-s/M", "min – max", "/ twemproxy", "server CPU-s/M", "req/s", "p50 ms", "p99 ms",
            "req/s with connecting", "set-up µs/client", "server set-up µs/client", "upstream connections",
            "foreign cores", "rounds"]
    rows = []
    for n in db.targets("run", cell):
        every = db.of("run", n, cell)
        used = db.calm(every)
        if not used:
            rows.append([db.labels[n], f"failed: {db.error('run', n, cell)}"] + [""] * (len(head) - 2))
            continue
        cpu = [r["cpu_s_per_m"] for r in used]
        ratio = db.ratios(lambda r: r["cpu_s_per_m"], "run", n, "nutcracker", cell)

        def m(key):
            return db.median(key, "run", n, cell)

        rows.append([db.labels[n], num(m("cpu_s_per_m")), span(cpu),
                     num(statistics.median(ratio)) if ratio else "–", num(m("server_s_per_m")), num(m("rps"), 0),
                     num(m("p50_ms"), 2), num(m("p99_ms"), 2), num(m("storm_rps"), 0),
                     num(m("setup_us"), 0), num(m("server_setup_us"), 0), num(m("upstream"), 0),
                     num(m("foreign")), f"{len(used)} of {len(every)}"])
    return table(head, rows)


def latency_table(db):
    head = ["target", "p50 µs", "mean µs", "p99 µs", "added p50 µs", "added mean µs", "foreign cores"]
    rows = []
    for n in db.targets("latency"):
        def added(key):
            a, b = db.median(key, "latency", n), db.median(key, "latency", "direct")
            return "–" if n == "direct" or a is None or b is None else num(a - b, 1)

        rows.append([db.labels[n]] + [num(db.median(k, "latency", n), 1) for k in ("p50_us", "mean_us", "p99_us")] +
                    [added("p50_us"), added("mean_us"), num(db.median("foreign", "latency", n))])
    return table(head, rows)


def idle_table(db):
    head = ["target", "clients", "RSS at start, MB", "RSS connected, MB", "RSS after one GET each, MB",
            "bytes per client", "upstream connections"]
    rows = []
    for n in db.targets("idle"):
        for r in db.of("idle", n):
            memory = [num(r[k] * 1024 / 1e6, 1) for k in ("rss_start_kb", "rss_connected_kb", "rss_kb")]
            rows.append([db.labels[n], num(r["clients"], 0)] + memory +
                        [num(r["bytes_per_client"], 0), num(r["upstream"], 0)])
        if db.error("idle", n):
            rows.append([db.labels[n], f"failed: {db.error('idle', n)}"] + [""] * (len(head) - 2))
    return table(head, rows)


def start_table(db):
    head = ["target", "accepting, ms", "min – max", "first value, ms", "binary, MB"]
    rows = []
    for n in db.targets("startup"):
        v = db.values("accept_ms", "startup", n)
        size = db.median("bytes", "size", n)
        rows.append([db.labels[n], num(db.median("accept_ms", "startup", n), 1),
                     span(v, 1),
                     num(db.median("first_reply_ms", "startup", n), 1), num(size / 1e6 if size else None, 1)])
    return table(head, rows)


def stateful_summary(db):
    """One row for each target over transactions and fan-out: the second table that README shows."""
    names = [n for n in db.labels if any(r["target"] == n and r["kind"] in STATEFUL for r in db.rows)]
    head = ["50 clients; 1,000 subscribers", "transactions/s", "CPU-s/M transactions", "connections for 50 clients",
            "fan-out p99 ms", "server bytes per message", "connections for 1,000 subscribers"]
    rows = [[db.labels[n], num(db.median("tx_per_s", "tx", n), 0), num(db.median("proxy_s_per_m", "tx", n)),
             num(db.median("upstream", "tx", n), 0), ms(db.median("p99_us", "fanout", n)),
             num(db.median("bytes_per_message", "fanout", n), 0), num(db.median("upstream", "fanout", n), 0)]
            for n in names]
    return table(head, rows)


def ms(us):
    return num(None if us is None else us / 1e3)


def peer(name, what):
    """The same upstream, plain or TLS, with `what` in between."""
    return what + ("-tls" if name.endswith("-tls") else "")


def ratio(db, key, kind, target, what):
    """To the same figure of `what`; a target without a proxy has no figure for one."""
    v = db.ratios(lambda r: r[key] or 0, kind, target, peer(target, what))
    return num(statistics.median(v)) if any(v) else "–"


def stateful_table(db, kind, head, cells):
    """A row for each target: what `cells` makes of its name, the foreign load and the rounds."""
    head = ["target", *head, "upstream connections", "foreign cores", "rounds"]
    rows = []
    for n in db.targets(kind):
        every, failed = db.of(kind, n), db.error(kind, n)
        if not every:
            rows.append([db.labels[n], failed] + [""] * (len(head) - 2))
            continue
        rows.append([db.labels[n], *cells(n, lambda key, n=n: db.median(key, kind, n)),
                     num(db.median("upstream", kind, n), 0), num(db.median("foreign", kind, n)),
                     f"{len(db.calm(every))} of {len(every)}" + (f"; failed: {failed}" if failed else "")])
    return table(head, rows)


def tx_table(db):
    head = ["transactions/s", "min – max", "/ direct", "proxy CPU-s/M", "/ haproxy", "server CPU-s/M", "load CPU-s/M",
            "p50 ms", "p99 ms"]

    def cells(n, m):
        return [num(m("tx_per_s"), 0), span(db.values("tx_per_s", "tx", n), 0), ratio(db, "tx_per_s", "tx", n, "direct"),
                num(m("proxy_s_per_m")), ratio(db, "proxy_s_per_m", "tx", n, "haproxy"), num(m("server_s_per_m")),
                num(m("gen_s_per_m")), ms(m("p50_us")), ms(m("p99_us"))]

    return stateful_table(db, "tx", head, cells)


def fanout_table(db):
    head = ["delivery p50 ms", "p99 ms", "min – max", "p99 / direct", "all have it, ms", "server bytes per message",
            "proxy CPU µs per delivery", "server CPU µs per message", "load CPU µs per message", "messages/s"]

    def cells(n, m):
        proxy = m("proxy_s_per_message")
        p99 = [v / 1e3 for v in db.values("p99_us", "fanout", n)]
        per_delivery = None if proxy is None else proxy * 1e6 / m("clients")
        return [ms(m("p50_us")), ms(m("p99_us")), span(p99), ratio(db, "p99_us", "fanout", n, "direct"),
                ms(m("last_us")), num(m("bytes_per_message"), 0), num(per_delivery),
                num(m("server_s_per_message") * 1e6, 0), num(m("gen_s_per_message") * 1e6, 0), num(m("messages_per_s"), 0)]

    return stateful_table(db, "fanout", head, cells)


# ------------------------------------------------------------ the file
def readme_part(db):
    """What stands between the markers, in RESULTS.md and in README.md."""
    return "\n".join([
        BEGIN, "", f"{conditions(db)} Medians; CPU-s/M is CPU seconds of the proxy process per million requests. "
        "GET of 64 B, 50 clients.", "", summary_table(db), "",
        *([stateful_summary(db), ""] if any(r["kind"] in STATEFUL for r in db.rows) else []),
        goal_table(db), "", END])


def conditions(db):
    m = db.meta
    quick = " (quick run)" if m.get("quick") else ""
    return (f"{m.get('date', '')}, {m.get('cores', '?')} cores{m.get('cpu', '')}, Linux {m.get('kernel', '')}; "
            f"{m.get('versions', '')}; {m.get('rounds', '?')} interleaved rounds{quick}.")


def sections(db):
    """(heading, remark, table) of everything that was measured."""
    out = []
    for cell in dict.fromkeys(r["cell"] for r in db.rows if r["kind"] == "run"):
        r = next(x for x in db.rows if x.get("cell") == cell)
        out.append((f"GET 64 B, {r['clients']:,} clients, pipeline {r['pipeline']}", "", cell_table(db, cell)))
    for kind, heading, remark, make in (
            ("latency", "One client, one request at a time", "Microseconds from send to reply, as a Python client sees "
             "them; \"added\" is what the target adds to the plain direct figure.", latency_table),
            ("idle", "Memory of idle clients", "Resident memory of the process; the kernel's socket buffers are not "
             "in it. Bytes per client: growth from an empty start to all clients having sent one GET.", idle_table),
            ("startup", "Start", "From before fork and exec to the first accepted connection, and to the first value "
             "through a new upstream connection.", start_table),
            ("tx", "Transactions, 50 clients", "MULTI, INCR, SET of 64 B, GET, EXEC in one write; the next when EXEC's "
             "reply has come. CPU seconds per million transactions.", tx_table),
            ("fanout", "Fan-out, one message to 1,000 subscribers of a channel", "From before PUBLISH is sent, to the "
             "server itself, until a subscriber has the message of 64 B; all subscribers of all messages. The next is "
             "sent when all have it. Bytes are those that the server writes for one message, TLS not counted.",
             fanout_table)):
        if any(x["kind"] == kind for x in db.rows):
            out.append((heading, remark, make(db)))
    return out


def details(db):
    return "\n\n".join("\n\n".join(filter(None, (f"## {heading}", remark, body)))
                       for heading, remark, body in sections(db))


def results(db, notes=""):
    return "\n".join([
        "# Results", "",
        "Written by `benches/compare`; README.md beside it says how to read it. Notes by hand stand at the end.", "",
        readme_part(db), "",
        f"nearkey: {db.meta.get('nearkey', 'unknown')}. A run during which others used more than {db.max_foreign} cores "
        "is repeated, and left out if that did not help: \"rounds\" says how many remain (all, when none was calm). "
        "\"foreign cores\" is what others used in those.", "",
        details(db), "", NOTES, notes.strip("\n"), ""])


def kept_notes(path):
    try:
        with open(path) as f:
            return f.read().partition(NOTES)[2]
    except FileNotFoundError:
        return ""


def _read(path):
    try:
        with open(path) as f:
            return f.read()
    except FileNotFoundError:
        raise SystemExit(f"there is no {os.path.basename(path)} yet") from None


def copy_to_readme(results_path, readme_path):
    """Replaces what README.md has between the markers by what RESULTS.md has there. Returns whether it changed."""
    new, old = map(_read, (results_path, readme_path))
    if BEGIN not in new or BEGIN not in old or END not in old:
        raise SystemExit(f"both files need the lines '{BEGIN}' and '{END}'")
    part = new[new.index(BEGIN):new.index(END)]
    changed = old[:old.index(BEGIN)] + part + old[old.index(END):]
    with open(readme_path, "w") as f:
        f.write(changed)
    return changed != old
