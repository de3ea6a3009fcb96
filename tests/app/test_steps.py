"""Steps: claimed once, held under a lease, written only by the attempt that holds them."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from app.db import queries
from app.db.models import Step
from app.db.session import Database
from app.domain.errors import Problem
from app.domain.job import JobSpec
from app.services import jobs, outcomes, steps
from app.services.steps import Claim, Stale
from app.storage import LocalStorage
from tests import factories

PROBLEM = Problem("not_onnx", "This is no model.")


@pytest.fixture
def version(database: Database, project: str) -> str:
    """A version whose inspection is queued."""
    return factories.make_version(database, project, ready=False)


@pytest.fixture
def step(database: Database, version: str) -> str:
    """A step that is queued."""
    return factories.step_of(database, version, "inspect_version").id


def let_lease_expire(database: Database, step_id: str) -> None:
    with database.writing() as db:
        db.execute(update(Step).where(Step.id == step_id).values(lease_until=1))


def requeued(database: Database, claim: Claim) -> Claim:
    """The next attempt, after the sweeper took the step away."""
    let_lease_expire(database, claim.step_id)
    with database.writing() as db:
        outcomes.recover(db, LocalStorage("nowhere"), claim.step_id)
    return factories.take(database, claim.step_id)


def state_of(database: Database, step_id: str) -> tuple[str, int, int]:
    with database.reading() as db:
        found = db.get_one(Step, step_id)
        return found.state, found.attempt, found.losses


def test_a_claim_sets_the_attempt_the_worker_and_a_lease_of_30_s(database: Database, step: str) -> None:
    with database.reading() as db:
        before = queries.now(db)
    claim = factories.take(database, step, "me")

    with database.reading() as db:
        found, after = db.get_one(Step, step), queries.now(db)
    assert (claim.attempt, found.state, found.worker) == (1, "running", "me")
    assert found.lease_until is not None
    assert before <= found.lease_until - 30_000_000 <= after
    assert found.started_at is not None


def test_a_second_worker_cannot_claim_a_running_step(database: Database, step: str) -> None:
    factories.take(database, step, "first")

    with database.writing() as db:
        assert outcomes.begin(db, step, "second") is None
    with database.writing() as db:
        assert queries.claim_step(db, step, "second") is None
    with database.reading() as db:
        assert db.get_one(Step, step).worker == "first"


def test_one_of_twenty_threads_claims_a_step(database: Database, step: str) -> None:
    def claim(name: int) -> int | None:
        with database.writing() as db:
            return queries.claim_step(db, step, str(name))

    with ThreadPoolExecutor(20) as threads:
        attempts = list(threads.map(claim, range(20)))

    assert sorted(attempts, key=str) == [1] + [None] * 19


def test_a_step_that_is_not_due_cannot_be_claimed(database: Database, step: str) -> None:
    claim = factories.take(database, step)
    with database.writing() as db:
        steps.hand_back(db, claim, lost=True, wait_s=60)

    with database.writing() as db:
        assert outcomes.begin(db, step, "eager") is None


def test_a_heartbeat_renews_the_lease_and_carries_the_progress(database: Database, step: str) -> None:
    claim = factories.take(database, step)
    let_lease_expire(database, step)

    with database.writing() as db:
        assert queries.renew_lease(db, step, claim.attempt, 0.5)

    with database.reading() as db:
        found = db.get_one(Step, step)
        assert found.lease_until is not None
        assert found.lease_until > queries.now(db)
    assert found.progress == 0.5


def test_the_heartbeat_of_a_stale_attempt_learns_that_the_step_is_gone(database: Database, step: str) -> None:
    stale = factories.take(database, step)
    current = requeued(database, stale)

    with database.writing() as db:
        assert not queries.renew_lease(db, step, stale.attempt, 0.9)
        assert queries.renew_lease(db, step, current.attempt, 0.1)


WRITES: dict[str, Callable[[Session, Claim], None]] = {
    "complete": lambda db, claim: outcomes.complete(db, claim, factories.accepted(claim.subject_id)),
    "fail": lambda db, claim: outcomes.fail(db, LocalStorage("nowhere"), claim, PROBLEM),
    "lose": lambda db, claim: outcomes.lose(db, LocalStorage("nowhere"), claim, "killed"),
    "hand_back": lambda db, claim: steps.hand_back(db, claim, lost=False),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_stale_attempt_writes_nothing(
    database: Database, step: str, version: str, rings: list[str], name: str
) -> None:
    stale = factories.take(database, step)
    current = requeued(database, stale)
    rings.clear()

    with pytest.raises(Stale), database.writing() as db:
        WRITES[name](db, stale)

    assert state_of(database, step) == ("running", current.attempt, 1)
    assert factories.row(database, version).state == "inspecting"
    assert rings == []


@pytest.mark.parametrize("name", WRITES)
def test_what_was_completed_cannot_be_written_again(
    database: Database, step: str, version: str, name: str
) -> None:
    claim = factories.take(database, step)
    factories.finish(database, claim, factories.accepted(version))

    with pytest.raises(Stale), database.writing() as db:
        WRITES[name](db, claim)

    assert state_of(database, step) == ("done", 1, 0)
    assert factories.row(database, version).state == "ready"


def test_a_result_that_cannot_be_written_leaves_the_step_running(
    database: Database, step: str, version: str
) -> None:
    claim = factories.take(database, step)

    def break_halfway(db: Session) -> None:
        factories.accepted(version)(db)
        message = "the disk is full"
        raise OSError(message)

    with pytest.raises(OSError, match="full"), database.writing() as db:
        outcomes.complete(db, claim, break_halfway)

    assert state_of(database, step) == ("running", 1, 0)
    assert factories.row(database, version).state == "inspecting"


def test_a_graceful_stop_costs_nothing_and_rings_again(
    database: Database, step: str, rings: list[str]
) -> None:
    for attempt in range(1, 6):
        claim = factories.take(database, step)
        assert claim.attempt == attempt
        rings.clear()
        with database.writing() as db:
            steps.hand_back(db, claim, lost=False)
        assert rings == [step]

    assert state_of(database, step) == ("queued", 5, 0)


def test_a_step_whose_child_was_killed_goes_back_and_counts_a_loss(
    database: Database, storage: LocalStorage, step: str
) -> None:
    claim = factories.take(database, step)

    with database.writing() as db:
        outcomes.lose(db, storage, claim, "killed by SIGKILL")

    assert state_of(database, step) == ("queued", 1, 1)


def test_a_step_that_was_lost_three_times_fails_with_worker_lost(
    database: Database, storage: LocalStorage, step: str, version: str
) -> None:
    for _ in range(3):
        claim = factories.take(database, step)
        with database.writing() as db:
            outcomes.lose(db, storage, claim, "killed by SIGKILL")

    with database.reading() as db:
        found = db.get_one(Step, step)
    assert (found.state, found.attempt) == ("failed", 3)
    assert found.problem is not None
    assert found.problem.code == "worker_lost"
    assert found.problem.retryable
    assert "SIGKILL" in found.problem.detail
    assert factories.row(database, version).state == "rejected"


def test_a_lease_that_was_renewed_meanwhile_is_not_recovered(
    database: Database, storage: LocalStorage, step: str
) -> None:
    factories.take(database, step)

    with pytest.raises(Stale), database.writing() as db:
        outcomes.recover(db, storage, step)

    assert state_of(database, step) == ("running", 1, 0)


def test_a_step_of_an_ended_job_writes_nothing(
    database: Database, storage: LocalStorage, project: str
) -> None:
    job = factories.make_job(database, project)
    claim = factories.take(database, factories.step_of(database, job, "prepare").id)
    with database.writing() as db:
        jobs.cancel(db, project, job)

    with pytest.raises(Stale), database.writing() as db:
        outcomes.complete(db, claim, lambda _db: pytest.fail("a result was written"))
    with pytest.raises(Stale), database.writing() as db:
        outcomes.lose(db, storage, claim, "killed")
    with pytest.raises(Stale), database.writing() as db:
        steps.hand_back(db, claim, lost=False)

    assert state_of(database, claim.step_id) == ("canceled", 1, 0)


def test_an_unknown_step_cannot_be_claimed(database: Database) -> None:
    with database.writing() as db:
        assert outcomes.begin(db, "stp_unknown", "me") is None


def test_a_ring_leaves_after_the_commit_and_not_after_a_rollback(
    database: Database, project: str, rings: list[str]
) -> None:
    def change_my_mind() -> None:
        with database.writing() as db:
            steps.enqueue(db, project, "inspect_version", "ver_x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        change_my_mind()
    assert rings == []

    with database.writing() as db:
        enqueued = steps.enqueue(db, project, "inspect_version", "ver_x")
        assert rings == []
    assert rings == [enqueued.id]


def test_the_same_step_cannot_be_inserted_twice(database: Database, project: str) -> None:
    version = factories.make_version(database, project, ready=False)

    with pytest.raises(Exception, match=r"(?i)unique"), database.writing() as db:
        steps.enqueue(db, project, "inspect_version", version)

    assert len(factories.steps_of(database, version)) == 1


def test_a_worker_that_comes_back_finds_its_claim_replaced(
    database: Database, step: str, version: str
) -> None:
    slow = factories.take(database, step, "slow")
    quick = requeued(database, slow)
    factories.finish(database, quick, factories.accepted(version))

    with pytest.raises(Stale):
        factories.finish(database, slow, factories.accepted(version))

    assert replace(slow, attempt=quick.attempt, losses=quick.losses) == quick
    assert state_of(database, step) == ("done", 2, 1)


def test_a_job_begins_to_run_with_its_first_step(database: Database, project: str) -> None:
    job = factories.make_job(database, project)
    assert factories.job_row(database, job).state == "queued"

    factories.take(database, factories.step_of(database, job, "prepare").id)

    found = factories.job_row(database, job)
    assert (found.state, found.phase) == ("running", "preparing")
    assert found.started_at is not None
    assert isinstance(found.spec, JobSpec)
