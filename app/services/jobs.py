"""Jobs: created, advanced step by step, ended once."""

from dataclasses import replace

from sqlalchemy.orm import Session

from app.db import queries
from app.db.base import MICROSECONDS
from app.db.models import Candidate, Dataset, Job, JobLabel, Version
from app.db.queries import retention
from app.domain import defaults, plan
from app.domain.errors import FieldError, InvalidInput, JobFinished, NotFound, Problem
from app.domain.job import CANDIDATE_ENDED, JOB_ENDED, JobSpec, check_transition
from app.domain.recipe import Imported, needs_calibration, title
from app.domain.retention import day
from app.services import candidates, events, gates, reuse, steps


def create(db: Session, project_id: str, spec: JobSpec, retry_of: str | None = None) -> Job:
    """Queue a job; one whose uploads are still being inspected waits for them.

    Raises:
        InvalidInput: A version or dataset is not there or was rejected, or a recipe needs data.
    """
    calibration = spec.calibration.dataset or spec.evaluation.dataset
    inputs = _check_inputs(db, project_id, spec)  # held to the end: a session forgets what nobody holds
    gates.check(db, project_id, spec)
    _check_recipes(spec, calibration)
    job = Job(
        project_id=project_id,
        version_id=spec.version,
        model_id=next(row.model_id for row in inputs if isinstance(row, Version)),
        calibration_id=calibration,
        evaluation_id=spec.evaluation.dataset or spec.calibration.dataset,
        retry_of=retry_of,
        spec=spec,
        labels=[JobLabel(project_id=project_id, name=k, value=v) for k, v in spec.labels.items()],
        deadline_at=queries.now(db) + spec.deadline_s * MICROSECONDS,
    )
    db.add(job)
    db.flush()
    events.record(db, project_id, job.id, "job.queued", state=job.state)
    advance(db, job.id)
    return job


def cancel(db: Session, project_id: str, job_id: str) -> Job:
    """End a job now, with everything it has open.

    Raises:
        JobFinished: It has ended already.
    """
    job = queries.lock_owned(db, Job, project_id, job_id)
    if job.state in JOB_ENDED:
        raise JobFinished(f"The job {job_id} is {job.state}; nothing is left to cancel.")
    end(db, job, "canceled")
    return job


def cancel_all(db: Session, project_id: str) -> None:
    """End every job that a project has open."""
    for job_id in queries.open_jobs(db, project_id):
        job = queries.lock_job(db, job_id)
        if job.state not in JOB_ENDED:
            end(db, job, "canceled")


def retry(db: Session, project_id: str, job_id: str) -> Job:
    """A new job with the same spec."""
    job = queries.get_owned(db, Job, project_id, job_id)
    return create(db, project_id, job.spec, retry_of=job.id)


def expire(db: Session, job_id: str) -> None:
    """End a job that is past its deadline."""
    job = queries.lock_job(db, job_id)
    if job.state not in JOB_ENDED:
        seconds = job.spec.deadline_s
        detail = f"The job did not end within deadline_s = {seconds}; {_remedy(db, job_id)}."
        end(db, job, "expired", Problem("deadline_exceeded", detail, retryable=True))


def _remedy(db: Session, job_id: str) -> str:
    troubles = queries.troubles(db, job_id)
    if troubles:
        return f"its steps were put off {troubles} times for a full or failing disk, store or database"
    return "give it more time or fewer recipes"


def begin(db: Session, job: Job) -> None:
    """The first step of the job runs."""
    if job.state == "queued":
        check_transition("job", job.state, "running")
        job.state, job.started_at = "running", queries.now(db)
        events.record(db, job.project_id, job.id, "job.running", state="running")


def advance(db: Session, job_id: str) -> None:
    """Insert the steps that come next, or end the job. Locks the job, then its candidates."""
    job = queries.lock_job(db, job_id)
    if job.state in JOB_ENDED:
        return
    match plan.next_steps(_view(db, job)):
        case plan.Start(phase, wanted):
            _start(db, job, phase, wanted)
        case plan.Fail(code, subject):
            end(db, job, "failed", _failure(db, job, code, subject))
        case plan.Succeed():
            end(db, job, "succeeded")
        case plan.Wait():
            pass


def advance_users(db: Session, project_id: str, upload_id: str) -> None:
    """Advance every job that waited for this version or dataset."""
    for job_id in queries.open_jobs_using(db, project_id, [upload_id]):
        advance(db, job_id)


def end(db: Session, job: Job, state: str, problem: Problem | None = None) -> None:
    """The one way a job ends, under its lock: its open candidates and steps end with it."""
    check_transition("job", job.state, state)
    for candidate in (*queries.lock_candidates(db, job.id), *([job.baseline] if job.baseline else [])):
        if candidate.state not in CANDIDATE_ENDED:
            candidates.canceled(db, candidate)
    queries.cancel_steps(db, job.id)
    job.state, job.phase, job.problem, job.finished_at = state, None, problem, queries.now(db)
    job.conclusion = job.verdict.conclusion if job.verdict else None
    data = {"state": state, "code": problem.code if problem else None}
    events.record(db, job.project_id, job.id, f"job.{state}", **data)
    if state == "succeeded" and job.conclusion == "fail":
        events.record(db, job.project_id, job.id, "gate.failed", conclusion="fail")


def _view(db: Session, job: Job) -> plan.View:
    inputs = [job.version_id, job.calibration_id, job.evaluation_id, *job.spec.candidates]
    return plan.View(
        job=job.id,
        inputs={i: queries.job_input(db, i).state for i in inputs if i},
        candidates={c.id: c.state for c in queries.lock_candidates(db, job.id)},
        steps={(s.kind, s.subject_id): s.state for s in queries.job_steps(db, job.id)},
    )


def _start(db: Session, job: Job, phase: str, wanted: tuple[tuple[str, str], ...]) -> None:
    if phase == "preparing":
        _plan_candidates(db, job)
    job.phase = phase
    events.record(db, job.project_id, job.id, "job.phase", phase=phase)
    missing = [(kind, subject) for kind, subject in wanted if not _reused(db, job, kind, subject)]
    for kind, subject in missing:
        steps.enqueue(db, job.project_id, kind, subject, job.id)
    if not missing:
        advance(db, job.id)


def _reused(db: Session, job: Job, kind: str, subject: str) -> bool:
    """A step whose result is there already stands in the timeline, but nobody runs it."""
    if not reuse.take(db, job, kind, subject):
        return False
    begin(db, job)
    steps.skip(db, job.project_id, kind, subject, job.id)
    events.record(db, job.project_id, job.id, "step.reused", step=kind, subject=subject)
    return True


def _plan_candidates(db: Session, job: Job) -> None:
    """One candidate per recipe and per model quantized elsewhere, and the baseline."""
    examination = db.get_one(Version, job.version_id).examination
    assert examination is not None  # noqa: S101 - a ready version has one
    ours = job.spec.recipes or defaults.recipes(examination, has_data=job.calibration_id is not None)
    recipes = (*ours, *(Imported(version=version) for version in job.spec.candidates))
    db.add(Candidate(project_id=job.project_id, job_id=job.id, position=0, baseline=True, name="float"))
    for position, recipe in enumerate(recipes, 1):
        candidate = Candidate(
            project_id=job.project_id, job_id=job.id, position=position, name=title(recipe), recipe=recipe
        )
        db.add(candidate)
    db.flush()


def _failure(db: Session, job: Job, code: str, subject: str) -> Problem:
    """Why the job fails, from what failed."""
    if code == "input_rejected":
        row = queries.job_input(db, subject)
        assert row.problem is not None  # noqa: S101 - a rejected upload has one
        return replace(row.problem, detail=f"{subject} was rejected: {row.problem.detail}")
    if code == "step_failed":
        failed = next(s for s in queries.job_steps(db, job.id) if s.state == "failed" and s.kind != "build")
        assert failed.problem is not None  # noqa: S101 - a failed step has one
        return failed.problem
    reasons = [f"{c.name}: {c.problem.detail}" for c in queries.candidates(db, job.id) if c.problem]
    if job.calibration_id is None:
        reasons.append("Send data with the job: then static_int8 can quantize it too.")
    return Problem("no_candidate", "No recipe gave a model. " + " ".join(reasons))


def _check_inputs(db: Session, project_id: str, spec: JobSpec) -> list[Version | Dataset]:
    named = {
        "/version": spec.version,
        "/calibration/dataset": spec.calibration.dataset,
        "/evaluation/dataset": spec.evaluation.dataset,
        **{f"/candidates/{i}": version for i, version in enumerate(spec.candidates)},
    }
    asked = sorted((row_id, pointer) for pointer, row_id in named.items() if row_id is not None)
    held = {where: _input(db, project_id, where, row_id) for row_id, where in asked}  # the order of locks
    found = [held[pointer] for pointer in named if pointer in held]
    wrong = tuple(error for error in found if isinstance(error, FieldError))
    if wrong:
        raise InvalidInput("The job names inputs that it cannot use.", errors=wrong)
    return [row for row in found if not isinstance(row, FieldError)]


def _input(db: Session, project_id: str, pointer: str, row_id: str) -> Version | Dataset | FieldError:
    noun, prefix = ("dataset", "dst_") if pointer.endswith("/dataset") else ("version", "ver_")
    if not row_id.startswith(prefix):
        return FieldError(pointer, f"{row_id!r} is no id of a {noun}; those begin with {prefix}")
    if pointer.startswith("/candidates/"):
        retention.import_version(db, project_id, row_id)
    try:
        row = queries.share_job_input(db, project_id, row_id)
    except NotFound as error:
        return FieldError(pointer, error.detail)
    if row.state == "rejected" and row.problem:
        return FieldError(pointer, f"{row_id} was rejected: {row.problem.detail}")
    if row.expired_at:
        return FieldError(pointer, f"{row_id} expired on {day(row.expired_at)}; upload it again")
    return row


def _check_recipes(spec: JobSpec, calibration: str | None) -> None:
    if calibration:
        return
    needy = [i for i, recipe in enumerate(spec.recipes) if needs_calibration(recipe)]
    if needy:
        detail = "this recipe needs data: name a dataset in /calibration/dataset, or send `data` to /quantize"
        errors = tuple(FieldError(f"/recipes/{i}", detail) for i in needy)
        raise InvalidInput("A recipe needs data and the job has none.", errors=errors)
