"""Jobs advance step by step, past inspections and builds that fail, to a verdict."""

import threading

import pytest

from app.db.session import Database
from app.domain.dataset import Preprocess
from app.domain.errors import Problem
from app.domain.gate import Gate
from app.domain.recipe import DynamicInt8, StaticInt8
from app.services import blobs, candidates, datasets, outcomes, steps
from app.storage import LocalStorage
from tests import factories
from tests.waiting import SECONDS


def kinds(database: Database, job_id: str) -> list[tuple[str, str]]:
    return [(step.kind, step.state) for step in factories.steps_of(database, job_id)]


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
                both.wait(SECONDS)
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
            together.wait(SECONDS)
            outcomes.fail(
                db, storage, claim, Problem("nothing_to_quantize", "There is no weight in this model.")
            )

    def build(claim: steps.Claim) -> None:
        model = factories.store(storage, claim.step_id.encode())
        with database.writing() as db:
            together.wait(SECONDS)
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


def test_one_dataset_serves_both_uses_when_only_one_is_named(database: Database, project: str) -> None:
    job = factories.make_job(database, project)

    found = factories.job_row(database, job)
    assert found.calibration_id == found.evaluation_id is not None


def test_a_failed_build_fails_its_candidate_alone(
    database: Database, storage: LocalStorage, project: str
) -> None:
    job = factories.make_job(database, project)
    factories.work_off(database, storage, job, until="build")
    first, second = factories.candidates_of(database, job)

    build = factories.step_of(database, first.id, "build")
    problem = factories.fail(database, storage, build.id, "nothing_to_quantize")
    factories.work_off(database, storage, job)

    first, second = factories.candidates_of(database, job)
    assert (first.state, first.problem) == ("failed", problem)
    assert second.state == "measured"
    found = factories.job_row(database, job)
    assert (found.state, found.best_id) == ("succeeded", second.id)


def test_a_job_of_which_no_candidate_was_built_fails_and_says_why(
    database: Database, storage: LocalStorage, project: str
) -> None:
    job = factories.make_job(database, project)
    factories.work_off(database, storage, job, until="build")

    problems = [
        factories.fail(database, storage, step.id, "nothing_to_quantize")
        for step in factories.steps_of(database, job, "build")
    ]

    found = factories.job_row(database, job)
    assert found.state == "failed"
    assert found.problem is not None
    assert found.problem.code == "no_candidate"
    assert problems[0].detail in found.problem.detail
    assert factories.steps_of(database, job, "benchmark") == []


@pytest.mark.parametrize("kind", ["prepare", "benchmark", "report"])
def test_any_other_failed_step_fails_the_job_with_its_problem(
    database: Database, storage: LocalStorage, project: str, kind: str
) -> None:
    job = factories.make_job(database, project)
    factories.work_off(database, storage, job, until=kind)

    failed = factories.step_of(database, job, kind)
    problem = factories.fail(database, storage, failed.id, "nothing_to_quantize")

    found = factories.job_row(database, job)
    assert (found.state, found.problem) == ("failed", problem)
    assert all(c.state in {"measured", "canceled"} for c in factories.candidates_of(database, job))
    assert [s.kind for s in factories.steps_of(database, job)][-1] == kind


def test_a_rejected_upload_fails_the_jobs_that_wait_for_it(
    database: Database, storage: LocalStorage, project: str
) -> None:
    version = factories.make_version(database, project, ready=False)
    job = factories.make_job(database, project, version=version)

    inspection = factories.step_of(database, version, "inspect_version")
    problem = factories.fail(database, storage, inspection.id, "not_onnx")

    found = factories.job_row(database, job)
    assert found.state == "failed"
    assert found.problem is not None
    assert found.problem.code == problem.code
    assert version in found.problem.detail


def test_a_dataset_that_a_rejected_one_shares_its_bytes_with_keeps_them(
    database: Database, storage: LocalStorage, project: str
) -> None:
    received = factories.store(storage, b"samples")
    with database.writing() as db:
        blob = blobs.keep(db, storage, project, received, 60)
        first = datasets.add(db, project, "a", blob, Preprocess(), None)
        datasets.add(db, project, "b", blob, Preprocess(), None)

    inspection = factories.step_of(database, first.id, "inspect_dataset")
    factories.fail(database, storage, inspection.id, "empty_dataset")

    with storage.open(received.key) as file:
        assert file.read() == b"samples"
