"""A job's events as a stream (WHATWG server-sent events): replayed from any place, live until its end."""

import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api.schemas.jobs import job_links
from app.api.schemas.values import moment
from app.api.waiting import Log, Watch
from app.db.models import Event

log = logging.getLogger(__name__)
HEARTBEAT_SECONDS = 15.0
SLOW_SECONDS = 60.0
RETRY = b"retry: 2000\n\n"
HEARTBEAT = b": still here\n\n"


class EventStream(Response):
    """Streams a job's events behind `after`; holds no thread and no session while nothing happens."""

    media_type = "text/event-stream"

    def __init__(self, watch: Watch, job_id: str, after: int) -> None:
        super().__init__(headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._watch = watch
        self._job_id = job_id
        self._after = after

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the job has ended, or the client is gone or does not read for a minute."""
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        async with anyio.create_task_group() as group:
            group.start_soon(_when_gone, receive, group.cancel_scope)
            await send(start)
            with self._watch.following(self._job_id) as shared:
                async with aclosing(_messages(shared, self._job_id, self._after)) as messages:
                    await _send_all(messages, send)
            group.cancel_scope.cancel()


async def _when_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _send_all(messages: AsyncIterator[bytes], send: Send) -> None:
    try:
        async for message in messages:
            with anyio.fail_after(SLOW_SECONDS):
                await send({"type": "http.response.body", "body": message, "more_body": True})
    except TimeoutError:
        log.info("a watcher did not read for %.0f s and is let go", SLOW_SECONDS)
    else:
        await send({"type": "http.response.body", "body": b""})


async def _messages(shared: Log, job_id: str, after: int) -> AsyncGenerator[bytes, None]:
    """Every event once, and the progress whenever it has changed."""
    yield RETRY
    told: float | None = None
    while True:
        changed = shared.changed
        for event in shared.after(after):
            after = event.seq
            yield _message(event, shared.progress)
        if shared.ended:
            return
        if shared.progress is not None and shared.progress != told:
            told = shared.progress
            yield _progress(job_id, after, told)
        with anyio.move_on_after(HEARTBEAT_SECONDS) as quiet:
            await changed.wait()
        if quiet.cancelled_caught:
            yield HEARTBEAT


def _message(event: Event, progress: float | None) -> bytes:
    data = {
        "seq": event.seq,
        "type": event.type,
        "at": moment(event.created_at).isoformat().replace("+00:00", "Z"),
        "data": event.data,
        "progress": progress,
        "links": job_links(event.subject_id),
    }
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.seq, event.type.encode(), _json(data))


def _progress(job_id: str, seq: int, progress: float) -> bytes:
    """No id: who comes back has missed no event by not having seen it."""
    data = {"seq": seq, "type": "progress", "progress": progress, "links": job_links(job_id)}
    return b"event: progress\ndata: %s\n\n" % _json(data)


def _json(data: dict[str, Any]) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode()  # escapes every line end, and all but ASCII
