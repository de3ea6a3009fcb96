"""Following a job: its stream of events, resumed where it broke; by asking now and then where there is none.

Server-sent events (WHATWG HTML §9.2): a message's id is its place, `Last-Event-ID` asks for what came after.
"""

import time
from contextlib import suppress
from dataclasses import dataclass

from fewbits import retries
from fewbits.answers import Event, Job, read
from fewbits.effects import Answer, Found, Items, Message, Next, Open, Pause, Request, Steps, Stream
from fewbits.errors import TimedOut
from fewbits.sending import PATIENT_ATTEMPTS, fetch, loads, path_to

SILENCE_S = 40.0  # the service says something every 15 s
POLL_S = 2.0
BREAKS = 4
NO_CONTENT = 204


@dataclass
class Place:
    """How far a watcher has come: the last event it has, and breaks since then."""

    job_id: str
    after: int
    ends: float | None
    breaks: int = 0
    progress: float | None = None

    def patience(self) -> float:
        """Seconds to wait for the next sign of life.

        Raises:
            TimedOut: There is no time left.
        """
        left = SILENCE_S if self.ends is None else self.ends - time.monotonic()
        if left <= 0:
            raise TimedOut(f"{self.job_id} did not end in time. It goes on: fewbits watch {self.job_id}")
        return min(left, SILENCE_S)


def watch(job_id: str, after: int = 0, timeout: float | None = None) -> Items[Event]:
    """Find each event of a job once, and its progress as it changes, until the job has ended.

    Raises:
        TimedOut: `timeout` seconds went by.
        Refused: There is no such job for this key.
        ServiceError: The service was away for minutes.
    """
    place = Place(job_id, after, None if timeout is None else time.monotonic() + timeout)
    while place.breaks < BREAKS:
        opened = yield Open(_request(place))
        if isinstance(opened, Stream):
            yield from _listen(opened, place)
        elif isinstance(opened, Answer) and opened.status == NO_CONTENT:
            return
        elif isinstance(opened, Answer) and not retries.passes(opened):
            break
        else:
            place.breaks += 1
        if 0 < place.breaks < BREAKS:
            yield Pause(min(retries.FIRST_S * 2**place.breaks, place.patience()))
    yield from _poll(place)


def settled(job_id: str, timeout: float | None = None) -> Steps[Job]:
    """The job once it has ended."""
    following = watch(job_id, timeout=timeout)
    with suppress(StopIteration):
        effect = next(following)
        while True:
            effect = following.send(None if isinstance(effect, Found) else (yield effect))
    return (yield from fetch(Job, Request("GET", path_to("jobs", job_id))))


def _request(place: Place) -> Request:
    headers = {"accept": "text/event-stream", "last-event-id": str(place.after)}
    path = path_to("jobs", place.job_id, "events")
    return Request("GET", path, headers=headers, patience_s=place.patience())


def _listen(stream: Stream, place: Place) -> Items[Event]:
    """Find what a stream says; one that says nothing at all is held back by something on the way."""
    silent = True
    while isinstance(message := (yield Next(stream)), Message):
        silent, place.breaks = False, 0
        place.patience()
        if message.data:
            yield Found(_event(message.data, place))
    if silent:
        place.breaks = BREAKS
    elif message:
        place.breaks += 1


def _event(data: str, place: Place) -> Event:
    event = read(Event, loads(data))
    place.after, place.progress = max(place.after, event.seq), event.progress
    return event


def _poll(place: Place) -> Items[Event]:
    """Find the progress whenever it has changed, by asking."""
    request = Request("GET", path_to("jobs", place.job_id))
    while True:
        job = yield from fetch(Job, request, PATIENT_ATTEMPTS)
        if job.progress != place.progress and not job.ended:
            place.progress = job.progress
            yield Found(Event(type="progress", seq=place.after, progress=job.progress))
        if job.ended:
            yield Found(Event(type=f"job.{job.state}", seq=place.after, progress=job.progress))
            return
        place.patience()
        yield Pause(POLL_S)
