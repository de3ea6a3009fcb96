"""Messages under way: how many at once, and whose answer counts when a worker dies or is slow."""

import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import update

from app.db.models import Step
from app.services import attempts, endpoints, events, outcomes
from app.services.steps import Stale
from app.storage import LocalStorage
from tests import factories
from tests.receiving import Receiver, receiving
from tests.waiting import SECONDS, in_time
from tests.worker.deliver.telling import attempt, deliveries, delivery, end_a_job, listen, step_of
from worker import deliver, run
from worker.process import Process

ROOT = Path(__file__).resolve().parents[3]


def test_an_endpoint_that_hangs_has_two_in_flight_and_holds_up_nobody(
    process: Process, project: str, receiver: Receiver
) -> None:
    listen(process, project, receiver.url)
    end_a_job(process, project)
    attempt(process)  # it is known to work
    receiver.received.clear()
    release, hanging = receiver.hang()
    for _ in range(4):
        end_a_job(process, project)
    slow = deliveries(process)[1:]
    pool = ThreadPoolExecutor()
    sending = []
    for found in slow[:2]:
        sending.append(pool.submit(deliver.run, process, step_of(process, found).id))
        assert hanging.acquire(timeout=SECONDS)

    assert deliver.run(process, step_of(process, slow[2]).id) == ()  # at once
    with process.database.writing() as db:
        tests = [endpoints.test(db, project, slow[0].endpoint_id) for _ in range(2)]
    sending += [pool.submit(deliver.run, process, step_of(process, found).id) for found in tests]
    assert hanging.acquire(timeout=SECONDS)  # one test is sent beside them, not two
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
    release, hanging = receiver.hang()
    first, *others = [step_of(process, found).id for found in deliveries(process)]
    with ThreadPoolExecutor() as pool:
        sending = pool.submit(deliver.run, process, first)
        assert hanging.acquire(timeout=SECONDS)
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


def test_a_worker_that_stops_begins_no_attempt(process: Process, project: str, receiver: Receiver) -> None:
    listen(process, project, receiver.url)
    end_a_job(process, project)
    process.stopping.set()

    attempt(process)

    assert (receiver.received, step_of(process, delivery(process)).attempt) == ([], 0)
