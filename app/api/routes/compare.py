"""Comparing: two candidates side by side, and a model's versions over time."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from sqlalchemy.orm import Session

from app.api.deps import Paged, ReadDb, Who
from app.api.refusals import refuses
from app.api.routes.jobs import BY_LABEL, labels_asked
from app.api.schemas.candidates import CandidateRead
from app.api.schemas.values import Page, Visible, moment
from app.db import queries
from app.db.models import Candidate, Job, Model, Version
from app.db.queries import timeline, trend
from app.domain import comparison
from app.domain.comparison import CheckPair, Difference, Side
from app.domain.gate import Check
from app.domain.report import Figures
from app.domain.states import JobConclusion

router = APIRouter()
CandidateId = Annotated[Visible, Query()]


class ComparisonRead(BaseModel):
    """Two candidates, what differs, which checks flip, and what cannot be compared."""

    a: CandidateRead
    b: CandidateRead
    differences: list[Difference]
    checks: list[CheckPair]
    notes: list[str]


class TrendPoint(BaseModel):
    """What one version came to; figures are the best candidate's, and null where it has none."""

    id: str
    created_at: datetime
    labels: dict[str, str]
    job: str
    finished_at: datetime
    candidate: str | None
    name: str | None
    conclusion: JobConclusion | None
    speedup: float | None
    speedup_ci: tuple[float, float] | None
    metric: str | None
    drop: float | None
    drop_ci: tuple[float, float] | None
    size_ratio: float | None


@router.get("/compare", responses=refuses("not_found"))
def compare(
    caller: Who,
    db: ReadDb,
    a: Annotated[
        CandidateId, Query(description="A candidate's id", examples=["cnd_01k9000000000000000e7amp1e"])
    ],
    b: Annotated[
        CandidateId,
        Query(
            description="Another one's, of the same job or of any other",
            examples=["cnd_01k9000000000000000e7amp2e"],
        ),
    ],
) -> ComparisonRead:
    """Put two candidates side by side, also of different jobs or versions.

    Changes have two-sided 95 % intervals where the figures may be compared; where not, the reason. Across
    jobs ratios are compared, never milliseconds.
    """
    left = queries.get_owned(db, Candidate, caller.project_id, a)
    right = queries.get_owned(db, Candidate, caller.project_id, b)
    sides = _side(left), _side(right)
    return ComparisonRead(
        a=_shown(db, left),
        b=_shown(db, right),
        differences=comparison.compare(*sides),
        checks=comparison.pair_checks(_checks(left), _checks(right)),
        notes=comparison.notes(*sides),
    )


@router.get("/models/{model_id}/trend", openapi_extra=BY_LABEL)
def read_trend(
    model_id: str,
    request: Request,
    caller: Who,
    db: ReadDb,
    paging: Paged,
) -> Page[TrendPoint]:
    """A model's versions, newest first, each with the best candidate of its newest job that succeeded.

    `label.branch=main` counts only jobs with this label.
    """
    queries.get_owned(db, Model, caller.project_id, model_id)
    labels = labels_asked(request)
    versions = trend.versions_page(db, model_id, labels, paging.cursor, paging.limit)
    jobs = trend.latest_jobs(db, [version.id for version in versions], labels)
    best = trend.candidates_named(db, [job.best_id for job in jobs.values() if job.best_id])

    def show(version: Version) -> TrendPoint:
        job = jobs[version.id]
        return _point(version, job, best.get(job.best_id or ""))

    return paging.show(versions, show)


def _point(version: Version, job: Job, best: Candidate | None) -> TrendPoint:
    figures = best.figures if best else Figures()
    latency, accuracy, size = figures.latency, figures.accuracy, figures.size
    return TrendPoint(
        id=version.id,
        created_at=moment(version.created_at),
        labels=version.labels | job.spec.labels,
        job=job.id,
        finished_at=moment(job.finished_at or job.created_at),
        candidate=job.best_id,
        name=best.name if best else None,
        conclusion=job.conclusion,
        speedup=latency.speedup if latency else None,
        speedup_ci=latency.ci if latency else None,
        metric=accuracy.metric if accuracy else None,
        drop=accuracy.drop if accuracy else None,
        drop_ci=accuracy.ci if accuracy else None,
        size_ratio=size.ratio if size else None,
    )


def _side(row: Candidate) -> Side:
    job: Job = row.job
    cpu = (job.environment or {}).get("cpu")
    return Side(job.id, job.version_id, job.evaluation_id, cpu, row.figures)


def _shown(db: Session, row: Candidate) -> CandidateRead:
    return CandidateRead.of(row, timeline.model_of(db, row.id))


def _checks(row: Candidate) -> list[Check]:
    verdict = row.job.verdict
    return [check for check in verdict.checks if check.candidate == row.id] if verdict else []
