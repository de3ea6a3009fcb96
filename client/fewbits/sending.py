"""One request, sent until it is answered: retries, idempotency keys, and what answers mean."""

import json
import random
import uuid
from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from typing import Any, TypeVar
from urllib.parse import quote

from fewbits import retries
from fewbits.answers import Page, read
from fewbits.effects import Answer, Broken, Found, Items, Pause, Request, Send, Steps
from fewbits.errors import FewbitsError, Refused, ServiceError, Unauthenticated

ATTEMPTS = 6
PATIENT_ATTEMPTS = 14  # about three minutes: a service that is being updated comes back
PAGE = 100
OK, REDIRECT, BAD, UNAUTHORIZED, SERVER = 200, 300, 400, 401, 500
T = TypeVar("T")


def send(request: Request, attempts: int = ATTEMPTS) -> Steps[Answer]:
    """Send a request, again while that may help; every POST carries an Idempotency-Key of its own.

    Raises:
        Refused: The service said no.
        ServiceError: It did not answer, or failed, each time.
    """
    if request.method == "POST" and "idempotency-key" not in request.headers:
        request = replace(request, headers={**request.headers, "idempotency-key": str(uuid.uuid4())})
    for attempt in count():
        outcome: Answer | Broken = yield Send(request)
        if isinstance(outcome, Answer) and is_good(outcome):
            return outcome
        yield from pause_or_raise(request, outcome, attempt, attempts)
    raise AssertionError


def pause_or_raise(
    request: Request, outcome: Answer | Broken, attempt: int, attempts: int = ATTEMPTS
) -> Steps[None]:
    """Wait as long as this failure asks for, if another attempt may help and is left.

    Raises:
        Refused: It cannot help.
        ServiceError: Enough was tried.
    """
    problem = problem_of(outcome) if isinstance(outcome, Answer) else {}
    wait = retries.delay(outcome, attempt, random.random())  # noqa: S311 - spreads load, hides nothing
    if wait is None or attempt + 1 >= attempts or not retries.passes(outcome, str(problem.get("code", ""))):
        raise error_of(request, outcome)
    yield Pause(wait)


def is_good(outcome: Answer | Broken) -> bool:
    """Whether the service did what was asked."""
    return isinstance(outcome, Answer) and OK <= outcome.status < REDIRECT


def error_of(request: Request, outcome: Answer | Broken) -> FewbitsError:
    """What to raise: the request, what was said to it, and what to do next."""
    asked = f"{request.method} {request.path}"
    if isinstance(outcome, Broken):
        return ServiceError(f"{asked}: {outcome.reason}. Is the service up? `fewbits doctor` looks.")
    problem = problem_of(outcome)
    detail = problem.get("detail") or f"answered {outcome.status} without saying why"
    if outcome.status == UNAUTHORIZED:
        return Unauthenticated(f"{detail} (`fewbits login` keeps another key)", outcome.status, problem)
    if outcome.status >= SERVER or retries.passes(outcome):
        return ServiceError(f"{asked}: {detail}")
    if outcome.status < BAD:
        there = outcome.headers.get("location", "another address")
        return ServiceError(f"{asked} is answered at {there}; set FEWBITS_URL to that service.")
    return Refused(_explained(str(detail), problem), outcome.status, problem)


def problem_of(answer: Answer) -> dict[str, Any]:
    """The problem object of an answer; empty when it has none, as those of proxies."""
    try:
        found = json.loads(answer.body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def fetch(kind: type[T], request: Request, attempts: int = ATTEMPTS) -> Steps[T]:
    """Send, and read the answer as this kind."""
    answer = yield from send(request, attempts)
    return read(kind, loads(answer.body))


def loads(text: str | bytes) -> Any:  # noqa: ANN401 - any JSON
    """What the service said in JSON.

    Raises:
        ServiceError: It is none.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        raise ServiceError("The answer is no JSON; is this the URL of a Fewbits service?") from error


def header(answer: Answer, name: str) -> str:
    """A header that the service always sends.

    Raises:
        ServiceError: It is not there.
    """
    try:
        return answer.headers[name]
    except KeyError as error:
        raise ServiceError(
            f"The answer has no header {name}; is this the URL of a Fewbits service?"
        ) from error


def pages(kind: type[T], path: str, params: Mapping[str, Any], limit: int | None) -> Items[T]:
    """Find each item of a list, page after page, at most `limit`."""
    cursor, left = None, limit
    while left is None or left > 0:
        asked = {**params, "limit": min(left or PAGE, PAGE), "cursor": cursor}
        answer = yield from send(Request("GET", path, params=_given(asked)))
        page = read(Page, loads(answer.body))
        for item in page.items:
            yield Found(read(kind, item))
        left = None if left is None else left - len(page.items)
        cursor = page.next_cursor
        if cursor is None:
            return


def path_to(noun: str, identifier: str, *more: str) -> str:
    """The path of one thing; what stands in an id cannot lead elsewhere."""
    return "/".join(["/v1", noun, quote(identifier, safe=""), *more])


def _given(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}


def _explained(detail: str, problem: Mapping[str, Any]) -> str:
    """The detail, and the fields at fault that it does not name."""
    rows = [f"{e.get('pointer')}: {e.get('detail')}" for e in problem.get("errors", ())]
    return "\n  ".join([detail, *(row for row in rows if row not in detail and len(rows) > 1)])
