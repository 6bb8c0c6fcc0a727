//! What a client can notice of the proxy, command by command, and why it is so.
//!
//! Everything else is as in Redis. docs/compatibility.md is made of this and of the table.

/// One thing that is not as in Redis.
#[derive(Clone, Copy, Debug)]
pub struct Difference {
    /// The commands and subcommands (`CLIENT LIST`) that it is seen in; none for any command at all.
    pub commands: &'static [&'static str],
    /// What is different: one Markdown sentence or two.
    pub what: &'static str,
    /// Why it has to be.
    pub why: &'static str,
}

/// All of them, in the order of the document.
pub const DIFFERENCES: &[Difference] = &[
    // Any command.
    Difference {
        commands: &[],
        what: "When the connection to the server is lost while a command that may have run is in flight, the client's \
            connection is closed too (`upstream.on_lost_reply`). Other clients keep theirs.",
        why: "Nobody knows whether the command has run. A client library treats a closed connection as just that.",
    },
    Difference {
        commands: &[],
        what: "A command that neither this table nor the server's COMMAND knows holds a leased connection until the \
            client sends RESET or leaves, unless the server answers that it does not know it either.",
        why: "It may change the connection that it travels on, which must then serve nobody else.",
    },
    Difference {
        commands: &[],
        what: "A command that needs a connection of its own (blocking, WATCH, MONITOR, CLIENT TRACKING) waits in line \
            for one at `upstream.max_connections`, and gets an error after `upstream.lease_timeout`.",
        why: "The ceiling holds whatever happens; it is what the server's plan allows.",
    },
    Difference {
        commands: &[],
        what: "A client that closes its sending direction while a command of its blocks is taken for gone, and the wait \
            ends; what it said before is still answered.",
        why: "An element must not be taken for somebody who may not be there.",
    },
    Difference {
        commands: &[],
        what: "Errors of the proxy itself have `Nearkey:` after their code (ERR, LOADING or OOM); where a setting is \
            behind one, most name it.",
        why: "An unreachable server, a limit or a denied command has no reply of the server's to pass on.",
    },
    Difference {
        commands: &[],
        what: "A command waits up to `upstream.queue_timeout` for a server that cannot be reached, then gets LOADING; no \
            more than `upstream.queue_commands` wait on one connection. A reply has `upstream.command_timeout`; then \
            the command gets an error and may have run.",
        why: "Clients retry LOADING. A connection that others use too cannot be closed for one slow command.",
    },
    Difference {
        commands: &[],
        what: "While memory is short (`process.memory_limit`), a request above 64 KiB that comes in pieces gets an OOM \
            error; beyond the limit, the client that holds most is closed.",
        why: "Else the container's end would be everybody's.",
    },
    Difference {
        commands: &[],
        what: "A client whose half-sent request makes no progress for `listen.request_timeout` is closed, after an error.",
        why: "Its half holds memory, and nobody knows whether the rest will come.",
    },
    Difference {
        commands: &["AUTH", "HELLO"],
        what: "From the third wrong password of a connection on, the client is not heard for 100 ms after each.",
        why: "Guessing has to take time.",
    },
    // The connection and its client.
    Difference {
        commands: &["AUTH", "HELLO"],
        what: "Credentials are checked against `listen.password`. Where none is set, any are accepted. With \
            `upstream.auth = \"passthrough\"` the server judges them, and every client must present some.",
        why: "Nearkey has credentials of its own upstream; applications keep the ones they are configured with.",
    },
    Difference {
        commands: &["HELLO"],
        what: "The `id` in its reply is the one that this proxy gave the client.",
        why: "The server knows the shared connections only.",
    },
    Difference {
        commands: &["AUTH", "HELLO"],
        what: "Another user is refused while WATCH, CLIENT TRACKING or a subscription stands for the client on the \
            server (`passthrough` only), another protocol while MONITOR runs.",
        why: "Watched keys and subscriptions belong to a connection, and a connection to one user.",
    },
    Difference {
        commands: &[
            "CLIENT GETNAME",
            "CLIENT ID",
            "CLIENT INFO",
            "CLIENT KILL",
            "CLIENT LIST",
            "CLIENT SETINFO",
            "CLIENT SETNAME",
            "CLIENT UNBLOCK",
        ],
        what: "Are about the clients of this proxy; ids, names and addresses are those that it knows.",
        why: "Elsewhere nobody can tell its clients apart: they share connections.",
    },
    Difference {
        commands: &["CLIENT NO-EVICT", "CLIENT NO-TOUCH"],
        what: "Are answered and shown in CLIENT LIST, and change nothing on the server.",
        why: "There they would hold for every client of the shared connection.",
    },
    Difference {
        commands: &["CLIENT TRACKING"],
        what: "REDIRECT is refused; with RESP3 invalidations come on the client's own connection.",
        why: "The client id that it names is one of this proxy's and means nothing to the server.",
    },
    // Transactions.
    Difference {
        commands: &[
            "AUTH",
            "CLIENT",
            "HELLO",
            "MONITOR",
            "PSUBSCRIBE",
            "PUNSUBSCRIBE",
            "SELECT",
            "SSUBSCRIBE",
            "SUBSCRIBE",
            "SUNSUBSCRIBE",
            "UNSUBSCRIBE",
        ],
        what: "Are refused between MULTI and EXEC, with an error that says so; EXEC then answers EXECABORT.",
        why: "A transaction runs on a connection that others share. These would change it for them.",
    },
    Difference {
        commands: &["MULTI"],
        what: "A command that only the server can refuse (out of memory, ACL) is answered QUEUED; EXEC then answers \
            EXECABORT, or NOPERM to a user who may not use MULTI.",
        why: "The server sees the transaction at EXEC, as one block. Until then the command table judges.",
    },
    Difference {
        commands: &["MULTI"],
        what: "A transaction may have 64 MiB; EXEC of a larger one answers EXECABORT.",
        why: "It is held in the proxy's memory until EXEC.",
    },
    // Publish and subscribe.
    Difference {
        commands: &["PUBLISH", "SPUBLISH"],
        what: "The reply counts this proxy as one subscriber, however many of its clients get the message.",
        why: "One upstream subscription serves all of them.",
    },
    Difference {
        commands: &["PUBSUB NUMSUB", "PUBSUB SHARDNUMSUB"],
        what: "Count this proxy's own clients one by one and every other proxy as one; inside MULTI and scripts, this \
            one too.",
        why: "Each proxy knows only its own clients, and replies of transactions are passed on as they come.",
    },
    Difference {
        commands: &["PSUBSCRIBE", "SSUBSCRIBE", "SUBSCRIBE"],
        what: "A subscriber stays connected when the connection to the server is lost. Nearkey subscribes again; what \
            was published meanwhile is missed, logged and counted.",
        why: "A hundred clients that reconnect at once would make an outage longer.",
    },
    Difference {
        commands: &["PUBLISH", "SPUBLISH"],
        what: "To a RESP3 client that publishes to a channel of its own the message can come before or after the reply.",
        why: "Messages and replies come on two connections.",
    },
    // The server's own view.
    Difference {
        commands: &["MONITOR"],
        what: "While it runs, only what the proxy answers itself is carried (PING, RESET, QUIT and the like).",
        why: "Its lines and the replies to other commands could not be told apart.",
    },
    Difference {
        commands: &["WAIT", "WAITAOF"],
        what: "Nearkey sends a PUBLISH that nobody receives before it, so that it waits for every write that the server \
            has made until then, not for this client's alone.",
        why: "The server remembers the last write of each connection, and the client's writes went over shared ones.",
    },
    Difference {
        commands: &[
            "ACL LOG",
            "ACL WHOAMI",
            "COMMANDLOG GET",
            "MONITOR",
            "SLOWLOG GET",
        ],
        what: "Show the user, addresses and names of Nearkey's upstream connections.",
        why: "They are the server's clients.",
    },
    Difference {
        commands: &["INFO"],
        what: "Ends with a section `# Nearkey`.",
        why: "Whoever can reach the Redis port only can see the proxy as well.",
    },
    Difference {
        commands: &["COMMAND"],
        what: "Tells what the server has: also the commands that `commands.deny` refuses, and not NEARKEY.",
        why: "It is passed on as it is, so that clients find their server's key positions in it.",
    },
    Difference {
        commands: &["NEARKEY"],
        what: "Does not exist in Redis.",
        why: "INFO, HELP and VERSION of the proxy; STATS, HOTKEYS, KEY and FLUSH of its L1 (docs/l1.md).",
    },
];
