"""RESP frames as bytes: cut from a stream as they complete, opened one level at a time, read as values."""

from .resp import ProtocolViolation, number

LINES = b"+-:_#,("
BULKS = b"$=!"
LISTS = b"*~>"


def frame_end(data, start=0):
    """Where the frame that begins at `start` ends; None while it is incomplete."""
    at, missing = start, 1
    while missing:
        line_end = data.find(b"\r\n", at)
        if line_end < 0:
            return None
        kind, rest = data[at:at + 1], bytes(data[at + 1:line_end])
        at = line_end + 2
        missing -= 1
        if kind in LINES:
            continue
        n = number(rest, bytes(data[start:start + 80]))
        if kind in BULKS:
            if n >= 0:
                at += n + 2
                if at > len(data):
                    return None
        elif kind in LISTS:
            missing += max(n, 0)
        elif kind == b"%":
            missing += 2 * n
        elif kind == b"|":
            missing += 2 * n + 1
        else:
            raise ProtocolViolation(f"no such reply type: {bytes(data[start:start + 80])!r}")
    return at


class FrameBuffer:
    """Collects bytes and gives the frames that they complete."""

    def __init__(self):
        self.data = bytearray()

    def feed(self, data):
        self.data += data
        frames, at = [], 0
        while at < len(self.data) and (end := frame_end(self.data, at)) is not None:
            frames.append(bytes(self.data[at:end]))
            at = end
        del self.data[:at]
        return frames


def elements(frame):
    """The frames inside an aggregate, in order; none for anything else."""
    if frame[:1] not in b"*~>%|":
        return []
    at, found = frame.index(b"\r\n") + 2, []
    while at < len(frame):
        end = frame_end(frame, at)
        found.append(frame[at:end])
        at = end
    return found


def rebuilt(frame, items):
    """The aggregate `frame` with other elements."""
    return frame[:frame.index(b"\r\n") + 2] + b"".join(items)


def word(frame):
    """The text of a bulk or simple string; None for anything else."""
    if frame[:1] == b"$" and frame[:3] != b"$-1":
        return frame[frame.index(b"\r\n") + 2:-2]
    return frame[1:-2] if frame[:1] == b"+" else None


def kind_of(frame):
    """The first word of an array or push, which names a message's kind: subscribe, pmessage, invalidate..."""
    if frame[:1] not in b"*>":
        return None
    inside = elements(frame)
    return word(inside[0]) if inside else None


CONFIRMATIONS = (b"subscribe", b"psubscribe", b"ssubscribe", b"unsubscribe", b"punsubscribe", b"sunsubscribe")
MESSAGES = (b"message", b"pmessage", b"smessage")


def value(frame):
    """A frame as Python values; an error is an `ErrorValue`."""
    kind, rest = frame[:1], frame[1:frame.index(b"\r\n")]
    if kind == b"-":
        return ErrorValue(rest)
    if kind == b":":
        return int(rest)
    if kind == b"+":
        return rest
    if kind == b"_" or rest == b"-1":
        return None
    if kind == b"#":
        return rest == b"t"
    if kind == b",":
        return float(rest)
    if kind in BULKS:
        return word(b"$" + frame[1:])
    items = [value(item) for item in elements(frame)]
    if kind == b"%":
        return dict(zip(items[::2], items[1::2]))
    return items


class ErrorValue(bytes):
    """An error reply's text."""
