"""What is told, to whom, how often, and how it is signed."""

import json
import time
from dataclasses import replace

import pytest
from sqlalchemy import select, update

from app.db import queries
from app.db.models import Event
from app.db.webhooks import WebhookEndpoint
from app.secrets import Sealer
from app.services import endpoints, jobs
from app.storage import LocalStorage
from tests import factories
from tests.receiving import Receiver
from tests.waiting import in_time
from tests.worker.deliver.telling import attempt, deliveries, delivery, end_a_job, listen, step_of
from worker import deliver, run
from worker.process import Process


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


def test_a_worker_whose_clock_is_hours_off_signs_with_the_time_of_the_database(
    process: Process, project: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Receivers refuse what was signed minutes ago, or will be."""
    _, secret = listen(process, project, receiver.url)
    job, right = end_a_job(process, project), time.time
    monkeypatch.setattr(time, "time", lambda: right() - 7200)

    attempt(process)

    assert receiver.received[0].verified(secret)["data"]["job"] == job


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
