"""What is no Redis protocol is answered as Redis answers it, ends the connection, and never travels."""

import random
import re
import socket
import threading
import time

import pytest

from harness.nearkey import MemoryWatch
from harness.resp import Raw, bulk, encode

PING = b"*1\r\n$4\r\nPING\r\n"

# Name, bytes. After them the client sends nothing and keeps its side open.
HOSTILE = [
    ("nested array", b"*1\r\n*1\r\n$4\r\nPING\r\n"),
    ("integer argument", b"*2\r\n$4\r\nECHO\r\n:1\r\n"),
    ("simple string argument", b"*1\r\n+PING\r\n"),
    ("null argument", b"*2\r\n$4\r\nECHO\r\n$-1\r\n"),
    ("negative bulk length", b"*1\r\n$-2\r\n"),
    ("bulk length with plus", b"*1\r\n$+4\r\nPING\r\n"),
    ("bulk length with leading zero", b"*1\r\n$04\r\nPING\r\n"),
    ("bulk length with space", b"*1\r\n$ 4\r\nPING\r\n"),
    ("bulk length with trailing space", b"*1\r\n$4 \r\nPING\r\n"),
    ("bulk length empty", b"*1\r\n$\r\nPING\r\n"),
    ("bulk length no number", b"*1\r\n$four\r\nPING\r\n"),
    ("bulk length hexadecimal", b"*1\r\n$0x4\r\nPING\r\n"),
    ("bulk length fraction", b"*1\r\n$4.0\r\nPING\r\n"),
    ("bulk length just too large", b"*1\r\n$536870913\r\n"),
    ("bulk length 2^31", b"*1\r\n$2147483648\r\n"),
    ("bulk length 2^63", b"*1\r\n$9223372036854775808\r\n"),
    ("bulk length 2^64", b"*1\r\n$18446744073709551616\r\n"),
    ("bulk length of thirty digits", b"*1\r\n$" + b"9" * 30 + b"\r\n"),
    ("bulk length minus zero", b"*1\r\n$-0\r\n\r\n"),
    ("no dollar", b"*1\r\n4\r\nPING\r\n"),
    ("letter for dollar", b"*1\r\nx4\r\nPING\r\n"),
    ("control byte for dollar", b"*1\r\n\x01\r\n"),
    ("newline for dollar", b"*1\r\n\r\n$4\r\nPING\r\n"),
    ("high byte for dollar", b"*1\r\n\xff4\r\nPING\r\n"),
    ("dollar line ends without carriage return", b"*1\r\n$4\nPING\r\n" + PING),
    ("count with plus", b"*+1\r\n$4\r\nPING\r\n"),
    ("count with leading zero", b"*01\r\n$4\r\nPING\r\n"),
    ("count with space", b"* 1\r\n$4\r\nPING\r\n"),
    ("count with trailing space", b"*1 \r\n$4\r\nPING\r\n"),
    ("count empty", b"*\r\n$4\r\nPING\r\n"),
    ("count no number", b"*one\r\n"),
    ("count 2^31", b"*2147483648\r\n"),
    ("count 2^63", b"*9223372036854775808\r\n"),
    ("count 2^64", b"*18446744073709551616\r\n"),
    ("count of thirty digits", b"*" + b"9" * 30 + b"\r\n"),
    ("count in double", b"*1.0\r\n"),
    ("count line never ends", b"*" + b"1" * 70_000),
    ("bulk line never ends", b"*1\r\n$" + b"1" * 70_000),
    ("bulk line of zeros", b"*1\r\n$" + b"0" * 70_000),
    ("inline never ends", b"A" * 70_000),
    ("inline of spaces never ends", b" " * 70_000),
    ("unbalanced double quote", b'ECHO "abc\r\n'),
    ("unbalanced single quote", b"ECHO 'abc\r\n"),
    ("quote before text", b'ECHO "a"b\r\n'),
    ("single quote before text", b"ECHO 'a'b\r\n"),
    ("lone quote", b'"\r\n'),
    ("good then bad", PING + b"*1\r\n$-5\r\n"),
    ("good twice then bad", PING + encode("ECHO", "x") + b"*x\r\n"),
    ("bad then good", b"*x\r\n" + PING),
    ("good then unbalanced", PING + b'"\r\n' + PING),
    ("bad in last of three arguments", b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n%1\r\n"),
    ("resp3 map", b"%1\r\n$4\r\nPING\r\n$4\r\nPING\r\n"),
    ("resp3 set", b"~1\r\n$4\r\nPING\r\n"),
    ("resp3 push", b">1\r\n$4\r\nPING\r\n"),
    ("resp3 verbatim argument", b"*2\r\n$4\r\nECHO\r\n=5\r\ntxt:a\r\n"),
    ("streamed array", b"*?\r\n$4\r\nPING\r\n.\r\n"),
    ("streamed bulk", b"*1\r\n$?\r\n;4\r\nPING\r\n;0\r\n"),
    ("count ends without carriage return", b"*1\n$4\r\nPING\r\n" + PING),
]

# Malformed to the eye, fine to Redis: whatever it says, the endpoint says too, and the connection goes on.
TOLERATED = [
    ("empty array", b"*0\r\n" + PING),
    ("null array", b"*-1\r\n" + PING),
    ("very negative count", b"*-1000\r\n" + PING),
    ("smallest count", b"*-9223372036854775808\r\n" + PING),
    ("empty lines", b"\r\n\r\n\n\n" + PING),
    ("empty bulk name", b"*1\r\n$0\r\n\r\n" + PING),
    ("inline", b"PING\r\n" + PING),
    ("inline with bare newline", b"PING\nECHO a\n" + PING),
    ("inline with quotes", b'ECHO "a b\\n\\x41\\"" \r\n' + PING),
    ("inline with single quotes", b"ECHO 'a \\' b\\n'\r\n" + PING),
    ("inline with tabs and spaces", b"  ECHO \t  x  \r\n" + PING),
    ("inline with empty argument", b'ECHO ""\r\n' + PING),
    ("inline with zero byte", b"ECHO a\0b\r\n" + PING),
    ("inline with high bytes", b"ECHO \xff\xfe\r\n" + PING),
    ("inline of an array's inside", b"$4\r\n" + PING),
    ("inline of a reply", b"+OK\r\n" + PING),
    ("inline of an integer", b":5\r\n" + PING),
    ("inline of a percent sign", b"% 1\r\n" + PING),
    ("inline of spaces", b"   \r\n" + PING),
    ("inline and array mixed", b"PING\r\n" + PING + b"ECHO x\r\n" + PING),
    ("inline of many arguments", b"ECHO" + b" x" * 2000 + b"\r\n" + PING),
    ("long inline", b"ECHO " + b"x" * 60_000 + b"\r\n" + PING),
    ("unknown command with line breaks", encode("NO\r\nSUCH", "a\r\nb") + PING),
    ("half a command", b"*2\r\n$4\r\nECHO\r\n$5\r\nhel"),
    ("largest bulk only declared", b"*2\r\n$4\r\nECHO\r\n$536870912\r\n"),
    ("million arguments only declared", b"*1000000\r\n$4\r\nECHO\r\n"),
    ("half a count", b"*1"),
    ("half a line end", b"*1\r"),
    ("nothing", b""),
]

# Redis skips two bytes where a line must end, without a look, and its C strings end at a zero byte. Nearkey looks.
STRICTER = [
    ("wrong bytes after a bulk", b"*1\r\n$4\r\nPINGxx"),
    ("wrong bytes between bulks", b"*2\r\n$4\r\nECHOab$1\r\nxcd"),
    ("zero byte for dollar", b"*1\r\n\0\r\n"),
    ("carriage return in count", b"*1\r1\n$4\r\nPING\r\n"),
    ("carriage return in length", b"*1\r\n$4\r1PING\r\n"),
]

# Redis closes without a word when HTTP speaks to it (since 3.2.7), as a browser can be made to.
HTTP = [
    ("post", b"POST / HTTP/1.1\r\nHost: localhost:6379\r\nContent-Length: 20\r\n\r\nSET hacked yes\r\n"),
    ("post lower case", b"post / HTTP/1.1\r\n\r\n"),
    ("host header", b"Host: localhost\r\n"),
    ("host header after get", b"GET / HTTP/1.1\r\nHost: localhost:6379\r\n\r\n"),
    ("post as array", encode("POST", "/")),
    ("commands in front", PING + b"POST / HTTP/1.1\r\n" + PING),
]

CLIENT_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(range(40)) + b"\r\n" + bytes(160)


def answer(connect, payload, silence):
    """All that comes back, and whether the peer closed."""
    with connect() as raw:
        try:
            raw.send(payload)
        except OSError:
            pass
        return raw.until_silent(silence)


def all_answers(connect, payloads, silence=0.4):
    """One connection per payload, all at once: waiting for silence costs its time only once."""
    results = [None] * len(payloads)

    def one(i):
        results[i] = answer(connect, payloads[i], silence)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(payloads))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return results


@pytest.mark.parametrize("table", [HOSTILE, TOLERATED, HTTP], ids=["hostile", "tolerated", "http"])
def test_every_payload_is_answered_as_redis_answers_it(endpoint, reference, table):
    def there():
        return Raw("127.0.0.1", reference.port)

    payloads = [payload for _, payload in table]
    differing = {}
    for (name, payload), want, have in zip(table, all_answers(there, payloads), all_answers(endpoint.connect, payloads)):
        if not alike(have, want, payload):
            # Once more, alone and patiently: silence may have been a busy machine.
            have, want = answer(endpoint.connect, payload, 2), answer(there, payload, 2)
        if not alike(have, want, payload):
            differing[name] = {"redis": short(want), "here": short(have)}
    assert not differing
    assert endpoint.server.control("EXISTS", "hacked") == 0


def alike(have, want, payload):
    """The same words and the same end, apart from what the network or the log's safety makes of them."""
    if have == want:
        return True
    both_closed = have[1] and want[1]
    if both_closed and b"" in (have[0], want[0]) and (len(payload) > 60_000 or b"POST" in payload):
        # Closing with input unread resets the connection, which can overtake what was said before.
        return have[0] in (b"", want[0]) or have[0] == b"+PONG\r\n"
    # Redis shows the byte itself.
    return have[1] == want[1] and have[0] == re.sub(rb"got '[^ -~]'", b"got '?'", want[0])


def test_what_redis_overlooks_is_a_protocol_error(endpoint):
    if endpoint.direct:
        pytest.skip("redis-server overlooks it")
    for (name, _), (reply, closed) in zip(STRICTER, all_answers(endpoint.connect, [p for _, p in STRICTER])):
        assert reply.startswith(b"-ERR Protocol error: ") and closed, name


def short(answer):
    return answer[0][:120], "closed" if answer[1] else "open"


def test_hostile_bytes_never_reach_the_server(redis_server, nearkey):
    """Counted at the server, which hears from nobody else: not one byte more than when nothing was sent."""
    server = redis_server()
    proxy = nearkey(server, upstream__keepalive="0s", upstream__connections=1)
    with proxy.connect() as good:
        assert good.command("SET", "k", "v") == b"OK"

        def received():
            return int(server.info("stats")["total_net_input_bytes"])

        received()
        first = received()
        cost_of_asking = received() - first
        before = received()
        all_answers(proxy.connect, [payload for _, payload in HOSTILE + STRICTER + HTTP] + [CLIENT_HELLO])
        assert received() - before == cost_of_asking
        # The others never noticed.
        assert good.command("GET", "k") == b"v"
        good.nothing_left()


def test_a_tls_greeting_on_the_plain_port_is_closed(endpoint):
    if endpoint.direct:
        pytest.skip("redis-server takes it for an inline command")
    with endpoint.connect() as raw:
        raw.send(CLIENT_HELLO)
        raw.until_eof(5)
    with endpoint.connect() as raw:
        assert raw.command("PING") == b"PONG"


@pytest.mark.parametrize("verb", ["GET", "PUT", "OPTIONS", "CONNECT", "HEAD"])
def test_an_http_request_is_closed_at_once(endpoint, verb):
    with endpoint.connect() as raw:
        raw.send(f"{verb} / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n".encode())
        rest = raw.until_eof(5)
        # Redis says what it thinks of the first line; a proxy may close before.
        assert rest == b"" or rest.startswith(b"-ERR")


def test_a_request_can_be_split_at_every_byte(endpoint):
    commands = [("SET", "split", "v\r\n$1\r\n"), ("GET", "split"), ("PING",), ("ECHO", ""), ("LRANGE", "none", "0", "-1")]
    stream = b"".join(encode(*c) for c in commands) + b"GET split\r\nECHO 'a b'\r\n"
    expected = b"+OK\r\n" + bulk("v\r\n$1\r\n") + b"+PONG\r\n" + bulk("") + b"*0\r\n" + bulk("v\r\n$1\r\n") + bulk("a b")
    with endpoint.connect() as raw:
        for at in range(1, len(stream)):
            raw.send(stream[:at])
            time.sleep(0.001)
            raw.send(stream[at:])
            raw.exactly(expected)
        for byte in stream:
            raw.send(bytes([byte]))
        raw.exactly(expected)
        raw.nothing_left()


def test_what_was_complete_is_answered_when_the_client_closes_its_side(endpoint):
    for stream, expected in [
        (encode("SET", "h", "1") + encode("GET", "h"), b"+OK\r\n$1\r\n1\r\n"),
        (encode("GET", "h") * 500 + b"*2\r\n$3\r\nGET", b"$1\r\n1\r\n" * 500),
        (PING, b"+PONG\r\n"),
        (b"", b""),
    ]:
        with endpoint.connect() as raw:
            raw.send(stream)
            raw.half_close()
            got = raw.until_eof(10)
            # Redis drops what it had not yet answered when it sees the end; what does come is in order and whole.
            assert expected.startswith(got)
            if not endpoint.direct:
                assert got == expected


def test_quit_answers_what_came_before_it_and_nothing_after(endpoint):
    with endpoint.connect() as raw:
        raw.send(encode("SET", "q", "1") + encode("GET", "q") + encode("QUIT") + encode("SET", "q", "2") + b"*x\r\n")
        assert raw.until_eof() == b"+OK\r\n$1\r\n1\r\n+OK\r\n"
    assert endpoint.server.control("GET", "q") == b"1"


def test_slow_clients_of_one_byte_at_a_time_harm_nobody(endpoint):
    slow = [endpoint.connect() for _ in range(300)]
    request = encode("SET", "slow", "x" * 20)
    try:
        for byte in request[:-1]:
            for raw in slow:
                raw.send(bytes([byte]))
        with endpoint.connect() as quick:
            for n in range(200):
                assert quick.command("ECHO", n) == b"%d" % n
        for raw in slow:
            raw.send(request[-1:])
        for raw in slow:
            assert raw.reply() == b"OK"
    finally:
        for raw in slow:
            raw.close()


def test_huge_declared_lengths_cost_no_memory(redis_server, nearkey):
    proxy = nearkey(redis_server(), listen__max_clients=2000)
    with proxy.connect() as raw:
        raw.command("SET", "k", "v")
    clients = []
    with MemoryWatch(proxy) as watch:
        for n in range(500):
            raw = proxy.connect()
            raw.send(b"*1000000\r\n$536870912\r\n" if n % 2 else b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$500000000\r\nabc")
            clients.append(raw)
        with proxy.connect() as raw:
            assert raw.command("GET", "k") == b"v"
    for raw in clients:
        raw.close()
    assert watch.growth_mib < 16
    # 250 large SETs want leased connections; none of them came to its end, so nothing was written.
    with proxy.connect() as raw:
        assert raw.command("GET", "k") == b"v"


def test_random_garbage_never_breaks_the_others(endpoint, reference):
    rng = random.Random(4)
    pieces = [PING, encode("ECHO", "x"), b"*", b"$", b"\r\n", b"-1", b"4", b"PING", b'"', b"*3\r\n", b"$3\r\nGET\r\n"]

    def there():
        return Raw("127.0.0.1", reference.port)

    payloads = [b"".join(rng.choice(pieces) for _ in range(rng.randrange(1, 12))) for _ in range(400)]
    with endpoint.connect() as good:
        good.command("SET", "good", "value")
        for start in range(0, len(payloads), 100):
            group = payloads[start:start + 100]
            got = all_answers(endpoint.connect, group, 0.3), all_answers(there, group, 0.3)
            for payload, have, want in zip(group, *got):
                if not alike(have, want, payload):
                    have, want = answer(endpoint.connect, payload, 1.5), answer(there, payload, 1.5)
                assert alike(have, want, payload) or overlooked(have, payload), payload
            assert good.command("GET", "good") == b"value"
        good.nothing_left()


def overlooked(have, payload):
    """Something stands where a bulk's line end must be: Redis goes on, Nearkey says so and closes."""
    return have[1] and have[0].rpartition(b"-ERR Protocol error: ")[1] and re.search(rb"\$3\r\n...(?!\r\n)..|\$4\r\n....(?!\r\n)..",
                                                                                     payload, re.S)


def test_a_client_that_vanishes_mid_command_leaves_nothing(endpoint):
    for cut in range(1, 40):
        raw = endpoint.connect()
        raw.send((encode("SET", "vanish", "x") * 2)[:-cut])
        raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        raw.close()
    with endpoint.connect() as raw:
        assert raw.raw("ECHO", "fine") == b"$4\r\nfine\r\n"
        assert raw.raw("GET", "vanish") in (b"$1\r\nx\r\n", b"$-1\r\n")
        raw.nothing_left()


def test_clients_that_vanish_mid_pipeline_do_not_shift_replies(endpoint):
    rng = random.Random(9)
    with endpoint.connect() as steady:
        for n in range(200):
            raw = endpoint.connect()
            raw.send(b"".join(encode("ECHO", f"ghost{n}.{i}") + encode("GET", f"ghost{i}") for i in range(rng.randrange(1, 50))))
            if rng.random() < 0.5:
                raw.sock.recv(10)
            raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            steady.send(b"".join(encode("EVAL", f"return 'steady{n}.{i}'", 0) for i in range(5)))
            raw.close()
            steady.exactly(b"".join(bulk(f"steady{n}.{i}") for i in range(5)))
        steady.nothing_left()
