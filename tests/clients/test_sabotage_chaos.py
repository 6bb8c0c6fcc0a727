"""A build of the proxy with one bug planted at a time: the chaos run must convict each, and soon.

Needs `NEARKEY_SABOTAGED_BIN`, built with `--features sabotage`; which bug it has is said by `NEARKEY_SABOTAGE`. The bugs
are described in src/sabotage.rs; those of L1 are in test_sabotage.py.
"""

import os

import pytest

from harness.chaos_run import FAULTS, Run
from harness.faulty_link import WOUNDS

BINARY = os.environ.get("NEARKEY_SABOTAGED_BIN")

# A bug that the run does not notice within this time, it does not notice.
SECONDS = float(os.environ.get("NEARKEY_SABOTAGE_CHAOS_SECONDS", "30"))

BUGS = ("timeout_pop", "gone_pop", "old_replies", "split_enqueue", "cut_write", "reply_forwarded", "write_twice", "torn_on",
        "surplus_reply", "wrong_subscriber", "split_transaction")

# What only shows in long requests and replies.
LARGE = {"cut_write": 20, "torn_on": 20}

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not BINARY, reason="NEARKEY_SABOTAGED_BIN names no build with planted bugs")]


def run_with(bug, redis_server, certs, tmp_path, seconds):
    run = Run(redis_server, tmp_path, certs, program=BINARY, sabotage=bug, stop_at_first=bool(bug), clients=100, large=LARGE.get(bug, 1))
    try:
        return run.run(seconds)
    finally:
        run.close()


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_convicted(bug, redis_server, certs, tmp_path):
    run = run_with(bug, redis_server, certs, tmp_path, SECONDS)
    desyncs = sum(v for k, v in run.metrics.items() if "desync" in k)
    print(f"\n{bug}: after {run.chronicle.first_wrong or SECONDS:.1f} s, {desyncs:.0f} desyncs: {run.chronicle.wrong[:1]}")
    assert run.chronicle.wrong, run.story()


def test_without_a_bug_the_same_build_is_acquitted(redis_server, certs, tmp_path):
    """Else the test above would convict the innocent."""
    run = run_with(None, redis_server, certs, tmp_path, SECONDS)
    print(f"\n{run}")
    assert not run.chronicle.wrong, run.story()
    assert run.chronicle.checked > 100 * SECONDS and {*run.injected, *run.link.done} >= {*FAULTS, *WOUNDS}, run.story()
    assert sum(v for k, v in run.metrics.items() if "desync" in k) == 0, run.story()
