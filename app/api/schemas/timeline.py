"""What a job's steps, log lines and events look like."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, Field

from app.api.schemas.values import Problem, moment, moment_or_none
from app.db.base import MICROSECONDS
from app.db.models import Event, Step
from app.domain.states import LogLevel, StepKind, StepState


class StepRead(BaseModel):
    """One unit of work of a job; `name` is the candidate's that it is about, `seconds` how long it ran."""

    id: str
    kind: StepKind
    subject: str
    name: str | None
    state: StepState
    attempt: int
    losses: Annotated[int, Field(description="how often its worker or engine was killed")]
    troubles: Annotated[int, Field(description="how often its host had no room, or a disk that failed")]
    worker: str | None
    sandbox: Annotated[list[str] | None, Field(description="the layers that held its engine calls")]
    progress: float
    error: Problem | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    seconds: float | None

    @classmethod
    def of(cls, row: Step, name: str | None) -> "StepRead":
        """A row as shown."""
        return cls(
            id=row.id,
            kind=row.kind,
            subject=row.subject_id,
            name=name,
            state=row.state,
            attempt=row.attempt,
            losses=row.losses,
            troubles=row.troubles,
            worker=row.worker,
            sandbox=row.sandbox,
            progress=row.progress,
            error=Problem.of(row.problem),
            created_at=moment(row.created_at),
            started_at=moment_or_none(row.started_at),
            finished_at=moment_or_none(row.finished_at),
            seconds=_seconds(row.started_at, row.finished_at),
        )


def _seconds(started_at: int | None, finished_at: int | None) -> float | None:
    if started_at is None or finished_at is None:
        return None
    return (finished_at - started_at) / MICROSECONDS


class LogLine(BaseModel):
    """One line of what happened: an event, the end of a step, a note, or what the engine printed."""

    at: datetime
    step: str | None
    name: str | None
    level: LogLevel
    text: str


class EventRead(BaseModel):
    """One transition: what happened to which subject, and who did it."""

    id: str
    type: Annotated[str, Field(examples=["job.succeeded"])]
    subject: str
    seq: Annotated[int, Field(description="counts per subject, without gaps")]
    actor: Annotated[str, Field(description="the key's id, `worker` or `system`")]
    data: dict[str, Any]
    at: datetime

    @classmethod
    def of(cls, row: Event) -> "EventRead":
        """A row as shown."""
        return cls(
            id=row.id,
            type=row.type,
            subject=row.subject_id,
            seq=row.seq,
            actor=row.actor,
            data=row.data,
            at=moment(row.created_at),
        )
