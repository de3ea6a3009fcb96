"""`Idempotency-Key` for every POST that creates or changes something.

A route that creates something asks for `Once` and makes it with `once.write`, in which the key's row commits
with what is made. `OncePerKey`, the class of all such routes, keeps the answer. Who asks again gets that.
Who asks again with `Prefer: wait` waits for what the first request made, and is told how it stands then: a
connection that broke during the wait is the very reason to ask again, and the first answer says nothing new.

A route with `Once` has no `WriteDb`: its transaction is over when the answer is kept.
"""

import hashlib
import json
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, Header, Request, Response
from fastapi.routing import APIRoute
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.api.deps import App, Service, Who
from app.api.errors import MEDIA_TYPE, headers_of, problem_response, request_id, status_of
from app.api.forms import Form
from app.api.tus import CHUNK_TYPE
from app.api.waiting import seconds_preferred
from app.domain.errors import DomainError, Problem
from app.services import idempotency
from app.services.idempotency import Claim, Done
from app.services.keys import Caller

KEPT_HEADERS = ("location", "content-type")
CONTENT_HEADERS = ("upload-length", "upload-metadata")
REPLAYED = {"Idempotent-Replayed": "true"}
DESCRIPTION = (
    "Any text of your own. The same request with the same key is done once: who asks again within 24 hours "
    "gets the first answer, with `Idempotent-Replayed: true`. Another request with this key gets 422."
)
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class Answered(Exception):
    """The first answer is there: nothing else is to be done."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer = answer


class Writing:
    """One request's part: what it claimed, and whether it found the work done."""

    def __init__(self, request: Request, service: App, caller: Caller, key: str | None) -> None:
        self._request = request
        self._service = service
        self._caller = caller
        self._key = key.strip().strip('"') if key else None
        self._claim: Claim | None = None
        self.replayed = False

    async def write(
        self, make: Callable[[Session], str], form: Form | None = None, *, secret: bool = False
    ) -> str:
        """The id of what `make` makes in one transaction: made now, or by an earlier request with this key.

        A form's files are dropped when an earlier request has sent them; an answer with a secret is not kept.
        """
        if self._key is None:
            return await self._service.write(make)
        found = await self._take(form)
        if isinstance(found, Claim):
            self._claim = found
            return await self._service.write(lambda db: _make(db, found, make, secret=secret))
        return await self._again(found, form)

    async def keep(self, response: Response) -> None:
        """Keep this answer, unless trying again may give a better one."""
        if self._claim and _is_final(response):
            claim, answer = self._claim, _stored(response)
            await self._service.write(lambda db: idempotency.answered(db, claim, answer))
        elif self._claim:
            await self.release()

    async def release(self) -> None:
        """Let the next request try at once, unless something was made."""
        if self._claim:
            claim = self._claim
            await self._service.write(lambda db: idempotency.release(db, claim))

    async def _take(self, form: Form | None) -> Claim | Done:
        project_id, key = self._caller.project_id, str(self._key)
        content = await fingerprint(self._request, form)
        return await self._service.write(lambda db: idempotency.claim(db, project_id, key, content))

    async def _again(self, found: Done, form: Form | None) -> str:
        self.replayed = True
        waits = seconds_preferred(self._request.headers.get("prefer")) > 0
        if found.answer and not (waits and found.subject_id):
            raise Answered(found.answer)  # the form removes its files
        for part in [part for parts in (form.files if form else {}).values() for part in parts]:
            await run_in_threadpool(self._service.storage.delete, part.received.key)
        return str(found.subject_id)


class OncePerKey(APIRoute):
    """A route that keeps the answer of a request with an Idempotency-Key."""

    def get_route_handler(self) -> Handler:
        """FastAPI's handler, and what is to be done with its answer."""
        handler = super().get_route_handler()

        async def once(request: Request) -> Response:
            try:
                response = await handler(request)
            except Answered as found:
                return _again(found.answer)
            except DomainError as error:
                if not hasattr(request.state, "once"):
                    raise  # `WriteDb` has to see it, and rolls back
                response = _problem(request, error)
            except Exception:
                await _release(request)
                raise
            await _keep(request, response)
            return response

        return once


def _once(
    request: Request,
    service: Service,
    caller: Who,
    idempotency_key: Annotated[
        str | None, Header(min_length=1, max_length=255, pattern=r"^[!-~]+$", description=DESCRIPTION)
    ] = None,
) -> Writing:
    request.state.once = Writing(request, service, caller, idempotency_key)
    found: Writing = request.state.once
    return found


Once = Annotated[Writing, Depends(_once)]


async def fingerprint(request: Request, form: Form | None) -> str:
    """SHA-256 of what a request asks for: its route, and its content whatever way it was written."""
    url = request.url
    told = [request.headers.get(name) for name in CONTENT_HEADERS]
    content = _of_form(form) if form else await _of_body(request)
    text = json.dumps([request.method, url.path, sorted(request.query_params.multi_items()), told, content])
    return hashlib.sha256(text.encode()).hexdigest()


def _of_form(form: Form) -> object:
    """Fields and files; a boundary changes from run to run and says nothing."""
    files = {
        name: [[part.filename, part.received.sha256] for part in parts] for name, parts in form.files.items()
    }
    return [sorted(form.fields.items()), sorted(files.items())]


async def _of_body(request: Request) -> object:
    """JSON as its value; a body that is streamed elsewhere by the headers that announce it."""
    if request.headers.get("content-type") == CHUNK_TYPE:
        return None
    body = await request.body()
    try:
        return json.dumps(json.loads(body), sort_keys=True)
    except (ValueError, RecursionError):
        return hashlib.sha256(body).hexdigest()


def _make(db: Session, claim: Claim, make: Callable[[Session], str], *, secret: bool) -> str:
    subject_id = make(db)
    idempotency.made(db, claim, subject_id, secret=secret)
    return subject_id


async def _keep(request: Request, response: Response) -> None:
    once = getattr(request.state, "once", None)
    if once and once.replayed:
        response.headers.update(REPLAYED)
    elif once:
        await once.keep(response)


async def _release(request: Request) -> None:
    if once := getattr(request.state, "once", None):
        await once.release()


def _problem(request: Request, error: DomainError) -> Response:
    return problem_response(Problem.of(error), status_of(error), request_id(request), headers_of(error))


def _is_final(response: Response) -> bool:
    if response.status_code >= 500 or response.status_code == 429:  # noqa: PLR2004 - statuses
        return False
    return response.media_type != MEDIA_TYPE or not json.loads(bytes(response.body))["retryable"]


def _stored(response: Response) -> dict[str, Any]:
    headers = {name: response.headers[name] for name in KEPT_HEADERS if name in response.headers}
    return {"status": response.status_code, "headers": headers, "body": bytes(response.body).decode()}


def _again(answer: dict[str, Any]) -> Response:
    return Response(answer["body"], answer["status"], headers=answer["headers"] | REPLAYED)
