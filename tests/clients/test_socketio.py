"""socket.io's Redis adapters, unchanged: two servers whose broadcasts, rooms and requests travel by publish/subscribe."""

import pytest

from harness.node import needs_node, run_script

pytestmark = needs_node("@socket.io/redis-adapter", "socket.io", "socket.io-client", "ioredis", "redis")


@pytest.mark.parametrize("adapter", ["classic-ioredis", "classic-redis-2", "classic-redis-3", "sharded-ioredis", "sharded-redis-2",
                                     "sharded-redis-3"])
def test_broadcasts_reach_the_clients_of_both_servers_once(endpoint, adapter):
    run_script("socketio.mjs", endpoint, TEST_ADAPTER=adapter)
