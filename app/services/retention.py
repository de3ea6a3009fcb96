"""What a project keeps no longer: its bytes go, and all that was found out with them stays.

Rows are locked in the order version or dataset, job, blobs. An open job keeps what it takes, and a right to
bytes that was renewed meanwhile (HEAD of a blob) keeps them until it ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy.orm import Session

from app.db import queries
from app.db.base import MICROSECONDS
from app.db.models import Artifact, Dataset, Project, Version
from app.db.queries import deletion, measures, projects
from app.db.queries import retention as statements
from app.db.retention import ExpiredArtifact
from app.domain.retention import DAY_US, EVIDENCE, Retention
from app.services import blobs, events
from app.storage import Storage

LOOKED = "retention"
EVERY = 60 * MICROSECONDS
COPIED = (
    *("id", "project_id", "job_id", "subject_id", "kind"),
    *("filename", "media_type", "sha256", "size", "created_at"),
)


@dataclass(frozen=True)
class Due:
    """A version, a dataset, or the files of a job, that nobody has used since this time."""

    project_id: str
    what: str
    since: int


def of(db: Session, project_id: str, defaults: Retention) -> Retention:
    """What holds for a project."""
    return db.get_one(Project, project_id).retention.over(defaults)


def is_time(db: Session) -> bool:
    """Whether nobody looked for a minute; who is told so is the one who looks now."""
    age = measures.age_us(db, LOOKED)
    if age is not None and age < EVERY:
        return False
    measures.keep(db, LOOKED, 0)
    return True


def due(db: Session, defaults: Retention) -> list[Due]:
    """Some of what is to expire, of every project: at most a few hundred of each."""
    now, found = queries.now(db), list[Due]()
    for project_id, own in projects.retentions(db):
        kept = own.over(defaults)
        for days, look in (
            (kept.models_days, partial(statements.idle, db, Version)),
            (kept.datasets_days, partial(statements.idle, db, Dataset)),
            (kept.artifacts_days, partial(statements.jobs_with_weights, db)),
        ):
            if days is not None:
                since = now - days * DAY_US
                found += [Due(project_id, what, since) for what in look(project_id, since)]
    return found


def expire(db: Session, storage: Storage, late: Due) -> None:
    """End one of them, unless somebody came to use it meanwhile."""
    match late.what.partition("_")[0]:
        case "ver":
            _expire_version(db, storage, late)
        case "dst":
            _expire_dataset(db, storage, late)
        case _:
            _expire_artifacts(db, storage, late)


def ends_of_versions(db: Session, defaults: Retention, rows: Sequence[Version]) -> dict[str, int]:
    """When each of a project's versions expires if no job takes it before; without those that never do."""
    days = of(db, rows[0].project_id, defaults).models_days if rows else None
    made = {row.id: max(row.created_at, row.imported_at or 0) for row in rows if _has_bytes(row)}
    return _ends(db, Version, days, made)


def ends_of_datasets(db: Session, defaults: Retention, rows: Sequence[Dataset]) -> dict[str, int]:
    """The same of datasets."""
    days = of(db, rows[0].project_id, defaults).datasets_days if rows else None
    return _ends(db, Dataset, days, {row.id: row.created_at for row in rows if _has_bytes(row)})


def end_of_artifact(row: Artifact | ExpiredArtifact, finished_at: int | None, kept: Retention) -> int | None:
    """When a file of a job that ended then expires; None: it has, or never does."""
    days = kept.artifacts_days
    if finished_at is None or days is None or isinstance(row, ExpiredArtifact) or row.kind in EVIDENCE:
        return None
    return finished_at + days * DAY_US


def _has_bytes(row: Version | Dataset) -> bool:
    return row.expired_at is None and row.state != "rejected"


def _ends(
    db: Session, table: type[Version] | type[Dataset], days: int | None, made: dict[str, int]
) -> dict[str, int]:
    if days is None:
        return {}
    used = statements.last_uses(db, table, list(made))
    return {row_id: max(at, used.get(row_id, 0)) + days * DAY_US for row_id, at in made.items()}


def _expire_version(db: Session, storage: Storage, late: Due) -> None:
    version = statements.lock_idle(db, Version, late.project_id, late.what, late.since)
    if version is None or queries.open_jobs_using(db, late.project_id, [late.what]):
        return
    files = [{"path": f.path, "sha256": f.sha256, "size": f.size} for f in version.files]
    version.files, version.content_key = [], None
    version.expired_files, version.expired_at = files, queries.now(db)
    _let_go_derived(db, storage, late, {str(file["sha256"]) for file in files})
    events.record(db, late.project_id, version.id, "version.expired", files=files)


def _expire_dataset(db: Session, storage: Storage, late: Due) -> None:
    dataset = statements.lock_idle(db, Dataset, late.project_id, late.what, late.since)
    if dataset is None or queries.open_jobs_using(db, late.project_id, [late.what]):
        return
    sha256 = str(dataset.sha256)
    dataset.sha256 = dataset.content_key = dataset.preview = None
    dataset.expired_sha256, dataset.expired_at = sha256, queries.now(db)
    _let_go_derived(db, storage, late, {sha256})
    events.record(db, late.project_id, dataset.id, "dataset.expired", sha256=sha256)


def _expire_artifacts(db: Session, storage: Storage, late: Due) -> None:
    job = queries.lock_job(db, late.what)
    files = statements.files_with_weights(db, job.id)
    _let_go(db, storage, late.project_id, files, set())
    if files:
        size = sum(file.size for file in files)
        events.record(db, late.project_id, job.id, "artifacts.expired", count=len(files), bytes=size)


def _let_go_derived(db: Session, storage: Storage, late: Due, digests: set[str]) -> None:
    """What jobs derived from it for their own use holds its weights or samples, and goes with it."""
    derived = deletion.intermediate_artifacts(db, [late.what])
    _let_go(db, storage, late.project_id, derived, digests)


def _let_go(
    db: Session, storage: Storage, project_id: str, files: Sequence[Artifact], digests: set[str]
) -> None:
    every = digests | {file.sha256 for file in files}
    for file in files:
        db.add(ExpiredArtifact(**{name: getattr(file, name) for name in COPIED}))
        db.delete(file)
    db.flush()
    for sha256 in sorted(every):
        blobs.collect(db, storage, project_id, sha256)
