"""Jobs advance step by step and end once, with everything they have open."""

import threading
from collections.abc import Callable

import pytest
from sqlalchemy import select, update

from app.db.models import Event, Job
from app.db.session import Database
from app.domain.dataset import Preprocess
from app.domain.errors import InvalidInput, JobFinished, NotFound, Problem
from app.domain.gate import Gate
from app.domain.job import JOB_ENDED, Calibration, Evaluation, JobSpec
from app.domain.recipe import DynamicInt8, StaticInt8
from app.services import blobs, candidates, datasets, jobs, outcomes, steps
from app.storage import LocalStorage
from tests import factories

PROBLEM = Problem("nothing_to_quantize", "There is no weight in this model.")


def events_of(database: Database, subject_id: str) -> list[Event]:
    with database.reading() as db:
        return list(db.scalars(select(Event).where(Event.subject_id == subject_id).order_by(Event.seq)))


def kinds(database: Database, job_id: str) -> list[tuple[str, str]]:
    return [(step.kind, step.state) for step in factories.steps_of(database, job_id)]


def fail(database: Database, storage: LocalStorage, step_id: str, problem: Problem = PROBLEM) -> None:
    claim = factories.take(database, step_id)
    with database.writing() as db:
        outcomes.fail(db, storage, claim, problem)


def test_a_job_runs_from_its_first_step_to_its_verdict(
    database: Database, storage: LocalStorage, project: str
) -> None:
    job = factories.make_job(database, project, gate=Gate(min_speedup=1.5))

    factories.work_off(database, storage, job)

    found = factories.job_row(database, job)
    assert (found.state, found.phase, found.problem) == ("succeeded", None, None)
    assert found.finished_at is not None
    assert found.verdict is not None
    assert found.verdict.conclusion == "pass"
    assert found.best_id in {c.id for c in factories.candidates_of(database, job)}
    kind_of = [kind for kind, _ in kinds(database, job)]
    assert kind_of == ["prepare", "build", "build", "benchmark", "report"]
    assert {c.state for c in factories.candidates_of(database, job)} == {"measured"}


def test_a_job_waits_for_uploads_that_are_being_inspected(database: Database, project: str) -> None:
    version = factories.make_version(database, project, ready=False)
    dataset = factories.make_dataset(database, project, ready=False)
    job = factories.make_job(database, project, version=version, dataset=dataset)

    factories.accept(database, version)
    assert factories.steps_of(database, job) == []

    factories.accept(database, dataset)
    assert kinds(database, job) == [("prepare", "queued")]


def test_one_inspection_advances_every_job_that_waited_for_it(database: Database, project: str) -> None:
    version = factories.make_version(database, project, ready=False)
    waiting = [factories.make_job(database, project, version=version) for _ in range(3)]

    factories.accept(database, version)

    assert [kinds(database, job) for job in waiting] == [[("prepare", "queued")]] * 3


def test_two_inspections_that_end_together_start_the_job_once(postgres_database: Database) -> None:
    database = postgres_database
    project = factories.make_project(database)
    for _ in range(10):
        version = factories.make_version(database, project, ready=False)
        dataset = factories.make_dataset(database, project, ready=False)
        waiting = [factories.make_job(database, project, version=version, dataset=dataset) for _ in range(2)]
        both = threading.Barrier(2)

        end_together(database, both, version, dataset)

        assert [kinds(database, job) for job in waiting] == [[("prepare", "queued")]] * 2


def end_together(database: Database, both: threading.Barrier, *uploads: str) -> None:
    """Complete the inspections in one thread each; their transactions are open at the same time."""
    wrong: list[BaseException] = []

    def inspect(upload: str) -> None:
        kind = "inspect_version" if upload.startswith("ver_") else "inspect_dataset"
        claim = factories.take(database, factories.step_of(database, upload, kind).id)
        try:
            with database.writing() as db:
                both.wait(10)
                outcomes.complete(db, claim, factories.accepted(upload))
        except BaseException as error:  # noqa: BLE001 - the test's thread shall see it
            wrong.append(error)

    threads = [threading.Thread(target=inspect, args=[upload]) for upload in uploads]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_builds_that_end_together_start_the_benchmark_once(
    postgres_database: Database, storage: LocalStorage
) -> None:
    database = postgres_database
    project = factories.make_project(database)
    job = factories.make_job(database, project, recipes=(DynamicInt8(), StaticInt8(), DynamicInt8()))
    factories.work_off(database, storage, job, until="build")
    claims = [factories.take(database, s.id) for s in factories.steps_of(database, job, "build")]
    together = threading.Barrier(len(claims))

    def give_up(claim: steps.Claim) -> None:
        with database.writing() as db:
            together.wait(10)
            outcomes.fail(db, storage, claim, PROBLEM)

    def build(claim: steps.Claim) -> None:
        model = factories.store(storage, claim.step_id.encode())
        with database.writing() as db:
            together.wait(10)
            figures = factories.figures()
            outcomes.complete(
                db,
                claim,
                lambda db: candidates.built(db, storage, claim.subject_id, DynamicInt8(), figures, model),
            )

    threads = [threading.Thread(target=build, args=[claim]) for claim in claims[:2]]
    threads.append(threading.Thread(target=give_up, args=[claims[2]]))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [s.state for s in factories.steps_of(database, job, "build")].count("done") == 2
    assert [s.state for s in factories.steps_of(database, job, "benchmark")] == ["queued"]


def test_every_recipe_becomes_a_candidate_with_a_build_of_its_own(
    database: Database, storage: LocalStorage, project: str, rings: list[str]
) -> None:
    job = factories.make_job(database, project)
    rings.clear()

    factories.work_off(database, storage, job, until="build")

    builds = factories.steps_of(database, job, "build")
    planned = factories.candidates_of(database, job)
    assert [c.recipe for c in planned] == list(factories.TWO_RECIPES)
    assert {b.subject_id for b in builds} == {c.id for c in planned}
    assert set(rings) == {b.id for b in builds}
    assert factories.job_row(database, job).phase == "building"


def test_a_job_without_recipes_gets_those_that_suit_its_model(
    database: Database, storage: LocalStorage, project: str
) -> None:
    job = factories.make_job(database, project, recipes=())

    factories.work_off(database, storage, job, until="build")

    found = [c.recipe for c in factories.candidates_of(database, job)]
    assert found == [DynamicInt8(), StaticInt8()]


def test_a_failed_build_fails_its_candidate_alone(
    database: Database, storage: LocalStorage, project: str
) -> None:
    job = factories.make_job(database, project)
    factories.work_off(database, storage, job, until="build")
    first, second = factories.candidates_of(database, job)

    fail(database, storage, factories.step_of(database, first.id, "build").id)
    factories.work_off(database, storage, job)

    first, second = factories.candidates_of(database, job)
    assert (first.state, first.problem) == ("failed", PROBLEM)
    assert second.state == "measured"
    found = factories.job_row(database, job)
    assert (found.state, found.best_id) == ("succeeded", second.id)


def test_a_job_of_which_no_candidate_was_built_fails_and_says_why(
    database: Database, storage: LocalStorage, project: str
) -> None:
    job = factories.make_job(database, project)
    factories.work_off(database, storage, job, until="build")

    for step in factories.steps_of(database, job, "build"):
        fail(database, storage, step.id)

    found = factories.job_row(database, job)
    assert found.state == "failed"
    assert found.problem is not None
    assert found.problem.code == "no_candidate"
    assert PROBLEM.detail in found.problem.detail
    assert factories.steps_of(database, job, "benchmark") == []


@pytest.mark.parametrize("kind", ["prepare", "benchmark", "report"])
def test_any_other_failed_step_fails_the_job_with_its_problem(
    database: Database, storage: LocalStorage, project: str, kind: str
) -> None:
    job = factories.make_job(database, project)
    factories.work_off(database, storage, job, until=kind)

    fail(database, storage, factories.step_of(database, job, kind).id)

    found = factories.job_row(database, job)
    assert (found.state, found.problem) == ("failed", PROBLEM)
    assert all(c.state in {"measured", "canceled"} for c in factories.candidates_of(database, job))
    assert [s.kind for s in factories.steps_of(database, job)][-1] == kind


def test_a_rejected_upload_fails_the_jobs_that_wait_for_it(
    database: Database, storage: LocalStorage, project: str
) -> None:
    version = factories.make_version(database, project, ready=False)
    job = factories.make_job(database, project, version=version)

    fail(database, storage, factories.step_of(database, version, "inspect_version").id)

    found = factories.job_row(database, job)
    assert found.state == "failed"
    assert found.problem is not None
    assert found.problem.code == PROBLEM.code
    assert version in found.problem.detail


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
    fail(database, storage, factories.step_of(database, failed, "prepare").id)
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
        start.wait(10)
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


@pytest.mark.parametrize(
    ("pointer", "spec"),
    [
        ("/version", JobSpec(version="ver_unknown")),
        ("/version", JobSpec(version="dst_wrong")),
        ("/calibration/dataset", JobSpec(version="", calibration=Calibration(dataset="dst_unknown"))),
        ("/evaluation/dataset", JobSpec(version="", evaluation=Evaluation(dataset="ver_wrong"))),
    ],
)
def test_a_job_that_names_what_is_not_there_is_refused(
    database: Database, project: str, pointer: str, spec: JobSpec
) -> None:
    with pytest.raises(InvalidInput) as refusal, database.writing() as db:
        jobs.create(db, project, spec)

    assert [error.pointer for error in refusal.value.errors] == [pointer]


def test_a_job_on_a_rejected_version_is_refused(
    database: Database, storage: LocalStorage, project: str
) -> None:
    version = factories.make_version(database, project, ready=False)
    fail(database, storage, factories.step_of(database, version, "inspect_version").id)

    with pytest.raises(InvalidInput) as refusal, database.writing() as db:
        jobs.create(db, project, JobSpec(version=version))

    assert PROBLEM.detail in refusal.value.errors[0].detail


def test_a_job_on_another_projects_version_is_refused(database: Database, project: str) -> None:
    foreign = factories.make_version(database, factories.make_project(database))

    with pytest.raises(InvalidInput) as refusal, database.writing() as db:
        jobs.create(db, project, JobSpec(version=foreign))

    assert refusal.value.errors[0].pointer == "/version"


def test_a_recipe_that_needs_data_is_refused_without(database: Database, project: str) -> None:
    version = factories.make_version(database, project)
    spec = JobSpec(version=version, recipes=(DynamicInt8(), StaticInt8()))

    with pytest.raises(InvalidInput) as refusal, database.writing() as db:
        jobs.create(db, project, spec)

    assert [error.pointer for error in refusal.value.errors] == ["/recipes/1"]


def test_one_dataset_serves_both_uses_when_only_one_is_named(database: Database, project: str) -> None:
    job = factories.make_job(database, project)

    found = factories.job_row(database, job)
    assert found.calibration_id == found.evaluation_id is not None


def test_a_dataset_that_a_rejected_one_shares_its_bytes_with_keeps_them(
    database: Database, storage: LocalStorage, project: str
) -> None:
    received = factories.store(storage, b"samples")
    with database.writing() as db:
        blob = blobs.keep(db, storage, project, received, 60)
        first = datasets.add(db, project, "a", blob, Preprocess(), None)
        datasets.add(db, project, "b", blob, Preprocess(), None)

    fail(database, storage, factories.step_of(database, first.id, "inspect_dataset").id)

    with storage.open(received.key) as file:
        assert file.read() == b"samples"
