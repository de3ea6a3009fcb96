"""What requests look like, and how rows are shown. Fields may be added, none renamed."""

from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from app.db.base import MICROSECONDS
from app.db.models import Artifact, Candidate, Dataset, Job, Model, Step, Upload, Version
from app.domain import plan
from app.domain.dataset import Preprocess
from app.domain.errors import FieldError
from app.domain.errors import Problem as StoredProblem
from app.domain.flips import Compared
from app.domain.gate import Check, Gate
from app.domain.job import JobSpec, MetricName
from app.domain.recipe import (
    FORBID_UNKNOWN,
    BFloat16,
    DynamicInt8,
    Float16,
    Imported,
    StaticInt8,
    WeightOnly,
)
from app.domain.report import (
    Accuracy,
    DatasetSummary,
    Examination,
    Fidelity,
    Kernels,
    Latency,
    Memory,
    Requires,
    Reused,
    Size,
)

AnyRecipe = Annotated[
    DynamicInt8 | StaticInt8 | WeightOnly | Float16 | BFloat16, Field(discriminator="method")
]
ShownRecipe = Annotated[
    DynamicInt8 | StaticInt8 | WeightOnly | Float16 | BFloat16 | Imported, Field(discriminator="method")
]
Item = TypeVar("Item")
Sha256 = Annotated[
    str,
    Field(
        pattern="^[0-9a-f]{64}$",
        description="SHA-256 of the bytes, in hex",
        examples=["db01934a02281c10f1c6acdc976a7e1201b8e4cc00315510b9c18752980f26de"],
    ),
]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Labels = Annotated[dict[str, Annotated[str, Field(max_length=200)]], Field(max_length=50)]


@dataclass(frozen=True, kw_only=True)
class JobCreate(JobSpec):
    """A JobSpec as requests give it."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN
    recipes: tuple[AnyRecipe, ...] = field(default=(), metadata={"max_length": 100})
    shapes: dict[str, Annotated[int, Field(ge=1, le=65536)]] = field(default_factory=dict)
    labels: Labels = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SpecWithoutIds(JobCreate):
    """The `spec` part of the one-shot: a JobSpec whose version and datasets come with it."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN
    version: Literal[""] = ""


class ModelCreate(BaseModel):
    """A new version from blobs that are here already; the main file is the first `.onnx`."""

    model_config = ConfigDict(extra="forbid")
    name: Name
    files: Annotated[dict[str, Sha256], Field(min_length=1, max_length=100)]
    labels: Labels = {}


class DatasetCreate(BaseModel):
    """A dataset from a blob that is here already."""

    model_config = ConfigDict(extra="forbid")
    name: Name
    sha256: Sha256
    preprocess: Annotated[str | dict[str, Any], Field(description="a preset's name, or a Preprocess")] = {}
    input: str | None = None


class DatasetCheck(BaseModel):
    """Whether a dataset fits a version, and which drop it can decide."""

    model_config = ConfigDict(extra="forbid")
    version: Annotated[str, Field(description="the version that it should fit", examples=["ver_…"])]
    gate: Annotated[Gate | None, Field(description="the gate whose limits it should decide")] = None
    metric: MetricName = "auto"
    input: Annotated[str | None, Field(description="the input that images bind to")] = None
    candidates: Annotated[int, Field(ge=1, le=100, description="how many share the error of 5 %")] = 1


class Problem(BaseModel):
    """An error (RFC 9457)."""

    code: str
    detail: str
    errors: list[FieldError] = []
    retryable: bool = False

    @classmethod
    def of(cls, problem: StoredProblem | None) -> "Problem | None":
        """A stored problem as shown."""
        if problem is None:
            return None
        return cls(
            code=problem.code,
            detail=problem.detail,
            errors=list(problem.errors),
            retryable=problem.retryable,
        )


class Page(BaseModel, Generic[Item]):
    """One page of a list; `next_cursor` is null on the last."""

    items: list[Item]
    next_cursor: str | None


class BlobRead(BaseModel):
    """Bytes that this project may refer to."""

    sha256: str
    size: int


class UploadRead(BaseModel):
    """A resumable upload: how far it got, and the SHA-256 that it became."""

    id: str
    state: str
    offset: int
    length: int
    filename: str | None
    sha256: str | None
    error: Problem | None
    created_at: datetime
    expires_at: datetime | None
    links: dict[str, str]

    @classmethod
    def of(cls, row: Upload) -> "UploadRead":
        """A row as shown."""
        here = f"/v1/uploads/{row.id}"
        return cls(
            id=row.id,
            state=row.state,
            offset=row.size,
            length=row.length,
            filename=row.filename,
            sha256=row.sha256,
            error=Problem.of(row.problem),
            created_at=moment(row.created_at),
            expires_at=moment(row.expires_at) if row.state == "receiving" else None,
            links={"self": here} | ({"blob": f"/v1/blobs/{row.sha256}"} if row.sha256 else {}),
        )


class ModelRead(BaseModel):
    """A model: a name with versions."""

    id: str
    name: str
    created_at: datetime
    links: dict[str, str]

    @classmethod
    def of(cls, row: Model) -> "ModelRead":
        """A row as shown."""
        here = f"/v1/models/{row.id}"
        links = {"self": here, "versions": f"{here}/versions"}
        return cls(id=row.id, name=row.name, created_at=moment(row.created_at), links=links)


class FileRead(BaseModel):
    """One file of a version."""

    path: str
    sha256: str
    size: int


class VersionRead(BaseModel):
    """One uploaded state of a model."""

    id: str
    model: str
    name: str
    state: str
    labels: dict[str, str]
    files: list[FileRead]
    examination: Examination | None
    error: Problem | None
    created_at: datetime
    links: dict[str, str]

    @classmethod
    def of(cls, row: Version) -> "VersionRead":
        """A row as shown."""
        here = f"/v1/versions/{row.id}"
        return cls(
            id=row.id,
            model=row.model_id,
            name=row.model.name,
            state=row.state,
            labels=row.labels,
            files=[FileRead(path=f.path, sha256=f.sha256, size=f.size) for f in row.files],
            examination=row.examination,
            error=Problem.of(row.problem),
            created_at=moment(row.created_at),
            links={"self": here, "content": f"{here}/content", "model": f"/v1/models/{row.model_id}"},
        )


DATASET_LINKS = {"self": "", "preview": "/preview", "check": "/check"}


class DatasetRead(BaseModel):
    """Uploaded samples."""

    id: str
    name: str
    state: str
    sha256: str | None
    size: int
    preprocess: Preprocess
    input: str | None
    summary: DatasetSummary | None
    error: Problem | None
    created_at: datetime
    links: dict[str, str]

    @classmethod
    def of(cls, row: Dataset) -> "DatasetRead":
        """A row as shown."""
        return cls(
            id=row.id,
            name=row.name,
            state=row.state,
            sha256=row.sha256,
            size=row.size,
            preprocess=row.preprocess,
            input=row.input,
            summary=row.summary,
            error=Problem.of(row.problem),
            created_at=moment(row.created_at),
            links={name: f"/v1/datasets/{row.id}{path}" for name, path in DATASET_LINKS.items()},
        )


class ReusedRead(BaseModel):
    """From which job the results come; `measured_at` is null when latency and memory were measured anew."""

    job: str
    measured_at: datetime | None

    @classmethod
    def of(cls, reused: Reused | None) -> "ReusedRead | None":
        """As shown; null when everything was made for this job."""
        if reused is None:
            return None
        return cls(job=reused.job, measured_at=moment_or_none(reused.measured_at))


class CandidateRead(BaseModel):
    """One way of quantizing and what it costs and wins; a figure is null with a reason in `notes`."""

    id: str
    job: str
    name: str
    recipe: ShownRecipe | None
    state: str
    error: Problem | None
    pareto: bool | None
    reused: ReusedRead | None
    notes: list[str]
    size: Size | None
    accuracy: Accuracy | None
    fidelity: Fidelity | None
    latency: Latency | None
    memory: Memory | None
    kernels: Kernels | None
    requires: Requires | None
    predictions: list[Compared]
    artifact: str | None
    links: dict[str, str]

    @classmethod
    def of(cls, row: Candidate, artifact: Artifact | None) -> "CandidateRead":
        """A row as shown, with the model it made."""
        figures, here = row.figures, f"/v1/candidates/{row.id}"
        links = {"self": here, "job": f"/v1/jobs/{row.job_id}"}
        links |= {"flips": f"{here}/flips"} if figures.predictions else {}
        return cls(
            id=row.id,
            job=row.job_id,
            name=row.name,
            recipe=row.recipe,
            state=row.state,
            error=Problem.of(row.problem),
            pareto=row.pareto,
            reused=ReusedRead.of(row.reused),
            notes=list(figures.notes),
            size=figures.size,
            accuracy=figures.accuracy,
            fidelity=figures.fidelity,
            latency=figures.latency,
            memory=figures.memory,
            kernels=figures.kernels,
            requires=figures.requires,
            predictions=list(figures.predictions),
            artifact=artifact.id if artifact else None,
            links=links | ({"content": f"{here}/content"} if artifact else {}),
        )


class StepRead(BaseModel):
    """One unit of work of a job; `name` is the candidate's that it is about, `seconds` how long it ran."""

    id: str
    kind: str
    subject: str
    name: str | None
    state: str
    attempt: int
    losses: int
    worker: str | None
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
            worker=row.worker,
            progress=row.progress,
            error=Problem.of(row.problem),
            created_at=moment(row.created_at),
            started_at=moment_or_none(row.started_at),
            finished_at=moment_or_none(row.finished_at),
            seconds=_seconds(row.started_at, row.finished_at),
        )


class LogLine(BaseModel):
    """One line of what happened: an event, the end of a step, a note, or what the engine printed."""

    at: datetime
    step: str | None
    name: str | None
    level: str
    text: str


class ArtifactRead(BaseModel):
    """A file that a job made."""

    id: str
    job: str
    subject: str
    kind: str
    filename: str
    media_type: str
    sha256: str
    size: int
    created_at: datetime
    links: dict[str, str]

    @classmethod
    def of(cls, row: Artifact) -> "ArtifactRead":
        """A row as shown."""
        return cls(
            id=row.id,
            job=row.job_id,
            subject=row.subject_id,
            kind=row.kind,
            filename=row.filename,
            media_type=row.media_type,
            sha256=row.sha256,
            size=row.size,
            created_at=moment(row.created_at),
            links={"content": f"/v1/artifacts/{row.id}/content"},
        )


class JobRead(BaseModel):
    """A job: its state, and once it has ended what came of it."""

    id: str
    state: str
    phase: str | None
    progress: float
    conclusion: str | None
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
    def of(cls, row: Job, baseline: Candidate | None) -> "JobRead":
        """A row as shown; its progress is computed now."""
        return cls(
            id=row.id,
            state=row.state,
            phase=row.phase,
            progress=_progress(row),
            conclusion=row.verdict.conclusion if row.verdict and row.finished_at else None,
            error=Problem.of(row.problem),
            spec=JobCreate(**{f.name: getattr(row.spec, f.name) for f in fields(row.spec)}),
            baseline=CandidateRead.of(baseline, None) if baseline else None,
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
    conclusion: str
    blocking: bool
    best: str | None
    checks: list[Check]


class ReportRead(BaseModel):
    """Everything about a job that succeeded, in one document."""

    job: JobRead
    candidates: list[CandidateRead]
    verdict: VerdictRead


def moment(microseconds: int) -> datetime:
    """A stored time as UTC."""
    return datetime.fromtimestamp(microseconds / MICROSECONDS, UTC)


def moment_or_none(microseconds: int | None) -> datetime | None:
    """A stored time as UTC, when there is one."""
    return None if microseconds is None else moment(microseconds)


def _seconds(started_at: int | None, finished_at: int | None) -> float | None:
    if started_at is None or finished_at is None:
        return None
    return (finished_at - started_at) / MICROSECONDS


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
    return plan.progress(shares)
