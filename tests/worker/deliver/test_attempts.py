"""Failed attempts: when the next one is made, and when none is made any more."""

from sqlalchemy import update

from app.db import queries
from app.db.models import Step
from app.db.webhooks import WebhookEndpoint
from app.domain.errors import Problem
from app.services import steps
from app.storage import LocalStorage
from tests import factories
from tests.receiving import Receiver
from tests.worker.deliver.telling import attempt, deliveries, delivery, end_a_job, endpoint, listen, step_of
from worker import deliver
from worker.process import Process

DAY = 24 * 3600 * 1_000_000


def test_a_failed_attempt_is_made_again_under_the_same_id_and_is_no_loss(
    process: Process, project: str, receiver: Receiver
) -> None:
    _, secret = listen(process, project, receiver.url)
    end_a_job(process, project)
    receiver.answers = [(500, {}, b"<b>broken</b>\x1b[0m"), (302, {"Location": "http://127.0.0.1/"}, b"")]

    attempt(process)
    waiting, step = delivery(process), step_of(process, delivery(process))
    attempt(process)
    attempt(process)

    with process.database.reading() as db:
        now = queries.now(db)
    assert (waiting.state, step.state, step.losses) == ("pending", "queued", 0)
    assert 0 < step.not_before - waiting.attempts[0].created_at < 7e6, "6 s, and what lies between both rows"
    assert waiting.next_attempt_at is not None
    assert waiting.next_attempt_at < now + 6e6
    found = delivery(process)
    assert [(a.status, a.error) for a in found.attempts] == [(500, None), (302, "redirect"), (204, None)]
    assert found.attempts[0].body == "<b>broken</b>\\x1b[0m"
    assert (found.state, found.next_attempt_at) == ("delivered", None)
    assert len(set(receiver.ids)) == 1
    assert [received.verified(secret)["type"] for received in receiver.received] == ["job.canceled"] * 3


def test_an_attempt_is_not_made_before_its_time(process: Process, project: str, receiver: Receiver) -> None:
    listen(process, project, receiver.url)
    end_a_job(process, project)
    receiver.always = (503, {"Retry-After": "3600"}, b"")
    attempt(process)
    step = step_of(process, delivery(process))

    deliver.run(process, step.id)
    with process.database.writing() as db:
        rung = steps.ring_again(db)

    assert len(receiver.received) == 1
    assert rung == 0
    assert 3590e6 < step.not_before - step.rung_at <= 3600e6


def test_what_is_due_again_is_rung_for(
    process: Process, project: str, receiver: Receiver, rings: list[str]
) -> None:
    listen(process, project, receiver.url)
    end_a_job(process, project)
    receiver.answers = [(500, {}, b"")]
    attempt(process)
    step = step_of(process, delivery(process))
    rings.clear()

    with process.database.writing() as db:
        due = queries.now(db) - 1
        db.execute(update(Step).where(Step.id == step.id).values(rung_at=due - 1, not_before=due))
    with process.database.writing() as db:
        steps.ring_again(db)
    with process.database.writing() as db:
        steps.ring_again(db)

    assert rings == [step.id]


def test_after_ten_attempts_a_delivery_fails_and_its_job_does_not(
    process: Process, project: str, receiver: Receiver, storage: LocalStorage
) -> None:
    listen(process, project, receiver.url, ["job.succeeded"])
    job = factories.make_job(process.database, project)
    factories.work_off(process.database, storage, job)
    receiver.always = (500, {}, b"")

    for _ in range(10):
        assert delivery(process).state == "pending"
        attempt(process)

    found, step = delivery(process), step_of(process, delivery(process))
    assert (found.state, len(found.attempts)) == ("failed", 10)
    assert isinstance(step.problem, Problem)
    assert (step.state, step.problem.code) == ("failed", "not_delivered")
    assert factories.job_row(process.database, job).state == "succeeded"


def test_five_days_of_nothing_but_failure_disable_an_endpoint(
    process: Process, project: str, receiver: Receiver
) -> None:
    endpoint_id, _ = listen(process, project, receiver.url)
    for _ in range(3):
        end_a_job(process, project)
    receiver.always = (500, {}, b"")
    first, second, third = deliveries(process)

    def begin_to_fail(ago: int) -> None:
        with process.database.writing() as db:
            db.execute(update(WebhookEndpoint).values(failing_since=queries.now(db) - ago))

    attempt(process, first)
    begin_to_fail(5 * DAY - 60_000_000)
    attempt(process, first)
    almost = endpoint(process, endpoint_id).state
    begin_to_fail(5 * DAY)
    attempt(process, second)

    found = endpoint(process, endpoint_id)
    assert (almost, found.state, found.disabled_reason) == ("enabled", "disabled", "failing")
    assert {d.state for d in deliveries(process)} == {"canceled"}
    assert third.id in {d.id for d in deliveries(process)}


def test_a_success_ends_a_row_of_failures(process: Process, project: str, receiver: Receiver) -> None:
    endpoint_id, _ = listen(process, project, receiver.url)
    end_a_job(process, project)
    receiver.answers = [(500, {}, b"")] * 6
    for _ in range(6):
        attempt(process)
    failing = endpoint(process, endpoint_id)
    attempt(process)

    found = endpoint(process, endpoint_id)
    assert failing.failures == 6
    assert failing.failing_since is not None
    assert (found.failures, found.failing_since, found.rest_until) == (0, None, 0)
    assert found.delivered_at is not None


def test_an_endpoint_that_keeps_failing_is_left_to_rest(
    process: Process, project: str, receiver: Receiver, rings: list[str]
) -> None:
    endpoint_id, _ = listen(process, project, receiver.url)
    end_a_job(process, project)
    receiver.always = (500, {}, b"")
    for _ in range(4):
        attempt(process)
    end_a_job(process, project)
    fresh = step_of(process, deliveries(process)[1])
    rings.clear()

    deliver.run(process, fresh.id)
    deliver.hand_over(process, fresh.id)
    with process.database.writing() as db:
        steps.ring_again(db)

    found = endpoint(process, endpoint_id)
    assert len(receiver.received) == 4
    assert rings == []
    with process.database.reading() as db:
        assert 0 < found.rest_until - queries.now(db) <= 20_000_000
    assert step_of(process, deliveries(process)[1]).state == "queued"


def test_an_endpoint_that_has_rested_is_rung_for_once(
    process: Process, project: str, receiver: Receiver, rings: list[str]
) -> None:
    endpoint_id, _ = listen(process, project, receiver.url)
    for _ in range(4):
        end_a_job(process, project)
    found = [step_of(process, d).id for d in deliveries(process)]
    with process.database.writing() as db:
        now = queries.now(db)
        db.execute(update(Step).where(Step.id.in_(found)).values(rung_at=now - 2000))
        db.execute(update(WebhookEndpoint).values(rest_until=now - 1000))
    rings.clear()

    for _ in range(2):
        with process.database.writing() as db:
            steps.ring_again(db)

    assert endpoint(process, endpoint_id).state == "enabled"
    assert rings == found[:2] + found[2:]  # two at a time
