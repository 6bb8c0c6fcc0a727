"""Run inside a network namespace of its own: what do clients get that come from loopback, and from elsewhere?

elsewhere.py NEARKEY DIRECTORY prints it as JSON. A test network is given to the namespace's loopback device, so that
no packet ever leaves it.
"""

import json
import socket
import subprocess
import sys
import time

ADDRESS = "198.51.100.7"
PORT = 6379
REQUEST = b"AUTH pw\r\nPING\r\nQUIT\r\n"


def ask(address):
    with socket.create_connection((address, PORT), timeout=10) as sock:
        got = b""
        try:
            # Who is turned away is told so before saying anything; a request on its way then could reset the connection.
            sock.settimeout(0.5)
            try:
                got = sock.recv(4096)
            except TimeoutError:
                sock.sendall(REQUEST)
            sock.settimeout(10)
            while data := sock.recv(4096):
                got += data
        except ConnectionError:
            pass
        return got.decode()


def wait_until_up():
    for _ in range(500):
        try:
            socket.create_connection(("127.0.0.1", PORT), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise SystemExit("nearkey does not accept")


nearkey, directory = sys.argv[1:]
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
subprocess.run(["ip", "address", "add", f"{ADDRESS}/24", "dev", "lo"], check=True)
with open(f"{directory}/nearkey.log", "wb") as log:
    process = subprocess.Popen(
        [nearkey, "--listen", f"0.0.0.0:{PORT}", "--upstream", "redis://127.0.0.1:1", "--admin", "off"],
        stdout=log, stderr=log, stdin=subprocess.DEVNULL)
try:
    wait_until_up()
    print(json.dumps({"loopback": ask("127.0.0.1"), "elsewhere": ask(ADDRESS)}))
finally:
    process.kill()
    process.wait()
