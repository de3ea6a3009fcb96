"""What may stand between a client and the service: a line that breaks, and a service of a later version."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx

PIECE = 16 * 1024
LARGE = 4 * 1024  # bytes in a piece that is no head of a message, but what it carries
Harm = Literal["change", "break"]


@dataclass
class Line:
    """A TCP line; of each new connection it carries so many bytes, then it breaks. Empty: it holds.

    `up` counts what the client sends, `down` what the service answers. For each of the two `harm` says what
    becomes of the next large pieces, on whatever connection: a bit of them changes, or the connection breaks.
    """

    url: str = ""
    up: list[int] = field(default_factory=list)
    down: list[int] = field(default_factory=list)
    connections: int = 0
    harm: dict[str, list[Harm]] = field(default_factory=lambda: {"up": [], "down": []})


@contextmanager
def line_to(url: str) -> Iterator[Line]:
    """A line to the service."""
    there = urlsplit(url)
    with ExitStack() as threads, ExitStack() as ends:  # threads end when their connections do
        listener = ends.enter_context(socket.create_server(("127.0.0.1", 0)))
        line = Line(f"http://127.0.0.1:{listener.getsockname()[1]}")

        def begin(*work: Any) -> None:
            thread = threading.Thread(target=work[0], args=work[1:])
            thread.start()
            threads.callback(thread.join)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    near = ends.enter_context(listener.accept()[0])
                    far = ends.enter_context(socket.create_connection((there.hostname, there.port)))
                    ends.callback(_hang_up, near, far)
                    line.connections += 1
                    begin(_carry, near, far, line.up.pop(0) if line.up else None, line.harm["up"])
                    begin(_carry, far, near, line.down.pop(0) if line.down else None, line.harm["down"])

        begin(accept)
        try:
            yield line
        finally:
            _hang_up(listener)


def _hang_up(*ends: socket.socket) -> None:
    for end in ends:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def _carry(source: socket.socket, target: socket.socket, budget: int | None, harm: list[Harm]) -> None:
    left = budget
    with suppress(OSError):
        while left != 0 and (piece := source.recv(PIECE if left is None else min(left, PIECE))):
            done = harm.pop(0) if harm and len(piece) >= LARGE else None
            if done == "break":
                break
            target.sendall(_changed(piece) if done == "change" else piece)
            left = None if left is None else left - len(piece)
    _hang_up(source, target)


def _changed(piece: bytes) -> bytes:
    middle = len(piece) // 2
    return piece[:middle] + bytes([piece[middle] ^ 1]) + piece[middle + 1 :]


@contextmanager
def newer_than(url: str) -> Iterator[str]:
    """The service as a later version may be: more fields everywhere, states that nobody knows, no stream."""

    class Later(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.endswith("/events"):
                self.send_error(501)
            else:
                self._hand_on(b"")

        def do_POST(self) -> None:
            self._hand_on(self.rfile.read(int(self.headers.get("content-length", 0))))

        do_HEAD = do_PATCH = do_POST  # noqa: N815 - the server's names

        def _hand_on(self, body: bytes) -> None:
            headers = {k: v for k, v in self.headers.items() if k.lower() != "host"}
            answer = httpx.request(self.command, url + self.path, content=body, headers=headers, timeout=300)
            content = _later(answer)
            self.send_response(answer.status_code)
            for name in ("content-type", "location", "upload-offset", "etag"):
                if name in answer.headers:
                    self.send_header(name, answer.headers[name])
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content if self.command != "HEAD" else b"")

        def log_message(self, *_args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Later) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def _later(answer: httpx.Response) -> bytes:
    if "json" not in answer.headers.get("content-type", ""):
        return answer.content
    return json.dumps(_grown(answer.json())).encode()


def _grown(value: Any) -> Any:
    """The same with a new field in every object, and new words for states."""
    if isinstance(value, list):
        return [_grown(item) for item in value]
    if not isinstance(value, dict):
        return value
    grown = {name: _grown(item) for name, item in value.items()}
    renamed = {"state": "archived"} if grown.get("state") == "measured" else {}
    return grown | renamed | {"a_new_field": {"of": ["a", "later", "version"]}}
