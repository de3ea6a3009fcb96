"""The tables. Times are integer microseconds of the database's clock; ids are prefixed and sort by time."""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    TextClause,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.db.base import Asked, Base, Id, Json, Stored, new_id, now_us
from app.db.specs import StoredRecipe, StoredSpec
from app.domain.dataset import Preprocess
from app.domain.errors import Problem
from app.domain.gate import Verdict
from app.domain.job import JobSpec
from app.domain.preview import Preview
from app.domain.quota import Quotas
from app.domain.recipe import Recipe
from app.domain.report import DatasetSummary, Examination, Figures, Reused
from app.domain.retention import Retention

LOST = text("losses > 0")
PASSING = text(  # events that tell how far a job is, and neither who began it nor how it ended
    "type IN ('job.running', 'job.phase', 'step.reused', 'candidate.building', 'candidate.built', "
    "'candidate.measured', 'candidate.failed', 'candidate.canceled')"
)
WEIGHTY = text("kind NOT IN ('outcomes', 'flips', 'layers')")  # files with weights or samples
MAY_EXPIRE = text("expired_at IS NULL AND deleted_at IS NULL")
UNTALLIED = text("finished_at IS NOT NULL AND NOT tallied")  # NULL: ended before there were tallies


def _id(prefix: str) -> Mapped[str]:
    return mapped_column(Id, primary_key=True, default=lambda: new_id(prefix))


def _project() -> Mapped[str]:
    return mapped_column(Id, ForeignKey("projects.id"), index=True)


def _created() -> Mapped[int]:
    return mapped_column(BigInteger, default=now_us())


def _may_expire(table: str, which: TextClause) -> Index:
    """Finds the oldest of what a project's retention may end."""
    return Index(f"ix_{table}_may_expire", "project_id", "id", postgresql_where=which, sqlite_where=which)


class Project(Base):
    """Whose things they are: every row but a blob belongs to one project."""

    __tablename__ = "projects"
    id: Mapped[str] = _id("prj")
    name: Mapped[str] = mapped_column(String(200), unique=True)
    quotas: Mapped[Quotas] = mapped_column(Stored(Quotas), default=Quotas, server_default="{}")
    retention: Mapped[Retention] = mapped_column(Stored(Retention), default=Retention, server_default="{}")
    created_at: Mapped[int] = _created()
    closed_at: Mapped[int | None] = mapped_column(BigInteger)


class IdempotencyKey(Base):
    """A POST that is done once: who works on it, what it made, and what was answered."""

    __tablename__ = "idempotency_keys"
    project_id: Mapped[str] = mapped_column(Id, ForeignKey("projects.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    attempt: Mapped[int] = mapped_column(Integer, default=1)
    claimed_at: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[int] = mapped_column(BigInteger, index=True)
    subject_id: Mapped[str | None] = mapped_column(Id)
    secret: Mapped[bool] = mapped_column(Boolean, default=False)
    answer: Mapped[dict[str, Any] | None] = mapped_column(Json)


class Blob(Base):
    """Bytes in the blob store, under a random key: when they were last read, since when they are damaged."""

    __tablename__ = "blobs"
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    key: Mapped[str] = mapped_column(String(64), unique=True)
    size: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[int] = _created()
    checked_at: Mapped[int] = mapped_column(BigInteger, default=now_us(), server_default="0", index=True)
    damaged_at: Mapped[int | None] = mapped_column(BigInteger)


class ProjectBlob(Base):
    """That a project has sent or made these bytes; a hash alone opens nobody else's."""

    __tablename__ = "project_blobs"
    project_id: Mapped[str] = mapped_column(Id, ForeignKey("projects.id"), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), ForeignKey("blobs.sha256"), primary_key=True, index=True)
    expires_at: Mapped[int] = mapped_column(BigInteger)


class Upload(Base):
    """A resumable upload. `size` bytes are durable; `writer` is the fencing token of whoever sends now."""

    __tablename__ = "uploads"
    __table_args__ = (Index("ix_uploads_state_expires_at", "state", "expires_at"),)
    id: Mapped[str] = _id("upl")
    project_id: Mapped[str] = _project()
    state: Mapped[str] = mapped_column(String(20), default="receiving")
    length: Mapped[int] = mapped_column(BigInteger)
    size: Mapped[int] = mapped_column(BigInteger, default=0)
    filename: Mapped[str | None] = mapped_column(String(500))
    expected: Mapped[str | None] = mapped_column(String(64))
    metadata_text: Mapped[str] = mapped_column(String(4096), default="")
    writer: Mapped[int] = mapped_column(Integer, default=0)
    lease_until: Mapped[int | None] = mapped_column(BigInteger)
    sha256: Mapped[str | None] = mapped_column(String(64))
    problem: Mapped[Problem | None] = mapped_column(Stored(Problem))
    expires_at: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[int] = _created()
    parts: Mapped[list["UploadPart"]] = relationship(
        order_by="UploadPart.start", cascade="all, delete-orphan"
    )


class UploadPart(Base):
    """The object that holds an upload's bytes from `start` to the next part, or to the upload's end."""

    __tablename__ = "upload_parts"
    upload_id: Mapped[str] = mapped_column(Id, ForeignKey("uploads.id"), primary_key=True)
    start: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    key: Mapped[str] = mapped_column(String(64), unique=True)


class Model(Base):
    """A name under which versions are uploaded."""

    __tablename__ = "models"
    __table_args__ = (
        UniqueConstraint("project_id", "name"),
        Index("ix_models_project_id_id", "project_id", "id"),
    )
    id: Mapped[str] = _id("mdl")
    project_id: Mapped[str] = mapped_column(Id, ForeignKey("projects.id"))
    name: Mapped[str] = mapped_column(String(200))
    deleted_at: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[int] = _created()


class Version(Base):
    """One uploaded state of a model: its files, and what the inspection found."""

    __tablename__ = "versions"
    __table_args__ = (
        Index("ix_versions_model_id_id", "model_id", "id"),
        _may_expire("versions", MAY_EXPIRE),
    )
    id: Mapped[str] = _id("ver")
    project_id: Mapped[str] = _project()
    model_id: Mapped[str] = mapped_column(Id, ForeignKey("models.id"))
    state: Mapped[str] = mapped_column(String(20), default="inspecting")
    labels: Mapped[dict[str, str]] = mapped_column(Json, default=dict)
    content_key: Mapped[str | None] = mapped_column(String(64), index=True)
    inspected_by: Mapped[str | None] = mapped_column(String(64))
    examination: Mapped[Examination | None] = mapped_column(Stored(Examination))
    problem: Mapped[Problem | None] = mapped_column(Stored(Problem))
    imported_at: Mapped[int | None] = mapped_column(BigInteger)  # when a job last took it as a candidate
    expired_at: Mapped[int | None] = mapped_column(BigInteger)
    expired_files: Mapped[list[dict[str, Any]] | None] = mapped_column(Json)
    deleted_at: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[int] = _created()
    model: Mapped[Model] = relationship()
    files: Mapped[list["VersionFile"]] = relationship(
        order_by="VersionFile.position", cascade="all, delete-orphan"
    )


class VersionFile(Base):
    """One file of a version: the first is the model, the others its external data and its test data."""

    __tablename__ = "version_files"
    version_id: Mapped[str] = mapped_column(Id, ForeignKey("versions.id"), primary_key=True)
    position: Mapped[int] = mapped_column(Integer, primary_key=True)
    path: Mapped[str] = mapped_column(String(500))
    sha256: Mapped[str] = mapped_column(String(64), ForeignKey("blobs.sha256"), index=True)
    size: Mapped[int] = mapped_column(BigInteger)


class Dataset(Base):
    """One uploaded file of samples."""

    __tablename__ = "datasets"
    __table_args__ = (
        Index("ix_datasets_project_id_id", "project_id", "id"),
        _may_expire("datasets", MAY_EXPIRE),
    )
    id: Mapped[str] = _id("dst")
    project_id: Mapped[str] = mapped_column(Id, ForeignKey("projects.id"))
    name: Mapped[str] = mapped_column(String(200))
    state: Mapped[str] = mapped_column(String(20), default="inspecting")
    sha256: Mapped[str | None] = mapped_column(String(64), ForeignKey("blobs.sha256"), index=True)
    size: Mapped[int] = mapped_column(BigInteger)
    preprocess: Mapped[Preprocess] = mapped_column(Asked(Preprocess))
    input: Mapped[str | None] = mapped_column(String(500))
    content_key: Mapped[str | None] = mapped_column(String(64), index=True)
    inspected_by: Mapped[str | None] = mapped_column(String(64))
    summary: Mapped[DatasetSummary | None] = mapped_column(Stored(DatasetSummary))
    preview: Mapped[Preview | None] = mapped_column(Stored(Preview), deferred=True)
    problem: Mapped[Problem | None] = mapped_column(Stored(Problem))
    expired_at: Mapped[int | None] = mapped_column(BigInteger)
    expired_sha256: Mapped[str | None] = mapped_column(String(64))
    deleted_at: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[int] = _created()


class Job(Base):
    """One quantization job. What lists and deletions ask of its spec and verdict stands in columns too."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_project_id_id", "project_id", "id"),
        Index("ix_jobs_project_id_state_id", "project_id", "state", "id"),
        Index("ix_jobs_project_id_conclusion_id", "project_id", "conclusion", "id"),
        Index("ix_jobs_version_id_id", "version_id", "id"),
        Index("ix_jobs_model_id_id", "model_id", "id"),
        Index("ix_jobs_untallied", "finished_at", postgresql_where=UNTALLIED, sqlite_where=UNTALLIED),
    )
    id: Mapped[str] = _id("job")
    project_id: Mapped[str] = mapped_column(Id, ForeignKey("projects.id"))
    version_id: Mapped[str] = mapped_column(Id, ForeignKey("versions.id"))
    model_id: Mapped[str | None] = mapped_column(Id)
    calibration_id: Mapped[str | None] = mapped_column(Id, ForeignKey("datasets.id"), index=True)
    evaluation_id: Mapped[str | None] = mapped_column(Id, ForeignKey("datasets.id"), index=True)
    retry_of: Mapped[str | None] = mapped_column(Id, ForeignKey("jobs.id"))
    spec: Mapped[JobSpec] = mapped_column(Asked(JobSpec, read_as=StoredSpec))
    state: Mapped[str] = mapped_column(String(20), default="queued", index=True)
    phase: Mapped[str | None] = mapped_column(String(20))
    prepare_key: Mapped[str | None] = mapped_column(String(64), index=True)
    isa: Mapped[str | None] = mapped_column(String(20))
    batch: Mapped[int | None] = mapped_column(Integer)
    environment: Mapped[dict[str, str] | None] = mapped_column(Json)
    notes: Mapped[list[str]] = mapped_column(Json, default=list)
    best_id: Mapped[str | None] = mapped_column(Id)
    verdict: Mapped[Verdict | None] = mapped_column(Stored(Verdict))
    conclusion: Mapped[str | None] = mapped_column(String(20))
    problem: Mapped[Problem | None] = mapped_column(Stored(Problem))
    created_at: Mapped[int] = _created()
    started_at: Mapped[int | None] = mapped_column(BigInteger)
    finished_at: Mapped[int | None] = mapped_column(BigInteger)
    deadline_at: Mapped[int] = mapped_column(BigInteger, index=True)
    deleted_at: Mapped[int | None] = mapped_column(BigInteger)
    tallied: Mapped[bool | None] = mapped_column(Boolean, default=False)
    version: Mapped[Version] = relationship()
    candidates: Mapped[list["Candidate"]] = relationship(back_populates="job", order_by="Candidate.position")
    baseline: Mapped["Candidate | None"] = relationship(
        primaryjoin="and_(Candidate.job_id == Job.id, Candidate.baseline)", viewonly=True
    )
    steps: Mapped[list["Step"]] = relationship(order_by="Step.id", viewonly=True)
    labels: Mapped[list["JobLabel"]] = relationship()


class JobLabel(Base):
    """One label of a job, as lists look for it: by project, name and value, newest first."""

    __tablename__ = "job_labels"
    __table_args__ = (
        Index("ix_job_labels_project_id_name_value_job_id", "project_id", "name", "value", "job_id"),
    )
    job_id: Mapped[str] = mapped_column(Id, ForeignKey("jobs.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    value: Mapped[str] = mapped_column(String(200))
    project_id: Mapped[str] = mapped_column(Id, ForeignKey("projects.id"))


class Host(Base):
    """A host that benchmarks, by what its measurements depend on."""

    __tablename__ = "hosts"
    fingerprint: Mapped[str] = mapped_column(String(64), primary_key=True)
    environment: Mapped[dict[str, str]] = mapped_column(Json)
    seen_at: Mapped[int] = mapped_column(BigInteger)


class Worker(Base):
    """A worker process: which queues it hears, and which layers of the sandbox hold its engine calls."""

    __tablename__ = "workers"
    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    queues: Mapped[list[str]] = mapped_column(Json)
    sandbox: Mapped[dict[str, bool]] = mapped_column(Json)
    seen_at: Mapped[int] = mapped_column(BigInteger)


class Step(Base):
    """The unit of work, of retry, and of the timeline that a user sees."""

    __tablename__ = "steps"
    __table_args__ = (
        UniqueConstraint("subject_id", "kind", "round"),
        Index("ix_steps_state_lease_until", "state", "lease_until"),
        Index("ix_steps_state_rung_at", "state", "rung_at"),
        Index("ix_steps_losses", "losses", postgresql_where=LOST, sqlite_where=LOST),
        Index("ix_steps_untallied", "finished_at", postgresql_where=UNTALLIED, sqlite_where=UNTALLIED),
    )
    id: Mapped[str] = _id("stp")
    project_id: Mapped[str] = _project()
    job_id: Mapped[str | None] = mapped_column(Id, ForeignKey("jobs.id"), index=True)
    subject_id: Mapped[str] = mapped_column(Id)
    kind: Mapped[str] = mapped_column(String(20))
    round: Mapped[int] = mapped_column(Integer, default=0)
    state: Mapped[str] = mapped_column(String(20), default="queued")
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    losses: Mapped[int] = mapped_column(Integer, default=0)
    troubles: Mapped[int] = mapped_column(Integer, default=0)
    not_before: Mapped[int] = mapped_column(BigInteger, default=0)
    rung_at: Mapped[int] = mapped_column(BigInteger, default=now_us())
    lease_until: Mapped[int | None] = mapped_column(BigInteger)
    worker: Mapped[str | None] = mapped_column(String(200))
    traceparent: Mapped[str | None] = mapped_column(String(55))
    sandbox: Mapped[list[str] | None] = mapped_column(Json)
    progress: Mapped[float] = mapped_column(default=0.0)
    problem: Mapped[Problem | None] = mapped_column(Stored(Problem))
    created_at: Mapped[int] = _created()
    started_at: Mapped[int | None] = mapped_column(BigInteger)
    finished_at: Mapped[int | None] = mapped_column(BigInteger)
    tallied: Mapped[bool | None] = mapped_column(Boolean, default=False)


class StepLog(Base):
    """The end of what the engine printed in one attempt of a step."""

    __tablename__ = "step_logs"
    step_id: Mapped[str] = mapped_column(Id, ForeignKey("steps.id"), primary_key=True)
    attempt: Mapped[int] = mapped_column(Integer, primary_key=True)
    text: Mapped[str] = mapped_column(Text)
    created_at: Mapped[int] = _created()


class Candidate(Base):
    """One way of quantizing in one job; the baseline is the uploaded float model itself."""

    __tablename__ = "candidates"
    __table_args__ = (UniqueConstraint("job_id", "position"),)
    id: Mapped[str] = _id("cnd")
    project_id: Mapped[str] = _project()
    job_id: Mapped[str] = mapped_column(Id, ForeignKey("jobs.id"))
    position: Mapped[int] = mapped_column(Integer)
    baseline: Mapped[bool] = mapped_column(Boolean, default=False)
    name: Mapped[str] = mapped_column(String(200))
    recipe: Mapped[Recipe | None] = mapped_column(Asked(StoredRecipe))
    state: Mapped[str] = mapped_column(String(20), default="planned")
    build_key: Mapped[str | None] = mapped_column(String(64), index=True)
    reused: Mapped[Reused | None] = mapped_column(Stored(Reused))
    pareto: Mapped[bool | None] = mapped_column(Boolean)
    figures: Mapped[Figures] = mapped_column(Stored(Figures), default=Figures)
    problem: Mapped[Problem | None] = mapped_column(Stored(Problem))
    created_at: Mapped[int] = _created()
    job: Mapped[Job] = relationship(back_populates="candidates")


class Artifact(Base):
    """A file that a job made."""

    __tablename__ = "artifacts"
    __table_args__ = (UniqueConstraint("subject_id", "kind"), _may_expire("artifacts", WEIGHTY))
    id: Mapped[str] = _id("art")
    project_id: Mapped[str] = _project()
    job_id: Mapped[str] = mapped_column(Id, ForeignKey("jobs.id"), index=True)
    subject_id: Mapped[str] = mapped_column(Id)
    kind: Mapped[str] = mapped_column(String(20))
    filename: Mapped[str] = mapped_column(String(200))
    media_type: Mapped[str] = mapped_column(String(100))
    sha256: Mapped[str] = mapped_column(String(64), ForeignKey("blobs.sha256"), index=True)
    size: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[int] = _created()


class Event(Base):
    """One transition, written in the transaction that made it; `seq` counts per subject without gaps."""

    __tablename__ = "events"
    __table_args__ = (
        UniqueConstraint("subject_id", "seq"),
        Index("ix_events_project_id_id", "project_id", "id"),
        Index("ix_events_project_id_type_id", "project_id", "type", "id"),
        Index("ix_events_passing", "id", postgresql_where=PASSING, sqlite_where=PASSING),
    )
    id: Mapped[str] = _id("evt")
    project_id: Mapped[str] = mapped_column(Id, ForeignKey("projects.id"))
    actor: Mapped[str] = mapped_column(Id, server_default="system")
    subject_id: Mapped[str] = mapped_column(Id)
    seq: Mapped[int] = mapped_column(Integer)
    type: Mapped[str] = mapped_column(String(50))
    data: Mapped[dict[str, object]] = mapped_column(Json)
    created_at: Mapped[int] = _created()
