"""The judge of coherence: what was written, what was read, and which reads no honest cache can have given.

Every key has one writer, whose writes do not overlap, so the states of a key are a list. A state is told by its label,
the number that the value carries, or None while the key is missing. Times are nanoseconds of the machine's monotonic
clock: before a request was sent, after its reply was read. All doubts are decided for the accused: how stale a read was
is counted from the acknowledgement of what it should have seen to the moment before it was asked.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from dataclasses import dataclass, field

MS = 1_000_000
NEVER = 1 << 62
# The server counts lives in whole milliseconds.
TICK = 3 * MS

# What readers note instead of a label.
NIL, ERROR, DENIED = 0, -1, -2

OWN, FOREIGN, AGE = "own", "foreign", "age"


@dataclass(slots=True)
class Op:
    """A change of one key. `bound` says how soon a read must show it: OWN at once, FOREIGN within the lease, AGE within
    the maximum age. `life` is the earliest and latest moment at which the server may let it expire."""

    key: int
    label: int | None
    inv: int
    resp: int | None
    bound: str = FOREIGN
    what: str = ""
    life: tuple | None = None


@dataclass(slots=True)
class Conviction:
    kind: str
    key: int
    conn: int
    story: str

    def __str__(self):
        return f"{self.kind}\n{self.story}"


@dataclass
class Verdict:
    reads: int = 0
    errors: int = 0
    hazy: int = 0
    counts: Counter = field(default_factory=Counter)
    convictions: list = field(default_factory=list)
    staleness: list = field(default_factory=list)
    lags: list = field(default_factory=list)

    def convict(self, kind, key, conn, story):
        self.counts[kind] += 1
        if self.counts[kind] <= 5:
            self.convictions.append(Conviction(kind, key, conn, story()))

    def lag(self, share):
        """How late others' writes were shown, in milliseconds."""
        return quantile(self.lags, share) / MS

    def summary(self):
        stale = sorted(self.staleness)
        return (
            f"{self.reads} reads, {self.errors} errors, {self.hazy} not judged; {len(stale)} showed an older value, "
            f"by p50 {quantile(stale, .5) / MS:.1f} p99 {quantile(stale, .99) / MS:.1f} max {quantile(stale, 1) / MS:.1f} ms; "
            f"{len(self.lags)} writes of others were shown after p50 {self.lag(.5):.1f} p99 {self.lag(.99):.1f} max {self.lag(1):.1f} ms; "
            f"convicted: {dict(self.counts) or 'nothing'}")

    def excerpts(self, n=3):
        return "\n\n".join(str(c) for c in self.convictions[:n])


def quantile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0


class KeyHistory:
    """The states of one key in their order."""

    def __init__(self, ops, bounds, hazy=()):
        self.ops = [Op(-1, None, -NEVER, -NEVER, OWN, "in the beginning"), *ops]
        self.hazy = sorted(hazy)
        self.invs = [op.inv for op in self.ops]
        self.labels = {}
        for i, op in enumerate(self.ops):
            self.labels.setdefault(op.label, []).append(i)
        acked = [(op.resp, i) for i, op in enumerate(self.ops) if op.resp is not None]
        self.acks, self.acked = [t for t, _ in acked], [i for _, i in acked]
        due = sorted((op.resp + bounds[op.bound], i) for i, op in enumerate(self.ops) if op.resp is not None)
        self.dues, self.musts, best = [t for t, _ in due], [], 0
        for _, i in due:
            best = max(best, i)
            self.musts.append(best)

    def must_see(self, at):
        """The oldest state that a read asked for at this moment may show."""
        return self.musts[bisect_right(self.dues, at) - 1]

    def newest_acked(self, at):
        return self.acked[bisect_right(self.acks, at) - 1]

    def ack_after(self, i):
        """The first acknowledgement of what followed state `i`."""
        return self.acks[bisect_right(self.acked, i)]

    def is_hazy(self, a, b):
        return any(start <= b and a <= end for start, end in self.hazy)

    def is_gone(self, i, at):
        """State `i` reads as missing at this moment, or may."""
        op = self.ops[i]
        return op.label is None or (op.life is not None and op.life[0] <= at + TICK)

    def newest(self, label, a, b):
        """The newest state that a read between `a` and `b` may have meant, or why there is none."""
        if label == NIL:
            i = bisect_right(self.invs, b) - 1
            while not self.is_gone(i, b):
                i -= 1
            return i, None
        states = self.labels.get(label)
        if states is None:
            return None, "never a value of this key"
        states = [i for i in states if self.ops[i].inv <= b]
        if not states:
            return None, "a value from the future"
        for i in reversed(states):
            life = self.ops[i].life
            if life is None or a <= life[1] + TICK:
                return i, None
        return None, "served past its expiry"

    def oldest(self, label, since, newest, b):
        """The oldest state from `since` on that the read may have meant."""
        if label == NIL:
            i = since
            while i < newest and not self.is_gone(i, b):
                i += 1
            return i
        states = self.labels[label]
        at = bisect_left(states, since)
        return states[min(at, len(states) - 1)]


class Judge:
    """`bounds` gives nanoseconds for OWN, FOREIGN and AGE; `hazy` spans per key in which anything may have happened.

    `names` tells keys apart in a story. With `evicts` a missing key proves nothing. `forbidden` are connections whose user
    may read nothing.
    """

    def __init__(self, ops, bounds, *, hazy=None, names=None, evicts=False, forbidden=()):
        by_key = {}
        for op in ops:
            by_key.setdefault(op.key, []).append(op)
        self.hazy, self.bounds, self.by_key = hazy or {}, bounds, by_key
        self.homes = {op.label: op for op in reversed(ops) if op.label}
        self.names, self.evicts, self.forbidden = names, evicts, set(forbidden)
        self.verdict = Verdict()

    def judge(self, reads):
        """`reads` are (a, b, conn, key, label), those of one connection in their order."""
        by_key = {}
        for read in reads:
            by_key.setdefault(read[3], []).append(read)
        return self.judge_keys(by_key.items())

    def judge_keys(self, by_key):
        """The same, where the reads are told apart by key already."""
        for key, of_key in by_key:
            of_key.sort(key=lambda read: read[0])
            self._judge_key(key, KeyHistory(self.by_key.get(key, []), self.bounds, self.hazy.get(key, ())), of_key)
        return self.verdict

    def _judge_key(self, key, history, reads):
        verdict = self.verdict
        ends = sorted(range(len(reads)), key=lambda i: reads[i][1])
        lows, ended, shown, floors, lags = [0] * len(reads), 0, 0, {}, {}
        for n, (a, b, conn, _, label) in enumerate(reads):
            # What other connections had been told by then.
            while reads[ends[ended]][1] < a:
                shown = max(shown, lows[ends[ended]])
                ended += 1
            if label < 0:
                verdict.errors += 1
                continue
            verdict.reads += 1

            def story(must=None, reads=reads, n=n):
                return self.story(key, history, reads, n, must)

            if conn in self.forbidden:
                verdict.convict("a value for a user without permission", key, conn, story)
                continue
            if (history.hazy and history.is_hazy(a, b)) or (label == NIL and self.evicts):
                verdict.hazy += 1
                continue
            newest, why = history.newest(label, a, b)
            if newest is None:
                verdict.convict(why, key, conn, story)
                continue
            floor, must = floors.get(conn, 0), history.must_see(a)
            if newest < must:
                own = history.ops[must].bound == OWN
                kind = "an acknowledged write of this proxy not seen" if own else "staler than the bound"
                verdict.convict(kind, key, conn, lambda m=must: story(m))
            elif newest < floor:
                verdict.convict("older than its connection had read", key, conn, lambda m=floor: story(m))
            elif newest < shown:
                verdict.convict("older than another connection had read", key, conn, lambda m=shown: story(m))
            acked = history.newest_acked(a)
            if newest < acked:
                verdict.staleness.append(a - history.ack_after(newest))
                for i in range(newest + 1, acked + 1):
                    op = history.ops[i]
                    if op.resp is not None and op.bound == FOREIGN and op.resp <= a:
                        lags[i] = max(lags.get(i, 0), a - op.resp)
            lows[n] = low = history.oldest(label, min(max(floor, must), newest), newest, b)
            if low > floor:
                floors[conn] = low
        last = reads[-1][0] if reads else 0
        for i, op in enumerate(history.ops[1:], 1):
            if op.bound == FOREIGN and op.resp is not None and op.resp <= last:
                verdict.lags.append(lags.get(i, 0))

    def name(self, key):
        return self.names[key] if self.names else f"key {key}"

    def story(self, key, history, reads, n, must):
        """What was read, what had been written around it, what others had read just before."""
        a, b, conn, _, label = reads[n]
        lines = [f"  {self.name(key)}: connection {conn} read {shown_as(label)}, asked at 0, answered at {(b - a) / MS:.3f} ms"]
        home = self.homes.get(label)
        if label > 0 and label not in history.labels:
            lines.append(f"  that value was written to {self.name(home.key)}" if home else "  nobody wrote that value")
        newest = (history.labels.get(label if label else None) or [0])[-1]
        until = bisect_right(history.invs, b)
        first = max(1, min(newest, until - 4, must if must is not None else newest))
        for i in [i for i in range(first, until) if i < first + 4 or i >= until - 4]:
            op = history.ops[i]
            answered = f"{(op.resp - a) / MS:.3f}" if op.resp is not None else "never"
            life = f", expires at {(op.life[0] - a) / MS:.3f}..{(op.life[1] - a) / MS:.3f}" if op.life else ""
            mark = "  <- had to be seen" if i == must else ""
            lines.append(f"  write {i} {op.what} ({op.bound}): {shown_as(op.label or 0)}, sent {(op.inv - a) / MS:.3f}, "
                         f"acknowledged {answered}{life}{mark}")
        before = [r for r in reads[max(0, n - 40):n] if r[1] < b and r[4] >= 0][-5:]
        for x, y, other, _, seen in before:
            lines.append(f"  connection {other} read {shown_as(seen)} at {(x - a) / MS:.3f}..{(y - a) / MS:.3f}")
        return "\n".join(lines)


def shown_as(label):
    return f"value {label}" if label else "nothing"
