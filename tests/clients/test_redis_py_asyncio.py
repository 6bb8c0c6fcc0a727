"""redis-py's asyncio client, unchanged, in both protocols: transactions, locks, publish/subscribe,
waits that are cancelled.
"""

import asyncio
import functools

import pytest
import redis.asyncio
from redis.exceptions import LockNotOwnedError, ResponseError, WatchError


def within(seconds):
    """Runs the coroutine function as a test of at most so long."""
    def wrap(test):
        @functools.wraps(test)
        def run(*args, **kwargs):
            return asyncio.run(asyncio.wait_for(test(*args, **kwargs), seconds))
        return run
    return wrap


@pytest.fixture
def connect(endpoint, protocol):
    """Makes a client that speaks the protocol under test; it belongs to the loop of the test.

    It has no time-out of its own: with one, redis-py sends by `asyncio.wait_for`, which before Python 3.12 forgets a
    cancellation that meets the end of the sending.
    """
    def connect(**options):
        return redis.asyncio.Redis(host=endpoint.host, port=endpoint.port, protocol=protocol, socket_timeout=None,
                                   decode_responses=True, max_connections=1000, **options)
    return connect


async def blocked(endpoint, count):
    await asyncio.to_thread(endpoint.server.wait_for_blocked, count)


@within(60)
async def test_transactions_side_by_side_do_not_mix(connect):
    async with connect() as r:
        async def one(n):
            async with r.pipeline(transaction=True) as pipe:
                for i in range(10):
                    pipe.rpush("log", f"{n}.{i}").get(f"k{n}")
                replies = await pipe.set(f"k{n}", n).get(f"k{n}").execute()
                assert replies[1:20:2] == [None] * 10 and replies[20:] == [True, str(n)]
                first = replies[0]
                assert replies[0:20:2] == list(range(first, first + 10))

        await asyncio.gather(*(one(n) for n in range(200)))
        log = await r.lrange("log", 0, -1)
        assert all(log[at:at + 10] == [log[at].split(".")[0] + f".{i}" for i in range(10)] for at in range(0, 2000, 10))
        with pytest.raises(ResponseError, match="unknown command"):
            await r.pipeline().set("a", 1).execute_command("NOSUCH").execute()
        assert await r.get("a") is None


@within(60)
async def test_watch_loops_lose_no_update(connect):
    async with connect() as r:
        async def increment():
            for _ in range(10):
                async with r.pipeline() as pipe:
                    while True:
                        try:
                            await pipe.watch("n")
                            value = int(await pipe.get("n") or 0)
                            pipe.multi()
                            pipe.set("n", value + 1)
                            await pipe.execute()
                            break
                        except WatchError:
                            continue

        async def by_helper():
            async def change(pipe):
                value = int(await pipe.get("n") or 0)
                pipe.multi()
                pipe.set("n", value + 1)
            for _ in range(10):
                await r.transaction(change, "n")

        await asyncio.gather(*(increment() for _ in range(4)), *(by_helper() for _ in range(4)))
        assert await r.get("n") == "80"


@within(60)
async def test_locks_admit_one_at_a_time(connect):
    async with connect() as r:
        inside = 0

        async def work():
            nonlocal inside
            for _ in range(5):
                async with r.lock("lock", timeout=30, sleep=0.002):
                    inside += 1
                    assert inside == 1
                    count = int(await r.get("n") or 0)
                    await r.set("n", count + 1)
                    inside -= 1

        await asyncio.gather(*(work() for _ in range(10)))
        assert await r.get("n") == "50"
        mine, other = r.lock("lock", timeout=30), r.lock("lock", timeout=30, blocking=False)
        assert await mine.acquire() and not await other.acquire()
        assert await mine.extend(30) and await mine.owned() and not await other.owned()
        await r.set("lock", "stolen")
        with pytest.raises(LockNotOwnedError):
            await mine.release()


@within(60)
async def test_subscribers_are_fed_while_others_work(connect):
    async with connect() as r:
        async def listen(n, ready):
            heard = []
            async with r.pubsub() as subscriber:
                await subscriber.subscribe("all", f"own.{n}")
                await subscriber.psubscribe(f"group.{n % 5}.*")
                async for message in subscriber.listen():
                    if message["type"] == "psubscribe":
                        ready.release()
                    elif message["type"] in ("message", "pmessage"):
                        if message["data"] == "end":
                            return heard
                        heard.append((message["channel"], message["data"]))

        ready = asyncio.Semaphore(0)
        listeners = [asyncio.create_task(listen(n, ready)) for n in range(50)]
        for _ in listeners:
            await ready.acquire()
        for n in range(20):
            await r.publish("all", n)
        # Of different publishers, no order is promised between them.
        await asyncio.gather(*(r.publish(f"own.{n}", "mine") for n in range(50)))
        await asyncio.gather(*(r.publish(f"group.{n}.x", n) for n in range(5)))
        await r.publish("all", "end")
        for n, listener in enumerate(listeners):
            heard = await listener
            assert heard[:20] == [("all", str(m)) for m in range(20)]
            assert sorted(heard[20:]) == [(f"group.{n % 5}.x", str(n % 5)), (f"own.{n}", "mine")]


@within(60)
async def test_a_subscriber_can_subscribe_again_after_it_left(connect):
    async with connect() as r:
        async with r.pubsub(ignore_subscribe_messages=True) as subscriber:
            for turn in range(5):
                await subscriber.subscribe(f"c{turn}")
                await r.publish(f"c{turn - 1}", "left behind")
                while not await r.publish(f"c{turn}", turn):
                    await asyncio.sleep(0.01)
                message = None
                while message is None:
                    message = await subscriber.get_message(timeout=20)
                assert message["data"] == str(turn)
                await subscriber.unsubscribe(f"c{turn}")


@within(60)
async def test_waits_of_one_loop_are_served_apart(connect, endpoint):
    async with connect() as r:
        waits = [asyncio.create_task(r.blpop(f"q{n}", timeout=60)) for n in range(6)]
        await blocked(endpoint, 6)
        for n in reversed(range(6)):
            await r.rpush(f"q{n}", n)
        for n, wait in enumerate(waits):
            assert list(await wait) == [f"q{n}", str(n)]
        assert await r.blpop("none", timeout=0.05) is None
        assert not await r.xread({"none": "$"}, block=50)


@within(60)
async def test_a_cancelled_wait_takes_nothing_and_leaves_nothing(connect, endpoint):
    async with connect() as r:
        calls = (lambda: r.blpop("q", timeout=0), lambda: r.blmove("q", "to", 0), lambda: r.xread({"s": "$"}, block=0))
        for call in calls:
            wait = asyncio.create_task(call())
            await blocked(endpoint, 1)
            wait.cancel()
            with pytest.raises(asyncio.CancelledError):
                await wait
            assert await r.echo("mine") == "mine"
            await blocked(endpoint, 0)
            await r.rpush("q", "kept")
            assert await r.lrange("q", 0, -1) == ["kept"] and not await r.exists("to")
            await r.delete("q")


@within(60)
async def test_some_cancelled_waits_cost_the_others_nothing(connect, endpoint):
    async with connect() as r:
        for _ in range(5):
            waits = [asyncio.create_task(r.blpop("q", timeout=0)) for _ in range(6)]
            await blocked(endpoint, 6)
            for wait in waits[::2]:
                wait.cancel()
            ends = await asyncio.gather(*waits[::2], return_exceptions=True)
            assert [type(end) for end in ends] == [asyncio.CancelledError] * 3
            await blocked(endpoint, 3)
            await r.rpush("q", *range(3))
            assert sorted([(await wait)[1] for wait in waits[1::2]]) == [str(n) for n in range(3)]
            assert await r.llen("q") == 0


@within(60)
async def test_workers_drain_a_queue(connect):
    async with connect() as r:
        async def work():
            mine = []
            while (element := (await r.blpop("jobs", timeout=60))[1]) != "end":
                mine.append(int(element))
                async with r.pipeline() as pipe:
                    await pipe.incr("done").rpush("results", element).execute()
            return mine

        workers = [asyncio.create_task(work()) for _ in range(6)]
        for n in range(0, 400, 4):
            await r.rpush("jobs", *range(n, n + 4))
        await r.rpush("jobs", *["end"] * 6)
        done = [n for mine in await asyncio.gather(*workers) for n in mine]
        assert sorted(done) == list(range(400)) and await r.get("done") == "400"


@within(60)
async def test_a_monitor_sees_what_others_do(connect):
    async with connect() as r:
        async with r.monitor() as monitor:
            await r.set("k", "v")
            async for event in monitor.listen():
                if event["command"] == "SET k v":
                    break
        assert await r.get("k") == "v"


@within(60)
async def test_scripts_and_databases_work(connect):
    async with connect(db=3) as r, connect(db=4) as other:
        add = r.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
        assert [await add(keys=["n"], args=[2]) for _ in range(2)] == [2, 4]
        await r.script_flush()
        assert await add(keys=["n"], args=[2]) == 6
        assert await other.get("n") is None
        assert await r.swapdb(3, 4) and await other.get("n") == "6"
