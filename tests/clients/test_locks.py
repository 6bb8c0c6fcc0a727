"""Locks of the ecosystem, unchanged: redis-py's Lock, and Redlock over several masters by pottery and by node-redlock.

At most one holder at a time, the lock goes to the next when it is released or has expired, and nobody releases
another's. The masters of Redlock are databases of one server here: each has its own keys, which is all that the
algorithm asks of them.
"""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from redis.exceptions import LockError, LockNotOwnedError

from harness.node import needs_node, run_script


class Inside:
    """Counts who is in the critical section."""

    def __init__(self):
        self.count = self.most = self.entered = 0
        self.guard = threading.Lock()

    def __enter__(self):
        with self.guard:
            self.count += 1
            self.entered += 1
            self.most = max(self.most, self.count)

    def __exit__(self, *_):
        with self.guard:
            self.count -= 1


def test_redis_pys_lock_admits_one_at_a_time(text_client):
    inside = Inside()

    def work(_):
        for _ in range(5):
            with text_client.lock("lock", timeout=60, sleep=0.002), inside:
                text_client.set("n", int(text_client.get("n") or 0) + 1)

    with ThreadPoolExecutor(10) as threads:
        list(threads.map(work, range(10)))
    assert (inside.most, inside.entered) == (1, 50)
    assert text_client.get("n") == "50"


def test_redis_pys_lock_knows_its_owner(text_client):
    mine, other = text_client.lock("lock", timeout=60), text_client.lock("lock", timeout=60)
    assert mine.acquire() and mine.locked() and mine.owned() and not other.owned()
    assert not other.acquire(blocking=False) and not other.acquire(blocking_timeout=0.1)
    with pytest.raises(LockError):
        other.release()
    assert mine.extend(60) and text_client.pttl("lock") > 60_000
    assert mine.reacquire() and text_client.pttl("lock") <= 60_000
    mine.release()
    assert other.acquire(blocking=False)
    # Taken away, it is not released any more by who had it.
    text_client.set("lock", "somebody else")
    for act in (other.release, lambda: other.extend(1)):
        with pytest.raises(LockNotOwnedError):
            act()
            other.local.token = other.local.token or b"lost"
        assert text_client.get("lock") == "somebody else"
        other.local.token = b"another token"


def test_redis_pys_lock_goes_to_a_waiter(text_client):
    mine, other = text_client.lock("lock", timeout=60), text_client.lock("lock", timeout=60, thread_local=False)
    assert mine.acquire()
    with ThreadPoolExecutor(1) as threads:
        waiter = threads.submit(other.acquire, blocking_timeout=60)
        mine.release()
        assert waiter.result(30) is True
    other.release()
    short = text_client.lock("lock", timeout=0.05)
    assert short.acquire()
    assert text_client.lock("lock", timeout=60).acquire(blocking_timeout=30), "it expires by itself"
    with pytest.raises(LockNotOwnedError):
        short.release()


@pytest.fixture
def masters(endpoint, protocol):
    clients = {redis.Redis(endpoint.host, endpoint.port, db, protocol=protocol, socket_timeout=30) for db in range(3)}
    yield clients
    for client in clients:
        client.close()


def test_potterys_redlock_admits_one_at_a_time(masters):
    pottery = pytest.importorskip("pottery")
    inside = Inside()

    def work(_):
        for _ in range(3):
            with pottery.Redlock(key="printer", masters=masters, auto_release_time=60), inside:
                pass

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert (inside.most, inside.entered) == (1, 12)


def test_potterys_redlock_needs_a_majority(masters):
    pottery = pytest.importorskip("pottery")
    mine, other = (pottery.Redlock(key="printer", masters=masters, auto_release_time=60) for _ in range(2))
    assert mine.acquire() and mine.locked() and not other.acquire(blocking=False)
    mine.extend()
    first, second, _ = masters
    first.delete("redlock:printer")
    assert mine.locked(), "two of three still hold it"
    second.delete("redlock:printer")
    assert not mine.locked()
    with pytest.raises(pottery.ReleaseUnlockedLock):
        mine.release()


@needs_node("redlock", "ioredis")
def test_node_redlock_admits_one_at_a_time(endpoint):
    run_script("redlock.mjs", endpoint)
