"""ioredis and node-redis, unchanged: the scripts are in node/."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

NODE = Path(__file__).parent / "node"

pytestmark = [
    pytest.mark.skipif(not shutil.which("node"), reason="no node"),
    pytest.mark.skipif(not (NODE / "node_modules" / "ioredis").exists(), reason="no node_modules: npm install in tests/clients/node"),
]


def run_script(name, endpoint, **env):
    ended = subprocess.run(
        ["node", str(NODE / name)], capture_output=True, text=True, timeout=120,
        env={**os.environ, "TEST_HOST": endpoint.host, "TEST_PORT": str(endpoint.port),
             "TEST_DIRECT": "1" if endpoint.direct else "0", **env})
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_ioredis_works_unchanged(endpoint):
    run_script("ioredis.mjs", endpoint)


@pytest.mark.parametrize("protocol", ["2", "3"], ids=["resp2", "resp3"])
def test_node_redis_works_unchanged(endpoint, protocol):
    run_script("node_redis.mjs", endpoint, TEST_PROTOCOL=protocol)
