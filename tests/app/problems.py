"""What a refusal looks like over HTTP."""

from typing import Any

import httpx


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem that this answer must be."""
    found: dict[str, Any] = answer.json()
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    assert (answer.status_code, found["status"], found["code"]) == (status, status, code), answer.text
    assert found["request_id"] == answer.headers["x-request-id"]
    assert found["detail"]
    return found


def pointers(answer: httpx.Response) -> list[str]:
    """Where this answer says that the input is wrong."""
    return [error["pointer"] for error in problem(answer, 422, "invalid_input")["errors"]]
