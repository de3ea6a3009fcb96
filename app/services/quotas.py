"""What a project may still have and do; checked under the project's lock, so that a race cannot pass it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.db.models import Project
from app.db.queries import blobs, projects, usage
from app.domain.errors import NoSpaceLeft, TooManyJobs
from app.domain.quota import Quotas

TRY_AGAIN_S = 30


@dataclass(frozen=True)
class Usage:
    """What a project has and does now. A blob that serves twice counts in both kinds, and once in all.

    What uploads that are not complete announced counts as if it were here.
    """

    bytes: int
    bytes_of_models: int
    bytes_of_datasets: int
    bytes_of_artifacts: int
    bytes_of_uploads: int
    jobs_today: int
    unfinished_jobs: int
    running_candidates: int


def measure(db: Session, project_id: str) -> Usage:
    """What a project has and does now."""
    coming = usage.bytes_coming(db, project_id)
    return Usage(
        bytes=usage.bytes_stored(db, project_id) + coming,
        bytes_of_models=usage.bytes_of_models(db, project_id),
        bytes_of_datasets=usage.bytes_of_datasets(db, project_id),
        bytes_of_artifacts=usage.bytes_of_artifacts(db, project_id),
        bytes_of_uploads=coming,
        jobs_today=usage.jobs_today(db, project_id),
        unfinished_jobs=usage.unfinished_jobs(db, project_id),
        running_candidates=usage.running_candidates(db, project_id),
    )


def hold(db: Session, project_id: str, defaults: Quotas) -> None:
    """Lock a project that has limits, before any of its blobs: who stores waits here and nowhere else."""
    if of(db, project_id, defaults) != Quotas():
        projects.lock_project(db, project_id)


@contextmanager
def storing(db: Session, project_id: str, defaults: Quotas) -> Iterator[None]:
    """Store blobs of a project in here.

    Raises:
        NoSpaceLeft: The project has more bytes then than it may have.
    """
    hold(db, project_id, defaults)
    yield
    check_bytes(db, project_id, defaults)


def check_coming(db: Session, project_id: str, defaults: Quotas, coming: int, sha256: str) -> None:
    """Refuse bytes before they come, if they are too much; what repairs a damaged blob is counted already.

    Raises:
        NoSpaceLeft: The project would have more bytes than it may have.
    """
    counted = blobs.is_of_project(db, project_id, sha256)
    check_bytes(db, project_id, defaults, coming=0 if counted else coming)


def check_bytes(
    db: Session, project_id: str, defaults: Quotas, *, coming: int = 0, announced: int = 0
) -> None:
    """Refuse what this transaction has stored or `announced`, or what is `coming`, if it is too much.

    Bytes that were here before cost nothing. An upload counts with its length from its beginning, so that
    many that are never completed cannot hold more than one that is; its blob replaces it.

    Raises:
        NoSpaceLeft: The project has more bytes than it may have.
    """
    limit = of(db, project_id, defaults).bytes
    if limit is None:
        return
    projects.lock_project(db, project_id)
    uploads = usage.bytes_coming(db, project_id)
    total = usage.bytes_stored(db, project_id) + uploads + coming
    if total > limit:
        raise NoSpaceLeft(_too_much(limit, total, uploads - announced))


def _too_much(limit: int, total: int, others: int) -> str:
    many = f"The project may store {limit} bytes and would have {total} with this upload"
    if not others:
        return f"{many}. Delete models, datasets or jobs, or ask an operator for a larger quota."
    return (
        f"{many}, {others} of them for other uploads that are not complete. End some of these "
        "(DELETE /v1/uploads/{id}), delete models, datasets or jobs, or ask an operator for a larger quota."
    )


def check_jobs(db: Session, project_id: str, defaults: Quotas) -> None:
    """Refuse one more job if there are too many.

    Raises:
        TooManyJobs: A quota is used up; it says when to try again.
    """
    quotas = of(db, project_id, defaults)
    if quotas.jobs_per_day is None and quotas.unfinished_jobs is None:
        return
    projects.lock_project(db, project_id)
    made, unfinished = usage.jobs_today(db, project_id), usage.unfinished_jobs(db, project_id)
    if quotas.jobs_per_day is not None and made >= quotas.jobs_per_day:
        seconds = usage.seconds_to_midnight(db)
        detail = f"The project may make {quotas.jobs_per_day} jobs a day and has made {made} today (UTC)."
        raise TooManyJobs(f"{detail} Try again tomorrow, or ask an operator for a larger quota.", seconds)
    if quotas.unfinished_jobs is not None and unfinished >= quotas.unfinished_jobs:
        detail = f"The project may have {quotas.unfinished_jobs} unfinished jobs and has {unfinished}."
        raise TooManyJobs(f"{detail} Wait until one ends, or cancel one.", TRY_AGAIN_S)


def may_build(db: Session, project_id: str, defaults: Quotas) -> bool:
    """Whether one more candidate of this project may be built now; holds until the transaction ends."""
    limit = of(db, project_id, defaults).running_candidates
    if limit is None:
        return True
    projects.lock_project(db, project_id)
    return usage.running_candidates(db, project_id) < limit


def waiting_builds(db: Session, project_id: str, defaults: Quotas) -> Sequence[str]:
    """The builds to ring for when one has ended: as many as the quota lets run, oldest first."""
    limit = of(db, project_id, defaults).running_candidates
    return () if limit is None else usage.waiting_builds(db, project_id, limit)


def of(db: Session, project_id: str, defaults: Quotas) -> Quotas:
    """The limits that hold for a project."""
    return db.get_one(Project, project_id).quotas.over(defaults)
