"""Messages that are never sent: their endpoint is gone, closed, unreadable, or not public."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select, update

from app.db.models import Event
from app.db.webhooks import WebhookEndpoint
from app.secrets import new_key
from app.services import endpoints
from tests.receiving import Receiver
from tests.waiting import SECONDS
from tests.worker.deliver.telling import attempt, deliveries, delivery, end_a_job, endpoint, listen, step_of
from worker import deliver
from worker.process import Process


def disable(process: Process, project: str, endpoint_id: str) -> None:
    with process.database.writing() as db:
        endpoints.change(db, project, endpoint_id, {"state": "disabled"})


def delete(process: Process, project: str, endpoint_id: str) -> None:
    with process.database.writing() as db:
        endpoints.delete(db, project, endpoint_id)


CLOSE = {"disable": disable, "delete": delete}


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


@pytest.mark.parametrize("close", CLOSE)
def test_a_closed_endpoint_cancels_what_waits(
    process: Process, project: str, receiver: Receiver, close: str
) -> None:
    endpoint_id, _ = listen(process, project, receiver.url)
    end_a_job(process, project)
    CLOSE[close](process, project, endpoint_id)

    end_a_job(process, project)

    found = delivery(process)
    assert (found.state, step_of(process, found).state) == ("canceled", "canceled")
    assert receiver.received == []


@pytest.mark.parametrize("close", CLOSE)
def test_what_was_on_its_way_to_an_endpoint_that_is_closed_is_canceled_and_logged(
    process: Process, project: str, receiver: Receiver, close: str
) -> None:
    endpoint_id, _ = listen(process, project, receiver.url)
    end_a_job(process, project)
    release, hanging = receiver.hang()
    with ThreadPoolExecutor() as pool:
        sending = pool.submit(deliver.run, process, step_of(process, delivery(process)).id)
        assert hanging.acquire(timeout=SECONDS)
        CLOSE[close](process, project, endpoint_id)
        release.set()
        following = sending.result()

    found = delivery(process)
    assert (found.state, step_of(process, found).state, following) == ("canceled", "canceled", ())
    assert [(made.number, made.status) for made in found.attempts] == [(1, 204)]


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
