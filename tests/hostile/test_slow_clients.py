"""Hundreds of clients that say nothing more hold nobody else up, and are let go (row 21)."""

import socket
from contextlib import ExitStack, suppress

import httpx
import pytest

from tests.hostile.conftest import Service
from tests.waiting import SECONDS

pytestmark = pytest.mark.long
CLIENTS = 700  # more than the connections that may wait for a request at once


def test_clients_that_never_end_their_heads_are_let_go_and_others_are_answered(
    service: Service, neighbour: httpx.Client
) -> None:
    url = service.http.base_url
    with ExitStack() as stack:
        silent = []
        for _ in range(CLIENTS):
            connection = socket.create_connection((url.host, url.port or 0), timeout=SECONDS)
            silent.append(stack.enter_context(connection))
            connection.sendall(b"GET /v1/me HTTP/1.1\r\nHost: x\r\nX-Slow: ")

        with httpx.Client(base_url=url, headers=neighbour.headers, timeout=SECONDS) as new:
            assert [new.get("/v1/me").status_code for _ in range(20)] == [200] * 20

        assert all(is_let_go(connection) for connection in silent)


def is_let_go(connection: socket.socket) -> bool:
    """Whether the server closes."""
    with suppress(ConnectionError):
        return connection.recv(1000) == b""
    return True
