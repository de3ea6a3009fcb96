"""A key that ends while its request goes on: a long wait is not answered, a stream of events is closed."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Hashable
from contextvars import Context
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.types import Message, Send

from app.domain.errors import Unauthenticated

RECHECK_S = 30.0
SHARED_S = 5.0
AGAIN_S = 5.0
log = logging.getLogger(__name__)
Check = Callable[[], Awaitable[None]]
Refuse = Callable[[Unauthenticated], Awaitable[None]]


class SharedLooks:
    """One look at a key serves all of its open requests for a few seconds: many may stream at once."""

    def __init__(self, look: Callable[[Any], object]) -> None:
        self._look = look
        self._looks: dict[Hashable, tuple[float, asyncio.Task[object]]] = {}

    async def at(self, key: Hashable) -> None:
        """Raise what looking at this key raises, at most `SHARED_S` late."""
        now = time.monotonic()
        self._looks = {k: look for k, look in self._looks.items() if now - look[0] < SHARED_S}
        if key not in self._looks:
            task = asyncio.create_task(run_in_threadpool(self._look, key), context=Context())
            self._looks[key] = now, task
        await asyncio.shield(self._looks[key][1])


def while_live(send: Send, check: Check, refuse: Refuse) -> Send:
    """Send for as long as `check` does not raise; it is asked every 30 s at most.

    What is sent with a length goes on to its end: it began with a key that worked. While the database is away
    nobody can say that a key ended: what has begun goes on, and is asked again soon.
    """
    due, open_ended, over = time.monotonic() + RECHECK_S, True, False

    async def sending(message: Message) -> None:
        nonlocal due, open_ended, over
        starts = message["type"] == "http.response.start"
        if not over and open_ended and time.monotonic() >= due:
            due = time.monotonic() + RECHECK_S
            try:
                await check()
            except Unauthenticated as error:
                over = True
                await (refuse(error) if starts else send({"type": "http.response.body", "body": b""}))
            except SQLAlchemyError as error:
                if starts:
                    raise
                log.warning("no database to look for the key of a stream: %s", error)
                due = time.monotonic() + AGAIN_S
        if starts:
            open_ended = all(name.lower() != b"content-length" for name, _ in message["headers"])
        if not over:
            await send(message)

    return sending
