"""When the client asks again, and after how long."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from fewbits.effects import Answer, Broken, Pause, Request, Send
from fewbits.errors import FewbitsError, Refused, ServiceError
from fewbits.retries import delay, passes
from fewbits.sending import ATTEMPTS, send

BROKEN = Broken("the connection broke")


def answer(status: int, code: str = "", **headers: str) -> Answer:
    body = f'{{"code": "{code}", "detail": "so it is"}}' if code else ""
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, body.encode())


def outcome(
    request: Request, *answers: Answer | Broken
) -> tuple[Answer | FewbitsError, list[Request], list[float]]:
    """What sending comes to when these are the answers: the end, what was sent, the pauses."""
    steps, sent, pauses, left = send(request), [], [], list(answers)
    effect = next(steps)
    try:
        while True:
            if isinstance(effect, Send):
                sent.append(effect.request)
                effect = steps.send(left.pop(0))
            else:
                assert isinstance(effect, Pause)
                pauses.append(effect.seconds)
                effect = steps.send(None)
    except StopIteration as end:
        return end.value, sent, pauses
    except FewbitsError as error:
        return error, sent, pauses


@pytest.mark.parametrize("attempt", range(8))
def test_the_delay_doubles_up_to_its_bound_and_is_spread(attempt: int) -> None:
    low, high = delay(BROKEN, attempt, 0.0), delay(BROKEN, attempt, 1.0)

    assert (low, high) == (min(0.5 * 2**attempt, 20) / 2, min(0.5 * 2**attempt, 20))


def test_retry_after_is_the_least_in_seconds_or_as_a_date() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)

    assert delay(answer(429, retry_after="7"), 0, 0.0) == pytest.approx(7.0625)
    assert 28 < (delay(answer(503, retry_after=soon), 0, 0.0) or 0) < 31


def test_nobody_waits_for_hours() -> None:
    assert delay(answer(429, retry_after="40000"), 0, 0.0) is None


def test_what_may_pass_is_asked_again() -> None:
    assert all(passes(answer(status)) for status in (408, 429, 502, 503, 504))
    assert passes(answer(409), "in_progress")
    assert not any(passes(answer(status)) for status in (400, 401, 404, 409, 413, 422, 501))


def test_a_service_that_is_being_stopped_is_asked_again_but_not_one_that_made_a_mistake() -> None:
    assert passes(answer(500))
    assert not passes(answer(500, "error"), "error")


def test_a_post_keeps_its_idempotency_key_through_all_attempts() -> None:
    found, sent, pauses = outcome(Request("POST", "/v1/jobs"), BROKEN, answer(503), answer(202))

    assert found == answer(202)
    assert len(pauses) == 2
    assert len({request.headers["idempotency-key"] for request in sent}) == 1
    other = outcome(Request("POST", "/v1/jobs"), answer(202))[1][0]
    assert other.headers["idempotency-key"] != sent[0].headers["idempotency-key"]


def test_a_refusal_is_final_and_says_why() -> None:
    found, sent, _ = outcome(Request("GET", "/v1/jobs/x"), answer(404, "not_found"))

    assert isinstance(found, Refused)
    assert (found.status, found.code, str(found), len(sent)) == (404, "not_found", "so it is", 1)


def test_enough_is_enough() -> None:
    found, sent, pauses = outcome(Request("GET", "/v1/me"), *[BROKEN] * 20)

    assert isinstance(found, ServiceError)
    assert "GET /v1/me: the connection broke" in str(found)
    assert (len(sent), len(pauses)) == (ATTEMPTS, ATTEMPTS - 1)


def test_a_mistake_of_the_service_is_not_ours() -> None:
    found, sent, _ = outcome(Request("GET", "/v1/me"), answer(500, "error"))

    assert isinstance(found, ServiceError)
    assert (found.exit_code, len(sent)) == (4, 1)


def test_a_service_that_moved_is_named() -> None:
    found, _, _ = outcome(Request("GET", "/v1/me"), answer(301, location="https://there.example"))

    assert "https://there.example" in str(found)
