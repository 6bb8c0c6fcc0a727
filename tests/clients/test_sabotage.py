"""A build of the proxy that leaves out one rule of coherence at a time: the checker must convict each.

Needs `NEARKEY_SABOTAGED_BIN`, built with `--features sabotage`; which rule it leaves out is said by `NEARKEY_SABOTAGE`.
"""

import os
import signal

import pytest

from harness.coherence import Checker, Group
from harness.nearkey import Nearkey
from harness.slow_link import SlowLink

BINARY = os.environ.get("NEARKEY_SABOTAGED_BIN")
SECONDS = float(os.environ.get("NEARKEY_SABOTAGE_SECONDS", "8"))

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not BINARY, reason="NEARKEY_SABOTAGED_BIN names no build with planted bugs")]

SIMPLE = {"set": 10, "delete": 1}
LIVELY = {"set": 30, "delete": 4, "mset": 5, "rename": 5, "getdel": 2}
# Nobody reads past L1 or is told a key is missing, so that nothing repairs by chance what a bug has spoilt.
QUIET = {"doors": ("direct",), "special": 0, "depths": (1,)}


def slow_pushes(link):
    """What the tracked connection says arrives late, but in order."""
    link.tracked.reply_delay = 0.06


def slow_everywhere(link):
    link.tracked.reply_delay = 0.06
    link.other.reply_delay = 0.02


def slow_writes(link):
    """Fills overtake writes on their way to the server, and pushes tell of them late."""
    link.tracked.reply_delay = 0.06
    link.other.request_delay = 0.02


# For each rule what makes its absence show: the state of the network, what is written and by whom, how is read, what happens.
ATTACKS = {
    "stamps": {},
    "pushes": {**QUIET, "groups": [Group((0,), {"set": 1}, rate=40)]},
    "null_pushes": {**QUIET, "groups": [Group((0,), {"set": 6, "flushdb": 1}, keys=10, rate=10)]},
    "sent_writes": {"link": slow_writes, "doors": ("own", "own"), "keys": 8, "rate": 60},
    "answered_writes": {"link": slow_writes, "doors": ("own", "own"), "keys": 8, "rate": 60},
    "unknown_writes": {"link": slow_pushes, "doors": ("own", "own"),
                       "groups": [Group((0,), {"set": 3, "undeclared": 5}, keys=10), Group((1, 2), {"set": 10, "swapdb": 1}, keys=5)]},
    # A value past L1, then one from it, in one pipeline whose first answer takes long.
    "strict_pipeline": {"link": slow_everywhere, "special": 0.3, "depths": (2, 4), "doors": ("direct", "own"), "keys": 6, "rate": 60},
    "versioned_join": {"link": slow_pushes, "doors": ("own", "own"), "keys": 6, "rate": 60},
    "shown": {"link": slow_pushes, "special": 0.3, "depths": (1, 2), "doors": ("direct",), "keys": 6, "rate": 60},
    # Few writes: who has to fetch in the silence waits, and reads nothing more.
    "lease": {**QUIET, "events": "silence", "seconds": 8, "groups": [Group((0,), {"set": 1}, rate=3)]},
    "lost_link": {**QUIET, "groups": [Group((0,), {"set": 10, "unheard": 2}, keys=20, rate=10)]},
    "expiry": {**QUIET, "volatile": 100_000, "groups": [Group((0,), {"px": 10, "expire": 5, "set": 2}, rate=15)]},
    "scope": {"doors": ("own", "direct"), "groups": [Group((0,), SIMPLE), Group((1,), SIMPLE)]},
}


class Attack:
    def __init__(self, rule, redis_server, directory):
        self.plan = ATTACKS[rule]
        self.server = redis_server(tls=False)
        self.link = SlowLink(self.server.port)
        self.proxy = None
        if volatile := self.plan.get("volatile"):
            self.server.control("EVAL", "for i = 1, ARGV[1] do redis.call('SET', 'v:' .. i, 'x', 'PX', 3600000) end", 0, volatile)
        self.directory = directory

    def run(self, rule):
        plan = self.plan
        settings = {"NEARKEY_CACHE__DEFAULT": "cache", "NEARKEY_CACHE__MODE": "tracking", "NEARKEY_CACHE__LEASE": "1s"}
        settings |= {"NEARKEY_UPSTREAM__MAX_CONNECTIONS": "100", "NEARKEY_UPSTREAM__COMMAND_TIMEOUT": "20s"}
        self.proxy = Nearkey(f"redis://127.0.0.1:{self.link.port}", self.directory / "nearkey-sabotaged", program=BINARY,
                             env={**settings, "NEARKEY_SABOTAGE": rule} if rule else settings)
        plan.get("link", lambda link: None)(self.link)
        check = Checker((self.proxy.host, self.proxy.port), ("127.0.0.1", self.server.port), self.directory / "run",
                        metrics=self.proxy.metrics, doors=(*plan.get("doors", ("own", "own", "direct")), "direct"),
                        special=plan.get("special", 0.03), depths=plan.get("depths", (1, 1, 4)), round_trip=0.3)
        groups = plan.get("groups") or [Group((0,), LIVELY, plan.get("keys", 20), rate=plan.get("rate", 80)),
                                        Group((0,), SIMPLE, plan.get("keys", 20), "l", rate=plan.get("rate", 80))]
        events = []
        if plan.get("events") == "silence":
            events = [(2.0, lambda: self.link.tracked.hold()), (6.0, lambda: self.link.tracked.hold(False))]
        return check.run(plan.get("seconds", SECONDS), groups, events)

    def close(self):
        if self.proxy:
            self.proxy.stop(signal.SIGKILL)
        self.link.close()


@pytest.fixture
def attack(request, redis_server, tmp_path):
    attack = Attack(request.param, redis_server, tmp_path)
    attack.rule = request.param
    yield attack
    attack.close()


# Without them nothing that clients can see goes wrong, as far as is known: the touch when a write is answered, before that is
# handed on, ends all that the touch when it was sent would have ended.
UNSEEN = {"sent_writes"}


@pytest.mark.parametrize("attack", ATTACKS, indirect=True)
def test_a_rule_left_out_is_noticed(attack):
    result = attack.run(attack.rule)
    print(result)
    if attack.rule in UNSEEN and not result.verdict.counts:
        pytest.xfail("another rule does its work")
    assert result.hits, f"L1 gave no hits: {result}"
    assert result.verdict.counts, str(result)


@pytest.mark.parametrize("attack", ATTACKS, indirect=True)
def test_with_all_rules_the_same_finds_nothing(attack):
    """Else the test above would convict the innocent."""
    result = attack.run(None)
    print(result)
    assert result.hits, f"L1 gave no hits: {result}"
    assert not result.verdict.counts, str(result)
