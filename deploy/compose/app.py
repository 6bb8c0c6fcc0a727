"""A small app as there are many: a pool of 100 connections to the Redis on localhost, all of them in use.

Its page shows what it did, and, from INFO, over how many connections Nearkey carried it.
PORT (8000), REDIS_HOST (localhost) and REDIS_PORT (6379) say where.
"""

import json
import os
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import redis

CLIENTS = 100
PORT = int(os.environ.get("PORT", "8000"))

pool = redis.ConnectionPool(
    host=os.environ.get("REDIS_HOST", "localhost"), port=int(os.environ.get("REDIS_PORT", "6379")),
    max_connections=CLIENTS + 10, socket_timeout=5, decode_responses=True,
)
db = redis.Redis(connection_pool=pool)

requests, errors = [0] * CLIENTS, [0] * CLIENTS


def visitor(n):
    """One visitor with a connection of its own: reads products, which are hot, and counts itself."""
    with redis.Redis(connection_pool=pool, single_connection_client=True) as client:
        while True:
            try:
                client.get(f"product:{n % 10}")
                client.incr("visits")
                requests[n] += 2
            except redis.RedisError:
                errors[n] += 1
            time.sleep(0.1)


def facts():
    info = db.info()
    return {
        "app_connections": pool.max_connections - 10,
        "server_connections": info["connected_clients"],
        "server_maxclients": info.get("maxclients"),
        "commands": sum(requests),
        "errors": sum(errors),
        "visits": int(db.get("visits") or 0),
    }


class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            body = {"/": facts, "/health": lambda: {"redis": db.ping()}}[self.path]()
            status = 200
        except KeyError:
            status, body = 404, {"error": "only / and /health are here"}
        except redis.RedisError as e:
            status, body = 503, {"error": str(e)}
        text = json.dumps(body, indent=2).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


def main():
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for n in range(10):
        db.set(f"product:{n}", json.dumps({"name": f"product {n}", "price": 100 + n}))
    for n in range(CLIENTS):
        threading.Thread(target=visitor, args=(n,), daemon=True).start()
    try:
        ThreadingHTTPServer(("0.0.0.0", PORT), Page).serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
