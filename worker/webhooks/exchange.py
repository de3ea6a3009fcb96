"""One request and its answer over a connection: HTTP/1.1 by h11, every read with a limit and a deadline."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import h11

from app.domain.destination import Destination
from worker.webhooks.deadline import Deadline
from worker.webhooks.failure import Failure

ANSWER_BYTES = 64 * 1024
HEAD_BYTES = 16 * 1024
HEADERS = 100
READ_BYTES = 4096  # a head is looked at so often, so it can exceed its limit by no more
KEPT_BYTES = 1024


@dataclass(frozen=True)
class Answer:
    """What the receiver said; `failure` when the rest of the body did not come."""

    status: int
    retry_after: str | None
    body: bytes  # its first 1024 bytes
    failure: Failure | None


def exchange(
    connection: socket.socket,
    destination: Destination,
    headers: Mapping[str, str],
    body: bytes,
    deadline: Deadline,
) -> Answer:
    """POST the body and read the answer, of which at most 64 kB.

    Raises:
        Failure: The answer's head is `too_long` or a `broken_answer`, or `timed_out`.
    """
    wire = _Wire(connection, deadline)
    wire.send(_request(destination, headers, body), h11.Data(data=body), h11.EndOfMessage())
    head = _head(wire)
    kept, failure = _body(wire)
    waits = [value.decode("latin-1") for name, value in head.headers if name == b"retry-after"]
    return Answer(head.status_code, waits[0] if waits else None, kept, failure)


class _Wire:
    """The bytes below h11's events."""

    def __init__(self, connection: socket.socket, deadline: Deadline) -> None:
        self._connection = connection
        self._deadline = deadline
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES)
        self._left = ANSWER_BYTES

    def send(self, *events: h11.Event) -> None:
        """A receiver that stops reading may have answered already: that is seen when reading."""
        data = memoryview(b"".join(self._http.send(event) or b"" for event in events))
        try:
            while data:
                self._connection.settimeout(self._deadline.left())
                data = data[self._connection.send(data) :]
        except TimeoutError:
            raise
        except OSError:  # an ssl.SSLEOFError, too, is no ConnectionError
            return

    def receive(self) -> Any:  # noqa: ANN401 - h11's events, told apart by those who ask
        """The next event of the answer.

        Raises:
            Failure: `too_long`, `broken_answer` or `timed_out`.
        """
        try:
            while (event := self._http.next_event()) is h11.NEED_DATA:
                self._http.receive_data(self._read())
        except h11.RemoteProtocolError as error:
            raise self._explained(error) from None
        except TimeoutError:
            raise Failure("timed_out", f"no complete answer within {self._deadline.seconds:g} s") from None
        except OSError as error:
            raise Failure("broken_answer", str(error.strerror or error)) from None
        return event

    def _read(self) -> bytes:
        if not self._left:
            raise Failure("too_long", f"the answer is longer than {ANSWER_BYTES} bytes")
        self._connection.settimeout(self._deadline.left())
        data = self._connection.recv(min(READ_BYTES, self._left))
        self._left -= len(data)
        return data

    def _explained(self, error: h11.RemoteProtocolError) -> Failure:
        if error.error_status_hint == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE:
            return Failure("too_long", f"the headers are longer than {HEAD_BYTES} bytes")
        if self._http.trailing_data[1]:
            return Failure("broken_answer", "the connection was closed before the answer was complete")
        return Failure("broken_answer", "the answer is not HTTP/1.1")


def _request(destination: Destination, headers: Mapping[str, str], body: bytes) -> h11.Request:
    ours = {"host": destination.authority, "content-length": str(len(body)), "connection": "close"}
    return h11.Request(method="POST", target=destination.path, headers=[*ours.items(), *headers.items()])


def _head(wire: _Wire) -> h11.Response:
    """The answer's status and headers, after any number of interim answers that the limits allow."""
    while isinstance(event := wire.receive(), h11.InformationalResponse):
        pass
    assert isinstance(event, h11.Response)  # noqa: S101 - for the type checker
    if len(event.headers) > HEADERS:
        raise Failure("too_long", f"the answer has {len(event.headers)} headers, the limit is {HEADERS}")
    return event


def _body(wire: _Wire) -> tuple[bytes, Failure | None]:
    """The start of the body, and why its end did not come."""
    kept = b""
    try:
        while isinstance(event := wire.receive(), h11.Data):
            kept += event.data[: KEPT_BYTES - len(kept)]
    except Failure as failure:
        return kept, failure
    return kept, None
