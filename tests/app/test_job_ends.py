"""Jobs end once, with everything they have open, and can be asked for again."""

import threading
from collections.abc import Callable

import pytest
from sqlalchemy import select, update

from app.db.models import Event, Job
from app.db.session import Database
from app.domain.errors import JobFinished, NotFound
from app.domain.gate import Gate
from app.domain.job import JOB_ENDED
from app.services import jobs
from app.storage import LocalStorage
from tests import factories
from tests.waiting import SECONDS


def events_of(database: Database, subject_id: str) -> list[Event]:
    with database.reading() as db:
        return list(db.scalars(select(Event).where(Event.subject_id == subject_id).order_by(Event.seq)))


def cancel(database: Database, project: str, job: str) -> None:
    with database.writing() as db:
        jobs.cancel(db, project, job)


@pytest.mark.parametrize("until", ["prepare", "build", "benchmark", "report"])
def test_cancel_ends_the_job_its_steps_and_its_candidates_at_once(
    database: Database, storage: LocalStorage, project: str, until: str
) -> None:
    job = factories.make_job(database, project)
    factories.work_off(database, storage, job, until=until)
    factories.take(database, factories.steps_of(database, job, until)[0].id)

    cancel(database, project, job)

    found = factories.job_row(database, job)
    assert (found.state, found.phase) == ("canceled", None)
    assert found.finished_at is not None
    assert {s.state for s in factories.steps_of(database, job, until)} == {"canceled"}
    expected = {"measured"} if until == "report" else {"canceled"}
    assert {c.state for c in factories.candidates_of(database, job)} <= expected


def test_an_ended_job_cannot_be_canceled(database: Database, storage: LocalStorage, project: str) -> None:
    job = factories.make_job(database, project)
    factories.work_off(database, storage, job)

    with pytest.raises(JobFinished):
        cancel(database, project, job)

    assert factories.job_row(database, job).state == "succeeded"


def test_a_job_can_be_canceled_once(database: Database, project: str) -> None:
    job = factories.make_job(database, project)
    cancel(database, project, job)

    with pytest.raises(JobFinished):
        cancel(database, project, job)

    assert [e.type for e in events_of(database, job)].count("job.canceled") == 1


def test_another_project_cannot_cancel_or_retry(database: Database, project: str) -> None:
    job = factories.make_job(database, project)
    stranger = factories.make_project(database)

    with pytest.raises(NotFound):
        cancel(database, stranger, job)
    with pytest.raises(NotFound), database.writing() as db:
        jobs.retry(db, stranger, job)

    assert factories.job_row(database, job).state == "queued"


def test_an_inspection_goes_on_when_a_job_that_waits_for_it_is_canceled(
    database: Database, project: str
) -> None:
    version = factories.make_version(database, project, ready=False)
    job = factories.make_job(database, project, version=version)

    cancel(database, project, job)
    factories.accept(database, version)

    assert factories.row(database, version).state == "ready"
    assert factories.steps_of(database, job) == []


def test_a_retry_is_a_new_job_with_the_same_spec(database: Database, project: str) -> None:
    job = factories.make_job(database, project)
    cancel(database, project, job)

    with database.writing() as db:
        again = jobs.retry(db, project, job)

    assert again.id != job
    assert (again.retry_of, again.state) == (job, "queued")
    assert again.spec == factories.job_row(database, job).spec


def ended_jobs(database: Database, storage: LocalStorage, project: str) -> dict[str, str]:
    """One job for every way to end."""
    succeeded = factories.make_job(database, project, gate=Gate(min_speedup=9.0))
    factories.work_off(database, storage, succeeded)
    failed = factories.make_job(database, project)
    factories.fail(
        database, storage, factories.step_of(database, failed, "prepare").id, "nothing_to_quantize"
    )
    canceled = factories.make_job(database, project)
    factories.work_off(database, storage, canceled, until="benchmark")
    cancel(database, project, canceled)
    expired = factories.make_job(database, project)
    with database.writing() as db:
        db.execute(update(Job).where(Job.id == expired).values(deadline_at=1))
        jobs.expire(db, expired)
    return {"succeeded": succeeded, "failed": failed, "canceled": canceled, "expired": expired}


def test_events_are_numbered_without_gaps_and_one_of_them_ends_the_job(
    database: Database, storage: LocalStorage, project: str
) -> None:
    for state, job in ended_jobs(database, storage, project).items():
        events = events_of(database, job)

        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        ends = [e.type for e in events if e.type.removeprefix("job.") in JOB_ENDED]
        assert ends == [f"job.{state}"]


def test_every_transition_of_a_candidate_has_its_event(
    database: Database, storage: LocalStorage, project: str
) -> None:
    for job in ended_jobs(database, storage, project).values():
        last = {
            e.data["candidate"]: e.data["state"]
            for e in events_of(database, job)
            if e.type.startswith("candidate.")
        }

        for candidate in factories.candidates_of(database, job):
            assert last.get(candidate.id, "planned") == candidate.state


def test_a_failed_gate_has_an_event_of_its_own(
    database: Database, storage: LocalStorage, project: str
) -> None:
    job = ended_jobs(database, storage, project)["succeeded"]

    assert [e.type for e in events_of(database, job)][-2:] == ["job.succeeded", "gate.failed"]


def test_concurrent_ends_of_a_job_give_one_end(postgres_database: Database) -> None:
    database = postgres_database
    project = factories.make_project(database)
    job = factories.make_job(database, project)
    start = threading.Barrier(8)
    lost: list[BaseException] = []

    def end(how: Callable[[], None]) -> None:
        start.wait(SECONDS)
        try:
            how()
        except JobFinished as error:
            lost.append(error)

    def expire() -> None:
        with database.writing() as db:
            jobs.expire(db, job)

    ways: list[Callable[[], None]] = [lambda: cancel(database, project, job), expire] * 4
    threads = [threading.Thread(target=end, args=[way]) for way in ways]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    ends = [e.type for e in events_of(database, job) if e.type in {"job.canceled", "job.expired"}]
    assert len(ends) == 1
    assert len(lost) == (3 if ends == ["job.canceled"] else 4)
