"""One attempt to deliver, against real receivers on this machine. DNS alone is pretended."""

import errno
import socket
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.waiting import SECONDS
from tests.worker.receivers import OK, Act, dripping, endless, receiver, resetting, silent
from worker.webhooks.dial import Attempt, post

BODY = b'{"type":"ping"}'
HEADERS = {"content-type": "application/json", "webhook-id": "msg_1"}
HERE = [ip_network("127.0.0.1")]
SHORT = 0.5  # seconds
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Dns:
    """Answers like `getaddrinfo`, each time with the next list of addresses, and counts the questions."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers = answers
        self.asked: list[str] = []

    def __call__(self, host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        answer = self._answers[min(len(self.asked), len(self._answers) - 1)]
        self.asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in answer]


def sent(act: Act | bytes, seconds: float = 20.0) -> Attempt:
    """What comes of a message to a receiver that acts like this."""
    with receiver(act) as there:
        return post(there.url(), HEADERS, BODY, HERE, resolve=Dns(["127.0.0.1"]), seconds=seconds)


def test_the_message_arrives_whole_and_under_its_name() -> None:
    with receiver() as there:
        url = there.url(path="/hook?project=a%20b")
        attempt = post(url, HEADERS, BODY, HERE, resolve=Dns(["127.0.0.1"]))

    [request] = there.requests
    head, _, body = request.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    assert lines[0] == b"post /hook?project=a%20b http/1.1"
    assert f"host: hooks.example.com:{there.port}".encode() in lines
    assert {b"content-type: application/json", b"webhook-id: msg_1", b"content-length: 15"} < set(lines)
    assert body == BODY
    assert attempt == Attempt(200, attempt.milliseconds, "ok", None, None, None)


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, ""),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", 200, "until the end"),
        (CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", 200, "abcde"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK, 200, "ok"),
        (b"HTTP/1.1 500 Oh\r\nContent-Length: 4\r\n\r\noops", 500, "oops"),
        (b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n", 410, ""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n" + b"a" * 60_000, 200, "a" * 1024),
    ],
)
def test_an_answer_is_read_in_every_form(answer: bytes, status: int, body: str) -> None:
    attempt = sent(answer)

    assert (attempt.status, attempt.body, attempt.error) == (status, body, None)


def test_retry_after_is_handed_on() -> None:
    attempt = sent(b"HTTP/1.1 503 No\r\nRetry-After: 120\r\nContent-Length: 0\r\n\r\n")

    assert (attempt.status, attempt.retry_after) == (503, "120")


def test_what_could_confuse_a_reader_of_the_log_is_escaped() -> None:
    body = "\x1b[31m\r\n\x00\u202e größer\\".encode() + b"\xff"

    attempt = sent(b"HTTP/1.0 200 OK\r\n\r\n" + body)

    assert attempt.body == r"\x1b[31m\r\n\x00\u202e größer\\xff"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status: int) -> None:
    with receiver() as elsewhere:
        to = f"http://127.0.0.1:{elsewhere.port}/latest/meta-data/"
        attempt = sent(f"HTTP/1.1 {status} Go\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode())

    assert (attempt.status, attempt.error) == (status, "redirect")
    assert elsewhere.connections == 0


def test_the_name_is_resolved_once_and_the_judged_address_dialled() -> None:
    with receiver() as there, receiver(host="127.0.0.2", port=there.port) as internal:
        dns = Dns(["127.0.0.1"], ["127.0.0.2"])
        attempt = post(there.url(), HEADERS, BODY, HERE, resolve=dns)

    assert attempt.status == 200
    assert dns.asked == ["hooks.example.com"]
    assert (there.connections, internal.connections) == (1, 0)


@pytest.mark.parametrize("bad", ["10.0.0.1", "169.254.169.254", "64:ff9b::a9fe:a9fe", "::ffff:10.0.0.1"])
def test_one_bad_address_among_the_answers_refuses_all(bad: str) -> None:
    with receiver() as there:
        for answer in (["127.0.0.1", bad], [bad, "127.0.0.1"]):
            attempt = post(there.url(), HEADERS, BODY, HERE, resolve=Dns(answer))
            assert (attempt.status, attempt.error) == (None, "refused_address")

    assert there.connections == 0


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.1", "0x7f000001", "2130706433", "localhost", "[::1]", "[::ffff:127.0.0.1]"]
)
def test_an_address_in_the_url_is_judged_without_asking_anybody(host: str) -> None:
    dns = Dns(["8.8.8.8"])
    with receiver() as there:
        attempt = post(there.url(host=host), HEADERS, BODY, [], resolve=dns)

    assert (attempt.status, attempt.error) == (None, "refused_address")
    assert "FEWBITS_WEBHOOK_ALLOW" in str(attempt.detail)
    assert (there.connections, dns.asked) == (0, [])


def test_an_address_that_the_operator_allows_is_dialled() -> None:
    with receiver() as there:
        attempt = post(there.url(host="127.1"), HEADERS, BODY, HERE)

    assert attempt.status == 200


def test_what_a_private_name_leads_to_is_not_told() -> None:
    attempt = post("http://db.corp.example/", HEADERS, BODY, [], resolve=Dns(["10.1.2.3"]))

    assert "10.1.2.3" not in str(attempt.detail)
    assert "db.corp.example leads to a private address" in str(attempt.detail)


@pytest.mark.parametrize(
    "url", ["http://user:word@hooks.example.com/", "http://a\x00b/", "http://ü.example/", "x"]
)
def test_a_url_that_is_none_is_an_error_and_not_a_crash(url: str) -> None:
    attempt = post(url, HEADERS, BODY, HERE, resolve=Dns(["127.0.0.1"]))

    assert (attempt.status, attempt.error) == (None, "bad_url")


def test_a_name_that_nobody_knows_is_unresolved() -> None:
    for host in ("hooks.invalid", "a..b", "a" * 64):
        attempt = post(f"http://{host}/", HEADERS, BODY, HERE)
        assert (attempt.status, attempt.error) == (None, "unresolved")


def test_another_address_is_tried_when_one_does_not_answer() -> None:
    both = [*HERE, ip_network("127.0.0.2")]
    with receiver(host="127.0.0.2") as there:
        attempt = post(there.url(), HEADERS, BODY, both, resolve=Dns(["127.0.0.1", "127.0.0.2"]))
        alone = post(there.url(), HEADERS, BODY, both, resolve=Dns(["127.0.0.1"]))

    assert attempt.status == 200
    assert (alone.status, alone.error) == (None, "connect_failed")


def test_ipv6_is_dialled_too() -> None:
    with ExitStack() as stack:
        try:
            there = stack.enter_context(receiver(host="::1"))
        except OSError:
            pytest.skip("no IPv6 here")
        attempt = post(there.url(host="[::1]"), HEADERS, BODY, [ip_network("::1")])

    assert attempt.status == 200
    assert f"host: [::1]:{there.port}".encode() in there.requests[0].lower()


def test_a_host_without_ipv6_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(_family: int) -> socket.socket:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    monkeypatch.setattr("worker.webhooks.connect.socket.socket", unsupported)
    attempt = post("http://[::1]/", HEADERS, BODY, [ip_network("::1")])

    assert (attempt.status, attempt.error) == (None, "connect_failed")
    assert "IPv6" in str(attempt.detail)


@pytest.mark.parametrize(
    ("act", "status"),
    [
        (silent, None),
        (dripping(b"HTTP/1.1 200 OK"), None),
        (dripping(b"A: b\r\n", b"HTTP/1.1 200 OK\r\n"), None),
        (dripping(b"HTTP/1.1 100 Continue\r\n\r\n"), None),
        (dripping(b"a", b"HTTP/1.1 200 OK\r\n\r\n"), 200),
        (dripping(b"1\r\na\r\n", CHUNKED), 200),
    ],
    ids=["silence", "a status", "headers", "interim answers", "a body", "chunks"],
)
def test_the_deadline_holds_however_slowly_the_answer_drips(act: Act, status: int | None) -> None:
    attempt = sent(act, seconds=SHORT)

    assert (attempt.status, attempt.error) == (status, "timed_out")


def test_the_deadline_holds_while_the_name_is_resolved() -> None:
    answered = threading.Event()

    def resolve(*_: Any, **__: Any) -> list[Any]:
        answered.wait(SECONDS)
        return []

    attempt = post("http://hooks.example.com/", HEADERS, BODY, HERE, resolve=resolve, seconds=SHORT)
    answered.set()

    assert (attempt.status, attempt.error) == (None, "timed_out")


def test_the_deadline_holds_while_connecting() -> None:
    with socket.socket() as full, ExitStack() as stack:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}/"
        attempt = post(url, HEADERS, BODY, HERE, seconds=SHORT)

    assert (attempt.status, attempt.error) == (None, "timed_out")


def test_the_deadline_holds_when_the_receiver_stops_reading() -> None:
    with socket.create_server(("127.0.0.1", 0)) as there:
        url = f"http://127.0.0.1:{there.getsockname()[1]}/"
        attempt = post(url, HEADERS, b"a" * 50_000_000, HERE, seconds=SHORT)

    assert (attempt.status, attempt.error) == (None, "timed_out")


@pytest.mark.parametrize(
    ("act", "status"),
    [
        (endless(b"a" * 4096, b"HTTP/1.1 200 OK\r\n\r\n"), 200),
        (endless(b"1000\r\n" + b"a" * 4096 + b"\r\n", CHUNKED), 200),
        (endless(b"a" * 4096, CHUNKED + b"1;"), 200),
        (endless(b"a" * 4096, b"HTTP/1.1 200 "), None),
        (endless(b"a" * 4096, b"HTTP/1.1 200 OK\r\nA: "), None),
        (endless(b"A: b\r\n" * 100, b"HTTP/1.1 200 OK\r\n"), None),
        (endless(b"HTTP/1.1 100 Continue\r\n\r\n"), None),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 101 + b"\r\n", None),
    ],
    ids=["body", "chunks", "chunk size", "status", "one header", "headers", "interim", "101 headers"],
)
def test_an_answer_without_end_is_cut(act: Act | bytes, status: int | None) -> None:
    attempt = sent(act)

    assert (attempt.status, attempt.error) == (status, "too_long")
    assert attempt.body in ("", "a" * 1024)


@pytest.mark.parametrize(
    ("act", "status"),
    [
        (b"", None),
        (resetting(), None),
        (resetting(b"HTTP/1.1 200 OK\r\nContent-Le"), None),
        (resetting(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"), 200),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", 200),
        (CHUNKED + b"zz\r\n", 200),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", None),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabcd", None),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", None),
        (b"SSH-2.0-OpenSSH_9.2\r\n", None),
        (b"\x16\x03\x01\x02\x00\x01\x00", None),
    ],
    ids=[
        *("closed", "reset", "reset in the head", "reset in the body", "closed in the body", "bad chunk"),
        *("two lengths", "unknown coding", "switched", "ssh", "tls"),
    ],
)
def test_an_answer_that_breaks_off_or_is_no_http_is_said_to_be_broken(
    act: Act | bytes, status: int | None
) -> None:
    attempt = sent(act)

    assert (attempt.status, attempt.error) == (status, "broken_answer")
    assert attempt.detail


def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiver() as there, receiver() as proxy:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        attempt = post(there.url(), HEADERS, BODY, HERE, resolve=Dns(["127.0.0.1"]))

    assert attempt.status == 200
    assert (there.connections, proxy.connections) == (1, 0)


@given(answer=st.binary() | st.binary().map(lambda noise: b"HTTP/1.1 200 OK\r\n" + noise))
def test_no_answer_is_a_crash(answer: bytes) -> None:
    attempt = sent(answer)

    assert attempt.status is not None or attempt.error in {"broken_answer", "too_long"}
