"""What happens before any body is read: request id, authentication, scopes, size limits.

Plain ASGI, because a middleware that touches the body would read it first.
"""

import secrets
from collections.abc import Callable

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import DATABASE_ERRORS, problem_response, unavailable
from app.db.session import Database
from app.domain.errors import Problem
from app.services import keys
from app.services.keys import Caller
from app.settings import Settings

API = "/v1/"
MIB = 1024 * 1024
BLOBS = "/v1/blobs/"
UPLOADS = ("/v1/models", "/v1/datasets", "/v1/quantize")
SAFE = ("GET", "HEAD", "OPTIONS")


class Gatekeeper:
    """Lets a request through to the routes once its caller and its size are known to be right."""

    def __init__(self, app: ASGIApp, settings: Settings, database: Callable[[], Database]) -> None:
        self.app = app
        self._settings = settings
        self._database = database

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer at once, or hand on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["request_id"] = f"req_{secrets.token_hex(12)}"
        send = _with_headers(send, state["request_id"])
        try:
            refusal = await self._refusal(scope)
        except DATABASE_ERRORS as error:
            refusal = unavailable(error)
        if refusal:
            problem, status, headers = refusal
            await problem_response(problem, status, state["request_id"], headers)(scope, receive, send)
            return
        await self.app(scope, _limited(receive, self._limit(scope)), send)

    async def _refusal(self, scope: Scope) -> tuple[Problem, int, dict[str, str]] | None:
        if scope["path"].startswith(API):
            caller = await self._caller(Headers(scope=scope))
            if caller is None:
                return _unauthenticated()
            needed = "read" if scope["method"] in SAFE else "write"
            if needed not in caller.scopes:
                detail = f"This key has no scope {needed!r}; {scope['method']} needs it."
                return Problem("forbidden", detail), 403, {}
            scope["state"]["caller"] = caller
        limit = self._limit(scope)
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdigit() and int(announced) > limit:
            return Problem("too_large", _too_large(limit)), 413, {}
        return None

    async def _caller(self, headers: Headers) -> Caller | None:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            return None
        return await run_in_threadpool(self._authenticate, key.strip())

    def _authenticate(self, key: str) -> Caller | None:
        with self._database().reading() as db:
            return keys.authenticate(db, key)

    def _limit(self, scope: Scope) -> int:
        """JSON is read into memory, wherever it goes; a blob may be anything, also JSON."""
        path, kind = scope["path"], Headers(scope=scope).get("content-type", "")
        streamed = path.startswith(UPLOADS) and not kind.startswith("application/json")
        large = streamed or path.startswith(BLOBS)
        return self._settings.max_upload_bytes if large else self._settings.max_json_bytes


def caller_of(request: Request) -> Caller:
    """The caller that the gatekeeper let in."""
    caller = request.state.caller
    assert isinstance(caller, Caller)  # noqa: S101 - the gatekeeper put it there
    return caller


def _unauthenticated() -> tuple[Problem, int, dict[str, str]]:
    detail = "Send a valid API key as `Authorization: Bearer fb_…`; this one is missing, wrong or expired."
    return Problem("unauthenticated", detail), 401, {"WWW-Authenticate": "Bearer"}


def _too_large(limit: int) -> str:
    return f"The request has more than {limit // MIB} MiB, the limit for this path."


def _limited(receive: Receive, limit: int) -> Receive:
    """Count a body that did not announce its length."""
    seen = 0

    async def counting() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise HTTPException(413, _too_large(limit))
        return message

    return counting


def _with_headers(send: Send, request_id: str) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = request_id
            headers["X-Content-Type-Options"] = "nosniff"
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return sending
