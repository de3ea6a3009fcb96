"""Named statements, session first. Nothing here decides; nothing here commits."""

from collections.abc import Sequence
from typing import Any, TypeVar, cast

from sqlalchemy import (
    CursorResult,
    Executable,
    Select,
    Update,
    and_,
    delete,
    func,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.db.base import MICROSECONDS, Base, new_id, now_us
from app.db.models import (
    ApiKey,
    Artifact,
    Blob,
    Candidate,
    Dataset,
    Event,
    Job,
    Model,
    Project,
    ProjectBlob,
    Step,
    Version,
    VersionFile,
)
from app.domain.errors import NotFound, Problem
from app.domain.job import JOB_ENDED

LEASE = 30 * MICROSECONDS
RING_AGAIN = 60 * MICROSECONDS
SOON = 5 * MICROSECONDS
NOUNS = {
    Model: "model",
    Version: "version",
    Dataset: "dataset",
    Job: "job",
    Candidate: "candidate",
    Artifact: "artifact",
}
Query = TypeVar("Query", bound=Select[Any])
Owned = TypeVar("Owned", Model, Version, Dataset, Job, Candidate, Artifact)


def now(db: Session) -> int:
    """The database's clock in microseconds."""
    return db.scalars(select(now_us())).one()


def get_owned(db: Session, table: type[Owned], project_id: str, row_id: str) -> Owned:
    """A row of this project; what another project has is not found either.

    Raises:
        NotFound: There is no such row here.
    """
    row = db.get(table, row_id)
    if row is None or row.project_id != project_id:
        raise NotFound(f"This project has no {NOUNS[table]} with the id {row_id!r}.")
    return row


def newest_first(
    db: Session, statement: Select[Any], table: type[Owned], cursor: str | None, limit: int
) -> list[Owned]:
    """One page by id, newest first, and one row more when there is a next page."""
    if cursor:
        statement = statement.where(table.id < cursor)
    return list(db.scalars(statement.order_by(table.id.desc()).limit(limit + 1)))


# Projects, keys


def project_named(db: Session, name: str) -> Project | None:
    """The project with this name."""
    return db.scalars(select(Project).where(Project.name == name)).one_or_none()


def live_key(db: Session, key_id: str) -> ApiKey | None:
    """A key that is neither revoked nor expired."""
    expired = and_(ApiKey.expires_at.is_not(None), ApiKey.expires_at <= now_us())
    statement = select(ApiKey).where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None), ~expired)
    return db.scalars(statement).one_or_none()


# Blobs


def insert_blob(db: Session, sha256: str, key: str, size: int) -> str:
    """Record a blob and lock its row; the answer is the key under which the store has these bytes."""
    statement = _insert(db, Blob).values(sha256=sha256, key=key, size=size, created_at=now_us())
    same = {"size": statement.excluded.size}  # an update, though it changes nothing, locks the row
    kept = statement.on_conflict_do_update(index_elements=["sha256"], set_=same).returning(Blob.key)
    return db.scalars(kept).one()


def grant_blob(db: Session, project_id: str, sha256: str, seconds: int) -> None:
    """Let a project refer to these bytes for a while, or longer than before."""
    until = now_us() + seconds * MICROSECONDS
    statement = _insert(db, ProjectBlob).values(project_id=project_id, sha256=sha256, expires_at=until)
    db.execute(
        statement.on_conflict_do_update(
            index_elements=["project_id", "sha256"], set_={"expires_at": statement.excluded.expires_at}
        )
    )


def project_blob(db: Session, project_id: str, sha256: str, *, keep: bool = False) -> Blob | None:
    """The blob, when this project may refer to it; with `keep` it cannot go before the transaction ends."""
    mine = and_(ProjectBlob.sha256 == Blob.sha256, ProjectBlob.project_id == project_id)
    found = select(Blob).join(ProjectBlob, mine).where(Blob.sha256 == sha256)
    return db.scalars(found.with_for_update(read=True, of=Blob) if keep else found).one_or_none()


def blob(db: Session, sha256: str) -> Blob:
    """A blob that some row refers to."""
    return db.get_one(Blob, sha256)


def blob_references(db: Session, project_id: str, sha256: str) -> int:
    """How many rows of a project refer to these bytes."""
    files = select(VersionFile.sha256).join(Version).where(Version.project_id == project_id)
    datasets = select(Dataset.sha256).where(Dataset.project_id == project_id)
    artifacts = select(Artifact.sha256).where(Artifact.project_id == project_id)
    every = union_all(files, datasets, artifacts).subquery()
    return db.scalars(select(func.count()).select_from(every).where(every.c.sha256 == sha256)).one()


def forget_blob(db: Session, project_id: str, sha256: str) -> str | None:
    """End a project's right to these bytes; the store's key, when nobody is left who has one."""
    row = db.scalars(_locked(select(Blob).where(Blob.sha256 == sha256))).one_or_none()
    if row is None:
        return None
    mine = ProjectBlob.project_id == project_id
    db.execute(delete(ProjectBlob).where(ProjectBlob.sha256 == sha256, mine))
    if db.scalars(select(ProjectBlob.sha256).where(ProjectBlob.sha256 == sha256).limit(1)).first():
        return None
    db.delete(row)
    return row.key


# Models


def model_named(db: Session, project_id: str, name: str) -> Model:
    """The model with this name, made when there is none."""
    statement = _insert(db, Model).values(
        id=new_id("mdl"), project_id=project_id, name=name, created_at=now_us()
    )
    db.execute(statement.on_conflict_do_nothing(index_elements=["project_id", "name"]))
    return db.scalars(select(Model).where(Model.project_id == project_id, Model.name == name)).one()


def upload(db: Session, row_id: str) -> Version | Dataset:
    """The version or dataset with this id."""
    return db.get_one(Version, row_id) if row_id.startswith("ver_") else db.get_one(Dataset, row_id)


def share_upload(db: Session, project_id: str, row_id: str) -> Version | Dataset:
    """A version or dataset that cannot change its state until this transaction ends.

    Raises:
        NotFound: There is no such row in this project.
    """
    row: Version | Dataset | None
    if row_id.startswith("ver_"):
        row = db.get(Version, row_id, with_for_update={"read": True}, populate_existing=True)
    else:
        row = db.get(Dataset, row_id, with_for_update={"read": True}, populate_existing=True)
    if row is None or row.project_id != project_id:
        raise NotFound(f"There is nothing with the id {row_id!r} in this project.")
    return row


# Jobs


def lock_job(db: Session, job_id: str) -> Job:
    """The job, locked until the transaction ends. The order of locks is job, candidates, steps."""
    return db.scalars(_locked(select(Job).where(Job.id == job_id))).one()


def lock_candidates(db: Session, job_id: str) -> Sequence[Candidate]:
    """The job's candidates in order, locked, without the baseline."""
    chosen = select(Candidate).where(Candidate.job_id == job_id, ~Candidate.baseline)
    return db.scalars(_locked(chosen.order_by(Candidate.position))).all()


def baseline(db: Session, job_id: str) -> Candidate:
    """The float model as a job that was prepared measures it."""
    return db.scalars(select(Candidate).where(Candidate.job_id == job_id, Candidate.baseline)).one()


def measured_baseline(db: Session, job_id: str) -> Candidate | None:
    """The float model as this job measured it, once it was prepared."""
    return db.scalars(select(Candidate).where(Candidate.job_id == job_id, Candidate.baseline)).one_or_none()


def candidates(db: Session, job_id: str) -> Sequence[Candidate]:
    """The job's candidates in order, without the baseline."""
    chosen = select(Candidate).where(Candidate.job_id == job_id, ~Candidate.baseline)
    return db.scalars(chosen.order_by(Candidate.position)).all()


def artifacts(db: Session, subject_id: str) -> dict[str, Artifact]:
    """The artifacts of a job's preparation or of a candidate, by kind."""
    found = db.scalars(select(Artifact).where(Artifact.subject_id == subject_id))
    return {artifact.kind: artifact for artifact in found}


def candidate_artifacts(db: Session, job_id: str) -> dict[str, Artifact]:
    """The candidates' models of a job, by candidate."""
    found = db.scalars(select(Artifact).where(Artifact.job_id == job_id, Artifact.kind == "candidate"))
    return {artifact.subject_id: artifact for artifact in found}


def open_jobs_using(db: Session, subject_id: str) -> Sequence[str]:
    """Jobs that have not ended and use this version or dataset."""
    uses = or_(
        Job.version_id == subject_id, Job.calibration_id == subject_id, Job.evaluation_id == subject_id
    )
    return db.scalars(select(Job.id).where(uses, Job.state.not_in(JOB_ENDED)).order_by(Job.id)).all()


def jobs_past_deadline(db: Session) -> Sequence[str]:
    """Jobs that have not ended and should have."""
    late = select(Job.id).where(Job.state.not_in(JOB_ENDED), Job.deadline_at <= now_us())
    return db.scalars(late.limit(100)).all()


def settled(db: Session, subject_ids: Sequence[str]) -> Sequence[str]:
    """Which of these jobs have ended, and which of these uploads were inspected."""
    jobs = select(Job.id).where(Job.id.in_(subject_ids), Job.state.in_(JOB_ENDED))
    versions = select(Version.id).where(Version.id.in_(subject_ids), Version.state != "inspecting")
    datasets = select(Dataset.id).where(Dataset.id.in_(subject_ids), Dataset.state != "inspecting")
    return db.scalars(union_all(jobs, versions, datasets)).all()


# Steps


def job_steps(db: Session, job_id: str) -> Sequence[Step]:
    """The job's steps in the order of their creation, as they are now: the fence writes past the session."""
    found = select(Step).where(Step.job_id == job_id).order_by(Step.id)
    return db.scalars(found.execution_options(populate_existing=True)).all()


def claim_step(db: Session, step_id: str, worker: str) -> int | None:
    """Take a queued step by one compare-and-set: the attempt is its fencing token; None if it was taken."""
    statement = (
        update(Step)
        .where(Step.id == step_id, Step.state == "queued", Step.not_before <= now_us())
        .values(
            state="running",
            attempt=Step.attempt + 1,
            worker=worker,
            lease_until=now_us() + LEASE,
            started_at=func.coalesce(Step.started_at, now_us()),
            progress=0.0,
        )
        .returning(Step.attempt)
    )
    return db.execute(statement, execution_options={"synchronize_session": False}).scalar_one_or_none()


def renew_lease(db: Session, step_id: str, attempt: int, progress: float) -> bool:
    """Whether the step is still ours; if so, for another 30 s."""
    statement = _mine(step_id, attempt).values(lease_until=now_us() + LEASE, progress=progress)
    return _changed(db, statement) == 1


def close_step(db: Session, step_id: str, attempt: int, state: str, problem: Problem | None) -> bool:
    """End a step that is still ours. False: somebody else has it, the result is stale."""
    ended = _mine(step_id, attempt).values(
        state=state, problem=problem, finished_at=now_us(), lease_until=None, progress=1.0
    )
    return _changed(db, ended) == 1


def requeue_step(db: Session, step_id: str, attempt: int, *, lost: bool, wait_s: float) -> bool:
    """Hand a step that is still ours back to the queue; only losses are counted."""
    statement = _mine(step_id, attempt).values(
        state="queued",
        losses=Step.losses + int(lost),
        worker=None,
        lease_until=None,
        rung_at=now_us() - RING_AGAIN + SOON,  # should this process end before it has rung, a sweep does
        not_before=now_us() + int(wait_s * MICROSECONDS) if wait_s else 0,
    )
    return _changed(db, statement) == 1


def cancel_steps(db: Session, job_id: str) -> None:
    """End every open step of a job; who runs one learns it at the next heartbeat."""
    open_steps = update(Step).where(Step.job_id == job_id, Step.state.in_(["queued", "running"]))
    db.execute(open_steps.values(state="canceled", finished_at=now_us(), lease_until=None))


def expired_leases(db: Session) -> Sequence[Step]:
    """Running steps whose worker has not been heard of for 30 s."""
    late = select(Step).where(Step.state == "running", Step.lease_until < now_us())
    return db.scalars(late.order_by(Step.lease_until).limit(200)).all()


def lease_expired(db: Session, step_id: str) -> bool:
    """Whether nobody renewed the lease in the meantime; locks the step."""
    late = select(Step.id).where(Step.id == step_id, Step.state == "running", Step.lease_until < now_us())
    return db.scalars(late.with_for_update()).one_or_none() is not None


def unheard_steps(db: Session, kinds: Sequence[str], limit: int) -> Sequence[Step]:
    """Queued steps of these kinds to ring again: rung over 60 s ago, or due since the last ring."""
    long_ago = Step.rung_at < now_us() - RING_AGAIN
    due = and_(Step.not_before > Step.rung_at, Step.not_before <= now_us())
    found = select(Step).where(Step.state == "queued", Step.not_before <= now_us(), or_(long_ago, due))
    return db.scalars(found.where(Step.kind.in_(kinds)).order_by(Step.rung_at).limit(limit)).all()


def mark_rung(db: Session, step_ids: Sequence[str]) -> None:
    """Note that these steps are being rung now."""
    db.execute(update(Step).where(Step.id.in_(step_ids)).values(rung_at=now_us()))


# Events


def next_seq(db: Session, subject_id: str) -> int:
    """The next event number of a subject; its row is locked by the caller."""
    return db.scalars(
        select(func.coalesce(func.max(Event.seq), 0) + 1).where(Event.subject_id == subject_id)
    ).one()


def _mine(step_id: str, attempt: int) -> Update:
    """The fence: only the attempt that runs the step may write to it."""
    return update(Step).where(Step.id == step_id, Step.attempt == attempt, Step.state == "running")


def _locked(statement: Query) -> Query:
    return statement.with_for_update().execution_options(populate_existing=True)


def _changed(db: Session, statement: Executable) -> int:
    options = {"synchronize_session": False}
    return cast("CursorResult[Any]", db.execute(statement, execution_options=options)).rowcount


def _insert(db: Session, table: type[Base]) -> postgresql.Insert | sqlite.Insert:
    """An INSERT that knows ON CONFLICT, for whichever database this is."""
    if db.get_bind().dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)
