"""Random programs: what several clients say, in one order, built of scenes from all command classes.

A program is a list of steps; a step is one write of one client. Scenes are short lists of steps that belong together
(WATCH, a foreign write, EXEC); a program merges a few of them at a time, each keeping its own order.
"""

import random
from dataclasses import dataclass

from .resp import encode, to_bytes
from .vocabulary import CHANNELS, PATTERNS, SHARD_CHANNELS, Vocabulary

CLIENTS = 4


@dataclass(frozen=True)
class IdOf:
    """Stands for a client's id, which only its connection knows."""

    client: int

    def __str__(self):
        return f"<id of c{self.client}>"


@dataclass(frozen=True)
class Inline:
    """Bytes that are sent as they are."""

    data: bytes


@dataclass(frozen=True)
class Step:
    client: int
    commands: tuple = ()
    # "send"; "open" connects anew, speaking `protocol`; "close" cuts the connection.
    action: str = "send"
    protocol: int = 2

    def payload(self, ids):
        """The bytes of this step, where the clients have these ids."""
        out = []
        for command in self.commands:
            if isinstance(command, Inline):
                out.append(command.data)
            else:
                out.append(encode(*(ids.get(a.client, 0) if isinstance(a, IdOf) else a for a in command)))
        return b"".join(out)

    def names(self):
        """Name and subcommand of each command, in upper case: ("CLIENT", "ID")."""
        for command in self.commands:
            words = command.data.split() if isinstance(command, Inline) else [to_bytes(str(a)) if isinstance(a, IdOf)
                                                                             else to_bytes(a) for a in command]
            yield tuple(w.upper().decode("latin-1") for w in [*words, b"", b""][:2])

    def without(self, n):
        return Step(self.client, self.commands[:n] + self.commands[n + 1:], self.action, self.protocol)

    def __str__(self):
        if self.action == "open":
            return f"c{self.client} connects, RESP{self.protocol}"
        if self.action == "close":
            return f"c{self.client} is cut off"
        return f"c{self.client}: " + " | ".join(map(spoken, self.commands))


def spoken(command):
    if isinstance(command, Inline):
        return f"inline {short(command.data)}"
    return " ".join(short(to_bytes(str(a) if isinstance(a, IdOf) else a)) for a in command)


def short(text, limit=70):
    shown = text.decode("latin-1")
    tail = ""
    if len(shown) > limit:
        shown, tail = shown[:limit // 2], f"...({len(text)} bytes)"
    return (shown if shown and shown.isprintable() and " " not in shown else repr(shown)) + tail


def program(seed, length=60):
    """A program of about so many steps."""
    return Writer(random.Random(seed)).program(length)


class Writer:
    def __init__(self, rnd):
        self.r = rnd
        self.words = Vocabulary(rnd)
        self.protocols = [rnd.choice((2, 3)) for _ in range(CLIENTS)]
        # Both protocols take part in every program.
        self.protocols[0], self.protocols[1] = 2, 3
        rnd.shuffle(self.protocols)

    def program(self, length):
        steps = [Step(c, action="open", protocol=p) for c, p in enumerate(self.protocols)]
        steps += self.plenty()
        while len(steps) < length:
            count = self.r.choice((1, 2, 2, 3))
            steps += self.merged([self.scene() for _ in range(count)])
        return steps + [Step(c, (("ECHO", f"the end of c{c}"),)) for c in range(CLIENTS)]

    def merged(self, scenes):
        """The steps of all scenes in a random order that keeps each scene's own."""
        scenes, out = [list(s) for s in scenes if s], []
        while scenes:
            scene = self.r.choice(scenes)
            out.append(scene.pop(0))
            scenes = [s for s in scenes if s]
        return out

    def scene(self):
        scenes = [(self.plenty, 2), (self.plain, 5), (self.pipeline, 4), (self.transaction, 6), (self.watch, 5),
                  (self.short_block, 3),
                  (self.block_and_push, 5), (self.unblock, 3), (self.subscribe, 6), (self.resp2_subscriber, 2),
                  (self.tracking, 6), (self.reply_modes, 3), (self.scripts, 3), (self.databases, 3), (self.hello, 3),
                  (self.inline, 2), (self.reset, 3), (self.leave, 1), (self.identity, 1), (self.sharded, 1)]
        return self.r.choices([s for s, _ in scenes], [w for _, w in scenes])[0]()

    def who(self, other_than=None):
        return self.r.choice([c for c in range(CLIENTS) if c != other_than])

    def reopened(self, c):
        return Step(c, action="open", protocol=self.r.choice((2, 3)))

    def anew(self, c):
        """Out of every state. A RESP2 client that stays subscribed is of little use to other scenes."""
        return Step(c, (("RESET",), ("HELLO", self.r.choice("23"))))

    # Scenes of one client.

    def plain(self):
        return [Step(self.who(), (self.words.data(),)) for _ in range(self.r.randint(1, 4))]

    def plenty(self):
        """Something under every key: what finds nothing shows little."""
        return [Step(self.who(), tuple(self.words.plenty()))]

    def pipeline(self):
        """Several commands of several classes in one write."""
        c, commands = self.who(), []
        for _ in range(self.r.randint(2, 5)):
            match self.r.randrange(8):
                case 0:
                    commands += [("MULTI",), *(self.words.queued() for _ in range(self.r.randint(0, 3))), ("EXEC",)]
                case 1:
                    commands.append(("SELECT", self.words.db()))
                case 2:
                    commands.append(self.words.script())
                case 3:
                    commands += [("WATCH", self.words.key()), self.words.data(), ("MULTI",), self.words.data(),
                                 ("EXEC",)]
                case 4:
                    commands += [("CLIENT", "REPLY", "SKIP"), self.words.silent()]
                case 5:
                    commands.append(self.words.wrong())
                case _:
                    commands += [self.words.data(), self.words.data()]
        if self.r.random() < 0.3:
            commands = [("SUBSCRIBE", self.words.channel()), *commands, self.publish()]
        elif self.r.random() < 0.3:
            # What stands behind a block may only concern the client itself: when it wakes, others are at work.
            commands += [self.words.block(0.05), ("INCR", f"private{c}"), ("ECHO", "behind the block")]
        return [Step(c, tuple(commands)), *([self.anew(c)] if commands[0][0] == "SUBSCRIBE" else [])]

    def transaction(self):
        c, r = self.who(), self.r
        commands = [("MULTI",)]
        for _ in range(r.randint(0, 5)):
            commands.append(r.choice((self.words.queued, self.words.queued, self.words.queued, self.words.mishap))())
        commands.append(r.choices([("EXEC",), ("DISCARD",), ("EXEC", "x")], [10, 2, 1])[0])
        if r.random() < 0.15:
            # Not a transaction at all.
            commands = [r.choice((("EXEC",), ("DISCARD",), ("UNWATCH",), ("EXEC", "too", "many"), ("MULTI", "x")))]
        if r.random() < 0.4:
            return [Step(c, tuple(commands))]
        return [Step(c, (command,)) for command in commands]

    def short_block(self):
        c = self.who()
        return [Step(c, (self.words.block(0.05),)), Step(c, (self.words.data(),))]

    def scripts(self):
        return [Step(self.who(), (self.words.script(),)) for _ in range(self.r.randint(1, 4))]

    def databases(self):
        c, r, steps = self.who(), self.r, []
        for _ in range(r.randint(1, 4)):
            steps.append(r.choice((
                lambda: ("SELECT", self.words.db()), lambda: ("MOVE", self.words.key(), self.words.db()),
                lambda: ("SWAPDB", self.words.db(), self.words.db()), lambda: ("SELECT", r.choice(("x", "99", "-1"))),
                lambda: ("COPY", self.words.key(), self.words.key(), "DB", self.words.db(), "REPLACE"),
                lambda: ("DBSIZE",), self.words.data))())
        if r.random() < 0.3:
            return [Step(c, tuple(steps))]
        return [Step(c, (command,)) for command in steps]

    def hello(self):
        """Another protocol in the middle of a session, alone or among commands whose replies depend on it."""
        c, r = self.who(), self.r
        hellos = [("HELLO", "2"), ("HELLO", "3"), ("HELLO", "3"), ("HELLO",), ("HELLO", "4"),
                  ("HELLO", "3", "SETNAME", "n1"),
                  ("HELLO", "2", "NOSUCH")]
        shows = [("HGETALL", "h0"), ("GET", "nothing"), ("ZRANGE", "z0", "0", "-1", "WITHSCORES"),
                 ("CLIENT", "GETNAME")]
        if r.random() < 0.5:
            return [Step(c, tuple(r.choice((r.choice(hellos), r.choice(shows))) for _ in range(r.randint(2, 5))))]
        return [Step(c, (r.choice(hellos),)), Step(c, (r.choice(shows),))]

    def inline(self):
        c = self.who()
        ending, lines = False, []
        for _ in range(self.r.randint(1, 3)):
            ending, data = self.words.line()
            lines.append(Inline(data))
            if ending or b"SUB" in data:
                break
        if b"SUB" in lines[-1].data:
            return [Step(c, tuple(lines)), self.anew(c)]
        return [Step(c, tuple(lines)), *([self.reopened(c)] if ending else [])]

    def reply_modes(self):
        c, r = self.who(), self.r
        if r.random() < 0.4:
            return [Step(c, (("CLIENT", "REPLY", "SKIP"), self.words.silent(), self.words.data()))]
        silent = [r.choice((self.words.silent(), ("PING",), ("NOSUCH",), ("CLIENT", "REPLY", "SKIP"),
                            ("SELECT", self.words.db()),
                            self.publish())) for _ in range(r.randint(1, 3))]
        end = r.choices([("CLIENT", "REPLY", "ON"), ("RESET",)], [4, 1])[0]
        return [Step(c, (command,)) for command in [("CLIENT", "REPLY", "OFF"), *silent, end]]

    def identity(self):
        c, r = self.who(), self.r
        return [Step(c, (r.choice((("CLIENT", "ID"), ("CLIENT", "SETNAME", f"name{c}"), ("CLIENT", "GETNAME"),
                                   ("CLIENT", "GETREDIR"), ("CLIENT", "TRACKINGINFO"), ("CLIENT", "NO-EVICT", "on"),
                                   ("CLIENT", "NOSUCH"))),)) for _ in range(r.randint(1, 3))]

    def reset(self):
        """A state of any kind, and RESET in it."""
        c, r = self.who(), self.r
        states = [[("MULTI",), self.words.data()], [("WATCH", self.words.key())], [("SUBSCRIBE", self.words.channel())],
                  [("SELECT", "2"), ("CLIENT", "SETNAME", "forgotten")], [("HELLO", "3"), ("CLIENT", "TRACKING", "ON")]]
        then = [("GET", "s0"), ("CLIENT", "GETNAME"), ("EXEC",), ("HGETALL", "h0"), ("PING",)]
        commands = [*r.choice(states), ("RESET",), *r.sample(then, 2)]
        if r.random() < 0.5:
            return [Step(c, tuple(commands))]
        return [Step(c, (command,)) for command in commands]

    def leave(self):
        """QUIT, a cut connection, or a kill by another client; then somebody new in its place."""
        c, r = self.who(), self.r
        before = r.choice(((), (("MULTI",), self.words.data()), (("SUBSCRIBE", self.words.channel()),),
                           (("WATCH", self.words.key()),), (self.words.block(0),)))
        ends = [Step(c, (("QUIT",), ("PING",))), Step(c, action="close"),
                Step(self.who(c), (("CLIENT", "KILL", "ID", IdOf(c)),))]
        return [*([Step(c, tuple(before))] if before else []), r.choice(ends), self.reopened(c)]

    # Scenes of several clients.

    def watch(self):
        """WATCH, perhaps a foreign write, and what becomes of the transaction."""
        c, r, key = self.who(), self.r, self.words.key()
        steps = [Step(c, (("WATCH", key, *([self.words.key()] if r.random() < 0.3 else [])),))]
        if r.random() < 0.3:
            steps.append(Step(c, (self.words.data(),)))
        if r.random() < 0.6:
            steps.append(Step(self.who(c), (r.choice((("SET", key, self.words.text()), ("DEL", key), ("FLUSHDB",),
                                                      ("SWAPDB", "0", "1"), ("APPEND", key, "+"), ("GET", key))),)))
        if r.random() < 0.2:
            steps.append(Step(c, (r.choice((("UNWATCH",), ("RESET",), ("SELECT", self.words.db()))),)))
        end = [("MULTI",), self.words.queued(), r.choices([("EXEC",), ("DISCARD",)], [6, 1])[0]]
        if r.random() < 0.5:
            return steps + [Step(c, tuple(end))]
        steps += [Step(c, (command,)) for command in end]
        if r.random() < 0.2:
            steps.insert(-1, Step(self.who(c), (("SET", key, self.words.text()),)))
        return steps

    def block_and_push(self):
        """One or two clients wait; somebody feeds them, plainly, in a transaction or by script."""
        c, r = self.who(), self.r
        block = self.words.block(0)
        other = self.who(c)
        steps = [Step(c, (block,))]
        if r.random() < 0.4:
            steps.append(Step(c, (("ECHO", "sent while blocked"), ("INCR", f"private{c}"))))
        if r.random() < 0.3:
            steps.append(Step(self.r.choice([x for x in range(CLIENTS) if x not in (c, other)]), (block,)))
        feed = self.words.feed(block)
        match r.randrange(5):
            case 0:
                steps.append(Step(other, (("MULTI",), feed, self.words.data(), ("EXEC",))))
            case 1:
                steps.append(Step(other, (("EVAL", "return redis.call(unpack(ARGV))", "0", *feed),)))
            case _:
                steps.append(Step(other, (feed,)))
        if r.random() < 0.7:
            steps.append(Step(self.who(c), (("CLIENT", "UNBLOCK", IdOf(c)),)))
        return steps

    def unblock(self):
        c, r = self.who(), self.r
        how = r.choice(((), ("TIMEOUT",), ("ERROR",), ("NOSUCH",)))
        steps = [Step(c, (self.words.block(0),))] if r.random() < 0.85 else []
        return [*steps, Step(self.who(c), (("CLIENT", "UNBLOCK", IdOf(c), *how),)), Step(c, (self.words.data(),))]

    def publish(self):
        self.words.published += 1
        return ("PUBLISH", self.words.channel(), f"message {self.words.published}")

    def subscribe(self):
        """Some come, somebody speaks, some go."""
        r, c = self.r, self.who()
        steps = []
        for _ in range(r.randint(1, 2)):
            verb, names = r.choice((("SUBSCRIBE", CHANNELS), ("SUBSCRIBE", CHANNELS), ("PSUBSCRIBE", PATTERNS)))
            steps.append(Step(c, ((verb, *r.choices(names, k=r.randint(1, 3))),)))
        for _ in range(r.randint(1, 3)):
            speech = r.choice((self.publish, self.publish, self.words.write))
            steps.append(Step(self.who(c), tuple(speech() for _ in range(r.randint(1, 3)))))
        if r.random() < 0.3:
            steps.append(Step(self.who(c), (r.choice((("PUBSUB", "CHANNELS"), ("PUBSUB", "NUMSUB", "c0", "c1", "c9"),
                                                      ("PUBSUB", "NUMPAT"), ("PUBSUB", "CHANNELS", "c*"))),)))
        if r.random() < 0.3:
            steps.append(Step(c, (r.choice((self.words.data(), self.publish(), ("PING",), ("PING", "text"))),)))
        ends = [("UNSUBSCRIBE",), ("PUNSUBSCRIBE",), ("UNSUBSCRIBE", "c0", "c0", "c9"), ("PUNSUBSCRIBE", "c*")]
        ends = r.sample(ends, r.randint(0, 2))
        if r.random() < 0.85:
            ends += r.choice(([("RESET",), ("HELLO", "3")], [("UNSUBSCRIBE",), ("PUNSUBSCRIBE",)],
                              [("PUNSUBSCRIBE",), ("UNSUBSCRIBE",)]))
        if ends:
            steps += [Step(c, tuple(ends))] if r.random() < 0.4 else [Step(c, (end,)) for end in ends]
        return steps

    def resp2_subscriber(self):
        """What a RESP2 client may not say while it is subscribed, and what it may."""
        c, r = self.who(), self.r
        says = [("GET", "s0"), ("SET", "s0", "refused"), ("MULTI",), ("PING",), ("PING", "x"), ("NOSUCH",),
                ("SELECT", "1"),
                ("HELLO", "2"), ("CLIENT", "ID"), ("SUBSCRIBE", "c2"), ("GET",), ("PUBLISH", "c0", "refused"),
                ("SUBSCRIBE",)]
        end = r.choice((("UNSUBSCRIBE",), ("RESET",)))
        steps = [Step(c, (("HELLO", "2"), ("SUBSCRIBE", "c0"))),
                 *(Step(c, (s,)) for s in r.sample(says, r.randint(2, 5))),
                 Step(c, (end,)), Step(c, (("GET", "s0"),))]
        if r.random() < 0.1:
            steps[-2:] = [Step(c, (("QUIT",),)), self.reopened(c)]
        return steps

    def sharded(self):
        c, r = self.who(), self.r
        self.words.published += 1
        return [Step(c, (("SSUBSCRIBE", *r.choices(SHARD_CHANNELS, k=2)),)),
                Step(self.who(c), (("SPUBLISH", r.choice(SHARD_CHANNELS), f"message {self.words.published}"),)),
                Step(self.who(c), (r.choice((("PUBSUB", "SHARDCHANNELS"), ("PUBSUB", "SHARDNUMSUB", "sh0"),
                                             ("PING",))),)),
                Step(c, (r.choice((("SUNSUBSCRIBE",), ("SUNSUBSCRIBE", "sh0"), ("SUNSUBSCRIBE", "sh1", "sh9"))),))]

    def tracking(self):
        """A client that caches for itself hears of others' writes, and of its own."""
        c, r, key = self.who(), self.r, self.words.key()
        forms = [((), ()), ((), ()), (("NOLOOP",), ()), (("OPTIN",), ("CLIENT", "CACHING", "YES")),
                 (("OPTOUT",), ("CLIENT", "CACHING", "NO")), (("BCAST", "PREFIX", "s", "PREFIX", "l"), ()),
                 (("BCAST",), ()),
                 (("PREFIX", "s"), ())]
        form, caching = r.choice(forms)
        steps = [Step(c, (("HELLO", "3"), ("CLIENT", "TRACKING", "ON", *form))) if r.random() < 0.8 else
                 Step(c, (("CLIENT", "TRACKING", "ON", *form),))]
        for _ in range(r.randint(1, 3)):
            read = r.choice((("GET", key), ("MGET", key, "s0", "s1"), ("TYPE", key), ("HGETALL", "h0")))
            commands = [caching, read] if caching and r.random() < 0.7 else [read]
            steps.append(Step(c, tuple(commands)))
            steps.append(Step(r.choice((c, self.who(c), self.who(c))), (r.choice((
                ("SET", key, self.words.text()), ("DEL", key), self.words.write(), ("MSET", "s0", "1", "s1", "2"),
                r.choice((("FLUSHDB",), ("TOUCH", key))),
                ("EVAL", "return redis.call('DEL', KEYS[1])", "1", key))),)))
        if r.random() < 0.7:
            steps.append(Step(c, (r.choice((("CLIENT", "TRACKING", "OFF"), ("RESET",), ("CLIENT", "TRACKINGINFO"))),)))
        return steps
