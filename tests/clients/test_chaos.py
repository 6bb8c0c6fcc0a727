"""Everything breaks while everybody talks: nobody reads what is not theirs, no write is made twice, none is lost.

`NEARKEY_CHAOS_SECONDS` makes it last longer (`./test chaos`), over TLS and not, with L1 and without, on one worker and
on three. A failure shows its seed and its schedule; `NEARKEY_CHAOS_SEED` sets the seed.
"""

import os

import pytest

from harness.chaos_run import FAULTS, Run
from harness.faulty_link import WOUNDS
from harness.nearkey import WORKERS

SECONDS = float(os.environ.get("NEARKEY_CHAOS_SECONDS", "0"))
SEED = int(os.environ.get("NEARKEY_CHAOS_SEED", "7"))
SHORT = 16

# Between two things that a client does: a link of small buffers that never gets to its end would be all that is tested.
PAUSE = (0, 0.3)

# TLS, L1, workers.
LONG_FORMS = [(tls, l1, workers) for tls in (False, True) for l1 in (True, False) for workers in (1, 3)]
FORMS = LONG_FORMS if SECONDS else [(False, True, WORKERS), (True, False, WORKERS)]


def name(form):
    tls, l1, workers = form
    return f"{'tls' if tls else 'plain'}-{'l1' if l1 else 'no-l1'}-{workers}"


@pytest.mark.parametrize("form", FORMS, ids=name)
def test_nobody_reads_what_is_not_theirs_and_no_write_runs_twice(form, redis_server, certs, tmp_path):
    tls, l1, workers = form
    seconds = max(SHORT, SECONDS / len(FORMS))
    run = Run(redis_server, tmp_path, certs, seed=SEED, tls=tls, l1=l1, workers=workers, pause=PAUSE)
    try:
        run.run(seconds)
    finally:
        run.close()
    print(run)
    assert not run.chronicle.wrong, run.story()
    # Floors: a run in which nothing happens proves nothing.
    seen, kinds = run.chronicle.seen, set(run.injected) | set(run.link.done)
    assert run.chronicle.checked > 200 * seconds, run.story()
    assert len(kinds) >= (len(FAULTS) + len(WOUNDS) if seconds >= 30 else 9), run.story()
    for what in ("echoes", "writes", "increments", "tokens", "hot reads", "hot writes", "large", "transactions", "races", "popped",
                 "messages", "subscriptions", "silences", "killed", "closed", "left in order"):
        assert seen[what], (what, run.story())
    assert sum(v for k, v in run.metrics.items() if "desync" in k) == 0, run.story()
    assert sum(v for k, v in run.metrics.items() if "panics" in k) == 0, run.story()
    assert max(t for _, t in run.recoveries) < 15, run.recoveries
    assert run.after["fds"] <= run.before["fds"] + 40, (run.before, run.after)
    # Names are looked up on threads that stay for some seconds.
    assert run.after["threads"] <= run.before["threads"] + 40, (run.before, run.after)
    assert run.after["rss"] < run.before["rss"] + 64 * 1024, (run.before, run.after)
    run.nearkey.verdict()
