"""Clients that are killed while they wait for a job: no more jobs are lost than with Redis itself.

Redis takes a job from its list for a client whose end it has not yet heard of. A proxy must not make that time longer.
Runs only in the long form of the chaos run (`./test chaos`).
"""

import os
import random
import threading

import pytest

from harness.resp import Raw

SECONDS = float(os.environ.get("NEARKEY_CHAOS_SECONDS", "0"))
CYCLES = int(os.environ.get("NEARKEY_JOB_CYCLES", "10000"))
THREADS = 8

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not SECONDS, reason="NEARKEY_CHAOS_SECONDS does not say how long")]


def kill_cycles(address, push_to, cycles, seed):
    """Pushes jobs, each while somebody waits for it who may be gone; returns how many were lost."""
    got, lock = set(), threading.Lock()

    def work(n):
        rnd, queue = random.Random(f"{seed}/{n}"), f"jobs:{n}"
        with Raw("127.0.0.1", push_to) as pusher:
            for cycle in range(cycles // THREADS):
                waiter = Raw(*address)
                waiter.send(b"*3\r\n$5\r\nBLPOP\r\n$%d\r\n%s\r\n$1\r\n5\r\n" % (len(queue), queue.encode()))
                dies = rnd.random() < 0.8
                if rnd.random() < 0.5:
                    threading.Event().wait(rnd.uniform(0, 0.004))
                if dies:
                    waiter.close()
                pusher.command("RPUSH", queue, f"{n}:{cycle}")
                if not dies:
                    # Perhaps one that another has left.
                    job = waiter.reply()[1]
                    with lock:
                        assert job not in got, f"{job} was popped twice"
                        got.add(job)
                    waiter.close()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Raw("127.0.0.1", push_to) as direct:
        left = {job for n in range(THREADS) for job in direct.command("LRANGE", f"jobs:{n}", 0, -1)}
        direct.command("FLUSHALL")
    assert not got & left
    pushed = cycles // THREADS * THREADS
    return pushed - len(got) - len(left), len(got)


def test_no_more_jobs_are_lost_than_without_a_proxy(redis_server, nearkey):
    server = redis_server(tls=False)
    proxy = nearkey(server, upstream__max_connections=30)
    direct, through = [], []
    for turn in range(3):
        direct.append(kill_cycles(("127.0.0.1", server.port), server.port, CYCLES // 3, turn))
        through.append(kill_cycles((proxy.host, proxy.port), server.port, CYCLES // 3, turn))
    lost_direct, lost_through = sum(n for n, _ in direct), sum(n for n, _ in through)
    print(f"\nof {CYCLES} jobs Redis alone lost {lost_direct}, {lost_through} were lost through Nearkey")
    assert min(n for _, n in direct + through) > CYCLES / 3 / 20
    # Who dies when is a matter of chance.
    assert lost_through <= lost_direct + 3 * (lost_direct ** 0.5) + 5, (direct, through)
