"""Receivers of webhooks for `webhooks.py`: one HTTP server whose paths behave well, badly, or not at all."""

import json
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

FAILS, HANGS, RESETS = 0.20, 0.10, 0.05
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Seen:
    """One request: to whom, what was done with it, and how long after its event it came, in seconds."""

    path: str
    message: str
    outcome: str
    valid: bool
    after: float


@dataclass
class Receivers:
    """What all receivers have seen, and the secrets that they verify with."""

    port: int = 0
    secrets: dict[str, Webhook] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)

    def url(self, path: str) -> str:
        """Where the endpoint with this path is."""
        return f"http://127.0.0.1:{self.port}{path}"

    def of(self, behaviour: str) -> list[Seen]:
        """What came to the endpoints that behave like this."""
        return [seen for seen in self.seen if seen.path.startswith(f"/{behaviour}/")]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512


class _Receiver(BaseHTTPRequestHandler):
    """`/healthy/…` takes everything, `/faulty/…` fails at random, `/dead/…` never answers."""

    def __init__(self, *connection: object, receivers: Receivers, chance: random.Random) -> None:
        self._receivers, self._chance = receivers, chance
        super().__init__(*connection)  # type: ignore[arg-type]

    def do_POST(self) -> None:
        came = time.time()
        body = self.rfile.read(int(self.headers["content-length"]))
        happened = datetime.fromisoformat(json.loads(body)["timestamp"]).timestamp()
        outcome, message = self._outcome(), self.headers["webhook-id"]
        self._receivers.seen.append(Seen(self.path, message, outcome, self._is_valid(body), came - happened))
        getattr(self, f"_{outcome}")()

    def log_message(self, *_: object) -> None:
        """Nothing: there are thousands."""

    def _outcome(self) -> str:
        if self.path.startswith("/healthy/"):
            return "take"
        if self.path.startswith("/dead/"):
            return "hang"
        weights = {"fail": FAILS, "hang": HANGS, "reset": RESETS, "take": 1 - FAILS - HANGS - RESETS}
        return self._chance.choices(list(weights), list(weights.values()))[0]

    def _is_valid(self, body: bytes) -> bool:
        try:
            self._receivers.secrets[self.path].verify(body, dict(self.headers))
        except WebhookVerificationError:
            return False
        return True

    def _take(self) -> None:
        self.send_response_only(204)
        self.end_headers()

    def _fail(self) -> None:
        self.send_error(500)

    def _hang(self) -> None:
        """Until the sender has had enough."""
        self.connection.settimeout(PATIENCE_S)
        with suppress(OSError):
            self.connection.recv(1)
        self.close_connection = True

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        socket.close(self.connection.detach())


@contextmanager
def receivers(seed: int) -> Iterator[Receivers]:
    """All receivers, behind one port."""
    found = Receivers()
    server = _Server(("127.0.0.1", 0), partial(_Receiver, receivers=found, chance=random.Random(seed)))  # noqa: S311
    found.port = server.server_port
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
