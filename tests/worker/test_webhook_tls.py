"""Webhooks over TLS: the address is dialled, but the certificate must be one for the name."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from tests.worker.receivers import Act, Receiver, dripping, receiver, resetting, silent
from tests.worker.test_webhook_dial import BODY, HEADERS, HERE, SHORT, Dns
from worker.webhooks.connect import _loaded, trusted
from worker.webhooks.dial import Attempt, post

NAME = "hooks.example.com"
HALF_A_HANDSHAKE = b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc"  # a record of 16 kB begins with a ServerHello


def said_to(there: Receiver, context: ssl.SSLContext | None, seconds: float = 20.0) -> Attempt:
    """What comes of a message to `NAME`, which leads to this receiver."""
    url, dns = there.url("https", NAME), Dns(["127.0.0.1"])
    return post(url, HEADERS, BODY, HERE, resolve=dns, context=context, seconds=seconds)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def serving(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def test_the_name_is_asked_for_and_checked_though_an_address_is_dialled(
    authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    with receiver(tls=serving(authority.issue_cert(NAME))) as there:
        attempt = said_to(there, trusting)

    assert (attempt.status, attempt.body, attempt.error) == (200, "ok", None)
    assert there.names == [NAME]
    assert f"host: {NAME}:{there.port}".encode() in there.requests[0].lower()


def test_a_certificate_for_an_address_serves_a_url_with_that_address(
    authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    with receiver(tls=serving(authority.issue_cert("127.0.0.1"))) as there:
        attempt = post(there.url("https", "127.0.0.1"), HEADERS, BODY, HERE, context=trusting)

    assert attempt.status == 200


@pytest.mark.parametrize(
    ("certified", "says"),
    [("evil.example.com", "Hostname mismatch"), ("127.0.0.1", "Hostname mismatch"), ("*.com", "mismatch")],
)
def test_a_certificate_for_another_name_is_refused(
    authority: trustme.CA, trusting: ssl.SSLContext, certified: str, says: str
) -> None:
    with receiver(tls=serving(authority.issue_cert(certified))) as there:
        attempt = said_to(there, trusting)

    refused_for(attempt, says)
    assert there.requests == []


def test_a_certificate_that_expired_is_refused(authority: trustme.CA, trusting: ssl.SSLContext) -> None:
    expired = authority.issue_cert(NAME, not_after=datetime.now(UTC) - timedelta(hours=1))
    with receiver(tls=serving(expired)) as there:
        attempt = said_to(there, trusting)

    refused_for(attempt, "expired")


def test_a_certificate_of_an_authority_that_the_system_does_not_trust_is_refused(
    authority: trustme.CA,
) -> None:
    with receiver(tls=serving(authority.issue_cert(NAME))) as there:
        attempt = said_to(there, None)

    refused_for(attempt, "unable to get local issuer certificate")
    assert there.requests == []


def test_an_operator_trusts_an_authority_of_their_own_by_a_file(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    _loaded.cache_clear()
    with receiver(tls=serving(authority.issue_cert(NAME))) as there:
        attempt = said_to(there, None)
    _loaded.cache_clear()

    assert attempt.status == 200


def test_who_does_not_speak_tls_gets_no_request(trusting: ssl.SSLContext) -> None:
    with receiver(b"HTTP/1.1 400 Bad Request\r\n\r\n", reads=False) as there:
        attempt = said_to(there, trusting)

    assert (attempt.status, attempt.error) == (None, "tls_failed")


@pytest.mark.parametrize("act", [silent, dripping(b"\0", start=HALF_A_HANDSHAKE)], ids=["silence", "drip"])
def test_the_deadline_holds_during_the_handshake(trusting: ssl.SSLContext, act: Act) -> None:
    with receiver(act, reads=False) as there:
        attempt = said_to(there, trusting, SHORT)

    assert (attempt.status, attempt.error) == (None, "timed_out")


def test_a_reset_while_sending_inside_of_tls_is_an_attempt_that_failed(
    authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    with receiver(resetting(), tls=serving(authority.issue_cert(NAME)), reads=False) as there:
        url, dns, long = there.url("https", NAME), Dns(["127.0.0.1"]), b"a" * 50_000_000
        attempt = post(url, HEADERS, long, HERE, resolve=dns, context=trusting)

    assert (attempt.status, attempt.error) == (None, "broken_answer")


@pytest.mark.parametrize("status", [None, 200])
def test_the_deadline_holds_inside_of_tls(
    authority: trustme.CA, trusting: ssl.SSLContext, status: int | None
) -> None:
    act = dripping(b"a", b"HTTP/1.1 200 OK\r\n\r\n") if status else silent
    with receiver(act, tls=serving(authority.issue_cert(NAME))) as there:
        later = (said_to(there, trusting, SHORT * longer) for longer in (1, 8, 64))  # a busy host is slow
        heard = next((attempt for attempt in later if attempt.status == status), None)

    assert heard is not None
    assert heard.error == "timed_out"


def test_what_the_system_trusts_is_asked_for_with_tls_1_2_at_least() -> None:
    assert trusted().minimum_version == ssl.TLSVersion.TLSv1_2
    assert trusted().verify_mode == ssl.CERT_REQUIRED
    assert trusted().check_hostname


def refused_for(attempt: Attempt, says: str) -> None:
    assert (attempt.status, attempt.error) == (None, "tls_failed")
    assert says in str(attempt.detail)
