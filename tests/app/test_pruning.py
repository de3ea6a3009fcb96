"""What is too old goes, in small batches; jobs, results, verdicts and the audit stay."""

from typing import Any

import pytest
from sqlalchemy import ColumnElement, TextClause, func, select, update

from app.db.base import Base
from app.db.models import PASSING, Event, IdempotencyKey, Step, StepLog
from app.db.queries import idempotency
from app.db.queries import pruning as statements
from app.db.session import Database
from app.db.webhooks import Delivery, DeliveryAttempt, WebhookEndpoint
from app.domain.pruning import Kept
from app.services import attempts, counting, jobs, pruning, sweeper
from app.storage import LocalStorage
from tests import factories
from tests.app.conftest import Service, Tenant, finished
from worker.webhooks.dial import Attempt

NOTHING = Kept(printed=-1, timeline=-1, deliveries=-1)  # keep nothing that was made before tomorrow
DELIVERED = Attempt(200, 1, "", None, None, None)


def count(database: Database, table: type[Base], *where: ColumnElement[bool] | TextClause) -> int:
    with database.reading() as db:
        return db.scalars(select(func.count()).select_from(table).where(*where)).one()


def prune(database: Database, kept: Kept = NOTHING) -> int:
    """Count what has ended, and remove what is too old."""
    with database.writing() as db:
        counting.count_ended(db)
    with database.writing() as db:
        return pruning.prune(db, kept)


def results(tenant: Tenant, job: str) -> dict[str, Any]:
    paths = ("", "/candidates", "/verdict", "/report", "/artifacts")
    return {path: tenant.http.get(f"/v1/jobs/{job}{path}").raise_for_status().json() for path in paths}


def audit(tenant: Tenant, job: str) -> list[str]:
    items = tenant.http.get("/v1/events", params={"subject": job}).raise_for_status().json()["items"]
    return [item["type"] for item in items]


def test_results_verdict_and_audit_of_a_job_stay_when_its_timeline_goes(
    service: Service, tenant: Tenant
) -> None:
    job = finished(service, tenant)
    with service.database.writing() as db:
        db.add(
            StepLog(step_id=factories.step_of(service.database, job, "prepare").id, attempt=1, text="printed")
        )
    before = results(tenant, job)

    while prune(service.database):
        pass

    assert results(tenant, job) == before
    assert audit(tenant, job) == ["job.succeeded", "job.queued"]
    assert tenant.http.get(f"/v1/jobs/{job}/steps").json()["items"] == []
    assert tenant.http.get(f"/v1/jobs/{job}/logs").status_code == 200
    assert count(service.database, StepLog) == 0


def test_nothing_goes_before_its_time(database: Database, storage: LocalStorage, project: str) -> None:
    job = factories.make_job(database, project)
    factories.work_off(database, storage, job)
    steps, events = count(database, Step), count(database, Event)

    assert prune(database, Kept(printed=1, timeline=1, deliveries=1)) == 0
    sweeper.sweep(database, storage)

    assert (count(database, Step), count(database, Event)) == (steps, events)


def test_what_is_open_or_not_counted_stays(database: Database, storage: LocalStorage, project: str) -> None:
    job = factories.make_job(database, project)
    factories.work_off(database, storage, job, until="build")
    waiting = {step.id for step in factories.steps_of(database, job, "build")}
    with database.writing() as db:
        counting.count_ended(db)
    prepare = factories.step_of(database, job, "prepare").id
    with database.writing() as db:
        db.execute(update(Step).where(Step.id == prepare).values(tallied=False))
        while pruning.prune(db, NOTHING):
            pass

    assert {step.id for step in factories.steps_of(database, job)} == {*waiting, prepare}


def test_a_pass_removes_a_bounded_number_of_each_kind(
    database: Database, storage: LocalStorage, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statements, "AT_ONCE", 2)
    job = factories.make_job(database, project)
    factories.work_off(database, storage, job)
    steps, passing = count(database, Step), count(database, Event, PASSING)
    assert min(steps, passing) > 4

    for done in (2, 4):
        assert prune(database) == 4
        assert count(database, Step) == steps - done
        assert count(database, Event, PASSING) == passing - done


def make_deliveries(database: Database, project: str) -> tuple[str, str]:
    """Two deliveries: the first delivered, the second not yet attempted."""
    with database.writing() as db:
        endpoint = WebhookEndpoint(
            project_id=project, url="https://a.example", events=["job.canceled"], secret=b""
        )
        endpoint.delivered_at = 1
        db.add(endpoint)
    for _ in range(2):
        job = factories.make_job(database, project)
        with database.writing() as db:
            jobs.cancel(db, project, job)
    with database.reading() as db:
        first, second = db.scalars(select(Delivery.id).order_by(Delivery.id)).all()
    with database.writing() as db:
        message = attempts.begin(db, factories.step_of(database, first, "deliver").id, "a worker")
        assert message
    with database.writing() as db:
        attempts.record(db, message.claim, DELIVERED, 0.5)
    return first, second


def test_ended_deliveries_go_with_their_attempts_and_steps(database: Database, project: str) -> None:
    delivered, pending = make_deliveries(database, project)
    assert count(database, DeliveryAttempt) == 1

    prune(database, Kept(deliveries=-1))

    with database.reading() as db:
        assert db.scalars(select(Delivery.id)).all() == [pending]
    assert count(database, DeliveryAttempt) == 0
    assert factories.steps_of(database, delivered) == []
    assert factories.step_of(database, pending, "deliver").state == "queued"


def test_an_event_that_was_delivered_stays(database: Database, project: str) -> None:
    make_deliveries(database, project)
    told = count(database, Event, Event.type == "job.canceled")

    prune(database, Kept(timeline=-1))

    assert count(database, Event, Event.type == "job.canceled") == told == 2
    assert count(database, Event, PASSING) == 0


def test_keys_whose_time_is_over_are_forgotten_some_at_once(
    database: Database, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "FORGOTTEN_AT_ONCE", 2)
    with database.writing() as db:
        for key in "abcd":
            idempotency.claim_key(db, project, key, "")
        db.execute(update(IdempotencyKey).where(IdempotencyKey.key != "d").values(expires_at=1))
        idempotency.forget_keys(db)
        left = [db.scalars(select(func.count()).select_from(IdempotencyKey)).one()]
        idempotency.forget_keys(db)

    assert left == [2]
    with database.reading() as db:
        assert db.scalars(select(IdempotencyKey.key)).all() == ["d"]
