"""A webhook on loopback, as Slack's, Discord's and Mattermost's are: it takes JSON at a URL that nobody may see."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from helpers import wait_until

TOKEN = "T0-planted-token"  # which may stand in no file and no output


class WebhookServer(ThreadingHTTPServer):
    """Use it as a context. It answers with `code`, or not at all before its end where `code` is None."""

    daemon_threads = True

    def __init__(self, code: int | None = 200):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.code, self.bodies, self.ended = code, [], threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/services/{TOKEN}"

    @property
    def lines(self) -> list[str]:
        return [body["content"] for body in self.bodies]

    def wait_for(self, part: str) -> str:
        """The first line that has it."""
        return wait_until(lambda: next((line for line in self.lines if part in line), None), f"{part!r} on the webhook")

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        is_right = self.path.endswith(TOKEN) and self.headers["Content-Type"] == "application/json"
        self.server.bodies += [body] * is_right
        if self.server.code is None:
            self.server.ended.wait()
            return
        self.send_response(self.server.code)
        self.send_header("Location", self.server.url)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def assert_not_told(*said: str, below: Path | None = None) -> None:
    """Neither what was said nor any file below the folder has the token."""
    files = [path for path in below.rglob("*") if path.is_file()] if below else []
    assert TOKEN not in "".join(said)
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]
