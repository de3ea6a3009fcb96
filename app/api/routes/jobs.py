"""Jobs: asked for, listed, read, canceled, tried again."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request, Response
from sqlalchemy.orm import Session

from app.api.deps import Paged, Paging, Service, Wait, Who, WriteDb
from app.api.idempotency import Once, OncePerKey
from app.api.refusals import refuses
from app.api.schemas.jobs import JobRead
from app.api.schemas.specs import JobCreate
from app.api.schemas.values import LABEL_CHARACTERS, ModelId, Page, VersionId
from app.db import queries
from app.db.models import Job
from app.db.queries import steps
from app.db.queries.job_lists import JobFilter, jobs_where
from app.domain.errors import InvalidInput, pointer
from app.domain.states import JobConclusion, JobState
from app.services import deletion, jobs, quotas

router = APIRouter(prefix="/jobs", route_class=OncePerKey)
LABEL = "label."
LABEL_TEXT = re.compile(f"[^\\0]{{0,{LABEL_CHARACTERS}}}")
VERSION, DATASET = "ver_01k9000000000000000e7amp1e", "dst_01k9000000000000000e7amp1e"
EXAMPLES = {
    "sensible defaults": {"value": {"version": VERSION, "evaluation": {"dataset": DATASET}}},
    "two recipes and a gate": {
        "value": {
            "version": VERSION,
            "evaluation": {"dataset": DATASET, "metric": "top1"},
            "recipes": [{"method": "dynamic_int8"}, {"method": "static_int8"}],
            "gate": {"max_accuracy_drop": 0.02, "min_speedup": 1.1},
        }
    },
    "types of nodes chosen by hand": {
        "value": {
            "version": VERSION,
            "evaluation": {"dataset": DATASET},
            "recipes": [
                {
                    "method": "mixed",
                    "overrides": [
                        {"nodes": ["/encoder/*"], "activation": "int16"},
                        {"op_types": ["Gemm"], "weight": "uint8", "activation": "uint8"},
                        {"nodes": ["/head/conv"], "float": True},
                    ],
                }
            ],
        }
    },
}
BRANCH: dict[str, Any] = {
    "name": "label.branch",
    "in": "query",
    "required": False,
    "description": "Only with this label; `branch` stands for any label's name, and several may be given",
    "schema": {"type": "string", "maxLength": LABEL_CHARACTERS, "pattern": "^[^\\x00]*$"},
    "example": "main",
}
BY_LABEL = {"parameters": [BRANCH]}


@router.post("", status_code=202, responses=refuses("too_many_jobs"))
async def create_job(
    body: Annotated[JobCreate, Body(openapi_examples=EXAMPLES)],
    response: Response,
    caller: Who,
    service: Service,
    wait: Wait,
    once: Once,
) -> JobRead:
    """Quantize a version by recipes, measure each, decide the gate. `Prefer: wait=60` waits for the end."""

    def make(db: Session) -> str:
        quotas.check_jobs(db, caller.project_id, service.settings.quotas)
        return jobs.create(db, caller.project_id, body).id

    job_id = await once.write(make)
    response.headers["Location"] = f"/v1/jobs/{job_id}"
    await service.watch.settled(job_id, wait)
    return await service.read(lambda db: JobRead.of(db.get_one(Job, job_id)))


@router.get("", openapi_extra=BY_LABEL)
async def list_jobs(  # noqa: PLR0913, PLR0917 - what a list takes
    request: Request,
    caller: Who,
    service: Service,
    paging: Paged,
    state: Annotated[JobState | None, Query(description="Only in this state")] = None,
    conclusion: Annotated[JobConclusion | None, Query(description="Only with this verdict")] = None,
    version: Annotated[VersionId | None, Query(description="Only of this version")] = None,
    model: Annotated[ModelId | None, Query(description="Only of this model")] = None,
) -> Page[JobRead]:
    """The project's jobs, newest first, of one state, verdict, version, model or label if asked."""
    wanted = JobFilter(state, version, model, conclusion, labels_asked(request))
    return await service.read(lambda db: _page(db, caller.project_id, wanted, paging))


@router.get("/{job_id}")
async def read_job(job_id: str, caller: Who, service: Service, wait: Wait) -> JobRead:
    """One job; with `Prefer: wait=N` once it has ended, or after N seconds."""
    await service.read(lambda db: queries.get_owned(db, Job, caller.project_id, job_id))
    await service.watch.settled(job_id, wait)
    return await service.read(lambda db: JobRead.of(db.get_one(Job, job_id)))


@router.post("/{job_id}/cancel", responses=refuses("job_finished"))
async def cancel_job(job_id: str, caller: Who, service: Service, once: Once) -> JobRead:
    """End a job now, with everything it has open."""
    await once.write(lambda db: jobs.cancel(db, caller.project_id, job_id).id)
    return await service.read(lambda db: JobRead.of(db.get_one(Job, job_id)))


@router.post("/{job_id}/retry", status_code=202, responses=refuses("too_many_jobs"))
async def retry_job(job_id: str, response: Response, caller: Who, service: Service, once: Once) -> JobRead:
    """A new job with the same spec."""

    def make(db: Session) -> str:
        queries.get_owned(db, Job, caller.project_id, job_id)
        quotas.check_jobs(db, caller.project_id, service.settings.quotas)
        return jobs.retry(db, caller.project_id, job_id).id

    new_id = await once.write(make)
    response.headers["Location"] = f"/v1/jobs/{new_id}"
    return await service.read(lambda db: JobRead.of(db.get_one(Job, new_id)))


@router.delete("/{job_id}", status_code=204, responses=refuses("in_use", "job_not_finished"))
def delete_job(job_id: str, caller: Who, db: WriteDb, service: Service) -> None:
    """Delete a job that has ended: its report, its candidates, and at once every file that it made.

    Events stay, with the SHA-256 of each file. 409 while the job is open, or the gate of an open one compares
    with it.
    """
    deletion.delete_job(db, service.storage, caller.project_id, job_id)


def _page(db: Session, project_id: str, wanted: JobFilter, paging: Paging) -> Page[JobRead]:
    rows = queries.newest_first(db, jobs_where(project_id, wanted), Job, paging.cursor, paging.limit)
    steps.load_steps(db, [row for row in rows if row.finished_at is None])  # what has ended shows none
    return paging.show(rows, JobRead.of)


def labels_asked(request: Request) -> dict[str, str]:
    """The labels in the query: `label.branch=main`.

    Raises:
        InvalidInput: No label is like this.
    """
    asked = {name: value for name, value in request.query_params.items() if name.startswith(LABEL)}
    for name, value in asked.items():
        if not LABEL_TEXT.fullmatch(name.removeprefix(LABEL)) or not LABEL_TEXT.fullmatch(value):
            detail = f"use a label of at most {LABEL_CHARACTERS} characters without a NUL"
            raise InvalidInput.at(pointer(name), detail)
    return {name.removeprefix(LABEL): value for name, value in asked.items()}
