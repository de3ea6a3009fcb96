"""Watching a job: its events as they come, its steps, what they printed, its candidates and files."""

import re
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Response
from sqlalchemy.orm import Session
from starlette.responses import PlainTextResponse

from app.api import logs
from app.api.deps import PagedLines, PagedMany, ReadDb, Service, Who
from app.api.schemas.artifacts import ArtifactRead
from app.api.schemas.candidates import CandidateRead
from app.api.schemas.timeline import LogLine, StepRead
from app.api.schemas.values import Page
from app.api.stream import EventStream
from app.db import queries
from app.db.models import Artifact, Candidate, Job
from app.db.queries import timeline, watching
from app.db.retention import ExpiredArtifact
from app.domain.states import ArtifactKind, CandidateState, StepKind, StepState
from app.services import retention

router = APIRouter(prefix="/jobs/{job_id}")
IN_STATE = Query(description="Only in this state")
OF_KIND = Query(description="Only of this kind")
EVENTS = """: the server says how soon to come back, then every event, then the progress as it changes
retry: 2000

id: 1
event: job.queued
data: {"seq":1,"type":"job.queued","at":"2026-11-21T05:00:00Z","data":{"state":"queued"},"progress":0.0}

event: progress
data: {"seq":1,"type":"progress","progress":0.2}
"""
STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The events, until the job has ended",
        "content": {"text/event-stream": {"schema": {"type": "string"}, "example": EVENTS}},
    },
    204: {"description": "The job has ended and you have every event: do not come back"},
}
LOG_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
}


@router.get("/events", response_class=Response, responses=STREAM)
async def watch_job(
    job_id: str,
    caller: Who,
    service: Service,
    after: Annotated[int, Query(ge=0, le=2**31 - 1, description="The last event that you have")] = 0,
    last_event_id: Annotated[str | None, Header(description="The same, as browsers send it")] = None,
) -> Response:
    """Follow a job as server-sent events: replayed from where you are, then live until the job has ended.

    Each event's id is its `seq`; a reconnecting client sends the last one as `Last-Event-ID` and misses
    nothing. An id that the job has not given replays everything. `progress` events have no id. A comment
    comes every 15 seconds. A client that has everything of a job that has ended gets 204 and stays away.

    `curl -N -H "Authorization: Bearer $KEY" $URL/v1/jobs/$JOB/events`
    """

    def look(db: Session) -> watching.Pulse:
        queries.get_owned(db, Job, caller.project_id, job_id)
        return watching.pulses(db, [job_id])[job_id]

    pulse = await service.read(look)
    place = _place(last_event_id, after, pulse.last)
    if pulse.ended and place == pulse.last:
        return Response(status_code=204)
    return EventStream(service.watch, job_id, place)


def _place(last_event_id: str | None, after: int, last: int) -> int:
    """The last event that the client has; what it says cannot be taken for more than there is."""
    if last_event_id is not None:
        after = int(last_event_id) if re.fullmatch(r"[0-9]{1,10}", last_event_id) else 0
    return after if after <= last else 0


@router.get("/candidates")
def list_candidates(
    job_id: str,
    caller: Who,
    db: ReadDb,
    paging: PagedMany,
    state: Annotated[CandidateState | None, IN_STATE] = None,
) -> Page[CandidateRead]:
    """The job's candidates in the order of its recipes, of one state if asked."""
    queries.get_owned(db, Job, caller.project_id, job_id)
    rows = timeline.candidates_page(db, job_id, state, paging.cursor, paging.limit)
    made = timeline.models_of(db, job_id)

    def show(row: Candidate) -> CandidateRead:
        return CandidateRead.of(row, made.get(row.id))

    return paging.show(rows, show)


@router.get("/steps")
def list_steps(
    job_id: str,
    caller: Who,
    db: ReadDb,
    paging: PagedMany,
    state: Annotated[StepState | None, IN_STATE] = None,
    kind: Annotated[StepKind | None, OF_KIND] = None,
) -> Page[StepRead]:
    """The job's timeline: what ran when, where, how long and how often, of one state or kind if asked."""
    queries.get_owned(db, Job, caller.project_id, job_id)
    names = timeline.candidate_names(db, job_id)
    rows = timeline.steps_page(db, job_id, state, kind, paging.cursor, paging.limit)
    return paging.show(rows, lambda step: StepRead.of(step, names.get(step.subject_id)))


@router.get("/logs", response_model=Page[LogLine], responses=LOG_ANSWERS)
def read_logs(
    job_id: str,
    response: Response,
    caller: Who,
    db: ReadDb,
    paging: PagedLines,
    form: Annotated[Literal["json", "text"], Query(alias="format", description="`text` for people")] = "json",
) -> Page[LogLine] | Response:
    """What happened, line by line: events, how steps ended, notes, and what the engine printed.

    Of what the engine printed, the last 64 kB of each attempt are kept, also of attempts that failed.
    """
    queries.get_owned(db, Job, caller.project_id, job_id)
    behind = logs.lines(db, job_id, paging.cursor, paging.limit)
    shown = paging.show(behind, logs.Line.shown)
    if form == "json":
        return shown
    return PlainTextResponse(logs.as_text(behind[: paging.limit]), headers=dict(response.headers))


@router.get("/artifacts")
def list_artifacts(
    job_id: str,
    caller: Who,
    db: ReadDb,
    service: Service,
    paging: PagedMany,
    kind: Annotated[ArtifactKind | None, OF_KIND] = None,
) -> Page[ArtifactRead]:
    """The files that the job made, of one kind if asked; those that have expired are listed too."""
    job = queries.get_owned(db, Job, caller.project_id, job_id)
    rows = timeline.artifacts_page(db, job_id, kind, paging.cursor, paging.limit)
    kept = retention.of(db, caller.project_id, service.settings.retention)

    def show(row: Artifact | ExpiredArtifact) -> ArtifactRead:
        return ArtifactRead.of(row, retention.end_of_artifact(row, job.finished_at, kept))

    return paging.show(rows, show)
