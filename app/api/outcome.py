"""Answers that depend on how something ended."""

from http import HTTPStatus

from app.api.schemas.jobs import VerdictRead
from app.api.schemas.values import Problem
from app.db.models import Job
from app.domain.errors import JobNotFinished, JobNotSucceeded, Refused
from app.domain.job import JOB_ENDED


def refuse_rejected(upload_id: str, problem: Problem | None, wait: float) -> None:
    """Who waited for the inspection gets a rejection as the answer.

    Raises:
        Refused: The upload was rejected.
    """
    if wait and problem:
        detail = f"{upload_id} was rejected: {problem.detail}"
        raise Refused(problem.code, detail, errors=tuple(problem.errors))


def verdict_of(job: Job) -> VerdictRead:
    """The verdict of a job that succeeded.

    Raises:
        JobNotFinished: It is still under way.
        JobNotSucceeded: It ended without a result.
    """
    if job.state not in JOB_ENDED:
        message = f"The job {job.id} is {job.state}; send `Prefer: wait=60` or ask again later."
        raise JobNotFinished(message)
    if job.state != "succeeded" or job.verdict is None:
        reason = f" ({job.problem.code}): {job.problem.detail}" if job.problem else "."
        message = f"The job {job.id} is {job.state}{reason}"
        raise JobNotSucceeded(message, errors=job.problem.errors if job.problem else ())
    v = job.verdict
    return VerdictRead(
        job=job.id, conclusion=v.conclusion, blocking=v.blocking, best=v.best, checks=list(v.checks)
    )


def http_status(verdict: VerdictRead) -> int:
    """What `status=http` answers: 422 stops a pipeline that uses `curl -f`."""
    return HTTPStatus.UNPROCESSABLE_ENTITY if verdict.blocking else HTTPStatus.OK
