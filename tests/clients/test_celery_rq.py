"""Celery and RQ, unchanged, as worker processes: every task runs once and its result reaches who waits for it."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from harness.ports import eventually

HERE = Path(__file__).parent


@pytest.fixture
def worker(endpoint, tmp_path):
    """Starts a worker process; its output is shown if it ends on its own. All are ended with the test."""
    started = []
    url = f"redis://{endpoint.host}:{endpoint.port}"

    def start(*command):
        path = tmp_path / f"worker-{len(started)}.log"
        with open(path, "wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *command], cwd=HERE, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, "TEST_REDIS_URL": url, "PYTHONPATH": str(HERE)})
        process.log = path
        started.append(process)
        return process

    yield start
    for process in started:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# Celery.

@pytest.fixture
def celery(endpoint, monkeypatch, worker):
    """The application's module, with a worker of four threads behind it."""
    pytest.importorskip("celery")
    monkeypatch.setenv("TEST_REDIS_URL", f"redis://{endpoint.host}:{endpoint.port}")
    sys.modules.pop("apps.celery_app", None)
    application = importlib.import_module("apps.celery_app")
    process = worker("celery", "-A", "apps.celery_app", "worker", "-P", "threads", "-c", "4", "-n", "one@test")
    # Answered by remote control, over publish/subscribe.
    try:
        eventually(lambda: application.app.control.ping(["one@test"], timeout=1), 60)
    except AssertionError:
        raise AssertionError(f"the worker does not answer: {process.log.read_text()[-4000:]}") from None
    yield application
    application.app.close()


def test_celery_runs_tasks_and_brings_their_results(celery):
    from celery import chain, chord, group

    add, total = celery.add, celery.total
    assert add.delay(1, 2).get(timeout=60) == 3
    results = [add.delay(n, n) for n in range(100)]
    assert [r.get(timeout=60) for r in results] == [2 * n for n in range(100)]
    assert group(add.s(n, 1) for n in range(30))().get(timeout=60) == list(range(1, 31))
    assert chain(add.s(1, 1), add.s(10), add.s(100))().get(timeout=60) == 112
    assert chord((add.s(n, n) for n in range(20)), total.s())().get(timeout=60) == 380
    assert add.apply_async((1, 1), countdown=0.1).get(timeout=60) == 2
    assert celery.app.backend.client.get("runs:add") == b"155"
    results[0].forget()
    assert not celery.app.backend.client.exists(celery.app.backend.get_key_for_task(results[0].id))


def test_celery_retries_fails_and_reports(celery):
    assert [r.get(timeout=60) for r in [celery.needs_attempts.delay(n) for n in (1, 2, 3)]] == [0, 1, 2]
    with pytest.raises(ValueError, match="its own words"):
        celery.fail.delay("its own words").get(timeout=60)
    running = celery.long.delay("gate")
    eventually(lambda: running.state == "PROGRESS" and running.info == {"name": "gate"}, 60)
    inspect = celery.app.control.inspect(["one@test"], timeout=30, limit=1)
    assert [task["id"] for task in inspect.active()["one@test"]] == [running.id]
    celery.app.backend.client.rpush("gate", "open")
    assert running.get(timeout=60) == "open"
    revoked = celery.add.apply_async((1, 1), countdown=3600)
    eventually(lambda: inspect.scheduled()["one@test"], 60)
    revoked.revoke()
    eventually(lambda: revoked.id in inspect.revoked()["one@test"], 60)


# RQ.

@pytest.fixture
def rq_redis(endpoint, protocol):
    pytest.importorskip("rq")
    with redis.Redis(endpoint.host, endpoint.port, protocol=protocol, socket_timeout=60) as client:
        yield client


def rq_worker(worker, endpoint, *options):
    url = f"redis://{endpoint.host}:{endpoint.port}"
    return worker("rq.cli", "worker", "-w", "rq.SimpleWorker", "-u", url, *options)


def test_rq_works_off_a_queue_in_one_burst(rq_redis, worker, endpoint):
    from rq import Queue, Retry
    from apps import rq_jobs

    high, low = Queue("high", connection=rq_redis), Queue("low", connection=rq_redis)
    jobs = [(high if n % 2 else low).enqueue(rq_jobs.double, n) for n in range(40)]
    depending = low.enqueue(rq_jobs.sum_of_dependencies, depends_on=jobs)
    retried = high.enqueue(rq_jobs.needs_attempts, 3, retry=Retry(max=5))
    hopeless = high.enqueue(rq_jobs.needs_attempts, 9, retry=Retry(max=1))
    many = high.enqueue_many([Queue.prepare_data(rq_jobs.double, (n,)) for n in range(10)])
    process = rq_worker(worker, endpoint, "--burst", "high", "low")
    assert process.wait(60) == 0, process.log.read_text()
    assert [job.return_value() for job in jobs] == [2 * n for n in range(40)]
    assert depending.return_value() == 2 * sum(range(40)), process.log.read_text()[-3000:]
    assert retried.return_value() == 3
    assert hopeless.get_status(refresh=True) == "failed" and hopeless.id in high.failed_job_registry
    assert [job.return_value() for job in many] == [2 * n for n in range(10)]
    assert rq_redis.get("runs:double") == b"50" and not high.count and not low.count


@pytest.mark.parametrize("queues", [["low"], ["high", "low"]], ids=["blmove", "blpop"])
def test_rq_waits_for_jobs_and_obeys_commands(rq_redis, worker, endpoint, queues):
    from rq import Queue, Worker
    from rq.command import send_shutdown_command
    from apps import rq_jobs

    process = rq_worker(worker, endpoint, "--name", "waiting", *queues)
    eventually(lambda: Worker.count(connection=rq_redis) == 1, 60, what="the worker registers")
    low = Queue("low", connection=rq_redis)
    endpoint.server.wait_for_blocked(1)
    jobs = [low.enqueue(rq_jobs.double, n) for n in range(10)]
    eventually(lambda: all(job.get_status(refresh=True) == "finished" for job in jobs), 60)
    held = low.enqueue(rq_jobs.wait_for, "gate")
    eventually(lambda: held.get_status(refresh=True) == "started", 60)
    rq_redis.rpush("gate", "open")
    eventually(held.return_value, 60)
    assert held.return_value() == "open"
    send_shutdown_command(rq_redis, "waiting")
    assert process.wait(60) == 0, process.log.read_text()
    assert Worker.count(connection=rq_redis) == 0
    # It left while it waited for the next job, and takes none with it.
    endpoint.server.wait_for_blocked(0)
    low.enqueue(rq_jobs.double, 0)
    assert low.count == 1
