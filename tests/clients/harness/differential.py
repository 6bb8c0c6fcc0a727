"""Compares two plays of one program, says where they part, and shrinks what fails."""

import time
from dataclasses import dataclass

from .frames import CONFIRMATIONS, MESSAGES, elements, kind_of, word
from .programs import short
from .stage import Stage, Unsettled


# Stands for subscriptions that are not followed: their confirmations hide in the reply to EXEC.
INSIDE_EXEC = "inside EXEC"


@dataclass
class Heard:
    """What a client's frames of one step may be replies to: names of commands, those queued before their EXEC too."""

    commands: set
    id: int
    # Whether the client has asked for broadcast invalidations.
    broadcast: bool


@dataclass
class Failure:
    steps: list
    at: int
    what: str
    client: int | None = None
    directly: list = ()
    here: list = ()

    def __str__(self):
        lines = [f"{step}" for step in self.steps[:self.at + 1]]
        lines.append(f"--- {self.what}" + ("" if self.client is None else f", for c{self.client}"))
        for name, frames in (("directly", self.directly), ("here", self.here)):
            lines += [f"{name:9}{short(f, 400)}" for f in frames] or [f"{name:9}nothing"]
        return "\n".join(lines)


class Differential:
    """`even(frames, heard)` gives the frames of a step as they may be compared: lists by lane."""

    def __init__(self, reference, address, behind, even, is_refusal, patience=10):
        self.reference, self.address, self.behind = reference, address, behind
        self.even, self.is_refusal, self.patience = even, is_refusal, patience

    def compare(self, steps, tally=None, patience=None):
        """Plays the program twice; None, or where and how they differ."""
        with Stage("127.0.0.1", self.reference.port, self.reference) as direct:
            ids = []
            outcomes = []
            for step in steps:
                outcomes.append(direct.learn_step(step))
                ids.append(direct.ids())
        if tally is not None:
            count(tally, steps, outcomes)
        try:
            with Stage(*self.address, self.behind) as here:
                return self.follow(here, steps, outcomes, ids, patience or self.patience, tally)
        except Unsettled as e:
            return Failure(steps, len(steps) - 1, str(e))

    def follow(self, here, steps, outcomes, direct_ids, patience, tally):
        subscriptions, history, broadcast = {}, {}, set()
        for at, (step, expected) in enumerate(zip(steps, outcomes)):
            if step.action != "send":
                subscriptions[step.client], history[step.client] = set(), set()
            if not expected.skipped:
                history.setdefault(step.client, set()).update(step.names())
            if any("BCAST" in command for command in step.commands if isinstance(command, tuple)):
                broadcast.add(step.client)
            verdict = Verdict(self.even, history, broadcast, expected.frames, direct_ids[at], here)
            outcome, wrong = here.follow_step(step, expected, verdict, patience)
            if wrong:
                failure = verdict.failure(steps, at, wrong, outcome.frames)
                mine = expected.frames.get(step.client, ()), outcome.frames.get(step.client, ())
                if self.is_refusal(step, *mine):
                    if tally is not None:
                        tally["refused"] += 1
                    return None
                return failure
            for n, frames in outcome.frames.items():
                if early := self.too_early(frames, subscriptions.setdefault(n, set())):
                    return Failure(steps, at, "a message without a confirmed subscription", n, (), [early])
            if not expected.skipped and step.client not in expected.waiting | expected.in_multi:
                history[step.client] = set()
        return self.surplus(here, steps)

    @staticmethod
    def surplus(here, steps):
        """What nobody asked for, when all is over."""
        for _ in range(3):
            here.observer.command("DBSIZE")
            time.sleep(0.003)
        here.read()
        for n, frames in here.frames().items():
            if frames:
                return Failure(steps, len(steps) - 1, "more came than directly", n, (), frames)
        return None

    @staticmethod
    def too_early(frames, subscribed):
        """The first message on what is not in `subscribed`, which the frames' confirmations keep up to date."""
        for frame in frames:
            kind = kind_of(frame)
            if kind in CONFIRMATIONS:
                form, name = kind.removesuffix(b"subscribe"), word(elements(frame)[1])
                (subscribed.discard if form.endswith(b"un") else subscribed.add)((form.removesuffix(b"un"), name))
            elif frame == b"+RESET\r\n":
                subscribed.clear()
            elif b"subscribe\r\n" in frame:
                subscribed.add(INSIDE_EXEC)
            elif kind in MESSAGES and INSIDE_EXEC not in subscribed:
                if (kind.removesuffix(b"message"), word(elements(frame)[1])) not in subscribed:
                    return frame
        return None

    # Shrinking.

    def shrunk(self, steps, failure, seconds=20):
        """The report of the smallest program that was found to fail, dropping steps and commands one by one."""
        end = time.monotonic() + seconds
        best = failure
        steps = steps[:failure.at + 1]
        size = max(1, len(steps) // 4)
        while time.monotonic() < end:
            smaller = self.smaller(steps, size, end)
            if smaller:
                best = smaller
                steps = smaller.steps[:smaller.at + 1]
            elif size > 1:
                size //= 2
            else:
                break
        return str(best)

    def smaller(self, steps, size, end):
        """A failure of the program without some of its steps, or without one command."""
        candidates = [steps[:at] + steps[at + size:] for at in range(0, len(steps), size)]
        if size == 1:
            candidates += [steps[:at] + [step.without(n)] + steps[at + 1:] for at, step in enumerate(steps)
                           if len(step.commands) > 1 for n in range(len(step.commands))]
        for candidate in candidates:
            if time.monotonic() > end:
                return None
            try:
                failure = candidate and self.compare(candidate, patience=min(self.patience, 1.5))
            except Unsettled:
                continue  # what is left of the program makes no sense, even directly
            if failure:
                return failure
        return None


class Verdict:
    """Whether the frames that came so far in a step are those that came directly."""

    def __init__(self, even, history, broadcast, expected, direct_ids, here):
        self.even, self.history, self.broadcast, self.here = even, history, broadcast, here
        self.expected = {n: even(frames, self.heard(n, direct_ids[n])) for n, frames in expected.items()}
        self.raw = expected

    def heard(self, client, client_id):
        return Heard(self.history.get(client, set()), client_id, client in self.broadcast)

    def lanes(self, client, frames):
        return self.even(frames, self.heard(client, self.here.clients[client].id))

    def __call__(self, got):
        verdict = True
        for n, frames in got.items():
            lanes, expected = self.lanes(n, frames), self.expected[n]
            if lanes != expected:
                if any(len(lanes[k]) >= len(expected[k]) and lanes[k] != expected[k] for k in expected):
                    return False
                verdict = None
        return verdict

    def failure(self, steps, at, wrong, got):
        for n, frames in got.items():
            if self.lanes(n, frames) != self.expected[n]:
                return Failure(steps, at, wrong, n, self.raw[n], frames)
        return Failure(steps, at, wrong)


def count(tally, steps, outcomes):
    """Counts what the programs reached, from what came directly."""
    tally["programs"] += 1
    before = frozenset()
    for step, outcome in zip(steps, outcomes):
        if outcome.skipped:
            tally["not said"] += 1
            continue
        if step.action == "send" and not outcome.frames.get(step.client):
            tally["silent"] += 1
        for n, frames in outcome.frames.items():
            for frame in frames:
                count_frame(tally, frame, own=n == step.client, names=[name for name, _ in step.names()])
        tally["closed"] += len(outcome.closed - before)
        before = outcome.closed


def count_frame(tally, frame, own, names):
    kind = kind_of(frame)
    if kind in CONFIRMATIONS:
        tally["confirmation"] += 1
    elif kind in MESSAGES or kind == b"invalidate":
        tally[kind.decode()] += 1
    elif not own:
        tally["woken"] += 1
    if frame[:1] in b">_%,~#":
        tally["RESP3"] += 1
    if "EXEC" in names and frame in (b"*-1\r\n", b"_\r\n"):
        tally["nil EXEC"] += 1
    elif "EXEC" in names and frame[:1] == b"*":
        tally["EXEC"] += 1
    elif any(name.startswith(("BL", "BR", "BZ")) for name in names) and frame in (b"*-1\r\n", b"_\r\n"):
        tally["waited in vain"] += 1
    for text, name in ((b"-EXECABORT", "EXECABORT"), (b"+QUEUED", "QUEUED"), (b"-UNBLOCKED", "UNBLOCKED"),
                       (b"-WRONGTYPE", "WRONGTYPE"), (b"-NOSCRIPT", "NOSCRIPT"), (b"+RESET", "RESET"),
                       (b"-ERR Can't execute", "refused while subscribed"), (b"-ERR Protocol error", "protocol error")):
        if frame.startswith(text):
            tally[name] += 1
