"""What is deployed, running: the demo of docker-compose.yml, and the script that puts Nearkey into an app's own image."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request

import pytest

from harness.deployments import ROOT, yaml_of
from harness.nearkey import binary, clean_environment
from harness.ports import eventually, free_port

pytestmark = pytest.mark.skipif(os.environ.get("NEARKEY_TEST_DIRECT") == "1", reason="about the proxy itself")

# An app: tells what it sees, reads through Nearkey, and takes its time to end.
APP = """
import json, os, signal, sys, time
import redis
def end(*_):
    time.sleep(0.2)
    db.set("last", "word")
    print("ended", flush=True)
    sys.exit(7)
signal.signal(signal.SIGTERM, end)
seen = {k: v for k, v in os.environ.items() if "REDIS" in k}
if "REDIS_URL" in seen:
    db = redis.Redis.from_url(seen["REDIS_URL"])
else:
    db = redis.Redis(seen["REDIS_HOST"], int(seen["REDIS_PORT"]), password=seen.get("REDIS_PASSWORD"))
print(json.dumps([seen, db.ping()]), flush=True)
if sys.argv[1:] == ["once"]:
    sys.exit(3)
while True:
    time.sleep(0.05)
"""


@pytest.fixture(params=["sh", "bash"])
def together(request, tmp_path):
    """Starts with-nearkey with a program of Python, by each of two shells."""
    if not shutil.which(request.param):
        pytest.skip(f"no {request.param}")
    port, admin, started = free_port(), free_port(), []

    def start(*args, **env):
        env = clean_environment(WITH_NEARKEY_PORT=str(port), NEARKEY_ADMIN__ADDRESS=f"127.0.0.1:{admin}",
                                WITH_NEARKEY_PROGRAM=binary(), **env)
        command = [request.param, str(ROOT / "deploy/render/with-nearkey"), sys.executable, "-c", APP, *args]
        process = subprocess.Popen(command, env=env, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   start_new_session=True)
        process.redis_port = port
        started.append(process)
        return process

    yield start
    for process in started:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.communicate()


def test_an_app_sees_localhost_and_ends_before_nearkey(together, redis_server):
    server = redis_server(tls=False, password="of-the-server")
    process = together(REDIS_URL=server.url())
    seen, pong = json.loads(process.stdout.readline())
    assert pong and seen == {"REDIS_URL": f"redis://127.0.0.1:{process.redis_port}/0"}
    process.send_signal(signal.SIGTERM)
    out, log = process.communicate(timeout=30)
    # Its last command was carried, its exit code is the container's, and Nearkey drained.
    assert (process.returncode, out) == (7, "ended\n"), log
    assert server.control("GET", "last") in (b"word", "word")
    assert "drained" in log and "of-the-server" not in log


def test_the_parts_of_an_address_are_replaced_and_secrets_stay_with_nearkey(together, redis_server):
    server = redis_server(tls=False, password="of-the-server")
    process = together("once", REDIS_HOST="127.0.0.1", REDIS_PORT=str(server.port), REDIS_PASSWORD="of-the-server", REDIS_SSL="false")
    out, log = process.communicate(timeout=30)
    seen, pong = json.loads(out)
    assert process.returncode == 3 and pong, log
    assert seen == {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(process.redis_port), "REDIS_SSL": "false"}


def test_a_wrong_configuration_ends_the_container(together):
    process = together("once", REDIS_URL="nonsense")
    out, log = process.communicate(timeout=30)
    assert process.returncode == 2 and out == "" and "REDIS_URL" in log


@pytest.mark.skipif(not shutil.which("ps"), reason="no ps")
def test_the_app_ends_with_its_nearkey(together, redis_server):
    process = together(REDIS_URL=redis_server(tls=False).url())
    process.stdout.readline()
    listed = subprocess.run(["ps", "-ax", "-o", "pid=,ppid=,args="], capture_output=True, text=True).stdout
    words = [line.split() for line in listed.splitlines()]
    mine = [int(pid) for pid, parent, *args in words if parent == str(process.pid) and "--listen" in args]
    assert len(mine) == 1, listed
    os.kill(mine[0], signal.SIGKILL)
    _, log = process.communicate(timeout=30)
    assert process.returncode != 0 and "nearkey ended" in log


# The demo of docker-compose.yml.

def test_the_demo_carries_a_hundred_connections_over_a_few(tmp_path, redis_server, nearkey):
    pytest.importorskip("yaml")
    services = yaml_of(ROOT / "docker-compose.yml")["services"]
    made = tmp_path / "certs"
    made.mkdir()
    script = [ROOT / "deploy/compose/make-certs.sh", made, "redis"]
    for _ in range(2):
        subprocess.run(script, check=True, capture_output=True)
    assert (made / "server.key").stat().st_mode & 0o077 == 0
    # The server, as the file starts it, but on ports of this test.
    port, control = free_port(), free_port()
    command = services["redis"]["command"].replace("/certs/", f"{made}/")
    command = command.replace("--port 0", f"--port {control}").replace("--tls-port 6379", f"--tls-port {port}")
    server = subprocess.Popen([*shlex.split(command), "--dir", tmp_path, "--bind", "127.0.0.1"], stdout=subprocess.DEVNULL)
    app = None
    try:
        wanted = services["nearkey"]["environment"] | {"REDIS_HOST": "localhost", "REDIS_PORT": str(port)}
        wanted["NEARKEY_UPSTREAM__CA"] = wanted["NEARKEY_UPSTREAM__CA"].replace("/certs", str(made))
        wanted.pop("NEARKEY_ADMIN__ADDRESS")
        proxy = nearkey(env=wanted)
        eventually(lambda: proxy.health()[0] == 200, 30, what="the server is reached with its own CA")
        page = free_port()
        env = clean_environment(REDIS_HOST="localhost", REDIS_PORT=str(proxy.port), PORT=str(page))
        app = subprocess.Popen([sys.executable, str(ROOT / "deploy/compose/app.py")], env=env, stderr=subprocess.PIPE, text=True)

        def facts():
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{page}/", timeout=10) as reply:
                    return json.load(reply)
            except OSError:
                assert app.poll() is None, app.stderr.read()
                return {"visits": 0}

        eventually(lambda: facts()["visits"] > 500, 60, what="the app works")
        told = facts()
        assert told["errors"] == 0 and told["app_connections"] == 100
        assert proxy.health()[1]["clients"] >= 100
        # The server takes 50; all of the app fits into Nearkey's ten.
        assert proxy.health()[1]["redis"]["connection_pool"]["active"] <= 10
        eventually(lambda: proxy.metric("nearkey_l1_hits_total") > 0, 30, what="products are read from memory")
        app.terminate()
        assert app.wait(30) == 0, app.stderr.read()
    finally:
        for process in filter(None, (app, server)):
            process.terminate()
            process.wait()
