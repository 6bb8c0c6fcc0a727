"""What a client of the crowd does between two moments: each leaves the connection as it found it, or as `peer` says."""

from contextlib import contextmanager

from .frames import ErrorValue

DATABASES, QUEUES, COUNTERS, CHANNELS = 3, 4, 2, 6


async def who_am_i(peer):
    """Name, database and protocol are this client's own, whatever it or others did before."""
    tag = peer.tag()
    await peer.say(("CLIENT", "GETNAME"), ("GET", "whoami"), ("HGETALL", "shape"), ("ECHO", tag))
    name, database, shape, echo = await peer.hear(), await peer.hear(), await peer.frame(), await peer.hear()
    seen = (name, database, shape[:1], echo)
    shape_of = {2: b"*", 3: b"%"}
    should = (peer.client_name, b"db%d" % peer.db, shape_of[peer.protocol], tag.encode())
    if seen != should:
        peer.accuse("is", seen, "not", should)
    peer.ledger.seen["identity"] += 1


async def switch(peer):
    """Another database, protocol or name."""
    match peer.rnd.randrange(4):
        case 0 | 1:
            db = peer.rnd.randrange(DATABASES)
            await peer.expect(("SELECT", db), b"OK")
            peer.db = db
        case 2:
            await hello(peer, peer.rnd.choice((2, 3)))
        case 3:
            name = f"name-{peer.tag()}"
            await peer.expect(("CLIENT", "SETNAME", name), b"OK")
            peer.client_name = name.encode()


async def hello(peer, protocol):
    reply, = await peer.ask(("HELLO", protocol))
    if not isinstance(reply, dict):
        reply = dict(zip(reply[::2], reply[1::2]))
    if reply.get(b"proto") != protocol:
        peer.accuse("HELLO", protocol, "got", reply)
    peer.protocol = protocol


async def pipeline(peer):
    """Increments of its own counter among other commands."""
    count = peer.rnd.randint(1, 20)
    key = f"own:{peer.name.split('/')[0]}"
    tags = [peer.tag() for _ in range(count)]
    with tally(peer, (key, peer.db), count) as answered:
        await peer.say(*(c for tag in tags for c in (("INCR", key), ("EVAL", "return ARGV[1]", 0, tag))))
        before = None
        for tag in tags:
            number, echo = await peer.hear(), await peer.hear()
            answered()
            if echo != tag.encode() or not isinstance(number, int) or (before is not None and number <= before):
                peer.accuse("in a pipeline got", number, echo, "after", before, tag)
            before = number


@contextmanager
def tally(peer, key, count):
    """Counts each of `count` increments as acknowledged once `answered` is called, the others as unknown."""
    done = 0

    def answered():
        nonlocal done
        done += 1
        peer.ledger.acknowledged[key] += 1

    try:
        yield answered
    finally:
        peer.ledger.unknown[key] += count - done


async def transaction(peer):
    """Two counters that only ever grow together: what is between their increments is nobody else's."""
    tag, own = peer.tag(), f"tx:{peer.name}"
    body = [("INCR", "pair:a"), ("SET", own, tag), ("GET", own), ("INCR", "pair:b")]
    end = peer.rnd.choices(["EXEC", "DISCARD", "EXECABORT", "RESET"], [10, 1, 1, 1])[0]
    if end == "EXECABORT":
        body.insert(2, ("NOSUCH",))
    queue = [("MULTI",), *body]
    if end != "EXEC":
        replies = await peer.ask(*queue, (end.replace("EXECABORT", "EXEC"),))
        wanted = {"DISCARD": b"OK", "RESET": b"RESET", "EXECABORT": None}[end]
        if end == "RESET":
            peer.forget()
        if not (replies[-1] == wanted or end == "EXECABORT" and replies[-1].startswith(b"EXECABORT")):
            peer.accuse(end, "got", replies)
        return
    if peer.rnd.random() < 0.5:
        with peer.ledger.increment(("pair:a", peer.db)):
            await peer.say(*queue, ("EXEC",))
            replies = [await peer.hear() for _ in range(len(queue) + 1)]
    else:
        replies = await peer.ask(*queue)
        with peer.ledger.increment(("pair:a", peer.db)):
            await peer.say(("EXEC",))
            replies.append(await peer.hear())
    results = replies.pop()
    if replies != [b"OK"] + [b"QUEUED"] * 4 or not isinstance(results, list) or len(results) != 4:
        peer.accuse("a transaction got", replies, results)
    elif results[0] != results[3] or results[1:3] != [b"OK", tag.encode()]:
        peer.accuse("a transaction was not alone", results, tag)
    peer.ledger.seen["transactions"] += 1


async def optimistic(peer):
    """WATCH, read, write one more; done only if nobody was faster."""
    key = f"opt:{peer.rnd.randrange(COUNTERS)}"
    await peer.expect(("WATCH", key), b"OK")
    number = int((await peer.ask(("GET", key)))[0] or 0)
    if peer.rnd.random() < 0.1:
        await peer.expect(("UNWATCH",), b"OK")
        return
    block = [("MULTI",), ("SET", key, number + 1), ("ECHO", tag := peer.tag())]
    if peer.rnd.random() < 0.5:
        prefix = []
    else:
        prefix, block = await peer.ask(*block), []
    # The fate is known to be failure where EXEC says so.
    try:
        await peer.say(*block, ("EXEC",))
        replies = prefix + [await peer.hear() for _ in range(len(block) + 1)]
    except BaseException as e:
        if getattr(e, "complete", True):
            peer.ledger.unknown[(key, peer.db)] += 1
        raise
    result = replies.pop()
    if replies != [b"OK", b"QUEUED", b"QUEUED"] or result not in (None, [b"OK", tag.encode()]):
        peer.accuse("a watched transaction got", replies, result)
    elif result is None:
        peer.ledger.seen["lost races"] += 1
    else:
        peer.ledger.acknowledged[(key, peer.db)] += 1
        peer.ledger.seen["won races"] += 1


async def push(peer):
    """Elements that tell where they belong, each pushed once."""
    queue = f"q{peer.rnd.randrange(QUEUES)}@{peer.db}"
    verb = peer.rnd.choice(("RPUSH", "LPUSH", "ZADD", "MULTI"))
    if verb == "ZADD":
        queue = f"z{queue}"
    elements = [f"{queue}:{peer.tag()}".encode() for _ in range(peer.rnd.randint(1, 3))]
    for element in elements:
        peer.ledger.pushed[element] = False
    if verb == "ZADD":
        command = ("ZADD", queue, *(a for e in elements for a in (peer.rnd.randrange(100), e)))
    else:
        command = ("RPUSH" if verb == "MULTI" else verb, queue, *elements)
    commands = [("MULTI",), command, ("EXEC",)] if verb == "MULTI" else [command]
    reply = (await peer.ask(*commands))[-1]
    reply = reply[0] if isinstance(reply, list) else reply
    if not isinstance(reply, int):
        peer.accuse("a push got", reply)
    for element in elements:
        peer.ledger.pushed[element] = True


async def pop(peer):
    """Waits for elements in one of Redis's ways, not for long."""
    queue = f"q{peer.rnd.randrange(QUEUES)}@{peer.db}"
    seconds = peer.rnd.choice((0.02, 0.1, 0.3))
    verb = peer.rnd.choice(("BLPOP", "BRPOP", "BLMPOP", "BLMOVE", "BRPOPLPUSH", "BZPOPMIN"))
    match verb:
        case "BLPOP" | "BRPOP":
            command, most = (verb, queue, seconds), 1
        case "BLMPOP":
            command, most = (verb, seconds, 1, queue, "LEFT", "COUNT", 2), 2
        case "BLMOVE":
            command, most = (verb, queue, f"done@{peer.db}", "LEFT", "RIGHT", seconds), 0
        case "BRPOPLPUSH":
            command, most = (verb, queue, f"done@{peer.db}", seconds), 0
        case "BZPOPMIN":
            queue = f"z{queue}"
            command, most = (verb, queue, seconds), 1
    if peer.fuse and peer.rnd.random() < 0.1:
        # It waits, and is no more when its element comes.
        peer.fuse = 2
    with peer.ledger.wait_for(most):
        await peer.say(command)
        reply = await peer.hear()
    if reply is None:
        peer.ledger.seen["waited in vain"] += 1
    elif isinstance(reply, ErrorValue):
        peer.accuse(command, "got", reply)
    elif most == 0:
        if reply in peer.ledger.moved or not reply.startswith(queue.encode()):
            peer.accuse(command, "moved twice or from elsewhere", reply)
        peer.ledger.moved.add(reply)
        peer.ledger.seen["moved"] += 1
    elif reply[0] != queue.encode():
        peer.accuse(command, "got", reply)
    else:
        for element in reply[1] if verb == "BLMPOP" else [reply[1]]:
            peer.ledger.pop(element, peer.name, queue)


async def stream(peer):
    """An entry added, or one delivered to this consumer alone."""
    if peer.rnd.random() < 0.5:
        reply, = await peer.ask(("XADD", "stream", "*", "field", f"stream@{peer.db}:{peer.tag()}"))
        if not isinstance(reply, bytes) or isinstance(reply, ErrorValue):
            peer.accuse("XADD got", reply)
        return
    reply, = await peer.ask(("XREADGROUP", "GROUP", "g", peer.name, "COUNT", 2, "BLOCK", 200, "STREAMS", "stream", ">"))
    if isinstance(reply, ErrorValue):
        peer.accuse("XREADGROUP got", reply)
    elif reply:
        entries = reply[b"stream"] if isinstance(reply, dict) else reply[0][1]
        for _, (_, text) in entries:
            peer.ledger.pop(text, peer.name, f"stream@{peer.db}")


async def publish(peer):
    """Messages that tell their channel, their publisher and their place."""
    for _ in range(peer.rnd.randint(1, 5)):
        channel = f"ch{peer.rnd.randrange(CHANNELS)}"
        text = f"{channel}|{peer.name}|{peer.sequence}"
        peer.sequence += 1
        peer.ledger.perhaps_published.setdefault(channel, set()).add(text)
        reply, = await peer.ask(("PUBLISH", channel, text))
        if not isinstance(reply, int):
            peer.accuse("PUBLISH got", reply)
        peer.ledger.published.setdefault(channel, set()).add(text)


async def subscribe(peer):
    """Comes, listens, and goes in one of three ways."""
    verb, names = peer.rnd.choice((("SUBSCRIBE", [f"ch{n}" for n in range(CHANNELS)]),
                                   ("PSUBSCRIBE", ["ch*", "ch[12]", "*3"])))
    names = peer.rnd.sample(names, peer.rnd.randint(1, 3))
    await peer.say((verb, *names))
    for count, name in enumerate(names, 1):
        if (got := await peer.hear()) != [verb.lower().encode(), name.encode(), count]:
            peer.accuse(verb, names, "got", got)
    await peer.listen(peer.rnd.choice((0, 0.05, 0.3)))
    if peer.protocol == 3:
        await who_am_i(peer)
    else:
        tag = peer.tag()
        await peer.expect(("PING", tag), [b"pong", tag.encode()])
        refused, = await peer.ask(("GET", "whoami"))
        if not (isinstance(refused, ErrorValue) and refused.startswith(b"ERR Can't execute 'get'")):
            peer.accuse("a subscribed RESP2 client's GET got", refused)
    peer.ledger.seen["subscriptions"] += 1
    if peer.rnd.random() < 0.3:
        await reset(peer)
        return
    undo = verb.replace("SUB", "UNSUB")
    await peer.say((undo, *(names if peer.rnd.random() < 0.5 else ())))
    left = {got[1]: got[2] for got in [await peer.hear() for _ in names]}
    if set(left) != {n.encode() for n in names} or sorted(left.values()) != list(range(len(names))):
        peer.accuse(undo, names, "got", left)


async def reset(peer):
    """RESET, perhaps in the middle of something."""
    if not peer.confirmed or peer.protocol == 3:
        before = peer.rnd.choice(([], [("MULTI",), ("SET", "whoami", "nobody")], [("WATCH", "whoami")]))
        if before:
            await peer.ask(*before)
    await peer.say(("RESET",))
    if (got := await peer.hear()) != b"RESET":
        peer.accuse("RESET got", got)
    peer.forget()


async def track(peer):
    """Hears of changes to what it has read, and of nothing else."""
    if peer.protocol != 3:
        await hello(peer, 3)
    own, common = f"t:{peer.name}", f"common:{peer.rnd.randrange(4)}"
    await peer.expect(("CLIENT", "TRACKING", "ON"), b"OK")
    peer.tracked |= {own.encode(), common.encode()}
    text = peer.tag()
    _, was = await peer.ask(("GET", own), ("GET", common))
    if was is not None and not was.startswith(common.encode()):
        peer.accuse(common, "is", was)
    await peer.expect(("SET", own, text), b"OK")
    await peer.until(lambda: own.encode() in peer.invalidated, "invalidation")
    await peer.expect(("SET", common, f"{common}={text}"), b"OK")
    await peer.expect(("GET", own), text.encode())
    await peer.listen(peer.rnd.choice((0, 0.05)))
    await peer.expect(("CLIENT", "TRACKING", "OFF"), b"OK")
    peer.tracked.clear()
    peer.invalidated.clear()


ACTIVITIES = {switch: 4, pipeline: 3, transaction: 5, optimistic: 5, push: 4, pop: 9, stream: 2, publish: 3,
              subscribe: 3,
              reset: 1, track: 2}
