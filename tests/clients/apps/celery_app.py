"""A Celery application: tasks that succeed, fail, are tried again, wait for each other.

TEST_REDIS_URL is its broker and keeps its results.
"""

import os

from celery import Celery

URL = os.environ["TEST_REDIS_URL"]

app = Celery("apps.celery_app", broker=f"{URL}/0", backend=f"{URL}/1")
app.conf.update(
    broker_connection_retry_on_startup=True,
    result_expires=3600,
    task_acks_late=True,
    worker_prefetch_multiplier=2,
    worker_hijack_root_logger=False,
)


@app.task(bind=True)
def add(self, a, b):
    self.backend.client.incr("runs:add")
    return a + b


@app.task
def total(numbers):
    return sum(numbers)


@app.task(bind=True, max_retries=3)
def needs_attempts(self, attempts):
    if self.request.retries + 1 < attempts:
        raise self.retry(countdown=0.01)
    return self.request.retries


@app.task
def fail(words):
    raise ValueError(words)


@app.task(bind=True)
def long(self, name):
    """Tells that it runs, and ends when the list of its name has an element."""
    self.update_state(state="PROGRESS", meta={"name": name})
    return self.backend.client.blpop(name, timeout=60)[1].decode()
