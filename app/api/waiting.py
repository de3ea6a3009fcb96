"""`Prefer: wait`: everything that waits for a job or an inspection shares one poll of the database."""

import asyncio
import logging
import re
from collections.abc import Sequence

from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from app.db import queries
from app.db.session import Database

log = logging.getLogger(__name__)
POLL_SECONDS = 0.25
WAIT_SECONDS = 600


class Watch:
    """Waiters by what they wait for; a poll runs only while there are some."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[str, asyncio.Event] = {}
        self._counts: dict[str, int] = {}
        self._poll: asyncio.Task[None] | None = None

    async def settled(self, subject_id: str, seconds: float) -> None:
        """Return when this job has ended or this upload was inspected, or when the time is over."""
        if seconds <= 0:
            return
        event = self._waiting.setdefault(subject_id, asyncio.Event())
        self._counts[subject_id] = self._counts.get(subject_id, 0) + 1
        if self._poll is None or self._poll.done():
            self._poll = asyncio.create_task(self._run())
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            pass
        finally:
            self._leave(subject_id)

    def _leave(self, subject_id: str) -> None:
        self._counts[subject_id] -= 1
        if self._counts[subject_id] == 0:
            del self._counts[subject_id]
            self._waiting.pop(subject_id, None)

    async def _run(self) -> None:
        while self._waiting:
            try:
                settled = await run_in_threadpool(self._look, list(self._waiting))
            except SQLAlchemyError as error:
                log.warning("no database to look for what was waited for: %s", error)
                settled = ()
            for subject_id in settled:
                if subject_id in self._waiting:
                    self._waiting[subject_id].set()
            await asyncio.sleep(POLL_SECONDS)

    def _look(self, subject_ids: Sequence[str]) -> Sequence[str]:
        with self._database.reading() as db:
            return queries.settled(db, subject_ids)


def seconds_preferred(prefer: str | None) -> float:
    """The N of `Prefer: wait=N`, at most 600; 0 without one."""
    match = re.search(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})", prefer or "")
    return min(int(match[1]), WAIT_SECONDS) if match else 0
