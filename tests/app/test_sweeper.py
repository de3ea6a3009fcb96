"""The sweeper moves what was lost, forgotten or is too late."""

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from redis import Redis
from sqlalchemy import insert, select, update

from app import broker
from app.db import queries
from app.db.base import new_id
from app.db.models import Job, ProjectBlob, Step
from app.db.session import Database
from app.services import blobs, outcomes, steps, sweeper
from app.services.steps import Stale
from app.storage import LocalStorage
from tests import factories
from tests.waiting import SECONDS, in_time


@pytest.fixture(autouse=True)
def _silent_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other tests rang for waits in the broker that tests share, and a full queue is not rung into."""
    monkeypatch.setattr(broker.celery.conf, "broker_url", "redis://127.0.0.1:1/0")


@pytest.fixture
def step(database: Database, project: str) -> str:
    """A step that is queued."""
    version = factories.make_version(database, project, ready=False)
    return factories.step_of(database, version, "inspect_version").id


def alter(database: Database, step_id: str, **values: object) -> None:
    with database.writing() as db:
        db.execute(update(Step).where(Step.id == step_id).values(**values))


def one(database: Database, step_id: str) -> Step:
    with database.reading() as db:
        return db.get_one(Step, step_id)


def test_a_step_whose_lease_ran_out_is_queued_again_and_rung_for(
    database: Database, storage: LocalStorage, step: str, rings: list[str]
) -> None:
    factories.take(database, step)
    alter(database, step, lease_until=1)
    rings.clear()

    sweeper.sweep(database, storage)

    found = one(database, step)
    assert (found.state, found.losses, found.worker, found.lease_until) == ("queued", 1, None, None)
    assert rings == [step]
    assert factories.take(database, step).attempt == 2


def test_a_step_whose_lease_runs_is_left_alone(
    database: Database, storage: LocalStorage, step: str, rings: list[str]
) -> None:
    factories.take(database, step)
    rings.clear()

    sweeper.sweep(database, storage)

    assert (one(database, step).state, one(database, step).losses) == ("running", 0)
    assert rings == []


def test_the_third_expired_lease_fails_the_job(
    database: Database, storage: LocalStorage, project: str
) -> None:
    job = factories.make_job(database, project)
    step = factories.step_of(database, job, "prepare").id

    for _ in range(3):
        factories.take(database, step)
        alter(database, step, lease_until=1)
        sweeper.sweep(database, storage)

    found = factories.job_row(database, job)
    assert found.state == "failed"
    assert found.problem is not None
    assert found.problem.code == "worker_lost"
    assert found.problem.retryable


def test_the_third_lost_build_fails_its_candidate_alone(
    database: Database, storage: LocalStorage, project: str
) -> None:
    job = factories.make_job(database, project)
    factories.work_off(database, storage, job, until="build")
    lost, other = factories.steps_of(database, job, "build")

    for _ in range(3):
        factories.take(database, lost.id)
        alter(database, lost.id, lease_until=1)
        sweeper.sweep(database, storage)
    factories.work_off(database, storage, job)

    states = {c.id: c.state for c in factories.candidates_of(database, job)}
    assert states == {lost.subject_id: "failed", other.subject_id: "measured"}
    assert factories.job_row(database, job).state == "succeeded"


def rings_of_a_sweep(
    database: Database, storage: LocalStorage, step_id: str, rings: list[str], **values: object
) -> list[str]:
    """What a sweep rings for when the step's row holds these values."""
    if values:
        alter(database, step_id, **values)
    rings.clear()
    sweeper.sweep(database, storage)
    return rings


def test_a_step_that_nobody_heard_of_for_a_minute_is_rung_again_once(
    database: Database, storage: LocalStorage, step: str, rings: list[str]
) -> None:
    silent = {"rung_at": Step.rung_at - 61_000_000}

    assert rings_of_a_sweep(database, storage, step, rings, **silent) == [step]

    sweeper.sweep(database, storage)
    assert rings == [step]


def test_a_step_that_was_just_rung_for_is_not_rung_again(
    database: Database, storage: LocalStorage, step: str, rings: list[str]
) -> None:
    rung = {"rung_at": Step.rung_at - 50_000_000}

    assert rings_of_a_sweep(database, storage, step, rings, **rung) == []


def test_when_the_broker_forgets_everything_each_step_is_rung_again_at_once_and_once(
    database: Database,
    storage: LocalStorage,
    step: str,
    rings: list[str],
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(broker.celery.conf, "broker_url", redis_url)
    monkeypatch.setattr("app.db.queries.steps.RING_AGAIN", 2**50)  # this may take longer than a minute
    sweeper.sweep(database, storage)
    assert rings_of_a_sweep(database, storage, step, rings) == []

    with Redis.from_url(redis_url.replace("redis+socket://", "unix://")) as client:
        client.flushall()

    assert rings_of_a_sweep(database, storage, step, rings) == [step]
    sweeper.sweep(database, storage)
    assert rings == [step]


def test_a_step_that_waited_for_its_time_is_rung_when_it_is_due(
    database: Database, storage: LocalStorage, step: str, rings: list[str]
) -> None:
    due = {"rung_at": Step.rung_at - 6_000_000, "not_before": Step.rung_at - 1_000_000}

    assert rings_of_a_sweep(database, storage, step, rings, **due) == [step]


def test_a_step_that_is_not_due_is_not_rung(
    database: Database, storage: LocalStorage, step: str, rings: list[str]
) -> None:
    early = {"rung_at": 1, "not_before": Step.created_at + 60_000_000}

    assert rings_of_a_sweep(database, storage, step, rings, **early) == []


def test_one_pass_rings_at_most_200_times_for_each_queue(
    database: Database, storage: LocalStorage, project: str, rings: list[str]
) -> None:
    kinds = {"inspect_version": 250, "prepare": 120, "build": 130, "benchmark": 20}
    rows = [
        {"id": new_id("stp"), "project_id": project, "kind": kind, "subject_id": f"x_{i}", "rung_at": i}
        for kind, count in kinds.items()
        for i in range(count)
    ]
    with database.writing() as db:
        db.execute(insert(Step), rows)
    kind_of = {str(row["id"]): str(row["kind"]) for row in rows}

    sweeper.sweep(database, storage)
    first = Counter(broker.QUEUES[kind_of[step]] for step in rings)
    rings.clear()
    sweeper.sweep(database, storage)
    second = Counter(broker.QUEUES[kind_of[step]] for step in rings)

    assert first == {"inspect": 200, "default": 200, "benchmark": 20}
    assert second == {"inspect": 50, "default": 50}


def test_a_queue_that_workers_have_not_heard_out_is_not_rung_for_again(
    database: Database, project: str, rings: list[str]
) -> None:
    rows = [
        {"id": new_id("stp"), "project_id": project, "kind": kind, "subject_id": f"x_{i}", "rung_at": i}
        for kind in ("inspect_version", "prepare", "deliver")
        for i in range(5)
    ]
    with database.writing() as db:
        db.execute(insert(Step), rows)

    with database.writing() as db:
        steps.ring_again(db, {"inspect": 10_000, "default": 198, "webhooks": 200})

    assert len(rings) == 2
    assert set(rings) <= {row["id"] for row in rows if row["kind"] == "prepare"}


def test_a_job_past_its_deadline_expires_with_everything_it_has_open(
    database: Database, storage: LocalStorage, project: str
) -> None:
    late = factories.make_job(database, project, deadline_s=3600)
    in_time = factories.make_job(database, project, deadline_s=3600)
    factories.work_off(database, storage, late, until="build")
    factories.take(database, factories.steps_of(database, late, "build")[0].id)
    with database.writing() as db:
        db.execute(update(Job).where(Job.id == late).values(deadline_at=queries.now(db)))

    sweeper.sweep(database, storage)

    found = factories.job_row(database, late)
    assert (found.state, found.phase) == ("expired", None)
    assert found.problem is not None
    assert found.problem.code == "deadline_exceeded"
    assert {s.state for s in factories.steps_of(database, late, "build")} == {"canceled"}
    assert {c.state for c in factories.candidates_of(database, late)} == {"canceled"}
    assert factories.job_row(database, in_time).state == "queued"


def test_the_deadline_counts_from_the_jobs_creation(database: Database, project: str) -> None:
    version = factories.make_version(database, project, ready=False)
    job = factories.make_job(database, project, version=version, deadline_s=90)

    found = factories.job_row(database, job)
    assert abs(found.deadline_at - found.created_at - 90_000_000) < 5_000_000


def test_a_job_that_ended_in_time_does_not_expire(
    database: Database, storage: LocalStorage, project: str
) -> None:
    job = factories.make_job(database, project)
    factories.work_off(database, storage, job)
    with database.writing() as db:
        db.execute(update(Job).where(Job.id == job).values(deadline_at=1))

    sweeper.sweep(database, storage)

    assert factories.job_row(database, job).state == "succeeded"


@contextmanager
def hanging_store(database: Database, storage: LocalStorage, project: str) -> Iterator[list[str]]:
    """The keys of what a sweep deletes from a store that answers when the block ends."""
    received = [factories.store(storage, b"unused %d" % number) for number in range(2)]
    with database.writing() as db:
        for one in received:
            blobs.keep(db, storage, project, one, 3600)
        db.execute(update(ProjectBlob).where(ProjectBlob.project_id == project).values(expires_at=1))
    asked, answering = list[str](), threading.Event()

    def hang(key: str) -> None:
        asked.append(key)
        answering.wait(SECONDS)

    with ThreadPoolExecutor(1) as another, pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "delete", hang)
        first = another.submit(sweeper.sweep, database, storage)
        try:
            assert in_time(lambda: bool(asked))
            yield asked
        finally:
            answering.set()
            first.result()


def test_a_store_that_hangs_keeps_no_sweep_from_ringing(
    database: Database, storage: LocalStorage, project: str, step: str, rings: list[str]
) -> None:
    alter(database, step, rung_at=1)
    rings.clear()

    with hanging_store(database, storage, project):
        assert rings == [step], "the sweep that waits for the store has rung before"

        assert rings_of_a_sweep(database, storage, step, rings, rung_at=1) == [step]


def test_one_sweep_at_a_time_waits_for_the_store(
    database: Database, storage: LocalStorage, project: str
) -> None:
    with hanging_store(database, storage, project) as asked:
        for _ in range(3):
            sweeper.sweep(database, storage)
        assert len(asked) == 1

    assert len(asked) == 2, "whoever waited goes on"
    sweeper.sweep(database, storage)
    with database.reading() as db:
        assert db.scalars(select(ProjectBlob.sha256).where(ProjectBlob.project_id == project)).all() == []


def test_sweeping_twice_at_once_counts_a_loss_once(
    database: Database, storage: LocalStorage, step: str
) -> None:
    factories.take(database, step)
    alter(database, step, lease_until=1)
    with database.reading() as db:
        lost = [s.id for s in queries.expired_leases(db)]

    sweeper.sweep(database, storage)
    for step_id in lost:  # what another sweeper saw before the first one acted
        with pytest.raises(Stale), database.writing() as db:
            outcomes.recover(db, storage, step_id)

    assert (one(database, step).state, one(database, step).losses) == ("queued", 1)
    with database.reading() as db:
        assert db.scalars(select(Step.id).where(Step.state == "running")).all() == []
