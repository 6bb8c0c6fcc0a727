"""The table of bad input: what is given, what Redis or a good proxy makes of it, and what Nearkey says.

`test_bad_input.py` holds Nearkey to each row and docs/bad-input.md to the table. In a text, `…` stands for what varies. To write
the page anew: `cd tests/clients && python -m harness.bad_input > ../../docs/bad-input.md`.
"""

import re
from dataclasses import dataclass, field

from .resp import encode

NOT_BEFORE = "refuses to start, names the place and what is allowed"


@dataclass
class Row:
    given: str
    peer: str
    says: str
    of: dict = field(default_factory=dict)

    def pattern(self):
        return re.compile(".*?".join(re.escape(part) for part in self.says.split("…")), re.S)


def wire(given, payload, redis, nearkey=None):
    return Row(given, redis, nearkey or redis, {"payload": payload})


ERR = "-ERR Protocol error: "
SILENCE = "closes without a word"
WAITS = "waits for more"

PROTOCOL = [
    wire("a number of arguments that is none", b"*x\r\n", ERR + "invalid multibulk length"),
    wire("a number of arguments with a plus", b"*+1\r\n$4\r\nPING\r\n", ERR + "invalid multibulk length"),
    wire("a number of arguments with a leading zero", b"*01\r\n$4\r\nPING\r\n", ERR + "invalid multibulk length"),
    wire("2^63 arguments", b"*9223372036854775808\r\n", ERR + "invalid multibulk length"),
    wire("2^31 arguments", b"*2147483648\r\n", ERR + "invalid multibulk length"),
    wire("a count line without an end", b"*" + b"1" * 70000, ERR + "too big mbulk count string"),
    wire("a length that is none", b"*1\r\n$x\r\n", ERR + "invalid bulk length"),
    wire("a negative length", b"*1\r\n$-1\r\n", ERR + "invalid bulk length"),
    wire("a length above 512 MB", b"*1\r\n$536870913\r\n", ERR + "invalid bulk length"),
    wire("a length line without an end", b"*1\r\n$" + b"1" * 70000, ERR + "too big bulk count string"),
    wire("an integer for an argument", b"*1\r\n:1\r\n", ERR + "expected '$', got ':'"),
    wire("an array for an argument", b"*1\r\n*1\r\n$4\r\nPING\r\n", ERR + "expected '$', got '*'"),
    wire("a RESP3 map for an argument", b"*1\r\n%1\r\n", ERR + "expected '$', got '%'"),
    wire("a control byte where `$` is due", b"*1\r\n\x014\r\nPING\r\n", ERR + "expected '$', got '\x01'", ERR + "expected '$', got '?'"),
    wire("an argument longer than it says", b"*1\r\n$4\r\nPINGxx*1\r\n$4\r\nPING\r\n", "+PONG", ERR + "invalid bulk length"),
    wire("a line of 64 KiB", b"x" * 70000, ERR + "too big inline request"),
    wire("a line with an open quote", b"ECHO \"x\r\n", ERR + "unbalanced quotes in request"),
    wire("text behind a closing quote", b"ECHO 'a'b\r\n", ERR + "unbalanced quotes in request"),
    wire("CR LF within quotes of a line", b"ECHO \"a\\r\\nDEL k\"\r\n", "$8\r\na\r\nDEL k"),
    wire("a reply where a request is due", b"+OK\r\n", "-ERR unknown command '+OK', with args beginning with: "),
    wire("an unknown command with line ends in it", encode("NO\r\n+OK", "a\r\nb"),
         "-ERR unknown command 'NO  +OK', with args beginning with: 'a  b' "),
    wire("an empty command name", encode(""), "-ERR unknown command '', with args beginning with: "),
    wire("too few arguments", encode("GET"), "-ERR wrong number of arguments for 'get' command"),
    wire("HTTP POST", b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", SILENCE),
    wire("HTTP GET with a Host header", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", SILENCE),
    wire("HTTP without Redis's signs of it", b"OPTIONS * HTTP/1.1\r\n\r\n", "-ERR unknown command 'OPTIONS', with args beginning with: '*' 'HTTP/1.1' ",
         SILENCE),
    wire("a TLS handshake on the plain port", b"\x16\x03\x01\x00\x05hello\r\n", WAITS, SILENCE),
    wire("an unknown protocol version", encode("HELLO", "9"), "-NOPROTO unsupported protocol version"),
    wire("a database that is no number", encode("SELECT", "x"), "-ERR value is not an integer or out of range"),
    wire("a database that there is not", encode("SELECT", "99"), "-ERR DB index is out of range"),
    wire("EXEC without MULTI", encode("EXEC"), "-ERR EXEC without MULTI"),
    wire("a name with a blank", encode("CLIENT", "SETNAME", "a b"), "-ERR Client names cannot contain spaces, newlines or special characters."),
]


def file(given, text, says, data=None):
    return Row(given, NOT_BEFORE, "…proxy.toml" + says, {"text": data or text.encode()})


FILE = [
    file("a misspelt setting", "[upstream]\nmax_conections = 4\n", ":2: unknown setting upstream.max_conections; did you mean upstream.max_connections?"),
    file("a misspelt section", "[upstrem]\nurl = 'x'\n", ":1: unknown section [upstrem]; did you mean upstream?"),
    file("text for a number", "[listen]\nmax_clients = \"many\"\n", ":2: listen.max_clients: must be a whole number from 1 to 1000000, not a string"),
    file("a number below zero", "[listen]\nmax_clients = -1\n", ":2: listen.max_clients: -1 is not a whole number from 1 to 1000000"),
    file("a duration that is none", "[upstream]\ncommand_timeout = \"soon\"\n",
         ":2: upstream.command_timeout: \"soon\" is not a duration such as \"5s\", \"100ms\" or \"1m\""),
    file("a negative duration", "[listen]\nrequest_timeout = \"-1s\"\n", ":2: listen.request_timeout: \"-1s\" is not a duration such as …"),
    file("a size that is none", "[process]\nmemory_limit = \"lots\"\n", ":2: process.memory_limit: \"lots\" is not \"auto\" or a size such as \"256mb\""),
    file("a size that is too small", "[process]\nmemory_limit = \"1mb\"\n", ":2: process.memory_limit: 1mb is not from 32mb to 64gb, nor \"auto\" or 0"),
    file("an unknown word", "[log]\nformat = \"yaml\"\n", ":2: log.format: \"yaml\" is not one of \"text\", \"json\""),
    file("an address that is none", "[listen]\naddress = \"nowhere\"\n", ":2: listen.address: \"nowhere\" is not an IP address and port such as …"),
    file("a mode that is none", "[listen]\nunix_mode = \"999\"\n", ":2: listen.unix_mode: \"999\" is not a mode such as \"0700\""),
    file("a certificate without its key", "[listen]\ntls_cert = \"/x.crt\"\n", ":2: listen.tls_cert: needs listen.tls_key too"),
    file("half a table header", "[upstream", ":1: not valid TOML: …"),
    file("a setting twice", "[listen]\nmax_clients = 1\nmax_clients = 2\n", ":3: not valid TOML: duplicate key"),
    file("a file that is no text", "", ": is not UTF-8 text", b"\xff\xfe\x00"),
]


def env(given, variables, says):
    return Row(given, NOT_BEFORE, says, {"env": variables})


SERVER = {"REDIS_URL": "redis://127.0.0.1:1"}

ENVIRONMENT = [
    env("a misspelt variable", {"NEARKEY_LISTEN__MAX_CLIENT": "4", **SERVER},
        "env NEARKEY_LISTEN__MAX_CLIENT: unknown variable; did you mean NEARKEY_LISTEN__MAX_CLIENTS?"),
    env("a number that is none", {"NEARKEY_LISTEN__MAX_CLIENTS": "x", **SERVER},
        "env NEARKEY_LISTEN__MAX_CLIENTS: listen.max_clients: \"x\" is not a whole number from 1 to 1000000"),
    env("a port that is none", {"REDIS_HOST": "h", "REDIS_PORT": "x"},
        "env REDIS_HOST: is set, but its port (REDIS_PORT) is not a number from 1 to 65535"),
    env("a switch that is none", {"REDIS_HOST": "h", "REDIS_SSL": "maybe"}, "env REDIS_SSL: \"maybe\" is neither true nor false"),
    env("no server at all", {}, "…no Redis server is named: give --upstream …, or set REDIS_URL, …"),
    env("nowhere to listen", {"NEARKEY_LISTEN__ADDRESS": "off", **SERVER},
        "env NEARKEY_LISTEN__ADDRESS: listen.address: is off, and listen.unix is not set: clients could not connect"),
    env("a log level that is none", {"NEARKEY_LOG__LEVEL": "loud", **SERVER}, "env NEARKEY_LOG__LEVEL: log.level: \"loud\" is not a level: …"),
    env("a secret file that is missing", {"NEARKEY_UPSTREAM__PASSWORD_FILE": "/no/such", **SERVER},
        "env NEARKEY_UPSTREAM__PASSWORD_FILE: upstream.password_file: cannot read /no/such: No such file or directory…"),
    env("a secret file that is a directory", {"NEARKEY_UPSTREAM__PASSWORD_FILE": "/", **SERVER},
        "env NEARKEY_UPSTREAM__PASSWORD_FILE: upstream.password_file: cannot read /: Is a directory…"),
]


def url(given, text, says):
    return Row(f"{given}: `{text}`", NOT_BEFORE, "flag --upstream: upstream.url: " + says, {"url": text})


URLS = [
    url("HTTP", "http://x", "is an HTTP address, such as Upstash's REST URL; Nearkey needs the Redis one: …"),
    url("no scheme", "h:1", "must begin with redis:// (plain), rediss:// (TLS), upstash:// or unix://"),
    url("no host", "redis://", "names no host: redis://HOST:6379"),
    url("a placeholder", "redis://h:port", "has the placeholder \"port\" for its port: write the number that your provider shows, such as 6379"),
    url("port 0", "redis://h:0", "has a port that is not a number from 1 to 65535"),
    url("port 99999", "redis://h:99999", "has a port that is not a number from 1 to 65535"),
    url("a slash in the password", "redis://:p/w@h", "has a character in its user or password that must be percent-encoded: …"),
    url("a database that is no number", "redis://h/x", "has a database that is not a number: redis://HOST:6379/0"),
    url("a socket without a path", "unix://", "needs the absolute path of a socket: unix:///run/redis.sock"),
    url("IPv6 without brackets", "redis://h:1:2", "has an IPv6 address without brackets: write [::1]:6379"),
    url("half a bracket", "redis://[::1", "has a [ without its ]"),
    url("an unknown parameter", "rediss://h?x=1", "has the query parameter x, which Nearkey does not know; …"),
]


def start(given, says, *args, **settings):
    """`{dir}` is a directory of the test's own with certificates, `{port}` a port in use."""
    return Row(given, NOT_BEFORE, says, {"args": args, "settings": settings})


START = [
    start("a port in use", "…cannot listen on 127.0.0.1:{port} (listen.address): Address already in use…", "--listen", "127.0.0.1:{port}"),
    start("an admin port in use", "…cannot listen on 127.0.0.1:{port} (admin.address): Address already in use…", "--admin", "127.0.0.1:{port}"),
    start("an address of another machine", "…cannot listen on 192.0.2.1:1 (listen.address): Cannot assign requested address…",
          "--listen", "192.0.2.1:1"),
    start("a unix socket's path that is too long", "…(listen.unix): path must be shorter than SUN_LEN", listen__unix="/tmp/" + "x" * 200),
    start("a unix socket in no directory", "…cannot listen on /no/such/n.sock (listen.unix): No such file or directory…",
          listen__unix="/no/such/n.sock"),
    start("a unix socket where a file is", "…cannot listen on {dir}/file (listen.unix): Address already in use…", listen__unix="{dir}/file"),
    start("a certificate that is missing", "…listen.tls_cert: cannot read /no/such.crt: No such file or directory…",
          listen__tls_cert="/no/such.crt", listen__tls_key="{dir}/server.key"),
    start("a certificate that is a directory", "…listen.tls_cert: {dir} is a directory", listen__tls_cert="{dir}", listen__tls_key="{dir}/server.key"),
    start("a certificate that is no PEM", "…listen TLS: {dir}/file contains no certificate …", listen__tls_cert="{dir}/file",
          listen__tls_key="{dir}/server.key"),
    start("a key that is no PEM", "…listen TLS: {dir}/file …", listen__tls_cert="{dir}/server.crt", listen__tls_key="{dir}/file"),
    start("a key of another certificate", "…listen TLS: …", listen__tls_cert="{dir}/server.crt", listen__tls_key="{dir}/client.key"),
    start("a CA that is missing", "flag --upstream-ca: upstream.ca: cannot read /no/such: No such file or directory…",
          "--upstream", "rediss://localhost:1", "--upstream-ca", "/no/such"),
    start("a CA that is no PEM", "…upstream TLS: {dir}/file contains no certificate …", "--upstream", "rediss://localhost:1",
          "--upstream-ca", "{dir}/file"),
    start("an unknown flag", "error: unexpected argument '--nosuch' found…", "--nosuch"),
    start("a flag's number that is none", "flag --workers: process.workers: \"x\" is not a whole number from 0 to 1024", "--workers", "x"),
]


def upstream(given, says, **server):
    return Row(given, "goes on trying, tells the client and the log why", "-LOADING Nearkey: upstream unreachable (" + says + ")", {"server": server})


UPSTREAM = [
    upstream("an expired certificate", "…expired…", certificate="expired"),
    upstream("a certificate of another host", "…localhost…", certificate="wronghost"),
    upstream("a certificate of an unknown CA", "…", certificate="stranger"),
    upstream("plain TCP where TLS is due", "…", plain=True),
    upstream("a wrong password", "…WRONGPASS…", password="right"),
    upstream("nobody there", "…refused…", nobody=True),
]

GROUPS = [
    ("On the wire", "The connection of whoever sends it, and only that, is closed after a protocol error. Nothing of a malformed request travels; "
     "what stood whole before it does.", PROTOCOL),
    ("In proxy.toml", "", FILE),
    ("In the environment", "", ENVIRONMENT),
    ("In URLs", "", URLS),
    ("At the start", "", START),
    ("At the server", "Clients get this as an error once `upstream.queue_timeout` is over; `/health` names the cause.", UPSTREAM),
]

HEAD = """# Bad input, and what Nearkey says

Each row is held to by `tests/clients/test_bad_input.py`, which this page is written from. `…` stands for what varies. Beyond these,
150 hostile payloads and 20,000 mutations are compared with a redis-server in `tests/clients/test_hostile.py`.

Nearkey is stricter than Redis in few points, all on malformed input: it wants CR LF wherever Redis takes any two bytes, so that
nothing which another reader could split elsewhere is passed on; it closes on all HTTP requests and on TLS, where Redis knows
`POST` and `Host:`; and it never puts a client's control bytes into an error of its own.
"""


def cell(text):
    text = "".join(c if c.isprintable() else {"\r": "\\r", "\n": "\\n"}.get(c, f"\\x{ord(c):02x}") for c in text)
    return text.replace("|", "\\|").strip()


def quoted(text):
    return text if text in (SILENCE, WAITS, NOT_BEFORE) or text.startswith("goes on") else f"`{cell(text)}`"


def page():
    lines = [HEAD]
    for title, prose, rows in GROUPS:
        lines.append(f"## {title}\n")
        if prose:
            lines.append(f"{prose}\n")
        lines.append("| given | Redis, or a good proxy | Nearkey |\n|---|---|---|")
        for row in rows:
            says = "the same" if row.says == row.peer else quoted(row.says)
            lines.append(f"| {cell(row.given)} | {quoted(row.peer)} | {says} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(page(), end="")
