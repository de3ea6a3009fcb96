"""Errors as RFC 9457 problems: the one table from code to status, and the handlers."""

import errno
import logging
from http import HTTPStatus
from typing import Any, get_args

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from sqlalchemy.exc import DataError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnection
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Match
from starlette.types import Scope

from app.api import tus
from app.api.schemas.values import A_LINE, ANY_ID, MODEL_ID, SHA256, VERSION_ID
from app.db.session import Unstorable
from app.domain import against
from app.domain.errors import DomainError, FieldError, InvalidInput, Problem, Refused, pointer
from app.domain.recipe import Recipe
from app.storage import StoreUnavailable

log = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"
STATUS = {
    "already_created": 409,
    "blob_damaged": 410,
    "checksum_mismatch": 460,
    "conflict": 409,
    "digest_mismatch": 422,
    "empty_file": 422,
    "expired": 410,
    "in_use": 409,
    "idempotency_key_reused": 422,
    "illegal_transition": 500,
    "in_progress": 409,
    "invalid_input": 422,
    "invalid_multipart": 422,
    "no_secret_key": 503,
    "job_finished": 409,
    "job_not_finished": 409,
    "job_not_succeeded": 409,
    "no_layers": 404,
    "not_found": 404,
    "not_inspected": 409,
    "quota_exceeded": 413,
    "offset_mismatch": 409,
    "rate_limited": 429,
    "stale": 500,
    "too_large": 413,
    "unauthenticated": 401,
    "upload_gone": 410,
    "upload_locked": 423,
    "forbidden": 403,
    "unavailable": 503,
    "wrong_secret_key": 503,
    "error": 500,
}
DATABASE_ERRORS = (OperationalError, NoConnection)
UNSTORABLE = (DataError, UnicodeEncodeError, Unstorable)
UNREADABLE = (UnicodeDecodeError, RecursionError)
METHODS_OF_HTTP = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")
METHODS = frozenset(get_args(kind.__annotations__["method"])[0] for kind in get_args(Recipe))
SHOWN_INPUT = 80
IN_WORDS = {
    against.PATTERN: "float, the id of a version or a job, latest, or latest:key=value,key=value",
    tus.COUNT: "a number of bytes",
    tus.CHECKSUM: "`sha256 ` and the digest in base64",
    SHA256: "64 hexadecimal digits in lower case",
    ANY_ID: "an id as it was answered",
    A_LINE: "a place as it was answered",
    VERSION_ID: "the id of a version, `ver_…`",
    MODEL_ID: "the id of a model, `mdl_…`",
}
CODES = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    412: "unsupported_tus_version",
    413: "too_large",
    415: "unsupported_media_type",
    416: "range_not_satisfiable",
}
# 460 is tus's own.
PHRASES = {status.value: status.phrase for status in HTTPStatus} | {460: "Checksum Mismatch"}


def problem_body(problem: Problem, status: int, request_id: str) -> dict[str, Any]:
    """The problem object as shown."""
    return {
        "type": f"urn:fewbits:problem:{problem.code}",
        "title": PHRASES[status],
        "status": status,
        "detail": problem.detail,
        "code": problem.code,
        "errors": [{"pointer": e.pointer, "detail": e.detail} for e in problem.errors],
        "request_id": request_id,
        "retryable": problem.retryable,
    }


def problem_response(problem: Problem, status: int, request_id: str, headers: Any = None) -> Response:  # noqa: ANN401
    """The answer to a request that failed."""
    body = problem_body(problem, status, request_id)
    return JSONResponse(body, status, headers=headers, media_type=MEDIA_TYPE)


def invalid_input(error: ValidationError | RequestValidationError, prefix: str = "") -> InvalidInput:
    """What pydantic found, as JSON pointers below `prefix`."""
    found = tuple(FieldError(prefix + _pointer(row), _sentence(row)) for row in error.errors())
    return InvalidInput("; ".join(f"{e.pointer or '/'}: {e.detail}" for e in found[:3]), errors=found)


def install(app: FastAPI) -> None:
    """Answer every error of this application with a problem."""
    app.add_exception_handler(DomainError, _domain_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    for database_error in DATABASE_ERRORS:
        app.add_exception_handler(database_error, _database_error)
    app.add_exception_handler(InternalError, _internal_error)
    for unstorable in UNSTORABLE:
        app.add_exception_handler(unstorable, _unstorable)
    app.add_exception_handler(StoreUnavailable, _store_error)
    app.add_exception_handler(OSError, _os_error)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _bug)


def request_id(request: Request) -> str:
    """The id that the middleware gave this request."""
    return str(request.state.request_id)


def _domain_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, DomainError)  # noqa: S101 - registered for it
    status = status_of(error)
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("a request failed", exc_info=error)
    return problem_response(Problem.of(error), status, request_id(request), headers_of(error))


def status_of(error: DomainError) -> int:
    """The one place where an error becomes a status: what goes away by waiting is 429.

    A refusal whose code is not listed is 422; any other error that is not listed is a mistake of ours.
    """
    if error.retry_after_s is not None:
        return HTTPStatus.TOO_MANY_REQUESTS
    refused = isinstance(error, Refused)
    other = HTTPStatus.UNPROCESSABLE_ENTITY if refused else HTTPStatus.INTERNAL_SERVER_ERROR
    return STATUS.get(Problem.of(error).code, other)


def headers_of(error: DomainError) -> dict[str, str] | None:
    """When to try again, if that helps."""
    return None if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}


def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for it
    return _domain_error(request, invalid_input(error))


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    if error.status_code == HTTPStatus.BAD_REQUEST and isinstance(error.__cause__, UNREADABLE):
        return _domain_error(request, InvalidInput("The body is no JSON text in UTF-8."))
    problem = Problem(CODES.get(error.status_code, "error"), _explain(request, error))
    headers = {**(error.headers or {}), **_allowed(request, error.status_code)}
    return problem_response(problem, error.status_code, request_id(request), headers)


def _allowed(request: Request, status: int) -> dict[str, str]:
    """All methods of this path: the router names those of the first route that has the path."""
    if status != HTTPStatus.METHOD_NOT_ALLOWED:
        return {}
    routes, scope = request.app.routes, request.scope
    found = {m for m in METHODS_OF_HTTP if any(_takes(route, {**scope, "method": m}) for route in routes)}
    found |= {"HEAD"} if "GET" in found else set()
    return {"Allow": ", ".join(m for m in METHODS_OF_HTTP if m in found)}


def _takes(route: BaseRoute, scope: Scope) -> bool:
    return route.matches(scope)[0] == Match.FULL


def _explain(request: Request, error: HTTPException) -> str:
    if error.detail == "Not Found":
        return f"There is nothing at {request.url.path}; /docs lists what there is."
    if error.detail == "Method Not Allowed":
        return f"{request.method} is not possible on {request.url.path}; see /docs."
    return error.detail


def unavailable(error: Exception, what: str = "database") -> tuple[Problem, int, dict[str, str]]:
    """What is answered while the database is away or has no connection left, or the blob store is."""
    log.error("%s: %s", what, error)
    problem = Problem("unavailable", f"The {what} does not answer; try again shortly.", retryable=True)
    return problem, 503, {"Retry-After": "5"}


def _database_error(request: Request, error: Exception) -> Response:
    problem, status, headers = unavailable(error)
    return problem_response(problem, status, request_id(request), headers)


def _internal_error(request: Request, error: Exception) -> Response:
    """The database ends the connection of who stands still in a transaction: nothing was written."""
    if not (isinstance(error, InternalError) and error.connection_invalidated):
        raise error
    return _database_error(request, error)


def _store_error(request: Request, error: Exception) -> Response:
    problem, status, headers = unavailable(error, "blob store")
    return problem_response(problem, status, request_id(request), headers)


def _unstorable(request: Request, _error: Exception) -> Response:
    detail = "The request has text that cannot be stored, such as a NUL or half of a surrogate pair."
    return _domain_error(request, InvalidInput(detail))


def _os_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, OSError) or error.errno not in {errno.ENOSPC, errno.EDQUOT}:
        raise error
    log.error("no space left: %s", error)
    detail = "The server's disk is full: tell the operator. A resumable upload keeps what it has counted."
    return problem_response(Problem("storage_full", detail, retryable=True), 507, request_id(request))


def _gone(request: Request, _error: Exception) -> Response:
    """Nobody is there to read it."""
    return problem_response(Problem("bad_request", "The body ended early."), 400, request_id(request))


def _bug(request: Request, error: Exception) -> Response:
    log.error("unhandled error in %s %s", request.method, request.url.path, exc_info=error)
    detail = f"This is our mistake; tell the operator the request_id {request_id(request)}."
    headers = {"X-Request-Id": request_id(request)}  # this answer passes the gatekeeper by
    return problem_response(Problem("error", detail), 500, request_id(request), headers)


def _pointer(row: Any) -> str:  # noqa: ANN401 - pydantic's error row
    """A JSON pointer: without FastAPI's first word and without the tag that chose a recipe's class."""
    parts = list(row["loc"])
    if row["type"] == "json_invalid":
        return ""
    if parts and parts[0] in {"body", "query", "path", "header"}:
        del parts[0]
    shown = [p for i, p in enumerate(parts) if not (i and isinstance(parts[i - 1], int) and p in METHODS)]
    return pointer(*shown)


def _sentence(row: Any) -> str:  # noqa: ANN401 - pydantic's error row
    known = _known_sentence(row)
    shown = repr(row.get("input"))
    said = str(row["msg"]).removeprefix("Value error, ")
    return known or (said if len(shown) > SHOWN_INPUT else f"{said}, not {shown}")


def _known_sentence(row: Any) -> str | None:  # noqa: ANN401, PLR0911 - pydantic's error row, one answer each
    match row["type"]:
        case "extra_forbidden" | "unexpected_keyword_argument":
            return "there is no field of this name"
        case "json_invalid":
            return f"the body is no JSON: {row['ctx']['error']} at character {row['loc'][-1]}"
        case "union_tag_invalid":
            return f"there is no {row['ctx']['tag']!r}; use one of {row['ctx']['expected_tags']}"
        case "union_tag_not_found":
            return f"the field {row['ctx']['discriminator']} is required"
        case _ if isinstance(row.get("input"), bytes):
            return "the body is read as JSON when it says `Content-Type: application/json`"
        case "missing":
            return "this field is required"
        case "string_pattern_mismatch" if row["ctx"]["pattern"] in IN_WORDS:
            return f"use {IN_WORDS[row['ctx']['pattern']]}, not {row['input'][:SHOWN_INPUT]!r}"
    return None
