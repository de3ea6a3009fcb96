"""Standard Webhooks, held against the specification's library and against a sum done by hand."""

import base64
import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from app.domain import webhook
from app.domain.webhook import delay_s, new_secret, retry_after_s, sign, signatures

NOW = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
BODY = '{"type":"job.succeeded","note":"20 % schneller: größer ist besser"}'.encode()


def headers(signature: str, timestamp: int) -> dict[str, str]:
    return {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature,
    }


def test_a_signature_is_the_one_that_openssl_computes() -> None:
    # key=31f290f6bf06298aab4f08d43c3f082cf648a362da2da4b0, which `base64 -d` makes of what follows `whsec_`
    # printf 'msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{"test": 2432232314}' |
    #   openssl dgst -sha256 -mac HMAC -macopt hexkey:$key -binary | base64
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - the specification's example

    signature = sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')

    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@given(message_id=st.from_regex(r"msg_[0-9A-Za-z]{1,40}", fullmatch=True), body=st.text())
def test_the_standards_own_library_verifies_what_is_signed(message_id: str, body: str) -> None:
    secret, now = new_secret(), int(datetime.now(UTC).timestamp())
    signature = sign(secret, message_id, now, body.encode())
    sent = headers(signature, now) | {"webhook-id": message_id}

    assert signature == Webhook(secret).sign(message_id, datetime.fromtimestamp(now, UTC), body)
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret()).verify(body.encode(), sent)


def test_a_receiver_with_either_secret_verifies_during_a_rotation() -> None:
    old, new, now = new_secret(), new_secret(), int(datetime.now(UTC).timestamp())

    sent = headers(signatures([new, old], "msg_1", now, BODY), now)

    for secret in (old, new):
        assert Webhook(secret).verify(BODY, sent)["type"] == "job.succeeded"
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret()).verify(BODY, sent)


@pytest.mark.parametrize("change", ["id", "timestamp", "body"])
def test_what_was_changed_on_the_way_is_not_verified(change: str) -> None:
    secret, now = new_secret(), int(datetime.now(UTC).timestamp())
    sent, body = headers(sign(secret, "msg_1", now, BODY), now), BODY
    match change:
        case "id":
            sent["webhook-id"] = "msg_2"
        case "timestamp":
            sent["webhook-timestamp"] = str(now - 1)
        case "body":
            body = BODY.replace(b"succeeded", b"failed")

    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body, sent)


def test_a_secret_has_32_random_bytes() -> None:
    first, second = new_secret(), new_secret()

    assert first.startswith("whsec_")
    assert len(base64.b64decode(first.removeprefix("whsec_"))) == 32
    assert first != second


def test_there_are_ten_attempts_over_three_days() -> None:
    found = list(itertools.takewhile(lambda s: s is not None, (delay_s(n, 0.5) for n in itertools.count(1))))
    delays = [s for s in found if s is not None]

    assert delays == [5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400]
    assert timedelta(hours=75) < timedelta(seconds=sum(delays)) < timedelta(hours=76)
    assert delay_s(10, 0.5) is None
    assert delay_s(11, 0.5) is None


@given(attempt=st.integers(1, 9), jitter=st.floats(0, 1, exclude_max=True))
def test_jitter_spreads_a_delay_by_a_fifth(attempt: int, jitter: float) -> None:
    middle, found = delay_s(attempt, 0.5), delay_s(attempt, jitter)

    assert middle is not None
    assert found is not None
    assert middle * 0.8 <= found <= middle * 1.2


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
        ("Sat, 32 Nov 2026 08:00:00 GMT", None),
        ("Sat, 21 Nov 99999999999999999999 08:00:00 GMT", None),
        ("Sat, 21 Nov 2026 08:00:99999999999999999999 GMT", None),
        ("Sat, 21 Nov 2026 08:00:00 +99999999999999999999", None),
        ("0", 0),
        ("120", 120),
        (" 120 ", 120),
        ("86401", 86_400),
        ("9" * 5000, 86_400),
        ("Sat, 21 Nov 2026 08:01:30 GMT", 90),
        ("Sat, 21 Nov 2026 08:01:30 -0000", 90),
        ("Sat, 21 Nov 2026 07:00:00 GMT", 0),
        ("Sun, 21 Nov 2027 08:00:00 GMT", 86_400),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_at_most_a_day(
    header: str | None, seconds: float | None
) -> None:
    assert retry_after_s(header, NOW) == seconds


@given(header=st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d+ \d+:\d+:\d+ [-+]?\d*"))
def test_no_retry_after_does_harm(header: str) -> None:
    found = retry_after_s(header, NOW)

    assert found is None or 0 <= found <= 86_400


@pytest.mark.parametrize(
    ("status", "taken"), [(200, True), (204, True), (299, True), (199, False), (302, False), (410, False)]
)
def test_2xx_alone_is_a_success(status: int, taken: bool) -> None:
    assert webhook.succeeded(status) is taken
    assert webhook.gone(status) is (status == 410)
