"""Deliveries from the event to a real receiver, and every way in which an attempt can end."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import selectinload

from app.db import queries
from app.db.models import Event, Step
from app.db.session import Database
from app.db.webhooks import Delivery, WebhookEndpoint
from app.domain.errors import Problem
from app.domain.webhook import EVENT_TYPES
from app.secrets import Sealer, new_key
from app.services import attempts, endpoints, events, jobs, outcomes, steps
from app.services.events import acting_as
from app.services.steps import Stale
from app.settings import Settings
from app.storage import LocalStorage
from tests import factories
from tests.receiving import Receiver, receiving
from tests.waiting import in_time
from worker import deliver, run
from worker.process import Process

ROOT = Path(__file__).resolve().parents[2]
DAY = 24 * 3600 * 1_000_000
ANYTHING = [*EVENT_TYPES]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@pytest.fixture
def process(database: Database, storage: LocalStorage, tmp_path: Path) -> Process:
    settings = Settings(home=tmp_path, secret_key=new_key(), webhook_allow=(ip_network("127.0.0.0/8"),))
    return Process(settings, database, storage, "this worker")


@pytest.fixture
def project(database: Database) -> str:
    return factories.make_project(database)


def listen(process: Process, project: str, url: str, kinds: list[str] = ANYTHING) -> tuple[str, str]:
    """The id and the secret of a new endpoint."""
    with process.database.writing() as db:
        made = endpoints.create(db, Sealer(process.settings.secret_keys), project, url, kinds, "")
        return made.endpoint.id, made.secret


def end_a_job(process: Process, project: str) -> str:
    """The id of a job that was canceled."""
    job = factories.make_job(process.database, project)
    with process.database.writing() as db:
        jobs.cancel(db, project, job)
    return job


def deliveries(process: Process) -> list[Delivery]:
    with process.database.reading() as db:
        chosen = select(Delivery).options(selectinload(Delivery.attempts))
        return list(db.scalars(chosen.order_by(Delivery.id)))


def delivery(process: Process) -> Delivery:
    (found,) = deliveries(process)
    return found


def step_of(process: Process, found: Delivery) -> Step:
    return factories.steps_of(process.database, found.id, "deliver")[-1]


def endpoint(process: Process, endpoint_id: str) -> WebhookEndpoint:
    with process.database.reading() as db:
        return db.get_one(WebhookEndpoint, endpoint_id)


def attempt(process: Process, found: Delivery | None = None) -> None:
    """Make the next attempt, whenever it is due."""
    step = step_of(process, found or delivery(process))
    with process.database.writing() as db:
        db.execute(update(Step).where(Step.id == step.id).values(not_before=0))
        db.execute(update(WebhookEndpoint).values(rest_until=0))
    with acting_as("worker"):
        deliver.run(process, step.id)


def test_the_end_of_a_job_is_told_signed_and_with_links(
    process: Process, project: str, receiver: Receiver
) -> None:
    _, secret = listen(process, project, receiver.url)
    job = end_a_job(process, project)

    attempt(process)

    (received,) = receiver.received
    told = received.verified(secret)
    with process.database.reading() as db:
        event = db.scalars(select(Event).where(Event.type == "job.canceled")).one()
    assert told["type"] == "job.canceled"
    assert (told["data"]["job"], told["data"]["state"]) == (job, "canceled")
    assert told["data"]["sequence"] == event.seq
    assert told["data"]["links"]["job"] == f"/v1/jobs/{job}"
    assert received.headers["content-type"] == "application/json"
    found = delivery(process)
    assert (found.state, found.message_id, found.event_id) == ("delivered", received.id, event.id)
    assert [(a.number, a.status, a.error) for a in found.attempts] == [(1, 204, None)]
    assert step_of(process, found).state == "done"


def test_every_kind_of_event_is_told_once_to_those_who_asked_for_it(
    process: Process, project: str, receiver: Receiver, storage: LocalStorage
) -> None:
    listen(process, project, receiver.url, ["version.rejected", "dataset.rejected", "job.failed"])
    listen(process, project, receiver.url, ["job.canceled"])
    listen(process, factories.make_project(process.database), receiver.url)
    version = factories.make_version(process.database, project, ready=False)
    dataset = factories.make_dataset(process.database, project, ready=False)
    job = factories.make_job(process.database, project, version=version, dataset=dataset)
    for subject, kind in ((version, "inspect_version"), (dataset, "inspect_dataset")):
        step = factories.step_of(process.database, subject, kind)
        factories.fail(process.database, storage, step.id, "not_onnx")

    told = [found.payload for found in deliveries(process)]

    assert sorted(found["type"] for found in told) == ["dataset.rejected", "job.failed", "version.rejected"]
    by_type = {found["type"]: found["data"] for found in told}
    assert (by_type["version.rejected"]["version"], by_type["version.rejected"]["code"]) == (
        version,
        "not_onnx",
    )
    assert by_type["dataset.rejected"]["dataset"] == dataset
    assert (by_type["job.failed"]["job"], by_type["job.failed"]["code"]) == (job, "not_onnx")
    assert all(len(json.dumps(found)) < 2000 for found in told)


def test_a_delivery_that_is_not_committed_was_never_there(
    process: Process, project: str, rings: list[str]
) -> None:
    listen(process, project, "https://example.com")
    job = factories.make_job(process.database, project)
    rings.clear()

    def change_my_mind() -> None:
        with process.database.writing() as db:
            jobs.cancel(db, project, job)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        change_my_mind()

    assert deliveries(process) == []
    assert rings == []


def test_links_are_absolute_where_the_service_has_a_public_url(
    process: Process, project: str, receiver: Receiver
) -> None:
    _, secret = listen(process, project, receiver.url)
    job = end_a_job(process, project)
    settings = process.settings.model_copy(update={"public_url": "https://fewbits.example.com/"})

    attempt(replace(process, settings=settings))

    links = receiver.received[0].verified(secret)["data"]["links"]
    assert links["logs"] == f"https://fewbits.example.com/v1/jobs/{job}/logs"


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
    assert 0 < step.not_before - waiting.attempts[0].created_at <= 6e6
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


def test_an_endpoint_that_is_gone_is_told_nothing_more(
    process: Process, project: str, receiver: Receiver
) -> None:
    endpoint_id, _ = listen(process, project, receiver.url)
    first, second = end_a_job(process, project), end_a_job(process, project)
    receiver.always = (410, {}, b"")

    attempt(process, deliveries(process)[0])
    end_a_job(process, project)

    assert first != second
    assert [found.state for found in deliveries(process)] == ["failed", "canceled"]
    assert [step_of(process, found).state for found in deliveries(process)] == ["failed", "canceled"]
    found = endpoint(process, endpoint_id)
    assert (found.state, found.disabled_reason) == ("disabled", "gone")
    with process.database.reading() as db:
        told = db.scalars(select(Event).where(Event.type == "webhook_endpoint.disabled")).one()
    assert told.subject_id == endpoint_id
    assert told.data == {"reason": "gone", "canceled": 1}


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


def held(receiver: Receiver) -> tuple[threading.Event, threading.Semaphore]:
    """Let the receiver hang: set the event to let it answer; the semaphore counts who hangs."""
    release, hanging = threading.Event(), threading.Semaphore(0)

    def hang() -> None:
        hanging.release()
        release.wait()

    receiver.during = hang
    return release, hanging


def test_an_endpoint_that_hangs_has_two_in_flight_and_holds_up_nobody(
    process: Process, project: str, receiver: Receiver
) -> None:
    listen(process, project, receiver.url)
    end_a_job(process, project)
    attempt(process)  # it is known to work
    receiver.received.clear()
    release, hanging = held(receiver)
    for _ in range(4):
        end_a_job(process, project)
    slow = deliveries(process)[1:]
    pool = ThreadPoolExecutor()
    sending = []
    for found in slow[:2]:
        sending.append(pool.submit(deliver.run, process, step_of(process, found).id))
        hanging.acquire()

    assert deliver.run(process, step_of(process, slow[2]).id) == ()  # at once
    with process.database.writing() as db:
        tests = [endpoints.test(db, project, slow[0].endpoint_id) for _ in range(2)]
    sending += [pool.submit(deliver.run, process, step_of(process, found).id) for found in tests]
    hanging.acquire()  # one test is sent beside them, not two
    with receiving() as quick:
        other = factories.make_project(process.database)
        listen(process, other, quick.url)
        end_a_job(process, other)
        attempt(process, deliveries(process)[-1])
        assert len(quick.received) == 1
    waiting = [step_of(process, d) for d in slow[2:]]
    release.set()
    following = {step_id for sent in sending for step_id in sent.result()}
    pool.shutdown()

    assert [(step.state, step.attempt) for step in waiting] == [("queued", 0)] * 2
    assert len(receiver.received) == 3
    assert following >= {step.id for step in waiting}  # their turn has come


def test_an_endpoint_gets_one_message_at_a_time_until_it_has_taken_one(
    process: Process, project: str, receiver: Receiver
) -> None:
    listen(process, project, receiver.url)
    for _ in range(4):
        end_a_job(process, project)
    release, hanging = held(receiver)
    first, *others = [step_of(process, found).id for found in deliveries(process)]
    with ThreadPoolExecutor() as pool:
        sending = pool.submit(deliver.run, process, first)
        hanging.acquire()
        beside = deliver.run(process, others[0])
        release.set()
        following = sending.result()

    assert len(receiver.received) == 1
    assert beside == ()
    assert following == others[:2]  # from now on two


SENDER = """
import sys
from app.settings import Settings
from worker import deliver
from worker.process import start
deliver.run(start(Settings()), sys.argv[1])
"""


def test_a_worker_that_is_killed_after_sending_sends_again_under_the_same_id(
    process: Process, project: str, receiver: Receiver, storage: LocalStorage
) -> None:
    """It dies while the receiver is about to answer: nobody will ever know whether the message was taken."""
    listen(process, project, receiver.url)
    end_a_job(process, project)
    step = step_of(process, delivery(process))
    environment = {
        "FEWBITS_HOME": str(process.settings.home),
        "FEWBITS_DATABASE_URL": process.database.engine.url.render_as_string(hide_password=False),
        "FEWBITS_SECRET_KEY": process.settings.secret_key,
        "FEWBITS_WEBHOOK_ALLOW": "127.0.0.0/8",
    }
    sender = subprocess.Popen([sys.executable, "-c", SENDER, step.id], cwd=ROOT, env=environment)
    receiver.during = sender.kill

    assert sender.wait() == -signal.SIGKILL
    receiver.during = lambda: None
    for _ in range(4):  # more often than an engine step may be lost
        with process.database.writing() as db:
            db.execute(update(Step).where(Step.id == step.id).values(lease_until=1, state="running"))
        with process.database.writing() as db:
            outcomes.recover(db, storage, step.id)
    lost = step_of(process, delivery(process))
    attempt(process)

    assert (lost.state, lost.losses) == ("queued", 4)
    found = delivery(process)
    assert (found.state, len(found.attempts), found.tries) == ("delivered", 1, 1)
    assert receiver.ids == [found.message_id] * 2


def test_what_a_slow_worker_learned_is_dropped_when_another_has_the_delivery(
    process: Process, project: str, receiver: Receiver
) -> None:
    listen(process, project, receiver.url)
    end_a_job(process, project)
    step = step_of(process, delivery(process))
    with process.database.writing() as db:
        message = attempts.begin(db, step.id, "slow")
    assert message is not None
    answer = deliver._post(process.settings, message)
    with process.database.writing() as db:
        db.execute(update(Step).where(Step.id == step.id).values(attempt=2))

    with pytest.raises(Stale), process.database.writing() as db:
        attempts.record(db, message.claim, answer, 0.5)

    assert delivery(process).attempts == []
    assert delivery(process).state == "pending"


def test_a_secret_that_cannot_be_opened_is_no_failure_of_the_receiver(
    process: Process, project: str, receiver: Receiver
) -> None:
    endpoint_id, _ = listen(process, project, receiver.url)
    end_a_job(process, project)
    other = process.settings.model_copy(update={"secret_key": new_key()})
    other.__dict__.pop("secret_keys", None)

    attempt(replace(process, settings=other))
    step = step_of(process, delivery(process))
    attempt(process)

    assert (step.state, step.losses) == ("queued", 1)
    assert step.not_before > step.rung_at
    assert endpoint(process, endpoint_id).failures == 0
    assert delivery(process).state == "delivered"


@pytest.mark.parametrize("close", ["disable", "delete"])
def test_a_closed_endpoint_cancels_what_waits(
    process: Process, project: str, receiver: Receiver, close: str
) -> None:
    endpoint_id, _ = listen(process, project, receiver.url)
    end_a_job(process, project)
    with process.database.writing() as db:
        if close == "disable":
            endpoints.change(db, project, endpoint_id, {"state": "disabled"})
        else:
            endpoints.delete(db, project, endpoint_id)

    end_a_job(process, project)

    found = delivery(process)
    assert (found.state, step_of(process, found).state) == ("canceled", "canceled")
    assert receiver.received == []


def test_what_came_between_is_canceled_when_its_turn_comes(
    process: Process, project: str, receiver: Receiver
) -> None:
    """An endpoint may be disabled between the look at it and the insert."""
    endpoint_id, _ = listen(process, project, receiver.url)
    end_a_job(process, project)
    with process.database.writing() as db:
        db.execute(update(WebhookEndpoint).where(WebhookEndpoint.id == endpoint_id).values(state="disabled"))

    attempt(process)

    assert (delivery(process).state, receiver.received) == ("canceled", [])


def test_both_secrets_sign_during_a_rotation_and_one_afterwards(
    process: Process, project: str, receiver: Receiver
) -> None:
    endpoint_id, old = listen(process, project, receiver.url)
    end_a_job(process, project)
    with process.database.writing() as db:
        sealer = Sealer(process.settings.secret_keys)
        new = endpoints.rotate(db, sealer, project, endpoint_id, 60).secret
    attempt(process)
    with process.database.writing() as db:
        db.execute(update(WebhookEndpoint).values(previous_until=queries.now(db)))
    end_a_job(process, project)
    attempt(process, deliveries(process)[1])

    during, after = receiver.received
    assert during.verified(old) == during.verified(new)
    assert after.verified(new)["type"] == "job.canceled"
    with pytest.raises(Exception, match="No matching signature"):
        after.verified(old)


def test_a_doorbell_that_rings_twice_sends_once(process: Process, project: str, receiver: Receiver) -> None:
    listen(process, project, receiver.url)
    end_a_job(process, project)
    step = step_of(process, delivery(process)).id

    run.run(process, step)
    assert in_time(lambda: delivery(process).state == "delivered")
    run.run(process, step)
    deliver.run(process, step)
    deliver.run(process, "stp_unknown")

    assert len(receiver.received) == 1


def test_a_worker_that_stops_begins_no_attempt(process: Process, project: str, receiver: Receiver) -> None:
    listen(process, project, receiver.url)
    end_a_job(process, project)
    process.stopping.set()

    attempt(process)

    assert (receiver.received, step_of(process, delivery(process)).attempt) == ([], 0)


def test_an_address_that_is_not_public_is_refused_at_each_attempt(
    process: Process, project: str, receiver: Receiver
) -> None:
    listen(process, project, receiver.url)
    end_a_job(process, project)
    settings: Any = process.settings.model_copy(update={"webhook_allow": ()})

    attempt(replace(process, settings=settings))

    (made,) = delivery(process).attempts
    assert (made.status, made.error, receiver.received) == (None, "refused_address", [])
    assert made.detail is not None


def test_one_doorbell_is_enough_for_all_that_waits_at_an_endpoint(
    process: Process, project: str, receiver: Receiver
) -> None:
    listen(process, project, receiver.url)
    job = end_a_job(process, project)
    with process.database.writing() as db:
        for _ in range(29):
            events.record(db, project, job, "job.canceled", state="canceled")

    run.run(process, step_of(process, deliveries(process)[0]).id)

    assert in_time(lambda: {d.state for d in deliveries(process)} == {"delivered"})
    assert len(receiver.ids) == len(set(receiver.ids)) == 30
    assert sorted(d.payload["data"]["sequence"] for d in deliveries(process)) == sorted(
        json.loads(received.body)["data"]["sequence"] for received in receiver.received
    )
