"""Runs the scripts of node/ with their unchanged client libraries."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

NODE = Path(__file__).resolve().parents[1] / "node"


def needs_node(*packages):
    """Skips a test where Node.js or one of the packages is missing."""
    missing = [p for p in packages if not (NODE / "node_modules" / p).exists()]
    if not shutil.which("node"):
        return pytest.mark.skip(reason="no node")
    return pytest.mark.skipif(bool(missing), reason=f"no {', '.join(missing)}: npm install in tests/clients/node")


def run_script(name, endpoint, **env):
    ended = subprocess.run(
        ["node", str(NODE / name)], capture_output=True, text=True, timeout=120,
        env={**os.environ, "TEST_HOST": endpoint.host, "TEST_PORT": str(endpoint.port),
             "TEST_DIRECT": "1" if endpoint.direct else "0", **env})
    assert ended.returncode == 0, ended.stdout + ended.stderr
