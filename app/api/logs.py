"""What people can read of a job: its events, how its steps ended, notes, and what the engine printed."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from itertools import chain

from sqlalchemy.orm import Session

from app.api.schemas.timeline import LogLine
from app.api.schemas.values import moment
from app.db import queries
from app.db.models import Candidate, Event, Step, StepLog
from app.db.queries import timeline, watching
from app.domain.states import LogLevel


@dataclass(frozen=True, order=True)
class Line:
    """One line; sorted by time, and at one time events come before ends of steps before what was printed."""

    at: int
    source: int
    number: int
    owner: str
    step: str | None
    name: str | None
    level: LogLevel
    text: str

    @property
    def id(self) -> str:
        """Its place, as a cursor that sorts as the lines do."""
        return f"{self.at:016d}.{self.source}.{self.number:06d}.{self.owner[-8:]}"

    def shown(self) -> LogLine:
        """As the API gives it."""
        return LogLine(at=moment(self.at), step=self.step, name=self.name, level=self.level, text=self.text)


def lines(db: Session, job_id: str, cursor: str | None, limit: int) -> Sequence[Line]:
    """The lines behind the cursor in order, and one more when there is a next page.

    What the engine printed is most of a log, so what it printed before the cursor is not read.
    """
    after = cursor or ""
    names, steps = timeline.candidate_names(db, job_id), queries.job_steps(db, job_id)
    printed = timeline.printed(db, job_id, _moment(after))
    found = chain(
        _events(watching.events_after(db, job_id, 0), names),
        _steps(steps, names),
        _notes(queries.candidates(db, job_id), steps),
        *(_printed(log, step, names) for log, step in printed),
    )
    behind = (line for line in found if line.id > after)
    return nsmallest(limit + 1, behind, key=lambda line: line.id)


def _moment(cursor: str) -> int:
    """When the line of a cursor was written; what is no cursor of ours is before all."""
    at = cursor.partition(".")[0]
    return int(at) if re.fullmatch(r"[0-9]{16}", at) else 0


def as_text(rows: Sequence[Line]) -> str:
    """One line of text each: time, level, what it is about, what happened."""
    return "".join(f"{_stamp(row)} {row.level:<7} {_about(row)}{row.text}\n" for row in rows)


def _stamp(row: Line) -> str:
    return moment(row.at).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _about(row: Line) -> str:
    return f"[{' '.join(row.name.split())}] " if row.name else ""


def _events(events: Sequence[Event], names: dict[str, str]) -> Iterator[Line]:
    for event in events:
        name = names.get(str(event.data.get("candidate")))
        facts = ", ".join(f"{key} {value}" for key, value in event.data.items() if value and key != "state")
        text = f"{event.type} ({facts})" if facts else event.type
        level: LogLevel = "error" if event.type.endswith(".failed") else "info"
        yield Line(event.created_at, 0, event.seq, event.id, None, name, level, text)


def _steps(steps: Sequence[Step], names: dict[str, str]) -> Iterator[Line]:
    for step in steps:
        name = names.get(step.subject_id)
        if step.started_at is not None and step.attempt:
            where = f"on {step.worker or 'a worker'}, attempt {step.attempt}{_before(step)}"
            yield Line(step.started_at, 1, 0, step.id, step.id, name, "info", f"{step.kind} started {where}")
        if step.finished_at is not None:
            why = f": {step.problem.detail} ({step.problem.code})" if step.problem else ""
            level: LogLevel = "error" if step.problem else "info"
            yield Line(
                step.finished_at, 3, 0, step.id, step.id, name, level, f"{step.kind} {step.state}{why}"
            )


def _before(step: Step) -> str:
    lost = f", lost {step.losses} times before" if step.losses else ""
    waited = f", put off {step.troubles} times for lack of room or a failing disk" if step.troubles else ""
    return lost + waited


def _notes(candidates: Sequence[Candidate], steps: Sequence[Step]) -> Iterator[Line]:
    built = {step.subject_id: step for step in steps if step.kind == "build" and step.finished_at}
    for row in candidates:
        step = built.get(row.id)
        if step is None or step.finished_at is None:
            continue
        for number, note in enumerate(row.figures.notes):
            text = " ".join(str(note).split())
            yield Line(step.finished_at, 4, number, row.id, step.id, row.name, "note", text)


def _printed(log: StepLog, step: Step, names: dict[str, str]) -> Iterator[Line]:
    """The attempt's lines have one time: when it ended."""
    name = names.get(step.subject_id)
    for number, text in enumerate(log.text.splitlines()):
        yield Line(log.created_at, 2, number, step.id, step.id, name, "printed", text)
