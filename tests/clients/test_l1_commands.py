"""Every read that L1 holds gets from it, in both protocols, the very bytes that the server sends; and it gets them from it."""

import pytest

from harness.l1_vocabulary import CALLS, DATA, NEVER
from harness.ports import eventually

# The first goes past L1, the second fetches; the others are hits.
TIMES = 6
PROTOCOLS = (2, 3)
# Of what could be hits at best, so many must be. A machine that stands still for longer than the lease costs hits, so what
# falls short gets more tries.
SHARE = 0.5
TRIES = 4


@pytest.fixture
def server(redis_server):
    server = redis_server(tls=False)
    for command in DATA:
        server.control(*command)
    return server


@pytest.fixture
def proxy(nearkey, server):
    proxy = nearkey(server, cache__default="cache")
    with proxy.connect() as client:
        # The tracked connection is opened when somebody first has a use for it.
        eventually(lambda: client.raw("GET", "warm") == b"$-1\r\n" and hits(proxy) > 0, 15, what="L1 answers")
    return proxy


def hits(proxy):
    return sum(value for name, value in proxy.metrics().items() if name.startswith("nearkey_l1_hits_total"))


@pytest.fixture
def clients(proxy):
    clients = connected(proxy)
    yield clients
    for client in clients.values():
        client.close()


@pytest.fixture
def direct(server):
    clients = connected(server)
    yield clients
    for client in clients.values():
        client.close()


def connected(to):
    clients = {protocol: to.connect() for protocol in PROTOCOLS}
    clients[3].command("HELLO", "3")
    return clients


def play(calls, clients, direct):
    """Makes each call several times in both protocols; gives what came back wrong, and how many can have been hits."""
    wrong, possible = [], 0
    for call in calls:
        expected = {protocol: direct[protocol].raw(*call) for protocol in PROTOCOLS}
        for time in range(TIMES):
            for protocol in PROTOCOLS:
                got = clients[protocol].raw(*call)
                if got != expected[protocol]:
                    wrong.append(f"{call}, RESP{protocol}, time {time + 1}: {got[:300]} and not {expected[protocol][:300]}")
        if not expected[2].startswith(b"-"):
            possible += TIMES * len(PROTOCOLS) - 2
    return wrong, possible


def test_every_read_is_answered_by_l1_as_by_the_server(proxy, clients, direct):
    wrong, lacking = [], dict.fromkeys(CALLS)
    for _ in range(TRIES):
        for name in list(lacking):
            before = hits(proxy)
            found, possible = play(CALLS[name], clients, direct)
            wrong += found
            assert possible > 0, f"{name} has only errors"
            lacking[name] = (hits(proxy) - before, possible)
            if lacking[name][0] >= SHARE * possible:
                del lacking[name]
    assert not wrong, f"{len(wrong)} wrong, the first: {wrong[:5]}"
    assert not lacking, f"hits of possible ones: {lacking}"


def test_what_l1_must_not_hold_it_does_not_hold(proxy, clients, direct):
    for call in NEVER:
        before = hits(proxy)
        wrong, _ = play([call], clients, direct)
        assert not wrong, wrong[:3]
        assert hits(proxy) == before, f"L1 holds {call}"
