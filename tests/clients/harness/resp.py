"""RESP as raw bytes: what is sent, what must come back, and a strict reader for replies that vary."""

import socket
import ssl


def encode(*args):
    """A request as clients send it: an array of bulk strings."""
    out = [b"*%d\r\n" % len(args)]
    for arg in args:
        arg = to_bytes(arg)
        out.append(b"$%d\r\n%s\r\n" % (len(arg), arg))
    return b"".join(out)


def to_bytes(arg):
    if isinstance(arg, bytes):
        return arg
    return str(arg).encode()


def bulk(value):
    value = to_bytes(value)
    return b"$%d\r\n%s\r\n" % (len(value), value)


def array(*items):
    """`items` are encoded replies already."""
    return b"*%d\r\n" % len(items) + b"".join(items)


class ProtocolViolation(AssertionError):
    """The peer sent bytes that are no reply."""


class ReplyError(Exception):
    """An error reply, where a value was asked for."""


class Raw:
    """A client socket that knows nothing of its peer but bytes."""

    def __init__(self, host=None, port=None, *, unix=None, timeout=20, tls=None, server_hostname="localhost"):
        if unix:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(timeout)
            self.sock.connect(str(unix))
        else:
            self.sock = socket.create_connection((host, port), timeout=timeout)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock, server_hostname=server_hostname)
        self.buffer = bytearray()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.sock.close()

    def send(self, data):
        self.sock.sendall(data)

    def half_close(self):
        self.sock.shutdown(socket.SHUT_WR)

    def command(self, *args):
        """Sends one command and returns its reply; raises ReplyError for an error reply."""
        self.send(encode(*args))
        reply = self.reply()
        if isinstance(reply, ReplyError):
            raise reply
        return reply

    def raw(self, *args):
        """Sends one command and returns its reply as the bytes that came."""
        self.send(encode(*args))
        return self.reply_bytes()

    def exactly(self, expected):
        """Reads as many bytes as `expected` has; they must be these."""
        try:
            got = self.take(len(expected))
        except TimeoutError:
            # What did come may tell why the rest does not.
            if expected.startswith(self.buffer):
                raise
            got = bytes(self.buffer)
        if got != expected:
            at = next(i for i, (a, b) in enumerate(zip(got, expected)) if a != b)
            raise AssertionError(
                f"reply differs at byte {at} of {len(expected)}: "
                f"expected {expected[max(0, at - 40):at + 80]!r}, got {got[max(0, at - 40):at + 80]!r}"
            )

    def take(self, n):
        while len(self.buffer) < n:
            self._fill()
        data = bytes(self.buffer[:n])
        del self.buffer[:n]
        return data

    def line(self):
        start = 0
        while True:
            at = self.buffer.find(b"\n", start)
            if at >= 0:
                line = self.take(at + 1)
                if not line.endswith(b"\r\n"):
                    raise ProtocolViolation(f"line without CRLF: {line!r}")
                return line
            start = len(self.buffer)
            self._fill()

    def until_eof(self, seconds=20):
        """Everything until the peer closes. A reset counts as closing."""
        self.sock.settimeout(seconds)
        while True:
            try:
                self._fill()
            except (EOFError, ConnectionError, ssl.SSLError):
                data = bytes(self.buffer)
                self.buffer.clear()
                return data

    def until_silent(self, seconds):
        """What comes until nothing came for `seconds`, and whether the peer closed."""
        self.sock.settimeout(seconds)
        closed = False
        while not closed:
            try:
                self._fill()
            except TimeoutError:
                break
            except (EOFError, ConnectionError, ssl.SSLError):
                closed = True
        data = bytes(self.buffer)
        self.buffer.clear()
        return data, closed

    def nothing_left(self):
        """Ends the connection with QUIT: its OK must be the very next and last bytes."""
        self.send(encode("QUIT"))
        rest = self.until_eof()
        assert rest == b"+OK\r\n", f"bytes left over: {rest[:200]!r}"

    def _fill(self):
        data = self.sock.recv(1 << 18)
        if not data:
            raise EOFError("closed by the peer")
        self.buffer += data

    # Replies as Python values. Depth is counted by a stack of our own: replies can nest thousands deep.

    def reply_bytes(self):
        """One whole reply, any type, as its bytes."""
        parts = []
        missing = 1
        while missing:
            head = self.line()
            parts.append(head)
            missing -= 1
            kind, length = head[:1], head[1:-2]
            if kind in b"+-:_#,(" and len(kind) == 1:
                continue
            n = number(length, head)
            if kind in (b"$", b"=", b"!"):
                if n >= 0:
                    body = self.take(n + 2)
                    if not body.endswith(b"\r\n"):
                        raise ProtocolViolation(f"bulk without CRLF after {head!r}")
                    parts.append(body)
            elif kind in (b"*", b"~", b">"):
                missing += max(n, 0)
            elif kind == b"%":
                missing += 2 * n
            elif kind == b"|":
                missing += 2 * n + 1
            else:
                raise ProtocolViolation(f"no such reply type: {head[:80]!r}")
        return b"".join(parts)

    def reply(self):
        head = self.line()
        kind, rest = head[:1], head[1:-2]
        match kind:
            case b"+":
                return rest
            case b"-":
                return ReplyError(rest.decode(errors="replace"))
            case b":":
                return number(rest, head)
            case b"$" | b"=" | b"!":
                n = number(rest, head)
                if n == -1:
                    return None
                body = self.take(n + 2)
                if not body.endswith(b"\r\n"):
                    raise ProtocolViolation(f"bulk without CRLF after {head!r}")
                body = body[:-2]
                return ReplyError(body.decode(errors="replace")) if kind == b"!" else body
            case b"*" | b"~" | b">":
                n = number(rest, head)
                return None if n == -1 else [self.reply() for _ in range(n)]
            case b"%":
                return {hashable(self.reply()): self.reply() for _ in range(number(rest, head))}
            case b"_":
                return None
            case b"#":
                return rest == b"t"
            case b",":
                return float(rest)
            case b"(":
                return int(rest)
        raise ProtocolViolation(f"no such reply type: {head[:80]!r}")


def number(text, head):
    try:
        return int(text)
    except ValueError:
        raise ProtocolViolation(f"no number in {head[:80]!r}") from None


def hashable(value):
    return repr(value) if isinstance(value, (list, dict)) else value
