"""The dashboard and the alerts ask for what Nearkey has: a real Prometheus scrapes a running process and is asked everything."""

import json
import re
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from harness.ports import eventually, free_port

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "alerts.yml"
DASHBOARD = DEPLOY / "grafana" / "nearkey.json"

pytestmark = pytest.mark.skipif(shutil.which("prometheus") is None, reason="no Prometheus here")

# A series in an expression, with its labels.
METRIC = re.compile(r"\b(?:nearkey|redis|process)_[a-z0-9_]+(?:\{[^}]*\})?")


class Prometheus:
    def __init__(self, directory, target):
        self.port = free_port()
        config = directory / "prometheus.yml"
        config.write_text(json.dumps({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [{"job_name": "nearkey", "static_configs": [{"targets": [target]}]}],
        }))
        self.log = open(directory / "prometheus.log", "w")
        self.process = subprocess.Popen(
            ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={directory / 'data'}",
             f"--web.listen-address=127.0.0.1:{self.port}"], stdout=self.log, stderr=self.log)
        eventually(self._is_up, 60, what="Prometheus is up")

    def _is_up(self):
        try:
            return self.get("query", query="up")
        except OSError:
            return None

    def get(self, what, **params):
        query = f"?{urllib.parse.urlencode(params)}" if params else ""
        url = f"http://127.0.0.1:{self.port}/api/v1/{what}{query}"
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as e:
            raise AssertionError(f"{params}: {e.read().decode()}") from None

    def query(self, expression):
        return self.get("query", query=expression)["result"]

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.log.close()


@pytest.fixture(scope="module")
def queries():
    """Panel and expression of each query of the dashboard, its variables filled in."""
    dashboard = json.loads(DASHBOARD.read_text())
    filled = {"$instance": ".*", "$__rate_interval": "10s"}
    found = []
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"]
            for variable, value in filled.items():
                expression = expression.replace(variable, value)
            assert "$" not in expression, expression
            found.append((panel["title"], expression))
    return found


@pytest.fixture
def server(redis_server):
    return redis_server(tls=False)


@pytest.fixture
def proxy(nearkey, server):
    return nearkey(server, cache__default="cache", upstream__queue_timeout="100ms")


@pytest.fixture
def prometheus(tmp_path, proxy):
    prometheus = Prometheus(tmp_path, f"127.0.0.1:{proxy.admin_port}")
    yield prometheus
    prometheus.stop()


@pytest.fixture
def traffic(proxy):
    stop = threading.Event()

    def talk():
        with proxy.connect() as raw:
            while not stop.wait(0.02):
                raw.raw("SET", "k", "v")
                for _ in range(4):
                    raw.raw("GET", "k")

    thread = threading.Thread(target=talk)
    thread.start()
    yield
    stop.set()
    thread.join()


def selectors(expression):
    return set(METRIC.findall(expression))


def test_every_query_returns_data(prometheus, traffic, queries):
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert len(rules) > 15 and len(queries) > 30
    asked = [(f"alert {rule['name']}", selector) for rule in rules for selector in selectors(rule["query"])]
    missing = asked + queries

    def still_missing():
        missing[:] = [(where, expression) for where, expression in missing if not prometheus.query(expression)]
        return missing

    # Rates need a second sample; what is there once stays.
    deadline = time.monotonic() + 60
    while still_missing() and time.monotonic() < deadline:
        time.sleep(1)
    assert not missing, missing
    unhealthy = [rule for rule in rules if rule["health"] == "err"]
    assert not unhealthy, unhealthy


def test_an_outage_raises_the_alarm(prometheus, proxy, server):
    with proxy.connect() as raw:
        raw.command("SET", "k", "v")
        eventually(lambda: prometheus.query("redis_up == 1"), 30, what="Redis is up")
        server.stop()
        eventually(lambda: raw.raw("GET", "k").startswith(b"-LOADING"), 30, what="the outage is noticed")

    def raised():
        return {alert["labels"]["alertname"] for alert in prometheus.get("alerts")["alerts"]}

    eventually(lambda: "RedisDown" in raised(), 30, what="RedisDown is raised")


def test_the_rules_are_sound():
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool here")
    done = subprocess.run([promtool, "check", "rules", RULES], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# What seed documents ask a dashboard and alarms for, in their words, and what answers it here.
ASKED = {
    "redis_connected_clients": "panel", "redis_memory_used_bytes": "panel", "rate(redis_commands_total": "panel",
    "redis_keyspace_hits_total": "panel", "RedisDown": "alert", "RedisHighMemoryUsage": "alert",
    "RedisHighCpu": "alert", "RedisEvictions": "alert", "RedisLowHitRate": "alert",
    "RedisTooFarAway": "alert", "RedisCostsMoreThanAServer": "alert",
}


def test_what_the_seeds_ask_for_is_there(queries):
    panels = " ".join(expression for _, expression in queries)
    alerts = RULES.read_text()
    lacking = {name for name, where in ASKED.items() if name not in (panels if where == "panel" else alerts)}
    assert not lacking
