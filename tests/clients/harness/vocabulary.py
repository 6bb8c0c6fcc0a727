"""The single commands that random programs are made of, over a few keys of each type, so that they meet.

Nothing here depends on time, on chance inside the server or on its hash seed: sets hold numbers and hashes stay small,
which Redis keeps in order, expiry is far away, stream ids are given.
"""

DATABASES = 3
STRINGS, NUMBERS, LISTS = ("s0", "s1", "s2"), ("n0", "n1"), ("l0", "l1")
HASHES, SETS, SORTED, STREAMS = ("h0",), ("i0", "i1"), ("z0", "z1"), ("x0",)
KEYS = STRINGS + NUMBERS + LISTS + HASHES + SETS + SORTED + STREAMS
CHANNELS = ("c0", "c1", "c2", "__keyspace@0__:s0", "__keyspace@0__:l0")
PATTERNS = ("c*", "c?", "*1", "__keyspace@?__:[sl]*")
SHARD_CHANNELS = ("sh0", "sh1")
LIBRARY = ("#!lua name=lib\n"
           "redis.register_function('bump', function(keys, args) return redis.call('INCRBY', keys[1], args[1]) end)\n"
           "redis.register_function{function_name='look', flags={'no-writes'}, "
           "callback=function(keys) return redis.call('GET', keys[1]) end}")
SCRIPTS = ("return redis.call('GET', KEYS[1])", "return redis.call('INCR', KEYS[1])",
           "return {1, {'a', false, 3.7}, 'b'}",
           "return redis.error_reply('MINE a mistake')", "return redis.status_reply('FINE')", "return nosuch",
           "redis.call('SELECT', 1) return redis.call('SET', KEYS[1], 'by script')",
           "return redis.call('BLPOP', KEYS[1], 0)",
           "redis.call('SET', KEYS[1], 'x') return redis.pcall('LPUSH', KEYS[1], 'y')",
           "redis.setresp(3) return {double=1.5}",
           "return redis.call('SUBSCRIBE', 'c0')", "redis.call('PUBLISH', 'c0', 'by script') return true", "return 1 +")
# SHA1 of the first two, and of nothing.
DIGESTS = ("d3c21d0c2b9ca22f82737626a27bcaf5d288f99f", "61636018f4e6b5817b89791bbed242f93fa089e3", "0" * 40)
FAR = "4102444800"


class Vocabulary:
    def __init__(self, rnd):
        self.r = rnd
        self.published = 0
        self.stream_id = 0

    def key(self):
        return self.r.choice(KEYS)

    def db(self):
        return str(self.r.randrange(DATABASES))

    def channel(self):
        return self.r.choice(CHANNELS[:3] if self.r.random() < 0.8 else CHANNELS)

    def value(self):
        if self.r.random() < 0.02:
            # Above what may travel on a shared connection.
            return "large " * 200_000
        return self.text()

    def text(self):
        if self.r.random() < 0.5:
            return f"v{self.r.randrange(1000)}"
        return self.r.choice(("", "a", "7", "some text", b"\xff\x00\r\n", "3.5"))

    def number(self):
        return str(self.r.choice((-3, -1, 0, 1, 2, 10)))

    def member(self):
        return str(self.r.randrange(8))

    def data(self):
        """Any command of the shared class; now and then on a key of another type, or wrong in itself."""
        r = self.r.random()
        if r < 0.06:
            return self.wrong()
        return self.write() if r < 0.55 else self.read()

    def of_type(self, names):
        return self.key() if self.r.random() < 0.08 else self.r.choice(names)

    def write(self):
        r, s, n = self.r, self.of_type(STRINGS), self.of_type(NUMBERS)
        low, h, i, z = self.of_type(LISTS), self.of_type(HASHES), self.of_type(SETS), self.of_type(SORTED)
        return r.choice((
            lambda: ("SET", s, self.value()), lambda: ("SET", s, self.text(), r.choice(("NX", "XX", "GET", "KEEPTTL"))),
            lambda: ("SET", s, self.text(), "EXAT", FAR), lambda: ("GETSET", s, self.text()),
            lambda: ("APPEND", s, "+"),
            lambda: ("SETRANGE", s, "2", "xy"), lambda: ("MSET", "s0", self.text(), "s1", self.text()),
            lambda: ("MSETNX", "s1", "1", "s2", "2"), lambda: ("GETDEL", s), lambda: ("GETEX", s, "PERSIST"),
            lambda: ("EXPIREAT", self.key(), FAR), lambda: ("PERSIST", self.key()), lambda: ("SETBIT", s, "9", "1"),
            lambda: ("INCR", n), lambda: ("INCRBY", n, self.number()), lambda: ("INCRBYFLOAT", n, "0.5"),
            lambda: ("DECR", n),
            lambda: ("DEL", self.key(), self.key()), lambda: ("UNLINK", self.key()),
            lambda: ("RENAME", self.key(), self.key()),
            lambda: ("RENAMENX", self.key(), self.key()), lambda: ("COPY", self.key(), self.key(), "REPLACE"),
            lambda: ("RPUSH", low, self.text(), self.text()), lambda: ("LPUSH", low, self.value()),
            lambda: ("LPOP", low),
            lambda: ("RPOP", low, "2"), lambda: ("LSET", low, self.number(), self.text()),
            lambda: ("LREM", low, "0", "a"),
            lambda: ("LMOVE", "l0", "l1", "LEFT", "RIGHT"), lambda: ("LTRIM", low, "0", "3"),
            lambda: ("RPOPLPUSH", "l1", "l0"),
            lambda: ("LINSERT", low, "BEFORE", "a", "b"), lambda: ("LMPOP", "2", "l0", "l1", "RIGHT", "COUNT", "2"),
            lambda: ("HSET", h, f"f{self.member()}", self.text()), lambda: ("HDEL", h, f"f{self.member()}"),
            lambda: ("HINCRBY", h, "count", self.number()), lambda: ("HSETNX", h, "once", self.text()),
            lambda: ("SADD", i, self.member(), self.member()), lambda: ("SREM", i, self.member()),
            lambda: ("SMOVE", "i0", "i1", self.member()), lambda: ("SUNIONSTORE", "i1", "i0", "i1"),
            lambda: ("ZADD", z, self.number(), self.member(), "1.5", "half"),
            lambda: ("ZADD", z, "INCR", "1", self.member()),
            lambda: ("ZINCRBY", z, "0.25", self.member()), lambda: ("ZREM", z, self.member()), lambda: ("ZPOPMIN", z),
            lambda: ("ZUNIONSTORE", "z1", "2", "z0", "z1"), lambda: ("ZRANGESTORE", "z1", "z0", "0", "2"),
            lambda: self.add(), lambda: ("XGROUP", "CREATE", "x0", "g", "0", "MKSTREAM"),
            lambda: ("XACK", "x0", "g", "1-1"),
            lambda: ("XREADGROUP", "GROUP", "g", "me", "COUNT", "2", "STREAMS", "x0", ">"),
            lambda: ("XDEL", "x0", "1-1"),
            lambda: ("PFADD", "hll", self.member()), lambda: ("GEOADD", "geo", "13.4", "52.5", "berlin"),
            lambda: ("FLUSHDB",) if r.random() < 0.2 else ("XTRIM", "x0", "MAXLEN", "5"),
        ))()

    def add(self):
        self.stream_id += 1
        return ("XADD", "x0", f"1-{self.stream_id}", "field", self.text())

    def plenty(self):
        """Writes that leave something under every key of its type."""
        return [("DEL", *KEYS), *(("SET", s, f"v{self.r.randrange(100, 1000)}") for s in STRINGS),
                *(("INCRBY", n, "5") for n in NUMBERS), *(("RPUSH", k, "a", "b", self.text()) for k in LISTS),
                ("HSET", "h0", "f0", "x", "f1", self.text(), "count", "3"), ("SADD", "i0", "1", "2", "3"),
                ("SADD", "i1", "2"),
                ("ZADD", "z0", "1", "1", "2", "2"), ("ZADD", "z1", "1", "2"), self.add(),
                ("XGROUP", "CREATE", "x0", "g", "0")]

    def silent(self):
        """A write whose reply is not asked for: the data alone tell that it has run."""
        return self.r.choice((("SET", "s0", self.text()), ("INCR", "n0"), ("RPUSH", "l0", self.text()),
                              ("DEL", self.key()),
                              ("LPUSH", "s0", "WRONGTYPE"), ("GET", "s0")))

    def read(self):
        r, s, k = self.r, self.of_type(STRINGS), self.key()
        low, h, i, z = self.of_type(LISTS), self.of_type(HASHES), self.of_type(SETS), self.of_type(SORTED)
        return r.choice((
            ("GET", s), ("GET", s), ("MGET", s, k, "nothing"), ("STRLEN", s), ("GETRANGE", s, "1", "3"),
            ("EXISTS", k, s),
            ("TYPE", k), ("EXPIRETIME", k), ("OBJECT", "ENCODING", k), ("GETBIT", s, "9"), ("BITCOUNT", s),
            ("TOUCH", k, s),
            ("LRANGE", low, "0", "-1"), ("LLEN", low), ("LINDEX", low, self.number()), ("LPOS", low, "a"),
            ("GET", "n0"),
            ("HGETALL", h), ("HGET", h, "f1"), ("HMGET", h, "f0", "f1", "count"), ("HKEYS", h), ("HLEN", h),
            ("HRANDFIELD", "none"),
            ("SMEMBERS", i), ("SCARD", i), ("SMISMEMBER", i, "1", "2"), ("SINTER", "i0", "i1"), ("SISMEMBER", i, "3"),
            ("ZRANGE", z, "0", "-1", "WITHSCORES"), ("ZSCORE", z, "half"), ("ZRANK", z, "2"),
            ("ZMSCORE", z, "1", "half"),
            ("ZRANGEBYSCORE", z, "-inf", "(2"), ("ZCARD", z), ("XLEN", "x0"), ("XRANGE", "x0", "-", "+", "COUNT", "3"),
            ("XREAD", "COUNT", "2", "STREAMS", "x0", "0"), ("XPENDING", "x0", "g"), ("PFCOUNT", "hll"), ("DBSIZE",),
            ("GEOPOS", "geo", "berlin", "none"), ("PING",), ("PING", "text"), ("ECHO", "text"), ("CLIENT", "GETNAME"),
            ("SORT", low, "ALPHA"), ("SORT_RO", i), ("LCS", "s0", "s1"), ("CONFIG", "GET", "maxmemory-policy"),
        ))

    def wrong(self):
        """Commands that Redis refuses."""
        return self.r.choice((
            ("NOSUCH", "a", "b"), ("GET",), ("GET", "a", "b"), ("SET", "s0"), ("SET", "s0", "v", "NOSUCH"),
            ("LPUSH", "s0"),
            ("INCRBY", "n0", "x"), ("CONFIG", "NOSUCH"), ("CLIENT", "NOSUCH"), ("XGROUP", "CREATE", "x0"),
            ("ZADD", "z0", "x", "m"),
            ("EXPIREAT", "s0", "soon"), ("BLPOP", "l0", "-1"), ("BLPOP", "l0", "soon"),
            ("XREAD", "BLOCK", "x", "STREAMS", "x0", "0"),
            ("MSET", "s0"), ("SELECT", "x"), ("HSET", "h0", "f"), ("OBJECT", "NOSUCH", "s0"), ("nosuch",),
            ("SUBSCRIBE",),
            ("BLMPOP", "0.05", "0", "l0", "LEFT"), ("XREADGROUP", "GROUP", "g", "me", "STREAMS", "x0"),
            ("COPY", "s0", "s1", "DB", "x"),
        ))

    def queued(self):
        """What is queued in a transaction and runs at EXEC."""
        r = self.r.random()
        if r < 0.75:
            return self.data()
        if r < 0.85:
            return self.script()
        if r < 0.93:
            # In a transaction nobody waits.
            return self.block(0)
        self.published += 1
        return self.r.choice((("PUBLISH", self.channel(), f"message {self.published}"), ("SWAPDB", "0", "1"),
                              ("MOVE", self.key(), self.db()), ("SPUBLISH", "sh0", f"message {self.published}")))

    def mishap(self):
        """What is answered at once although a transaction is open, breaks it, or changes the session at EXEC."""
        return self.r.choice((("MULTI",), ("WATCH", self.key()), ("NOSUCH", "x"), ("GET",), ("CONFIG", "NOSUCH"),
                              ("UNWATCH",),
                              ("SELECT", self.db()), ("CLIENT", "SETNAME", "in-multi"), ("CLIENT", "ID"), ("PING",),
                              ("SUBSCRIBE", "c9"), ("HELLO", "3"), ("LPUSH", "s0", "WRONGTYPE")))

    def script(self):
        r, script = self.r, self.r.choice(SCRIPTS)
        return r.choice((
            lambda: ("EVAL", script, "1", self.key(), "arg"), lambda: ("EVAL", script, "1", self.key()),
            lambda: ("EVALSHA", r.choice(DIGESTS), "1", self.key()), lambda: ("SCRIPT", "LOAD", r.choice(SCRIPTS[:2])),
            lambda: ("SCRIPT", "EXISTS", *DIGESTS), lambda: ("EVAL_RO", script, "1", self.key()),
            lambda: ("SCRIPT", "FLUSH"),
            lambda: ("EVAL", "return 1", "x"), lambda: ("FUNCTION", "LOAD", *r.choice(((), ("REPLACE",))), LIBRARY),
            lambda: ("FCALL", "bump", "1", self.key(), self.number()), lambda: ("FCALL_RO", "look", "1", self.key()),
            lambda: ("FCALL_RO", "bump", "1", "n0", "1"), lambda: ("FCALL", "nosuch", "0"),
            lambda: ("FUNCTION", "DELETE", "lib"),
            lambda: ("SCRIPT", "NOSUCH"),
        ))()

    def block(self, seconds):
        """A command that waits so long; 0 is for ever."""
        # Half of the time on what nothing else writes to.
        low, z, t = self.r.choice((*LISTS, "l8", "l9")), self.r.choice((*SORTED, "z8", "z9")), str(seconds)
        ms = str(int(seconds * 1000))
        if self.r.random() < 0.05:
            return ("WAIT", self.r.choice("01"), ms)
        return self.r.choice((
            ("BLPOP", low, t), ("BLPOP", "l9", "l1", t), ("BRPOP", low, t), ("BLMOVE", low, "l1", "LEFT", "RIGHT", t),
            ("BRPOPLPUSH", "l1", "l0", t), ("BLMPOP", t, "2", "l8", "l9", "LEFT", "COUNT", "2"), ("BZPOPMIN", z, t),
            ("BZPOPMAX", z, "z9", t), ("BZMPOP", t, "1", z, "MIN"), ("XREAD", "BLOCK", ms, "STREAMS", "x0", "$"),
            ("XREAD", "BLOCK", ms, "COUNT", "1", "STREAMS", "x0", "1-3"),
            ("XREADGROUP", "GROUP", "g", "me", "BLOCK", ms, "STREAMS", "x0", ">"),
        ))

    def feed(self, block):
        """What may end this wait."""
        if "x0" in block:
            return self.add()
        keys = [a for a in block if a[:1] in "lz" and a[1:].isdigit()]
        key = self.r.choice(keys or LISTS)
        if key[0] == "z":
            return ("ZADD", key, "1", "fed", "2", "fed2")
        return (self.r.choice(("RPUSH", "LPUSH")), key, *(f"fed{n}" for n in range(self.r.randint(1, 3))))

    def line(self):
        """An inline command, or a broken one; True if it ends the connection."""
        return self.r.choice((
            (False, b"PING\r\n"), (False, b"GET s0\r\n"), (False, b'SET s1 "a b\\x00\\r"\r\n'), (False, b"get 's0'\n"),
            (False, b"\r\n"), (False, b"*0\r\n"), (False, b"MULTI\r\nGET s0\r\nEXEC\r\n"), (False, b"  echo   x  \r\n"),
            (False, b"nosuch a\r\n"), (False, b"SELECT 1\r\n"), (False, b"SUBSCRIBE c0\r\n"), (True, b'SET s0 "a\r\n'),
            (True, b"*1\r\n+PING\r\n"), (True, b"*x\r\n"), (True, b"*2\r\n$3\r\nGET\r\n$x\r\n"),
        ))
