"""Receivers of webhooks on real sockets, that do what a test tells them to."""

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from tests.waiting import SECONDS

Act = Callable[[socket.socket], None]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
DRIP_SECONDS = 0.02
LONG = 30.0  # seconds: far beyond the deadlines that tests give


@dataclass
class Receiver:
    """What a receiver has seen: connections, whole requests, and the server names of TLS."""

    host: str
    port: int
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)

    def url(self, scheme: str = "http", host: str = "hooks.example.com", path: str = "/hook") -> str:
        """A URL that leads here, if the name is resolved to `host`."""
        return f"{scheme}://{host}:{self.port}{path}"


@contextmanager
def receiver(
    act: Act | bytes = OK,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    tls: ssl.SSLContext | None = None,
    reads: bool = True,
) -> Iterator[Receiver]:
    """A receiver that reads each request (or does not) and then acts, or answers these bytes."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as server:
        found = Receiver(host, server.getsockname()[1])
        if tls:
            tls.set_servername_callback(lambda _socket, name, _context: found.names.append(name))

        def serve(connection: socket.socket) -> None:
            with suppress(OSError), connection, _encrypted(connection, tls) as talking:
                if reads:
                    found.requests.append(_request(talking))
                _answer(talking, act)

        threading.Thread(target=_accept, args=(server, found, serve), daemon=True).start()
        try:
            yield found
        finally:
            server.shutdown(socket.SHUT_RDWR)


def dripping(data: bytes, start: bytes = b"") -> Act:
    """Sends `start` at once and `data` byte by byte, again and again: no single read takes long."""

    def act(connection: socket.socket) -> None:
        connection.sendall(start)
        end, position = time.monotonic() + LONG, 0
        while time.monotonic() < end:
            connection.sendall(data[position % len(data) :][:1])
            position += 1
            time.sleep(DRIP_SECONDS)

    return act


def endless(data: bytes, start: bytes = b"") -> Act:
    """Sends `start` and then `data` again and again, as fast as it is taken."""

    def act(connection: socket.socket) -> None:
        connection.sendall(start)
        end = time.monotonic() + LONG
        while time.monotonic() < end:
            connection.sendall(data)

    return act


def resetting(start: bytes = b"") -> Act:
    """Sends `start` and then a reset."""

    def act(connection: socket.socket) -> None:
        connection.sendall(start)
        time.sleep(DRIP_SECONDS)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return act


def silent(connection: socket.socket) -> None:
    """Says nothing until the other side has gone."""
    connection.settimeout(LONG)
    while connection.recv(4096):
        pass


def _accept(server: socket.socket, found: Receiver, serve: Act) -> None:
    with suppress(OSError):
        while True:
            connection, _ = server.accept()
            connection.settimeout(SECONDS)
            found.connections += 1
            threading.Thread(target=serve, args=(connection,), daemon=True).start()


def _answer(connection: socket.socket, act: Act | bytes) -> None:
    if isinstance(act, bytes):
        connection.sendall(act)
    else:
        act(connection)


def _encrypted(connection: socket.socket, tls: ssl.SSLContext | None) -> socket.socket:
    return tls.wrap_socket(connection, server_side=True) if tls else connection


def _request(connection: socket.socket) -> bytes:
    request = b""
    while b"\r\n\r\n" not in request:
        request += _some(connection)
    head, _, body = request.partition(b"\r\n\r\n")
    [length] = [int(line.split()[1]) for line in head.lower().split(b"\r\n") if b"content-length:" in line]
    while len(body) < length:
        body += _some(connection)
    return head + b"\r\n\r\n" + body


def _some(connection: socket.socket) -> bytes:
    data = connection.recv(65_536)
    if not data:
        raise ConnectionError
    return data
