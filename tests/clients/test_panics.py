"""A panic ends what it happened to, and nothing else.

Needs `NEARKEY_SABOTAGED_BIN`, built with `--features sabotage`; where it panics is said by `NEARKEY_PANIC`.
"""

import os
import threading

import pytest

from harness.nearkey import Nearkey
from harness.ports import eventually
from harness.resp import encode

BINARY = os.environ.get("NEARKEY_SABOTAGED_BIN")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not BINARY, reason="NEARKEY_SABOTAGED_BIN names no build with planted bugs")]


@pytest.mark.parametrize("place", ["session", "connection", "delivery"])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_panic_ends_what_it_happened_to(redis_server, tmp_path, place, workers):
    server = redis_server(tls=False)
    server.control("SET", "poison", "panic-here")
    # Where the proxy meets the word: in what a client says, or in what the server answers.
    bite = encode("ECHO", "panic-here") if place == "session" else encode("GETRANGE", "poison", 0, -1)
    proxy = Nearkey(server.url(), tmp_path / "nearkey", program=BINARY, env={"NEARKEY_PANIC": place}, workers=workers)
    stop, wrong, done = threading.Event(), [], [0] * 6

    def count(n):
        """Every increment is answered, or the client is closed; a wrong reply is a wrong reply."""
        while not stop.is_set():
            try:
                with proxy.connect() as raw:
                    while not stop.is_set():
                        raw.send(encode("ECHO", f"{n}") + encode("INCRBY", f"count:{n}", 1))
                        replies = [raw.reply(), raw.reply()]
                        if replies[0] != str(n).encode() or not isinstance(replies[1], int):
                            wrong.append(replies)
                        done[n] += 1
            except (EOFError, OSError):
                if place == "session":
                    wrong.append("closed, though the panic was another's")

    threads = [threading.Thread(target=count, args=(n,), daemon=True) for n in range(6)]
    for thread in threads:
        thread.start()
    try:
        for times in range(1, 21):
            with proxy.connect() as raw:
                raw.send(bite)
                # Its own session ends, or the command is answered as one whose connection was lost.
                raw.until_eof()
            eventually(lambda t=times: proxy.metric("nearkey_panics_total") >= t)
            before = list(done)
            eventually(lambda b=before: all(n > m for n, m in zip(done, b)), what="the others go on")
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
        code = proxy.stop()
    assert not wrong, wrong[:3]
    assert code == 0
    for n in range(6):
        assert int(server.control("GET", f"count:{n}")) >= done[n]
    assert "panic-here" not in proxy.log(), "a value in the log"
