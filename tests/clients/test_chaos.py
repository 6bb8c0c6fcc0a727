"""The server is killed, frozen, restarted and drops its clients while everybody talks: nobody reads what is not theirs."""

import asyncio
import os
import random
import time

from harness.resp import encode

CLIENTS = 60
SECONDS = float(os.environ.get("NEARKEY_CHAOS_SECONDS", "15"))


class Tally:
    def __init__(self):
        self.checked = self.errors = self.closed = self.faults = 0
        self.wrong = []
        # Counters: acknowledged increments, and those whose fate is not known.
        self.acknowledged, self.unknown = {}, {}


async def read_reply(reader):
    line = await reader.readuntil(b"\r\n")
    if line[:1] == b"$":
        size = int(line[1:])
        return None if size < 0 else (await reader.readexactly(size + 2))[:-2]
    return line[:-2]


def batch(n, sequence, rnd):
    """Commands, and for each its kind and what an honest reply looks like."""
    requests, expected = [], []
    for _ in range(rnd.randint(1, 12)):
        sequence += 1
        match rnd.randrange(5):
            case 0:
                tag = f"{n}.{sequence}".encode()
                requests.append(encode("ECHO", tag))
                expected.append(("equal", tag))
            case 1:
                tag = f"{n}.{sequence}".encode()
                requests.append(encode("EVAL", "return ARGV[1]", 0, tag))
                expected.append(("equal", tag))
            case 2:
                requests.append(encode("SET", f"k:{n}", f"v:{n}:" + "x" * rnd.choice((0, 10, 3000, 90_000))))
                expected.append(("equal", b"+OK"))
            case 3:
                requests.append(encode("GET", f"k:{n}"))
                expected.append(("prefix", b"v:%d:" % n))
            case 4:
                requests.append(encode("INCR", f"c:{n}"))
                expected.append(("count", None))
    return b"".join(requests), expected, sequence


def judge(kind, wanted, reply):
    match kind:
        case "equal":
            return reply == wanted
        case "prefix":
            return reply is None or reply.startswith(wanted)
        case _:
            return reply[:1] == b":"


async def talk(proxy, n, end, tally):
    rnd, sequence = random.Random(n), 0
    while time.monotonic() < end:
        try:
            reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
        except OSError:
            await asyncio.sleep(0.05)
            continue
        pending = []
        try:
            while time.monotonic() < end:
                requests, pending, sequence = batch(n, sequence, rnd)
                writer.write(requests)
                if rnd.random() < 0.01:
                    break  # gone in the middle of its pipeline
                while pending:
                    reply = await asyncio.wait_for(read_reply(reader), 30)
                    kind, wanted = pending.pop(0)
                    if isinstance(reply, bytes) and reply[:1] == b"-":
                        tally.errors += 1
                        if kind == "count":
                            tally.unknown[n] = tally.unknown.get(n, 0) + 1
                        continue
                    if not judge(kind, wanted, reply):
                        tally.wrong.append((n, kind, wanted, reply))
                    if kind == "count":
                        tally.acknowledged[n] = tally.acknowledged.get(n, 0) + 1
                    tally.checked += 1
        except asyncio.TimeoutError:
            tally.wrong.append((n, "no answer and no end within 30 s"))
        except (OSError, asyncio.IncompleteReadError):
            tally.closed += 1
        finally:
            lost = sum(kind == "count" for kind, _ in pending)
            tally.unknown[n] = tally.unknown.get(n, 0) + lost
            writer.close()


async def break_things(server, end, tally):
    rnd = random.Random(7)
    while time.monotonic() < end - 3:
        await asyncio.sleep(rnd.uniform(0.2, 0.6))
        tally.faults += 1
        match rnd.randrange(3):
            case 0 | 1:
                await asyncio.to_thread(server.control, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            case 2:
                server.freeze()
                await asyncio.sleep(rnd.uniform(0.05, 1.2))
                server.thaw()


def test_nobody_reads_what_is_not_theirs_and_no_write_runs_twice(redis_server, nearkey):
    server = redis_server()
    proxy = nearkey(server, upstream__command_timeout="800ms", upstream__stall_timeout="2s")
    tally = Tally()

    async def everybody():
        end = time.monotonic() + SECONDS
        await asyncio.gather(break_things(server, end, tally), *(talk(proxy, n, end, tally) for n in range(CLIENTS)))

    asyncio.run(everybody())
    assert not tally.wrong, tally.wrong[:3]
    with proxy.connect() as raw:
        for n, acknowledged in tally.acknowledged.items():
            final = int(raw.command("GET", f"c:{n}"))
            assert acknowledged <= final <= acknowledged + tally.unknown.get(n, 0), (n, acknowledged, final)
    # Floors: a run in which nothing happens proves nothing.
    assert tally.checked > 20_000 and tally.faults > 5 and tally.closed > 20, vars(tally)
    assert proxy.metric("desync") == 0
    assert proxy.metric("panics") == 0
