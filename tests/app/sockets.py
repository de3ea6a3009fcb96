"""HTTP over a bare socket, for requests that no client would send."""

import json
import socket
from typing import Any

from tests.app.conftest import Service
from tests.waiting import SECONDS


def talk(service: Service, request: bytes) -> tuple[int, dict[str, Any]]:
    """Send these bytes, never the rest of the body, and read the answer."""
    with socket.create_connection(service.address, timeout=SECONDS) as connection:
        connection.sendall(request)
        received = b""
        while b"\r\n\r\n" not in received or not received.rpartition(b"}")[1]:
            chunk = connection.recv(65536)
            assert chunk, received
            received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def head(path: str, key: str, *headers: str, method: str = "POST") -> bytes:
    """The bytes before a body."""
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: x",
        "Connection: close",
        f"Authorization: Bearer {key}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode()
