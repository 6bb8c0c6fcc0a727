"""The demonstration of ./quickstart: the same clients, first at the server itself, then through Nearkey.

storm.py CLIENTS DIRECT_TLS_PORT NEARKEY_PORT CA_FILE PASSWORD CONTROL_PORT

Uses redis-py if it is there, else a few lines of RESP over the standard library.
"""

import socket
import ssl
import sys
import threading
import time
from collections import Counter

try:
    import redis
except ImportError:
    redis = None

CLIENTS, TLS_PORT, NEARKEY_PORT = map(int, sys.argv[1:4])
CA, PASSWORD, CONTROL_PORT = sys.argv[4], sys.argv[5], int(sys.argv[6])
ROUNDS = 25


class SmallClient:
    """Enough of a Redis client for the demonstration."""

    def __init__(self, port, password=None, tls=False):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=20)
        if tls:
            self.sock = ssl.create_default_context(cafile=CA).wrap_socket(self.sock, server_hostname="localhost")
        self.file = self.sock.makefile("rb")
        if password:
            self.execute_command("AUTH", password)

    def execute_command(self, *args):
        words = [str(a).encode() for a in args]
        self.sock.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words))
        head = self.file.readline().decode().rstrip()
        if not head:
            raise ConnectionError("closed")
        if head[0] == "-":
            raise ConnectionError(head[1:])
        if head[0] == "$":
            return None if head == "$-1" else self.file.read(int(head[1:]) + 2)[:-2]
        return head[1:]


def connect(port, password=None, tls=False):
    if redis is None:
        return SmallClient(port, password, tls)
    options = {"ssl": True, "ssl_ca_certs": CA} if tls else {}
    client = redis.Redis("localhost", port, password=password, socket_timeout=20, retry=None, protocol=2, **options)
    client.ping()
    return client


def storm(port, **options):
    """All clients at once, each with a connection of its own that it keeps until all are done."""
    outcomes = Counter()
    commands = Counter()
    lock = threading.Lock()
    everybody = threading.Barrier(CLIENTS)

    def one(n):
        done = 0
        try:
            client = connect(port, **options)
            for i in range(ROUNDS):
                value = f"{n}.{i}"
                client.execute_command("SET", f"storm:{n}", value)
                assert client.execute_command("GET", f"storm:{n}") == value.encode()
                done += 2
            outcome = "worked"
        except Exception as e:  # noqa: BLE001 - the demonstration is about what goes wrong
            outcome = str(e).removeprefix("ERR ") or type(e).__name__
            # Over TLS, a full server hangs up before it can say so.
            if isinstance(e, OSError) and "SSL" in outcome or "EOF" in outcome or "reset" in outcome or "closed" in outcome:
                outcome = "the server hung up"
        everybody.wait()
        with lock:
            outcomes[outcome] += 1
            commands["done"] += done

    start = time.monotonic()
    threads = [threading.Thread(target=one, args=(n,)) for n in range(CLIENTS)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return outcomes, commands["done"], time.monotonic() - start


def report(outcomes, commands, seconds):
    worked = outcomes.pop("worked", 0)
    print(f"   {worked} clients worked: {commands} commands in {seconds:.1f} s")
    for text, count in outcomes.most_common():
        print(f"   {count} clients were turned away: {text}")
    return worked


def rejected():
    """How many clients the server itself says it turned away."""
    stats = control.execute_command("INFO", "stats").decode()
    return next(line.split(":")[1].strip() for line in stats.splitlines() if line.startswith("rejected_connections:"))


class Watch:
    """Counts the connections that the server itself lists, on the TLS port that Nearkey uses."""

    def __init__(self):
        self.most = 0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def __enter__(self):
        self.thread.start()
        return self

    def run(self):
        while not self.stop.wait(0.02):
            rows = control.execute_command("CLIENT", "LIST").decode().splitlines()
            self.most = max(self.most, sum(f"laddr=127.0.0.1:{TLS_PORT} " in row for row in rows))

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()


library = f"redis-py {redis.__version__}" if redis else "a small client of the standard library"
print(f"\n1. {CLIENTS} clients ({library}) connect to the server itself, as {CLIENTS} app instances would:")
direct = report(*storm(TLS_PORT, password=PASSWORD, tls=True))
control = SmallClient(CONTROL_PORT, PASSWORD)
print(f"   The server: rejected_connections:{rejected()} (its maxclients is reached)")

print(f"\n2. The same {CLIENTS} clients connect to Nearkey on localhost:{NEARKEY_PORT}:")
with Watch() as watch:
    through = report(*storm(NEARKEY_PORT))
print(f"   The server's CLIENT LIST never showed more than {watch.most} connections from Nearkey.")

sys.exit(0 if through == CLIENTS and direct < CLIENTS else 1)
