"""What was made before of the same content serves again, and says where it comes from."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from sqlalchemy import select, update

from app.db import queries
from app.db.models import Event, Host, Job, Version
from app.db.session import Database
from app.domain.dataset import PRESETS, Preprocess
from app.domain.gate import Gate
from app.domain.job import Benchmark, Evaluation, JobSpec
from app.domain.recipe import DynamicInt8, Recipe, StaticInt8, WeightOnly
from app.domain.report import Kernels, OpenVINO, RunsElsewhere, TensorRT
from app.domain.target import Target
from app.services import datasets, deletion, hosts, jobs, models
from app.storage import LocalStorage
from tests import factories

WEEK = 7 * 86400 * 1_000_000
Change = Callable[[JobSpec], JobSpec]


@pytest.fixture(autouse=True)
def benchmark_host(database: Database) -> None:
    show_up(database, factories.ENVIRONMENT)


@pytest.fixture
def done(database: Database, storage: LocalStorage, project: str) -> str:
    job = factories.make_job(database, project, gate=Gate(min_speedup=1.5))
    factories.work_off(database, storage, job)
    return job


def show_up(database: Database, environment: dict[str, str]) -> None:
    with database.writing() as db:
        db.query(Host).delete()
        hosts.seen(db, environment)


def spec_of(database: Database, job_id: str) -> JobSpec:
    return factories.job_row(database, job_id).spec


def again(database: Database, job_id: str, change: Change = lambda spec: spec) -> str:
    row = factories.job_row(database, job_id)
    with database.writing() as db:
        return jobs.create(db, row.project_id, change(row.spec)).id


def kinds_to_run(database: Database, job_id: str) -> list[str]:
    return [step.kind for step in factories.steps_of(database, job_id) if step.state == "queued"]


def test_an_unchanged_job_only_decides_its_gate_afresh(
    database: Database, storage: LocalStorage, done: str
) -> None:
    repeated = again(database, done)

    assert kinds_to_run(database, repeated) == ["report"]
    factories.work_off(database, storage, repeated)
    first, second = (factories.candidates_of(database, job) for job in (done, repeated))
    assert [c.figures for c in second] == [c.figures for c in first]
    finished_at = factories.job_row(database, done).finished_at
    assert [(c.reused.job, c.reused.measured_at) for c in second if c.reused] == [(done, finished_at)] * 2
    assert factories.job_row(database, repeated).state == "succeeded"


def test_a_build_that_is_measured_anew_keeps_no_cause_of_its_earlier_slowness(
    database: Database, storage: LocalStorage, project: str
) -> None:
    kernels = Kernels(0, 3, hindrances=("no node runs in an integer kernel",))
    slow = replace(factories.figures(speedup=0.5), kernels=kernels)
    job = factories.make_job(database, project)
    factories.work_off(database, storage, job, measured=lambda _position: slow)
    repeated = again(database, job, lambda spec: replace(spec, benchmark=Benchmark(threads=2)))

    factories.work_off(database, storage, repeated)

    first, second = (factories.candidates_of(database, one)[0].figures for one in (job, repeated))
    assert [str(note) for note in first.notes] == ["slower: no node runs in an integer kernel"]
    assert second.notes == ()


def test_a_build_that_is_measured_anew_keeps_what_its_graph_says_and_not_what_openvino_said(
    database: Database, storage: LocalStorage, project: str
) -> None:
    rules, ran = TensorRT("yes", "TensorRT 10.15"), OpenVINO("yes", "2026.4.1")
    known = replace(factories.figures(), runs_elsewhere=RunsElsewhere(rules, ran))
    job = factories.make_job(database, project)
    factories.work_off(database, storage, job, measured=lambda _position: known)
    repeated = again(database, job, lambda spec: replace(spec, benchmark=Benchmark(threads=2)))

    factories.work_off(database, storage, repeated)

    first, second = (factories.candidates_of(database, one)[0].figures for one in (job, repeated))
    assert first.runs_elsewhere == RunsElsewhere(rules, ran)
    assert second.runs_elsewhere == RunsElsewhere(rules, None)


def test_what_was_reused_has_its_models_and_its_steps(database: Database, done: str) -> None:
    repeated = again(database, done)

    with database.reading() as db:
        made = [queries.candidate_artifacts(db, job) for job in (done, repeated)]
        sent = db.scalars(select(Event.type).where(Event.subject_id == repeated)).all()
    assert sorted(a.sha256 for a in made[0].values()) == sorted(a.sha256 for a in made[1].values())
    states = {step.kind: step.state for step in factories.steps_of(database, repeated)}
    assert states == {"prepare": "done", "build": "done", "benchmark": "done", "report": "queued"}
    assert sent.count("step.reused") == 4
    assert "job.running" in sent


def test_the_gate_is_judged_afresh(database: Database, storage: LocalStorage, done: str) -> None:
    repeated = again(database, done, lambda spec: replace(spec, gate=Gate(min_speedup=3.0)))

    factories.work_off(database, storage, repeated)

    verdict = factories.job_row(database, repeated).verdict
    assert verdict is not None
    assert verdict.conclusion == "fail"


def test_never_measures_all_again(database: Database, done: str) -> None:
    repeated = again(database, done, lambda spec: replace(spec, reuse="never"))

    assert kinds_to_run(database, repeated) == ["prepare"]


def test_one_recipe_more_builds_one_candidate_and_measures_all_together(
    database: Database, storage: LocalStorage, done: str
) -> None:
    more = (*factories.TWO_RECIPES, StaticInt8(per_channel=False))
    repeated = again(database, done, lambda spec: replace(spec, recipes=more))

    assert kinds_to_run(database, repeated) == ["build"]
    factories.work_off(database, storage, repeated, measured=lambda _position: factories.figures(speedup=9.0))
    found = factories.candidates_of(database, repeated)
    assert [c.reused is None for c in found] == [False, False, True]
    assert [c.reused.measured_at for c in found if c.reused] == [None, None]
    assert [c.figures.latency.speedup for c in found if c.figures.latency] == [9.0, 9.0, 9.0]
    assert factories.job_row(database, repeated).state == "succeeded"


@pytest.mark.parametrize(
    ("cpus", "next_step"),
    [(("a CPU", "a CPU"), "report"), (("a CPU", "another CPU"), "benchmark")],
    ids=["one kind of host", "two kinds of hosts"],
)
def test_measurements_of_two_jobs_serve_a_third_when_one_kind_of_host_made_them(
    database: Database, storage: LocalStorage, project: str, cpus: tuple[str, str], next_step: str
) -> None:
    recipes: tuple[Recipe, ...] = (StaticInt8(), StaticInt8(per_channel=False))
    first = factories.make_job(database, project, recipes=recipes[:1])
    factories.work_off(database, storage, first)
    second = again(database, first, lambda spec: replace(spec, recipes=recipes[1:]))
    factories.work_off(database, storage, second)
    with database.writing() as db:
        for job, cpu in zip((first, second), cpus, strict=True):
            environment = factories.ENVIRONMENT | {"cpu": cpu}
            db.get_one(Job, job).environment = environment
            hosts.seen(db, environment)

    both = again(database, first, lambda spec: replace(spec, recipes=recipes))

    assert kinds_to_run(database, both) == [next_step]
    assert {c.state for c in factories.candidates_of(database, both)} == (
        {"measured"} if next_step == "report" else {"built"}
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda spec: replace(spec, benchmark=Benchmark(threads=2)),
        lambda spec: replace(spec, benchmark=Benchmark(max_seconds=5)),
    ],
    ids=["threads", "budget"],
)
def test_another_benchmark_measures_again_what_is_built(
    database: Database, done: str, change: Change
) -> None:
    repeated = again(database, done, change)

    assert kinds_to_run(database, repeated) == ["benchmark"]
    found = factories.candidates_of(database, repeated)
    assert [(c.reused.measured_at, c.figures.latency) for c in found if c.reused] == [(None, None)] * 2


@pytest.mark.parametrize(
    "change",
    [
        lambda spec: replace(spec, shapes={"sequence": 7}),
        lambda spec: replace(spec, benchmark=Benchmark(batch=4)),
        lambda spec: replace(spec, evaluation=replace(spec.evaluation, samples=5)),
        lambda spec: replace(spec, target=Target(isa="arm64")),
    ],
    ids=["shapes", "batch", "samples", "target"],
)
def test_what_changes_the_bytes_is_made_again(database: Database, done: str, change: Change) -> None:
    assert kinds_to_run(database, again(database, done, change)) == ["prepare"]


PLAIN = WeightOnly(bits=8, accuracy_level=4)  # reads no calibration samples


@pytest.mark.parametrize(
    ("first", "second", "next_step"),
    [
        ((WeightOnly(bits=4),), (WeightOnly(bits=4), StaticInt8()), "prepare"),
        ((WeightOnly(bits=4), StaticInt8()), (WeightOnly(bits=4),), "report"),
        ((WeightOnly(bits=4),), (WeightOnly(bits=4), WeightOnly(bits=2)), "build"),
        ((PLAIN,), (PLAIN, WeightOnly(bits=2)), "prepare"),
    ],
    ids=["lacks statistics", "has more than needed", "needs only samples", "lacks the samples' order"],
)
def test_a_preparation_serves_where_it_holds_what_the_recipes_read(
    database: Database,
    storage: LocalStorage,
    project: str,
    first: tuple[Recipe, ...],
    second: tuple[Recipe, ...],
    next_step: str,
) -> None:
    job = factories.make_job(database, project, recipes=first)
    factories.work_off(database, storage, job)

    repeated = again(database, job, lambda spec: replace(spec, recipes=second))

    assert kinds_to_run(database, repeated) == [next_step]


def test_a_build_serves_a_job_whose_preparation_also_collects_statistics(
    database: Database, storage: LocalStorage, project: str
) -> None:
    job = factories.make_job(database, project, recipes=(WeightOnly(bits=4),))
    factories.work_off(database, storage, job)
    more = (WeightOnly(bits=4), StaticInt8())
    repeated = again(database, job, lambda spec: replace(spec, recipes=more))

    factories.work_off(database, storage, repeated)

    found = factories.candidates_of(database, repeated)
    assert [c.reused is None for c in found] == [False, True]


def test_a_measurement_serves_only_on_a_host_like_the_one_that_made_it(database: Database, done: str) -> None:
    show_up(database, factories.ENVIRONMENT | {"cpu": "another CPU"})

    assert kinds_to_run(database, again(database, done)) == ["benchmark"]


def test_auto_is_resolved_again_where_another_isa_benchmarks(database: Database, done: str) -> None:
    show_up(database, factories.ENVIRONMENT | {"isa": "arm64"})

    assert kinds_to_run(database, again(database, done)) == ["prepare"]


def test_a_measurement_serves_for_a_week(database: Database, done: str) -> None:
    with database.writing() as db:
        db.execute(update(Job).where(Job.id == done).values(finished_at=Job.finished_at - WEEK))

    assert kinds_to_run(database, again(database, done)) == ["benchmark"]


def test_a_measurement_that_cannot_tell_the_new_limit_is_made_again(
    database: Database, storage: LocalStorage, project: str
) -> None:
    wide = replace(factories.figures(), latency=factories.latency(2.0, spread=0.5))
    job = factories.make_job(database, project, gate=Gate(min_speedup=1.1))
    factories.work_off(database, storage, job, measured=lambda _position: wide)

    undecided = again(database, job, lambda spec: replace(spec, gate=Gate(min_speedup=1.9)))
    decided = again(database, job, lambda spec: replace(spec, gate=Gate(min_speedup=1.4)))

    assert kinds_to_run(database, undecided) == ["benchmark"]
    assert kinds_to_run(database, decided) == ["report"]


def test_a_job_that_failed_lends_its_builds_but_no_measurement(
    database: Database, storage: LocalStorage, project: str
) -> None:
    job = factories.make_job(database, project)
    factories.work_off(database, storage, job, until="report")
    with database.writing() as db:
        jobs.cancel(db, project, job)

    assert kinds_to_run(database, again(database, job)) == ["benchmark"]


def test_a_chain_of_repeats_names_the_job_that_measured(
    database: Database, storage: LocalStorage, done: str
) -> None:
    second = again(database, done)
    factories.work_off(database, storage, second)

    third = again(database, second)

    assert kinds_to_run(database, third) == ["report"]
    assert [c.reused.job for c in factories.candidates_of(database, third) if c.reused] == [done, done]


def test_the_same_files_sent_again_need_no_inspection(database: Database, done: str) -> None:
    spec = spec_of(database, done)
    with database.writing() as db:
        version = db.get_one(Version, spec.version)
        files = [(f.path, queries.blob(db, f.sha256)) for f in version.files]
        sent = models.add_version(db, version.project_id, "another name", files, {})
        dataset = factories.row(database, str(spec.evaluation.dataset))
        blob = queries.blob(db, str(dataset.sha256))  # type: ignore[union-attr]
        data = datasets.add(db, version.project_id, "again", blob, Preprocess(), None)
        differently = datasets.add(db, version.project_id, "again", blob, PRESETS["imagenet"], None)
        states = (sent.state, data.state, differently.state)
        repeated = jobs.create(
            db,
            version.project_id,
            replace(spec, version=sent.id, evaluation=Evaluation(dataset=data.id)),
        )
        job_id = repeated.id

    assert states == ("ready", "ready", "inspecting")
    assert kinds_to_run(database, job_id) == ["report"]


def test_a_deleted_model_lends_nothing(database: Database, storage: LocalStorage, done: str) -> None:
    spec = spec_of(database, done)
    with database.writing() as db:
        version = db.get_one(Version, spec.version)
        files = [(f.path, queries.blob(db, f.sha256)) for f in version.files]
        models.add_version(db, version.project_id, "another name", files, {})
        deletion.delete_model(db, storage, version.project_id, version.model_id)
        sent = models.add_version(db, version.project_id, "a third", files, {})

    assert (sent.state, len(sent.files)) == ("ready", 1)
    with database.reading() as db:
        assert db.get_one(Version, spec.version).deleted_at


def test_another_project_lends_nothing(database: Database, done: str) -> None:
    spec, other = spec_of(database, done), factories.make_project(database)
    with database.writing() as db:
        version = db.get_one(Version, spec.version)
        for file in version.files:
            queries.grant_blob(db, other, file.sha256, 3600)
        files = [(f.path, queries.blob(db, f.sha256)) for f in version.files]
        sent = models.add_version(db, other, "the same", files, {})

    assert sent.state == "inspecting"


def test_another_release_of_the_engine_lends_nothing(
    database: Database, done: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.manifest.tools", lambda: "another release")

    assert kinds_to_run(database, again(database, done)) == ["prepare"]


def test_a_candidate_that_failed_is_tried_again(
    database: Database, storage: LocalStorage, project: str
) -> None:
    job = factories.make_job(database, project, recipes=(DynamicInt8(), StaticInt8()))
    factories.work_off(database, storage, job, until="build")
    failing = factories.candidates_of(database, job)[0]
    factories.fail(database, storage, factories.step_of(database, failing.id, "build").id, "no_luck")
    factories.work_off(database, storage, job)

    assert kinds_to_run(database, again(database, job)) == ["build"]
