"""Waiting and watching: whoever waits for a job or follows its events shares one poll of the database."""

import asyncio
import logging
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from app.db import queries
from app.db.models import Event
from app.db.queries import watching
from app.db.session import Database

log = logging.getLogger(__name__)
POLL_SECONDS = 0.25
WAIT_SECONDS = 600


class Log:
    """A watched job's events, shared by all who follow it: each keeps its place, none has a copy."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.progress: float | None = None  # null until the first look
        self.ended = False
        self.followers = 0
        self.changed = asyncio.Event()

    @property
    def last(self) -> int:
        """The number of the newest event."""
        return self.events[-1].seq if self.events else 0

    def after(self, seq: int) -> Sequence[Event]:
        """The events behind this one."""
        return self.events[bisect_right(self.events, seq, key=lambda event: event.seq) :]

    def grow(self, news: "News") -> None:
        """Take in what a look found, and wake everybody when it is something."""
        if not news.events and (news.progress, news.ended) == (self.progress, self.ended):
            return
        self.events += news.events
        self.progress, self.ended = news.progress, news.ended
        self.changed.set()
        self.changed = asyncio.Event()


@dataclass(frozen=True)
class News:
    """What one look found of a followed job."""

    events: Sequence[Event]
    progress: float
    ended: bool


class Watch:
    """Who waits and who follows, by subject; a poll runs only while there are some."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[str, asyncio.Event] = {}
        self._counts: dict[str, int] = {}
        self._logs: dict[str, Log] = {}
        self._poll: asyncio.Task[None] | None = None
        self._stopping = False

    def stop(self) -> None:
        """The server stops: nobody waits any longer, and everybody is answered how it stands."""
        self._stopping = True
        for event in self._waiting.values():
            event.set()

    async def settled(self, subject_id: str, seconds: float) -> None:
        """Return when this job has ended or this upload was inspected, or when the time is over."""
        if seconds <= 0 or self._stopping:
            return
        event = self._waiting.setdefault(subject_id, asyncio.Event())
        self._counts[subject_id] = self._counts.get(subject_id, 0) + 1
        self._look_out()
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            pass
        finally:
            self._leave(subject_id)

    @contextmanager
    def following(self, job_id: str) -> Iterator[Log]:
        """The job's log, which grows while the block runs."""
        shared = self._logs.setdefault(job_id, Log())
        shared.followers += 1
        self._look_out()
        try:
            yield shared
        finally:
            shared.followers -= 1
            if shared.followers == 0:
                del self._logs[job_id]

    def _look_out(self) -> None:
        if self._poll is None or self._poll.done():
            self._poll = asyncio.create_task(self._run(), context=Context())  # of all, not of who came first

    def _leave(self, subject_id: str) -> None:
        self._counts[subject_id] -= 1
        if self._counts[subject_id] == 0:
            del self._counts[subject_id]
            self._waiting.pop(subject_id, None)

    async def _run(self) -> None:
        while self._waiting or self._logs:
            logs = dict(self._logs)
            seen = {job_id: shared.last for job_id, shared in logs.items() if not shared.ended}
            try:
                settled, news = await run_in_threadpool(self._look, list(self._waiting), seen)
            except SQLAlchemyError as error:
                log.warning("no database to look for what is watched: %s", error)
                settled, news = (), {}
            for subject_id in settled:
                if subject_id in self._waiting:
                    self._waiting[subject_id].set()
            for job_id, found in news.items():
                logs[job_id].grow(found)
            await asyncio.sleep(POLL_SECONDS)

    def _look(
        self, waited_for: Sequence[str], seen: Mapping[str, int]
    ) -> tuple[Sequence[str], Mapping[str, News]]:
        """What has settled, and what is new behind the last event seen of each followed job."""
        with self._database.reading() as db:
            settled = queries.settled(db, waited_for) if waited_for else ()
            pulses = watching.pulses(db, list(seen)) if seen else {}
            grown = {job_id for job_id, pulse in pulses.items() if pulse.last > seen[job_id]}
            return settled, {
                job_id: News(
                    watching.events_after(db, job_id, seen[job_id]) if job_id in grown else (),
                    pulse.progress,
                    pulse.ended,
                )
                for job_id, pulse in pulses.items()
            }


def seconds_preferred(prefer: str | None) -> float:
    """The N of `Prefer: wait=N`, at most 600; 0 without one."""
    match = re.search(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,20})\"?\s*(?:[,;]|$)", prefer or "", re.IGNORECASE)
    return min(int(match[1]), WAIT_SECONDS) if match else 0
