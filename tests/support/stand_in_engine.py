"""A program of the standard library that behaves like an engine where the agent looks: counters, streams, processes.

`stand_in_engine.py PORT [child] [stubborn] [fail] [orphan] [tls CERT CA]`. Prints its environment as JSON first.
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COUNTERS = {"engine:busy": 0.0, "engine:tokens_total": 0.0}
STATE = {"metrics": True}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path, _, number = self.path.partition("?")
        if path == "/metrics" and STATE["metrics"]:
            lines = ["# TYPE engine:busy gauge"]
            lines += [f'{name}{{model="a b",slot="{{0}}"}} {value}' for name, value in COUNTERS.items()]
            self.reply("\n".join(lines) + "\n")
        elif path == "/busy":
            COUNTERS["engine:busy"] = float(number)
            self.reply("ok")
        elif path == "/bump":
            COUNTERS["engine:tokens_total"] += float(number or 1)
            self.reply("ok")
        elif path == "/hide":
            STATE["metrics"] = False
            self.reply("ok")
        elif path == "/exit":
            print("fatal: told to end", flush=True)
            os._exit(int(number))
        elif path == "/large":
            self.reply("x" * int(number))
        elif path == "/slow":
            self.stream(int(number))
        elif path == "/health":
            self.reply("ok")
        else:
            self.send_error(404)

    def reply(self, text: str) -> None:
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, events: int) -> None:
        COUNTERS["engine:busy"] += 1
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for index in range(events):
                data = f"data: {index}\n\n".encode()
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                COUNTERS["engine:tokens_total"] += 1
                time.sleep(0.02)
            self.wfile.write(b"0\r\n\r\n")
        finally:
            COUNTERS["engine:busy"] -= 1

    def log_message(self, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 512
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that went away


def main(port: str, *traits: str) -> None:
    print("ENV " + json.dumps(dict(os.environ)), flush=True)
    if "stubborn" in traits:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "child" in traits:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    if "orphan" in traits:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    if "fail" in traits:
        print("fatal: no such model", flush=True)
        sys.exit(7)
    server = Server(("127.0.0.1", int(port)), Handler)
    if "tls" in traits:
        certificate, authority = traits[traits.index("tls") + 1 :][:2]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(certificate)
        context.load_verify_locations(authority)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


main(*sys.argv[1:])
