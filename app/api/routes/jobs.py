"""Jobs, and everything that hangs on one."""

from typing import Annotated, Literal

from fastapi import APIRouter, Body, Query, Request, Response
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.responses import JSONResponse, PlainTextResponse

from app.api import markdown
from app.api.deps import Cursor, Limit, ReadDb, Service, Wait, Who, WriteDb, page
from app.api.outcome import http_status, verdict_of
from app.api.schemas import (
    ArtifactRead,
    CandidateRead,
    JobCreate,
    JobRead,
    Page,
    ReportRead,
    StepRead,
    VerdictRead,
)
from app.db import queries
from app.db.models import Artifact, Job
from app.services import jobs

router = APIRouter(prefix="/jobs", tags=["jobs"])
MARKDOWN = "text/markdown; charset=utf-8"
EXAMPLES = {
    "sensible defaults": {"value": {"version": "ver_…", "evaluation": {"dataset": "dst_…"}}},
    "two recipes and a gate": {
        "value": {
            "version": "ver_…",
            "evaluation": {"dataset": "dst_…", "metric": "top1"},
            "recipes": [{"method": "dynamic_int8"}, {"method": "static_int8"}],
            "gate": {"max_accuracy_drop": 0.01, "min_speedup": 1.2},
        }
    },
}


@router.post("", status_code=202)
async def create_job(
    body: Annotated[JobCreate, Body(openapi_examples=EXAMPLES)],
    response: Response,
    caller: Who,
    service: Service,
    wait: Wait,
) -> JobRead:
    """Quantize a version by recipes, measure each, decide the gate. `Prefer: wait=60` waits for the end."""
    job_id = await service.write(lambda db: jobs.create(db, caller.project_id, body).id)
    response.headers["Location"] = f"/v1/jobs/{job_id}"
    await service.watch.settled(job_id, wait)
    return await service.read(lambda db: show(db, db.get_one(Job, job_id)))


@router.get("")
def list_jobs(  # noqa: PLR0913, PLR0917 - what a list takes
    request: Request,
    response: Response,
    caller: Who,
    db: ReadDb,
    limit: Limit = 20,
    cursor: Cursor = None,
    state: str | None = None,
    version: str | None = None,
) -> Page[JobRead]:
    """The project's jobs, newest first, of one state or version if asked."""
    chosen = select(Job).where(Job.project_id == caller.project_id)
    chosen = chosen.where(Job.state == state) if state else chosen
    chosen = chosen.where(Job.version_id == version) if version else chosen
    rows = queries.newest_first(db, chosen, Job, cursor, limit)
    return page(request, response, rows, limit, lambda row: show(db, row))


@router.get("/{job_id}")
async def read_job(job_id: str, caller: Who, service: Service, wait: Wait) -> JobRead:
    """One job; with `Prefer: wait=N` once it has ended, or after N seconds."""
    await service.read(lambda db: queries.get_owned(db, Job, caller.project_id, job_id))
    await service.watch.settled(job_id, wait)
    return await service.read(lambda db: show(db, db.get_one(Job, job_id)))


@router.post("/{job_id}/cancel")
def cancel_job(job_id: str, caller: Who, db: WriteDb) -> JobRead:
    """End a job now, with everything it has open."""
    return show(db, jobs.cancel(db, caller.project_id, job_id))


@router.post("/{job_id}/retry", status_code=202)
def retry_job(job_id: str, response: Response, caller: Who, db: WriteDb) -> JobRead:
    """A new job with the same spec."""
    job = jobs.retry(db, caller.project_id, job_id)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return show(db, job)


@router.get("/{job_id}/candidates")
def list_candidates(job_id: str, caller: Who, db: ReadDb) -> Page[CandidateRead]:
    """The job's candidates in the order of its recipes."""
    queries.get_owned(db, Job, caller.project_id, job_id)
    return Page[CandidateRead](items=shown_candidates(db, job_id), next_cursor=None)


@router.get("/{job_id}/steps")
def list_steps(job_id: str, caller: Who, db: ReadDb) -> Page[StepRead]:
    """The job's timeline: what ran when, where, and how often."""
    queries.get_owned(db, Job, caller.project_id, job_id)
    rows = [StepRead.of(step) for step in queries.job_steps(db, job_id)]
    return Page[StepRead](items=rows, next_cursor=None)


@router.get("/{job_id}/artifacts")
def list_artifacts(job_id: str, caller: Who, db: ReadDb) -> Page[ArtifactRead]:
    """The files that the job made."""
    queries.get_owned(db, Job, caller.project_id, job_id)
    rows = db.scalars(select(Artifact).where(Artifact.job_id == job_id).order_by(Artifact.id))
    return Page[ArtifactRead](items=[ArtifactRead.of(row) for row in rows], next_cursor=None)


@router.get("/{job_id}/report", response_model=ReportRead)
def read_report(
    job_id: str,
    caller: Who,
    db: ReadDb,
    form: Annotated[Literal["json", "md"], Query(alias="format")] = "json",
) -> ReportRead | Response:
    """Everything that was found, as JSON or as Markdown for a pull request."""
    job = queries.get_owned(db, Job, caller.project_id, job_id)
    verdict = verdict_of(job)
    document = ReportRead(job=show(db, job), candidates=shown_candidates(db, job_id), verdict=verdict)
    if form == "md":
        return PlainTextResponse(markdown.report(document), media_type=MARKDOWN)
    return document


@router.get("/{job_id}/verdict", response_model=VerdictRead)
async def read_verdict(
    job_id: str,
    caller: Who,
    service: Service,
    wait: Wait,
    form: Annotated[Literal["json", "md"], Query(alias="format")] = "json",
    status: Annotated[Literal["http"] | None, Query(description="422 when a pipeline should stop")] = None,
) -> Response:
    """The gate's answer. With `status=http`, `curl -f` fails exactly when a pipeline should."""
    await service.read(lambda db: queries.get_owned(db, Job, caller.project_id, job_id))
    await service.watch.settled(job_id, wait)
    return await service.read(lambda db: verdict_response(db, job_id, form, status))


def verdict_response(db: Session, job_id: str, form: str, status: str | None) -> Response:
    """The verdict in the asked form and with the asked status."""
    verdict = verdict_of(db.get_one(Job, job_id))
    code = http_status(verdict) if status == "http" else 200
    if form == "md":
        text = markdown.verdict(verdict, shown_candidates(db, job_id))
        return PlainTextResponse(text, code, media_type=MARKDOWN)
    return JSONResponse(verdict.model_dump(mode="json"), code)


def show(db: Session, job: Job) -> JobRead:
    """A job with its baseline."""
    baseline = queries.measured_baseline(db, job.id)
    return JobRead.of(job, baseline)


def shown_candidates(db: Session, job_id: str) -> list[CandidateRead]:
    """The job's candidates with the models they made."""
    made = queries.candidate_artifacts(db, job_id)
    return [CandidateRead.of(row, made.get(row.id)) for row in queries.candidates(db, job_id)]
