"""Free ports and waiting for them."""

import socket
import time


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
