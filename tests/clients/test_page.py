"""The admin page in a real browser: it shows what is so, harms nobody, and fits a phone."""

import json
import os
import threading
from pathlib import Path

import pytest

from harness import browser as browsers
from harness.ports import eventually

HOSTILE = "<img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="module")
def browser():
    if browsers.program() is None:
        pytest.skip("no Chromium here")
    browser = browsers.Browser()
    yield browser
    browser.close()


@pytest.fixture
def server(redis_server):
    return redis_server(tls=False)


@pytest.fixture
def proxy(nearkey, server):
    return nearkey(server, cache__default="cache", cost__per_100k_commands="0.20", upstream__queue_timeout="100ms")


@pytest.fixture
def busy(proxy):
    """Clients that read a hot key and one with a hostile name all the time."""
    stop = threading.Event()

    def talk():
        with proxy.connect() as raw:
            raw.command("SET", "hot:1", "x" * 100)
            raw.command("SET", HOSTILE, "y")
            while not stop.wait(0.01):
                raw.command("GET", "hot:1")
                raw.command("GET", HOSTILE)

    threads = [threading.Thread(target=talk) for _ in range(5)]
    for thread in threads:
        thread.start()
    yield
    stop.set()
    for thread in threads:
        thread.join()


def page_of(proxy):
    return f"http://127.0.0.1:{proxy.admin_port}/"


def keep_shot(browser, name):
    """Screenshots are for eyes; a directory of them is kept where one is named."""
    directory = os.environ.get("NEARKEY_SHOTS")
    if directory:
        Path(directory).mkdir(parents=True, exist_ok=True)
        browser.screenshot(Path(directory) / f"{name}.png")


def test_the_page_shows_what_is_so(browser, proxy, busy):
    browser.open(page_of(proxy))
    eventually(lambda: browser.text("#state") == "healthy", 30, what="the page is healthy")
    eventually(lambda: "hot:1" in browser.text("#hot"), 30, what="the hot key is listed")
    eventually(lambda: "cached" in browser.text("#hot"), 30, what="and is answered by L1")
    eventually(lambda: browser.js("document.querySelectorAll('#chart-rate path').length") > 0, 30, what="a chart is drawn")
    eventually(lambda: browser.text("#rate") not in ("", "–", "0"), 30, what="commands are counted")
    assert browser.text("#clients") == "5"
    assert 1 <= int(browser.text("#connections")) <= 10
    assert "upstream reachable" in browser.text("#events")
    assert "tracking" in browser.text("#saved")
    assert not browser.js("document.querySelector('#alarm').offsetHeight")
    keep_shot(browser, "page")
    assert not browser.complaints
    hosts = {url.split("/")[2] for url in browser.requested if not url.startswith("data:")}
    assert hosts == {f"127.0.0.1:{proxy.admin_port}"}, "the page asks nobody else"


def test_names_of_keys_are_only_text(browser, proxy, busy):
    browser.open(page_of(proxy))
    eventually(lambda: HOSTILE in browser.text("#hot"), 30, what="the hostile key is listed")
    assert browser.js("document.querySelectorAll('img').length") == 0
    assert browser.js("document.title") == "Nearkey"


def test_the_order_of_hot_keys_can_be_chosen(browser, proxy, busy):
    browser.open(page_of(proxy))
    eventually(lambda: "hot:1" in browser.text("#hot"), 30, what="keys are listed")
    browser.js("document.querySelector('[data-by=bytes]').click()")
    eventually(lambda: browser.text("#hot tbody tr").startswith("hot:1"), 30, what="the longest value comes first")
    assert browser.js("document.querySelector('[aria-pressed=true]').dataset.by") == "bytes"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_fits_a_phone(browser, proxy, busy, dark):
    browser.open(page_of(proxy), width=390, height=844, dark=dark)
    eventually(lambda: "hot:1" in browser.text("#hot"), 30, what="the page is drawn")
    assert browser.js("document.documentElement.scrollWidth") <= 390
    ground = browser.js("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) < 200) is dark
    keep_shot(browser, f"phone-{'dark' if dark else 'light'}")


def test_an_outage_cannot_be_overlooked(browser, proxy, server):
    browser.open(page_of(proxy))
    with proxy.connect() as raw:
        raw.command("SET", "a", "1")
        eventually(lambda: browser.text("#state") == "healthy", 30, what="the page is healthy")
        server.stop()

        def is_told():
            raw.raw("GET", "a")
            return browser.text("#state") == "server unreachable"

        eventually(is_told, 30, what="the page tells of the outage")
    assert "Server unreachable" in browser.text("#alarm")
    assert "upstream unreachable" in browser.text("#events")
    keep_shot(browser, "outage")


def test_a_proxy_that_is_gone_is_told_apart_from_a_healthy_one(browser, proxy):
    browser.open(page_of(proxy))
    eventually(lambda: browser.text("#clients") == "0", 30, what="the page is drawn")
    proxy.stop()
    eventually(lambda: "does not answer" in browser.text("#alarm"), 30, what="the page says that its numbers are old")


def test_overview_gives_what_is_newer(proxy):
    def overview(query=""):
        status, body = proxy.http(f"/overview{query}")
        assert status == 200
        return json.loads(body)

    first = eventually(lambda: (o := overview())["samples"] and o, 30, what="there is a sample")
    number, event = first["samples"][-1]["number"], first["events"][-1]["number"]
    later = overview(f"?sample={number}&event={event}")
    assert all(sample["number"] > number for sample in later["samples"]) and not later["events"]
    assert proxy.http("/overview?sample=x")[0] == 400
    assert proxy.http("/overview?other=1")[0] == 400


def test_curl_gets_words(proxy):
    status, body = proxy.http("/")
    assert status == 200 and "/metrics" in body and "<html" not in body
