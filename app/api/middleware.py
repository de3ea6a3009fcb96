"""What happens before any body is read: request id, authentication, rates, scopes, size limits.

Plain ASGI, because a middleware that touches the body would read it first.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api import tus
from app.api.body import soon
from app.api.crowd import Crowd
from app.api.errors import DATABASE_ERRORS, problem_response, status_of, unavailable
from app.api.last_used import LastUsed
from app.api.live import SharedLooks, while_live
from app.api.rates import Count, Policy, Rates
from app.db.session import Database
from app.domain.errors import DomainError, Forbidden, Problem, TooLarge, Unauthenticated
from app.services import browser_sessions, keys
from app.services.events import acting_as
from app.services.keys import Caller
from app.settings import Settings

API = "/v1/"
MIB = 1024 * 1024
BLOBS = "/v1/blobs/"
UPLOADS = "/v1/uploads"
FORMS = ("/v1/models", "/v1/datasets", "/v1/quantize")
SAFE = ("GET", "HEAD", "OPTIONS")
SCOPES = {"/v1/projects": "operator", "/v1/api-keys": "admin", "/v1/session": "read"}
AGAIN_S = 5
COOKIE = "fewbits_session"
COOKIE_METHODS = ("GET", "HEAD")


class RateLimited(DomainError):
    """Too many requests in this minute, or at once."""

    code = "rate_limited"
    retryable = True

    def __init__(self, detail: str, retry_after_s: int) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class Gatekeeper:
    """Lets a request through to the routes once its caller and its size are known to be right."""

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        database: Callable[[], Database],
        rates: Rates,
        last_used: LastUsed,
    ) -> None:
        self.app = app
        self._settings = settings
        self._database = database
        self._rates = rates
        self._last_used = last_used
        self._live = SharedLooks(self._authenticate)
        self._reads = Policy("reads", settings.rate_reads)
        self._writes = Policy("writes", settings.rate_writes)
        self._failures = Policy("failed authentications", settings.rate_failures)
        self._crowd = Crowd()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer at once, or hand on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["request_id"] = f"req_{secrets.token_hex(12)}"
        headers = {"X-Request-Id": state["request_id"], "X-Content-Type-Options": "nosniff"}
        if _has_two_lengths(Headers(scope=scope)):
            headers["Connection"] = "close"
        send = _with_headers(send, headers)
        try:
            actor = await self._admit(scope, headers)
        except DATABASE_ERRORS as error:
            problem, status, more = unavailable(error)
            await problem_response(problem, status, state["request_id"], more)(scope, receive, send)
        except DomainError as error:
            answer = problem_response(Problem.of(error), status_of(error), state["request_id"])
            await answer(scope, receive, send)
        else:
            with acting_as(actor), self._counted(scope):
                receive = self._bounded(scope, receive)
                await self.app(scope, receive, self._while_live(scope, receive, send))

    def _while_live(self, scope: Scope, receive: Receive, send: Send) -> Send:
        if "caller" not in scope["state"]:
            return send

        async def check() -> None:
            await self._live.at(_credentials(scope))

        async def refuse(error: DomainError) -> None:
            answer = problem_response(Problem.of(error), status_of(error), scope["state"]["request_id"])
            await answer(scope, receive, send)

        return while_live(send, check, refuse)

    async def _admit(self, scope: Scope, answered: dict[str, str]) -> str:
        """Who acts in this request; what is said of the rate goes into the answer's headers.

        Raises:
            Unauthenticated: Nobody knows who asks.
            RateLimited: They ask too often.
            Forbidden: They may not do this.
            TooLarge: They announce more than is read here.
        """
        actor = "anonymous"
        if scope["path"].startswith(API):
            caller = await self._caller(scope, answered)
            await self._check_rate(scope, caller, answered)
            _check_scope(scope, caller)
            self._check_crowd(caller, answered)
            scope["state"]["caller"] = caller
            actor = caller.key_id
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdigit() and int(announced) > self._limit(scope):
            raise TooLarge(_too_large(self._limit(scope)))
        return actor

    async def _caller(self, scope: Scope, answered: dict[str, str]) -> Caller:
        try:
            caller = await run_in_threadpool(self._authenticate, _credentials(scope))
        except Unauthenticated:
            # Whoever has a right key is never held up by others behind the same address.
            address = (scope.get("client") or ("unknown",))[0]
            count = await self._rates.hit(self._failures, address)
            if count.exceeded:
                answered |= count.headers()
                raise _too_often(count, f"The address {address}") from None
            answered["WWW-Authenticate"] = "Bearer"
            raise
        self._last_used.note(caller.key_id)
        return caller

    def _authenticate(self, how: "Credentials") -> Caller:
        authenticate, text = how
        with self._database().glancing() as db:
            return authenticate(db, text)

    async def _check_rate(self, scope: Scope, caller: Caller, answered: dict[str, str]) -> None:
        policy = self._reads if scope["method"] in SAFE else self._writes
        count = await self._rates.hit(policy, caller.key_id)
        answered |= count.headers()
        if count.exceeded:
            raise _too_often(count, "A key")

    def _check_crowd(self, caller: Caller, answered: dict[str, str]) -> None:
        if not self._crowd.may_join(caller.project_id):
            answered["Retry-After"] = str(AGAIN_S)
            mine = self._crowd.under_way(caller.project_id)
            detail = f"This project's requests under way, {mine}, leave others no more room; let some end."
            raise RateLimited(detail, AGAIN_S)

    @contextmanager
    def _counted(self, scope: Scope) -> Iterator[None]:
        caller = scope["state"].get("caller")
        if caller is None:
            yield
            return
        with self._crowd.joined(caller.project_id):
            yield

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        """The body, with an end to its size, and to its time where nobody reads it piece by piece."""
        limited = _limited(receive, self._limit(scope))
        return limited if scope["method"] in SAFE or _is_streamed(scope) else soon(limited)

    def _limit(self, scope: Scope) -> int:
        """What is not streamed is read into memory: whatever its type says, it must be small."""
        return self._settings.max_upload_bytes if _is_streamed(scope) else self._settings.max_json_bytes


Credentials = tuple[Callable[[Session, str], Caller], str]


def _credentials(scope: Scope) -> Credentials:
    """A key; or, for what changes nothing, the cookie that a browser sends by itself.

    Raises:
        Unauthenticated: There is neither.
    """
    request = Request(scope)
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key:
        return keys.authenticate, key.strip()
    cookie = request.cookies.get(COOKIE)
    if cookie and "authorization" not in request.headers and scope["method"] in COOKIE_METHODS:
        return browser_sessions.authenticate, cookie
    raise Unauthenticated


def _too_often(count: Count, whose: str) -> RateLimited:
    allowed = f"{count.policy.quota} {count.policy.name} a minute"
    detail = f"{whose} may make {allowed}; the next minute begins in {count.reset_s} s."
    return RateLimited(detail, count.reset_s)


def _check_scope(scope: Scope, caller: Caller) -> None:
    path, method = scope["path"], scope["method"]
    by_method = "read" if method in SAFE else "write"
    needed = next((s for prefix, s in SCOPES.items() if path.startswith(prefix)), by_method)
    if needed not in caller.scopes:
        raise Forbidden(f"This key has no scope {needed!r}; {method} {path} needs it.")


def caller_of(request: Request) -> Caller:
    """The caller that the gatekeeper let in."""
    caller = request.state.caller
    assert isinstance(caller, Caller)  # noqa: S101 - the gatekeeper put it there
    return caller


def _is_streamed(scope: Scope) -> bool:
    """A blob may be of any type; forms and pieces of uploads are known by theirs."""
    path, kind = scope["path"], Headers(scope=scope).get("content-type", "").lower()
    form = path in FORMS and kind.startswith("multipart/")
    piece = path.startswith(UPLOADS) and kind == tus.CHUNK_TYPE
    return form or piece or path.startswith(BLOBS)


def _too_large(limit: int) -> str:
    return f"The request has more than {limit // MIB} MiB, the limit for this path and Content-Type."


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


def _has_two_lengths(headers: Headers) -> bool:
    """A proxy may have seen the body end elsewhere: nothing more is taken here (RFC 9112, 6.1)."""
    return "transfer-encoding" in headers and "content-length" in headers


def _with_headers(send: Send, answered: Mapping[str, str]) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update(answered)
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return sending
