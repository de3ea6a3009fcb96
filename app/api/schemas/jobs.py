"""What a job, its verdict and its report look like."""

from datetime import datetime
from statistics import mean

from pydantic import BaseModel

from app.api.schemas.candidates import CandidateRead
from app.api.schemas.specs import JobCreate
from app.api.schemas.values import Problem, moment, moment_or_none
from app.db.models import Job
from app.domain import plan
from app.domain.gate import Check
from app.domain.states import JobConclusion, JobPhase, JobState


class JobRead(BaseModel):
    """A job: its state, and once it has ended what came of it."""

    id: str
    state: JobState
    phase: JobPhase | None
    progress: float
    conclusion: JobConclusion | None
    error: Problem | None
    spec: JobCreate
    baseline: CandidateRead | None
    best: str | None
    retry_of: str | None
    isa: str | None
    environment: dict[str, str] | None
    notes: list[str]
    links: dict[str, str]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    deadline_at: datetime

    @classmethod
    def of(cls, row: Job) -> "JobRead":
        """A row as shown; its progress is computed now."""
        return cls(
            id=row.id,
            state=row.state,
            phase=row.phase,
            progress=_progress(row),
            conclusion=row.conclusion,
            error=Problem.of(row.problem),
            spec=JobCreate(**vars(row.spec)),
            baseline=CandidateRead.of(row.baseline, None) if row.baseline else None,
            best=row.best_id,
            retry_of=row.retry_of,
            isa=row.isa,
            environment=row.environment,
            notes=row.notes,
            links=job_links(row.id),
            created_at=moment(row.created_at),
            started_at=moment_or_none(row.started_at),
            finished_at=moment_or_none(row.finished_at),
            deadline_at=moment(row.deadline_at),
        )


class VerdictRead(BaseModel):
    """The gate's answer; `blocking` says whether a pipeline should stop."""

    job: str
    conclusion: JobConclusion
    blocking: bool
    best: str | None
    checks: list[Check]


class ReportRead(BaseModel):
    """Everything about a job that succeeded, in one document."""

    job: JobRead
    candidates: list[CandidateRead]
    verdict: VerdictRead


def job_links(job_id: str) -> dict[str, str]:
    """Where to go on from a job."""
    here = f"/v1/jobs/{job_id}"
    names = ("candidates", "steps", "logs", "events", "artifacts", "report", "verdict")
    return {"self": here} | {name: f"{here}/{name}" for name in names}


def _progress(row: Job) -> float:
    if row.finished_at is not None:
        return 1.0
    shares: dict[str, list[float]] = {}
    for step in row.steps:
        shares.setdefault(step.kind, []).append(step.progress)
    return plan.progress({kind: mean(parts) for kind, parts in shares.items()})
