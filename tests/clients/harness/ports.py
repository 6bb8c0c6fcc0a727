"""Free ports, and waiting: for them, and for processes that are to stand still."""

import signal
import socket
import time
from pathlib import Path


def free_port(host="127.0.0.1"):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as s:
        s.bind((host, 0))
        return s.getsockname()[1]


def eventually(check, seconds=10.0, pause=0.02, what=None):
    """Calls `check` until it returns something true; its last exception or `what` tells why it never did."""
    end = time.monotonic() + seconds
    while True:
        error = None
        try:
            result = check()
            if result:
                return result
        except Exception as e:  # noqa: BLE001 - whatever it was, it may be over at the next try
            error = e
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what or check}") from error
        time.sleep(pause)


def accepts(host, port):
    with socket.create_connection((host, port), timeout=1):
        return True


def freeze(process):
    """Stops a process. All its threads stand still when this returns; the signal alone takes its time on a busy machine."""
    process.send_signal(signal.SIGSTOP)
    threads = Path(f"/proc/{process.pid}/task")
    if threads.exists():
        eventually(lambda: all(stat.read_text().rpartition(")")[2].split()[0] in "TZ" for stat in threads.glob("*/stat")))
    else:
        time.sleep(0.2)
