"""The client for programs with an event loop (asyncio or trio)."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, closing
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

import anyio
import anyio.to_thread
import httpx
from httpx_sse import EventSource, ServerSentEvent

from fewbits import access, calls, http, unfinished
from fewbits.effects import (
    Answer,
    Broken,
    Effect,
    Found,
    Items,
    Message,
    Next,
    Open,
    Pause,
    Request,
    Send,
    Sender,
    Slice,
    Steps,
    Stream,
    Work,
)
from fewbits.signatures import like
from fewbits.uploads import content

P = ParamSpec("P")
T = TypeVar("T")


def _method(call: Callable[P, Steps[T]]) -> "Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]":
    """An operation as a method that returns its result."""

    @like(call, Awaitable)
    async def method(client: "AsyncClient", /, *args: P.args, **options: P.kwargs) -> T:
        return await client.perform(call(*args, **options))

    return method


def _iterator(
    call: Callable[P, Items[T]],
) -> "Callable[Concatenate[AsyncClient, P], AsyncGenerator[T, None]]":
    """An operation as a method that yields its items."""

    @like(call, AsyncIterator)
    def method(client: "AsyncClient", /, *args: P.args, **options: P.kwargs) -> AsyncGenerator[T, None]:
        return client.each(call(*args, **options))

    return method


class AsyncClient:
    """A Fewbits service; as `Client`, with methods to be awaited and lists for `async for`.

    Files are hashed, read and written in other threads, where `tell` is called too; the event loop goes on.

    Args:
        url: As in `Client`.
        key: As in `Client`.

    Raises:
        InvalidInput: As in `Client`.
    """

    def __init__(self, url: str | None = None, key: str | None = None) -> None:
        found = access.find(url, key)
        self.url = found.url
        self._sender = unfinished.sender(found.url, found.key)
        self._http = httpx.AsyncClient(**http.options(found.url, found.key, local=found.local))

    async def __aenter__(self) -> "AsyncClient":  # noqa: PYI034 - Self comes with Python 3.11
        """Use it, and close it at the end."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close its connections."""
        await self.close()

    async def close(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    me = _method(calls.me)
    models = _iterator(calls.models)
    upload_model = _method(calls.upload_model)
    upload_dataset = _method(calls.upload_dataset)
    check_dataset = _method(calls.check_dataset)
    create_job = _method(calls.create_job)
    submit = _method(calls.submit)
    run = _method(calls.run)
    wait = _method(calls.wait)
    watch = _iterator(calls.watch)
    job = _method(calls.job)
    jobs = _iterator(calls.jobs)
    cancel = _method(calls.cancel)
    retry = _method(calls.retry)
    steps = _iterator(calls.steps)
    candidates = _iterator(calls.candidates)
    candidate = _method(calls.candidate)
    result = _method(calls.result)
    verdict = _method(calls.verdict)
    document = _method(calls.document)
    compare = _method(calls.compare)
    download = _method(calls.download)

    async def perform(self, steps: Steps[T]) -> T:
        """Carry out an operation; returns its result."""
        async with AsyncExitStack() as opened:
            opened.enter_context(closing(steps))
            outcome: object = None
            while True:
                try:
                    effect = steps.send(outcome)
                except StopIteration as end:
                    result: T = end.value
                    return result
                outcome = await self._outcome(effect, opened)

    async def each(self, items: Items[T]) -> AsyncGenerator[T, None]:
        """Carry out an operation that finds items; yields each as it is found."""
        async with AsyncExitStack() as opened:
            opened.enter_context(closing(items))
            outcome: object = None
            while True:
                try:
                    effect = items.send(outcome)
                except StopIteration:
                    return
                if isinstance(effect, Found):
                    yield effect.item
                    outcome = None
                else:
                    outcome = await self._outcome(effect, opened)

    async def _outcome(self, effect: Effect, opened: AsyncExitStack) -> object:
        match effect:
            case Send(request):
                return await self._send(request)
            case Pause(seconds):
                await anyio.sleep(seconds)
                return None
            case Work(function):
                return await anyio.to_thread.run_sync(function)
            case Sender():
                return self._sender
            case Open(request):
                return await self._open(request, opened)
            case Next(stream):
                return await _next(stream)

    async def _send(self, request: Request) -> Answer | Broken:
        sent = _read(request.body) if request.body else None
        try:
            async with self._http.stream(**http.words(request), content=sent) as response:
                head = http.head_of(response)
                if request.into is None or not response.is_success:
                    return Answer(head.status, head.headers, await response.aread())
                write = request.into(head)
                async for piece in response.aiter_bytes():
                    await anyio.to_thread.run_sync(write, piece)
                return head
        except httpx.HTTPError as error:
            return http.broken(error)

    async def _open(self, request: Request, opened: AsyncExitStack) -> Stream | Answer | Broken:
        try:
            response = await opened.enter_async_context(self._http.stream(**http.words(request)))
            head = http.head_of(response)
            if http.is_stream(head):
                return Stream(EventSource(response).aiter_sse())
            return Answer(head.status, head.headers, await response.aread())
        except httpx.HTTPError as error:
            return http.broken(error)


async def _next(stream: Stream) -> Message | Broken | None:
    messages: AsyncIterator[ServerSentEvent] = stream.source
    try:
        found = await anext(messages, None)
    except httpx.HTTPError as error:
        return http.broken(error)
    return Message(found.id, found.data) if found else None


async def _read(body: Slice) -> AsyncIterator[bytes]:
    """As `uploads.content`, off the event loop; the last step of a generator is not its last piece."""
    source = content(body)
    while piece := await anyio.to_thread.run_sync(next, source, b""):
        yield piece
