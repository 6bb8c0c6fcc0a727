"""nearkey top in a terminal: it shows a busy Nearkey, obeys keys, and leaves the terminal as it was."""

import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
import threading

import pytest

from harness.nearkey import binary, clean_environment, run
from harness.ports import eventually, free_port

ENTERED, LEFT, CURSOR = b"\x1b[?1049h", b"\x1b[?1049l", b"\x1b[?25h"
HOSTILE = "\x1b[31mowned"


class Terminal:
    """The program in a terminal of so many columns and rows. What it drew is kept as bytes and, of the latest
    screen, as text: a cell that does not change is not drawn again."""

    def __init__(self, port, columns, rows, **env):
        self.ours, theirs = pty.openpty()
        self.theirs = theirs
        self.columns, self.rows = columns, rows
        self._set_size()
        self.before = termios.tcgetattr(theirs)
        self.process = subprocess.Popen(
            [binary(), "top", "--admin", f"127.0.0.1:{port}"], stdin=theirs, stdout=theirs, stderr=theirs,
            env=clean_environment(TERM="xterm-256color", **env), start_new_session=True,
        )
        self.output = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _set_size(self):
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", self.rows, self.columns, 0, 0))

    def resize(self, columns, rows):
        self.columns, self.rows = columns, rows
        self._set_size()
        self.process.send_signal(signal.SIGWINCH)

    def _read(self):
        try:
            while chunk := os.read(self.ours, 65536):
                self.output += chunk
        except OSError:
            pass

    def press(self, keys):
        os.write(self.ours, keys.encode())

    def screen(self):
        """The cells, from the cursor movements that the program makes; what it should not say fails."""
        cells, x, y = {}, 0, 0
        text = self.output.decode(errors="replace")
        i = 0
        while i < len(text):
            if text[i] == "\x1b":
                end = i + 2
                while not ("@" <= text[end:end + 1] <= "~"):
                    if end >= len(text):
                        break
                    end += 1
                body, kind = text[i + 2:end], text[end:end + 1]
                if kind == "H":
                    y, x = (int(n or 1) - 1 for n in (body.split(";") if body else ["1", "1"]))
                elif kind == "J":
                    cells.clear()
                i = end + 1
                continue
            cells[y, x] = text[i]
            x += 1
            i += 1
        lines = ("".join(cells.get((y, x), " ") for x in range(self.columns)).rstrip() for y in range(self.rows))
        return "\n".join(lines)

    def shows(self, *words, no=()):
        def is_shown():
            screen = self.screen()
            missing = [word for word in words if word not in screen] + [f"no {word}" for word in no if word in screen]
            assert not missing, f"{missing} on\n{screen}"
            return True

        eventually(is_shown, 30, what=f"{words} on the screen")

    def ends(self):
        """Its exit code, once everything that it wrote is here and the terminal is as it was."""
        code = self.process.wait(20)
        eventually(lambda: LEFT in self.output, what="the screen is left")
        assert self.output.count(ENTERED) == self.output.count(LEFT) == 1
        assert self.output.rindex(CURSOR) > self.output.index(ENTERED), "the cursor is seen again"
        assert termios.tcgetattr(self.theirs) == self.before, "the terminal is as it was"
        return code

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.theirs)
        self._reader.join(5)
        os.close(self.ours)


@pytest.fixture
def server(redis_server):
    return redis_server(tls=False)


@pytest.fixture
def proxy(nearkey, server):
    return nearkey(server, cache__default="cache", cost__per_100k_commands="0.20", upstream__queue_timeout="100ms")


@pytest.fixture
def busy(proxy):
    """Clients that read a hot key and one with a hostile name all the time."""
    stop = threading.Event()

    def talk():
        with proxy.connect() as raw:
            raw.command("SET", "hot:1", "x" * 100)
            raw.command("SET", HOSTILE, "y")
            while not stop.wait(0.01):
                raw.command("GET", "hot:1")
                raw.command("GET", HOSTILE)

    threads = [threading.Thread(target=talk) for _ in range(5)]
    for thread in threads:
        thread.start()
    yield
    stop.set()
    for thread in threads:
        thread.join()


@pytest.fixture
def top(proxy):
    opened = []

    def start(columns=80, rows=24, **env):
        opened.append(Terminal(proxy.admin_port, columns, rows, **env))
        return opened[-1]

    yield start
    for terminal in opened:
        terminal.close()


@pytest.mark.parametrize("size", [(80, 24), (140, 45)], ids=["80x24", "140x45"])
def test_a_busy_nearkey_is_seen_and_keys_are_obeyed(busy, top, size):
    terminal = top(*size)
    terminal.shows("healthy", "app connections", "to the server", "? help")
    terminal.shows("hot:1", "cached", "[31mowned", "upstream reachable", "most reads first")
    assert "app 5" in terminal.screen()
    assert b"\x1b[31mowned" not in terminal.output, "a name is only text"
    terminal.press("b")
    terminal.shows("most bytes first")
    terminal.press("3")
    terminal.shows("Events newest first", "upstream reachable", no=["Hot keys"])
    terminal.press("\t?")
    terminal.shows("Help", "hot keys by reads")
    terminal.press("?")
    if size == (80, 24):
        terminal.resize(140, 45)
        terminal.shows("leased / waiting")
    terminal.press("q")
    assert terminal.ends() == 0


@pytest.mark.parametrize("how", ["\x1b", "\x03", signal.SIGTERM, signal.SIGINT], ids=["Esc", "Ctrl-C", "SIGTERM", "SIGINT"])
def test_it_leaves_the_terminal_as_it_was(top, how):
    terminal = top()
    terminal.shows("to the server")
    if isinstance(how, str):
        terminal.press(how)
    else:
        terminal.process.send_signal(how)
    assert terminal.ends() == 0


def test_no_color_is_no_color(busy, top):
    terminal = top(NO_COLOR="1")
    terminal.shows("hot:1", "░")
    terminal.press("q")
    assert terminal.ends() == 0
    sequences = {part.split(b"m")[0] for part in terminal.output.split(b"\x1b[")[1:] if b"m" in part[:12]}
    numbers = {n for sequence in sequences for n in sequence.split(b";")}
    assert not numbers & {b"%d" % n for n in [*range(30, 39), *range(40, 49), *range(90, 98)]}, sequences


def test_it_waits_for_a_process_that_is_away(nearkey, server, proxy, top):
    with proxy.connect() as raw:
        raw.command("SET", "a", "1")
        terminal = top()
        terminal.shows("healthy", "to the server")
    proxy.stop()
    terminal.shows("no answer", "What is shown is old", "to the server")
    nearkey(server, admin=proxy.admin_port)
    terminal.shows("server not needed yet", no=["no answer", "is old"])
    terminal.press("q")
    assert terminal.ends() == 0


def test_an_outage_is_told_with_what_to_do(server, proxy, top):
    with proxy.connect() as raw:
        raw.command("SET", "a", "1")
        terminal = top(140, 45)
        terminal.shows("healthy")
        server.stop()

        def is_told():
            raw.raw("GET", "a")
            return "Server unreachable (tcp)" in terminal.screen() and "To do: check" in terminal.screen()

        eventually(is_told, 30, what="the alarm")


def test_one_snapshot_for_logs_and_scripts(proxy, busy):
    def told(*args):
        ended = run("top", "--admin", f"127.0.0.1:{proxy.admin_port}", *args)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def is_whole():
        text = told("--once")
        missing = [word for word in expected if word not in text]
        assert not missing, f"{missing} in\n{text}"
        return True

    expected = ["healthy (version ", " 5 app -> ", "L1 tracking", "hot:1 (cached)", "upstream reachable"]
    eventually(is_whole, 30, what="a busy Nearkey in text")
    text = told()  # no terminal here: the same
    assert text.startswith("state        healthy (version ") and "\nevents, newest first\n" in text
    assert "\x1b" not in text


def test_nobody_to_ask_is_an_error():
    ended = run("top", "--once", "--admin", f"127.0.0.1:{free_port()}")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "no answer from the admin endpoint" in ended.stderr
    off = run("top", "--once", "--admin", "off")
    assert off.returncode == 1 and "admin.address" in off.stderr
    wrong = run("top", "--once", "--admin", "nowhere")
    assert wrong.returncode == 2 and "admin.address" in wrong.stderr
