"""The code that Nearkey was made for runs unchanged."""

import importlib
import json
import os
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pytest
import redis

SEEDS = Path(__file__).parent / "seeds"


@pytest.fixture
def environment(endpoint, monkeypatch):
    """The application's environment, pointing at the endpoint; its modules are imported afresh."""
    for name in [n for n in os.environ if n.startswith("REDIS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("REDIS_HOST", endpoint.host)
    monkeypatch.setenv("REDIS_PORT", str(endpoint.port))
    monkeypatch.syspath_prepend(str(SEEDS))
    forget_modules()
    yield monkeypatch
    forget_modules()


@pytest.fixture
def application(environment):
    """The Streamlit application's modules."""
    accept_ssl_argument(environment)
    names = ("src.services.redis_cache", "src.services.financial_cache", "src.utils.session_manager", "streamlit")
    cache, financial, sessions, streamlit = map(importlib.import_module, names)
    yield cache, financial, sessions, streamlit
    assert streamlit.errors == []


def forget_modules():
    for name in [n for n in sys.modules if n == "src" or n.startswith("src.") or n == "streamlit"]:
        del sys.modules[name]


def accept_ssl_argument(monkeypatch):
    """No redis-py from 3.0 to 8.1 takes `ssl=` in ConnectionPool as the snippet writes it ("unexpected keyword argument
    'ssl'", with Redis itself too): turn it into the connection class that it means."""
    original = redis.ConnectionPool.__init__

    def init(self, *args, **kwargs):
        if "ssl" in kwargs and kwargs.pop("ssl"):
            kwargs["connection_class"] = redis.SSLConnection
        original(self, *args, **kwargs)

    monkeypatch.setattr(redis.ConnectionPool, "__init__", init)


def port_6379_is(monkeypatch, host, port):
    """The snippets say port 6379 where the tests use a free one."""
    original = socket.getaddrinfo

    def getaddrinfo(name, service, *args, **kwargs):
        if str(service) == "6379":
            assert name in ("localhost", "127.0.0.1")
            return original(host, port, *args, **kwargs)
        return original(name, service, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def run_snippet(name, **names):
    """Executes a snippet with the names that its document takes for granted, and returns all names."""
    path = SEEDS / name
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), names)
    return names


def test_the_streamlit_cache_stores_json_and_pickles(application):
    cache = application[0].get_redis_cache()
    document = {"symbol": "VNM", "close": 67.5, "nested": {"days": [1, 2, 3]}, "name": "Sữa Việt Nam"}
    assert cache.set("stock:VNM", document, ttl=60) is True
    assert cache.get("stock:VNM") == document
    # JSON cannot hold a date, so this one is pickled: binary with every kind of byte.
    moment = {"at": datetime(2025, 10, 31, 9, 0), "raw": bytes(range(256))}
    assert cache.set("stock:moment", moment) is True
    assert cache.get("stock:moment") == moment
    assert cache.exists("stock:VNM") is True
    assert cache.delete("stock:VNM") is True
    assert cache.delete("stock:VNM") is False
    assert cache.exists("stock:VNM") is False
    assert cache.get("stock:VNM") is None
    assert 0 < cache.client.ttl("stock:moment") <= 3600


def test_the_streamlit_cache_is_shared_by_many_threads(application, endpoint):
    cache = application[0].get_redis_cache()

    def visit(n):
        assert cache.set(f"user:{n}", {"id": n})
        return cache.get(f"user:{n}") == {"id": n}

    with ThreadPoolExecutor(40) as threads:
        assert all(threads.map(visit, range(400)))
    if not endpoint.direct:
        assert len(endpoint.server.clients()) <= 10


def test_the_financial_cache_keeps_its_lifetimes(application, endpoint):
    finance = application[1].get_financial_cache()
    symbols = [f"S{n:04}" for n in range(1700)]
    assert finance.cache_stock_symbols(symbols)
    assert finance.get_stock_symbols() == symbols
    statements = {"revenue": [1.5e12, 1.7e12], "unit": "VND"}
    assert finance.cache_financial_data("FPT", "2025Q3", statements)
    assert finance.get_financial_data("FPT", "2025Q3") == statements
    assert finance.get_financial_data("FPT", "1999Q1") is None
    prices = {"t": list(range(500)), "close": [n / 7 for n in range(500)]}
    assert finance.cache_price_data("FPT", "1m", prices)
    assert finance.get_price_data("FPT", "1m") == prices
    assert 86400 * 6 < endpoint.server.control("TTL", "stock:symbols") <= 86400 * 7
    assert 0 < endpoint.server.control("TTL", "price:FPT:1m") <= 300
    # The document calls a method that its RedisCache does not have.
    with pytest.raises(AttributeError, match="clear_pattern"):
        finance.invalidate_symbol_cache("FPT")


def test_the_session_manager_restores_a_session(application, endpoint):
    sessions, streamlit = application[2], application[3]
    assert sessions.save_session_state({"portfolio": ["FPT", "VNM"], "theme": "dark"})
    sessions.save_to_session("last_query", "P/E của FPT?")
    session_id = sessions.get_session_id()
    # Another instance of the app: nothing in memory but the id.
    streamlit.session_state.clear()
    streamlit.session_state.session_id = session_id
    assert sessions.load_session_state() == {
        "portfolio": ["FPT", "VNM"], "theme": "dark", "last_query": "P/E của FPT?",
    }
    assert sessions.get_from_session("theme") == "dark"
    assert sessions.get_from_session("missing", 7) == 7
    assert endpoint.server.control("EXISTS", f"session:{session_id}") == 1


def test_the_migration_check_passes(application):
    names = run_snippet("finance_validate.py", datetime=datetime, st=application[3])
    assert names["validate_redis_connection"]() is True
    assert len(application[3].successes) == 1


def test_the_recommended_pool_works(environment, endpoint):
    pool = run_snippet("finance_pool.py", redis=redis, REDIS_HOST=endpoint.host, REDIS_PORT=endpoint.port,
                       REDIS_PASSWORD=None)["redis_pool"]
    client = redis.Redis(connection_pool=pool)
    assert client.set("pool", b"works") and client.get("pool") == b"works"


@pytest.fixture
def tls_port(endpoint, request, certs, monkeypatch):
    """A port that speaks TLS to clients, whose authority the client's machine trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", certs.ca)
    if endpoint.direct:
        return endpoint.server.tls_port
    proxy = request.getfixturevalue("nearkey")(
        endpoint.server, listen__tls_cert=certs.crt("server"), listen__tls_key=certs.key("server"))
    return proxy.port


def test_the_client_with_required_tls_works(environment, tls_port, endpoint):
    # A server without a password refuses AUTH; a local Nearkey accepts what a configured client sends anyway.
    environment.setenv("REDIS_PASSWORD", "" if endpoint.direct else "any")
    client = run_snippet("finance_tls.py", redis=redis, os=os, REDIS_HOST="localhost", REDIS_PORT=tls_port)["redis_client"]
    assert client.set("tls", "works") and client.get("tls") == b"works"


def test_price_hashes_and_signals_work_over_tls(environment, tls_port, endpoint):
    environment.setenv("REDIS_ENDPOINT", "localhost")
    port_6379_is(environment, "127.0.0.1", tls_port)
    names = run_snippet("prices_client.py")
    price = {"close": "205.50", "open": "203.00", "volume": "1000000", "timestamp": "1697658000", "source": "speed_layer"}
    names["cache_latest_price"]("AAPL", price)
    assert names["get_latest_price"]("AAPL") == price
    assert names["get_latest_price"]("NONE") == {}
    signal = {"signal": "buy", "confidence": 0.85, "indicators": {"rsi": 45.2, "macd": "bullish"}}
    names["cache_signal"]("AAPL", "momentum", signal)
    assert names["get_signal"]("AAPL", "momentum") == signal
    assert names["get_signal"]("AAPL", "none") is None
    assert json.loads(endpoint.server.control("GET", "signal:AAPL:momentum")) == signal
    assert 0 < endpoint.server.control("TTL", "price:AAPL") <= 300
    usage = run_snippet("prices_usage.py", redis_client=names["redis_client"])
    assert usage["price_data"]["close"] == "205.50"


def test_the_lambda_client_works(environment, endpoint):
    # redis-py drops every other argument when it is given a pool: this client speaks plain RESP to localhost:6379,
    # wherever REDIS_ENDPOINT points. That is where Nearkey listens by default.
    environment.setenv("REDIS_ENDPOINT", "price-cache.invalid")
    port_6379_is(environment, endpoint.host, endpoint.port)
    names = run_snippet("prices_pool.py", redis=redis, os=os)
    client = names["get_redis_client"]()
    assert client is names["get_redis_client"]()
    assert client.hset("price:MSFT", mapping={"close": "401.25"}) == 1
    assert client.hgetall("price:MSFT") == {b"close": b"401.25"}
