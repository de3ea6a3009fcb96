"""A receiver of webhooks: real HTTP on this host, with the answers that a test gives it."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks.webhooks import Webhook

from tests.waiting import SECONDS

Answer = tuple[int, Mapping[str, str], bytes]
OK: Answer = (204, {}, b"")


@dataclass(frozen=True)
class Received:
    """One request as it came."""

    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        """The message's."""
        return self.headers["webhook-id"]

    def verified(self, secret: str) -> Any:
        """The message, if this secret signed it; by the standard's own library."""
        return Webhook(secret).verify(self.body, self.headers)


@dataclass
class Receiver:
    """What came, in order, and what is answered: `answers` one by one, then `always`."""

    url: str = ""
    answers: list[Answer] = field(default_factory=list)
    always: Answer = OK
    received: list[Received] = field(default_factory=list)
    during: Callable[[], None] = lambda: None

    def take(self, received: Received) -> Answer:
        """Note a request, and choose its answer."""
        self.received.append(received)
        self.during()
        return self.answers.pop(0) if self.answers else self.always

    @property
    def ids(self) -> list[str]:
        """The messages' ids in the order in which they came."""
        return [received.id for received in self.received]

    def hang(self) -> tuple[threading.Event, threading.Semaphore]:
        """Answer nothing until the event is set; the semaphore counts who waits for that."""
        release, hanging = threading.Event(), threading.Semaphore(0)

        def wait() -> None:
            hanging.release()
            release.wait(SECONDS)

        self.during = wait
        return release, hanging


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver that listens until the block ends."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, answered, content = receiver.take(Received(headers, body))
            self.send_response(status)
            for name, value in {**answered, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_port}/hook"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
