"""Connections that say nothing, too little, or too much are ended, and hold nobody up."""

import asyncio
import http.client
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

import httpx
import pytest
import uvicorn
from uvicorn.server import ServerState

from app import listen
from app.api import body, crowd
from tests.app.conftest import MIB, Service, Tenant
from tests.app.problems import problem
from tests.app.sockets import head, talk
from tests.waiting import POLL_SECONDS, SECONDS, in_time

AT_ONCE = 0.05  # seconds; from then on a client is late


@contextmanager
def connected(service: Service, sent: bytes = b"") -> Iterator[socket.socket]:
    with socket.create_connection(service.address, timeout=SECONDS) as connection:
        connection.sendall(sent)
        yield connection


def has_ended(connection: socket.socket) -> bool:
    """Whether the server has closed; what it said before is passed over."""
    with suppress(ConnectionError):
        while connection.recv(65536):
            pass
    return True


def refuses_more(connection: socket.socket) -> bool:
    """Whether the server has gone: one more byte is too many."""
    try:
        connection.sendall(b"a")
    except ConnectionError:
        return True
    return False


def key_of(tenant: Tenant) -> str:
    return str(tenant.http.headers["authorization"]).removeprefix("Bearer ")


@pytest.mark.parametrize("sent", [b"", b"GET /heal", b"GET /healthz HTTP/1.1\r\nHost: x\r\nA: "])
def test_who_never_ends_the_head_of_a_request_is_let_go(
    service: Service, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(listen, "HEAD_SECONDS", AT_ONCE)

    with connected(service, sent) as connection:
        assert has_ended(connection)


def test_a_head_that_trickles_gets_no_more_time(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "HEAD_SECONDS", 10 * POLL_SECONDS)
    with connected(service, b"GET /healthz HTTP/1.1\r\nA: ") as connection:
        assert in_time(lambda: refuses_more(connection))


def test_between_requests_a_connection_may_rest(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(http.client.HTTPConnection(*service.address, timeout=SECONDS)) as resting:
        assert told(resting) == 200
        own = resting.sock
        monkeypatch.setattr(listen, "HEAD_SECONDS", AT_ONCE)
        with connected(service, b"GET") as late:
            assert has_ended(late)

        assert told(resting) == 200
        assert resting.sock is own


@pytest.mark.anyio
async def test_an_answer_waits_for_no_acknowledgement_on_a_socket_that_processes_share() -> None:
    config = uvicorn.Config(listen.application, factory=True)
    loop = asyncio.get_running_loop()
    accepted: asyncio.Future[socket.socket] = loop.create_future()

    class Seen(listen.BoundedProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            accepted.set_result(transport.get_extra_info("socket"))

    with socket.create_server(("127.0.0.1", 0)) as shared:  # as uvicorn binds it: of no named protocol
        await loop.create_server(lambda: Seen(config, ServerState(), {}), sock=shared)
        _, writer = await asyncio.open_connection(*shared.getsockname())

        assert (await accepted).getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        writer.close()


def told(client: http.client.HTTPConnection) -> int:
    """The status of one more answer on this connection."""
    client.request("GET", "/healthz")
    with client.getresponse() as answer:
        answer.read()
        return answer.status


def refused(length: int) -> bytes:
    """A request that is answered before its body is read."""
    asked = head("/v1/blobs/" + "a" * 64, "fb_nobody_x", f"Content-Length: {length}", method="PUT")
    return asked.replace(b"Connection: close\r\n", b"")


def test_behind_a_body_of_two_lengths_nothing_more_is_taken(service: Service, tenant: Tenant) -> None:
    smuggled = head("/healthz", "", method="GET").replace(b"Connection: close\r\n", b"")
    lengths = "Content-Length: 4", "Transfer-Encoding: chunked"
    asked = head("/v1/models", key_of(tenant), *lengths).replace(b"Connection: close\r\n", b"")
    with connected(service, asked + b"0\r\n\r\n" + smuggled) as connection:
        said = b"".join(iter(lambda: connection.recv(65536), b""))

    assert said.count(b"HTTP/1.1 ") == 1


def test_a_body_that_nobody_wants_is_not_read_to_its_end(service: Service) -> None:
    sent = 0
    with connected(service, refused(1024 * MIB)) as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 401")

        with suppress(ConnectionError):
            while sent < 1024 * MIB:
                connection.sendall(bytes(MIB))
                sent += MIB

    assert sent < 32 * MIB, "what the kernels of both sides hold"


def test_a_body_that_nobody_wants_and_that_never_ends_is_not_waited_for(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connected(service, refused(1000)) as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 401")
        monkeypatch.setattr(listen, "HEAD_SECONDS", AT_ONCE)

        assert in_time(lambda: refuses_more(connection))


def test_a_short_body_that_nobody_wanted_leaves_the_connection_as_it_was(service: Service) -> None:
    with closing(http.client.HTTPConnection(*service.address, timeout=SECONDS)) as client:
        client.request("PUT", "/v1/blobs/" + "a" * 64, body=bytes(10_000))
        with client.getresponse() as answer:
            assert (answer.status, bool(answer.read())) == (401, True)
        own = client.sock

        assert told(client) == 200
        assert client.sock is own


def test_whoever_has_waited_longest_makes_room(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "WAITING", 3)
    with ExitStack() as stack:
        silent = [stack.enter_context(connected(service, b"GET")) for _ in range(8)]

        assert httpx.get(f"{service.url}/healthz").status_code == 200

        assert all(has_ended(connection) for connection in silent[:4])


def test_answers_that_nobody_takes_are_dropped(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "TAKEN_SECONDS", AT_ONCE)
    requests = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 100  # more than kernels hold
    with socket.socket() as greedy:
        greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        greedy.settimeout(SECONDS)
        greedy.connect(service.address)
        greedy.sendall(requests)

        assert in_time(lambda: refuses_more(greedy))


def test_a_small_body_comes_soon_or_not_at_all(
    service: Service, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "SMALL_SECONDS", AT_ONCE)
    asked = head("/v1/jobs", key_of(tenant), "Content-Type: application/json", "Content-Length: 100")

    status, found = talk(service, asked + b'{"version"')

    assert (status, found["retryable"]) == (408, False)
    assert "The body did not come" in found["detail"]


def test_one_project_cannot_take_every_place(
    service: Service, tenant: Tenant, stranger: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crowd, "REQUESTS", 4)  # two of them, if nobody else asks
    monkeypatch.setattr(crowd, "KEPT_FREE", 1)
    monkeypatch.setattr(crowd, "SHARE", 2)
    request = head(
        "/v1/blobs/" + "a" * 64, key_of(tenant), "Content-Length: 100", "Expect: 100-continue", method="PUT"
    )
    with connected(service, request) as one, connected(service, request) as other:
        assert all(b"100 Continue" in connection.recv(1000) for connection in (one, other))

        refused = tenant.http.get("/v1/me")

        assert "requests under way, 2, leave" in problem(refused, 429, "rate_limited")["detail"]
        assert refused.headers["retry-after"] == "5"
        assert stranger.http.get("/v1/me").status_code == 200
    assert in_time(lambda: tenant.http.get("/v1/me").status_code == 200)
