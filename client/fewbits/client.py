"""The client for ordinary programs: each call returns when it is done."""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
from types import TracebackType
from typing import Concatenate, ParamSpec, TypeVar

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
    Steps,
    Stream,
    Work,
)
from fewbits.signatures import like
from fewbits.uploads import content

P = ParamSpec("P")
T = TypeVar("T")


def _method(call: Callable[P, Steps[T]]) -> "Callable[Concatenate[Client, P], T]":
    """An operation as a method that returns its result."""

    @like(call)
    def method(client: "Client", /, *args: P.args, **options: P.kwargs) -> T:
        return client.perform(call(*args, **options))

    return method


def _iterator(call: Callable[P, Items[T]]) -> "Callable[Concatenate[Client, P], Generator[T, None, None]]":
    """An operation as a method that yields its items."""

    @like(call, Iterator)
    def method(client: "Client", /, *args: P.args, **options: P.kwargs) -> Generator[T, None, None]:
        return client.each(call(*args, **options))

    return method


class Client:
    """A Fewbits service.

    Its methods are the functions of `fewbits.calls`, documented there; use it as a context manager, from one
    thread at a time.

    Args:
        url: Where the service is; `FEWBITS_URL`, the config file, or a local `make serve` when left out.
        key: What to send as the key; `FEWBITS_KEY` and so on when left out.

    Raises:
        InvalidInput: Neither is known, or there is no key for that service.
    """

    def __init__(self, url: str | None = None, key: str | None = None) -> None:
        found = access.find(url, key)
        self.url = found.url
        self._sender = unfinished.sender(found.url, found.key)
        self._http = httpx.Client(**http.options(found.url, found.key, local=found.local))

    def __enter__(self) -> "Client":  # noqa: PYI034 - Self comes with Python 3.11
        """Use it, and close it at the end."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close its connections."""
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

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

    def perform(self, steps: Steps[T]) -> T:
        """Carry out an operation; returns its result."""
        with ExitStack() as opened, closing(steps):
            outcome: object = None
            while True:
                try:
                    effect = steps.send(outcome)
                except StopIteration as end:
                    result: T = end.value
                    return result
                outcome = self._outcome(effect, opened)

    def each(self, items: Items[T]) -> Generator[T, None, None]:
        """Carry out an operation that finds items; yields each as it is found."""
        with ExitStack() as opened, closing(items):
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
                    outcome = self._outcome(effect, opened)

    def _outcome(self, effect: Effect, opened: ExitStack) -> object:
        match effect:
            case Send(request):
                return self._send(request)
            case Pause(seconds):
                time.sleep(seconds)
                return None
            case Work(function):
                return function()
            case Sender():
                return self._sender
            case Open(request):
                return self._open(request, opened)
            case Next(stream):
                return _next(stream)

    def _send(self, request: Request) -> Answer | Broken:
        sent = content(request.body) if request.body else None
        try:
            with self._http.stream(**http.words(request), content=sent) as response:
                head = http.head_of(response)
                if request.into is None or not response.is_success:
                    return Answer(head.status, head.headers, response.read())
                write = request.into(head)
                for piece in response.iter_bytes():
                    write(piece)
                return head
        except httpx.HTTPError as error:
            return http.broken(error)

    def _open(self, request: Request, opened: ExitStack) -> Stream | Answer | Broken:
        try:
            response = opened.enter_context(self._http.stream(**http.words(request)))
            head = http.head_of(response)
            if http.is_stream(head):
                return Stream(EventSource(response).iter_sse())
            return Answer(head.status, head.headers, response.read())
        except httpx.HTTPError as error:
            return http.broken(error)


def _next(stream: Stream) -> Message | Broken | None:
    messages: Iterator[ServerSentEvent] = stream.source
    try:
        found = next(messages, None)
    except httpx.HTTPError as error:
        return http.broken(error)
    return Message(found.id, found.data) if found else None
