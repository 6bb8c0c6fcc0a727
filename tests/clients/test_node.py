"""ioredis and node-redis, unchanged: the scripts are in node/."""

import pytest

from harness.node import needs_node, run_script

pytestmark = needs_node("ioredis", "redis")


def test_ioredis_works_unchanged(endpoint):
    run_script("ioredis.mjs", endpoint)


@pytest.mark.parametrize("protocol", ["2", "3"], ids=["resp2", "resp3"])
def test_node_redis_works_unchanged(endpoint, protocol):
    run_script("node_redis.mjs", endpoint, TEST_PROTOCOL=protocol)


def test_ioredis_with_state_works_unchanged(endpoint):
    run_script("ioredis_stateful.mjs", endpoint)


@pytest.mark.parametrize("protocol", ["2", "3"], ids=["resp2", "resp3"])
def test_node_redis_with_state_works_unchanged(endpoint, protocol):
    run_script("node_redis_stateful.mjs", endpoint, TEST_PROTOCOL=protocol)
