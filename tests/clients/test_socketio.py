"""socket.io's Redis adapters, unchanged: two servers; broadcasts, rooms and requests travel by publish/subscribe."""

import pytest

from harness.node import needs_node, run_script

pytestmark = needs_node("@socket.io/redis-adapter", "socket.io", "socket.io-client", "ioredis", "redis")


@pytest.mark.parametrize("library", ["ioredis", "redis-2", "redis-3"])
@pytest.mark.parametrize("kind", ["classic", "sharded"])
def test_broadcasts_reach_the_clients_of_both_servers_once(endpoint, kind, library):
    run_script("socketio.mjs", endpoint, TEST_ADAPTER=f"{kind}-{library}")
