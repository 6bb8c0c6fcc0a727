"""BullMQ, unchanged, over ioredis and over node-redis: queues, workers, delays, retries, rate limits, flows, events."""

import pytest

from harness.node import needs_node, run_script

pytestmark = needs_node("bullmq", "ioredis", "redis")


@pytest.mark.parametrize("client", ["ioredis", "redis"])
def test_bullmq_processes_every_job_once(endpoint, client):
    run_script("bullmq.mjs", endpoint, TEST_CLIENT=client)
