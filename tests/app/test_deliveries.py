"""The log of deliveries over HTTP, and delivering again: one, or all of a time."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import select, update

from app.db.models import Step
from app.db.webhooks import Delivery
from app.domain.pruning import Kept
from app.services import attempts
from app.services import jobs as jobs_service
from tests import factories
from tests.app.conftest import Service, Tenant
from tests.app.problems import pointers, problem
from worker.webhooks.dial import Attempt

ENDPOINTS, DELIVERIES = "/v1/webhook-endpoints", "/v1/webhook-deliveries"


@pytest.fixture
def endpoint(http: httpx.Client) -> str:
    """The id of an endpoint that is told of everything."""
    made: str = http.post(ENDPOINTS, json={"url": "https://ci.example.com/hook"}).json()["id"]
    return made


def end_a_job(service: Service, tenant: Tenant) -> str:
    job = factories.make_job(service.database, tenant.project)
    with service.database.writing() as db:
        jobs_service.cancel(db, tenant.project, job)
    return job


def answer(service: Service, delivery: str, status: int) -> None:
    """Make the next attempt of a delivery, and let the receiver answer with this status."""
    with service.database.writing() as db:
        step = db.scalars(select(Step).where(Step.subject_id == delivery).order_by(Step.id.desc())).first()
        assert step is not None
        db.execute(update(Step).where(Step.id == step.id).values(not_before=0))
        message = attempts.begin(db, step.id, "a worker")
        assert message is not None
        made = Attempt(status, 12, "said \\x00", None, None, None)
        attempts.record(db, message.claim, made, 0.5)


def fail_for_good(service: Service, delivery: str) -> None:
    with service.database.writing() as db:
        db.execute(update(Delivery).where(Delivery.id == delivery).values(tries=9))
    answer(service, delivery, 500)


def listed(http: httpx.Client, **query: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = http.get(DELIVERIES, params=query).json()["items"]
    return found


def days_ago(days: int) -> str:
    return (datetime.now(UTC) - timedelta(days=days)).isoformat()


def test_a_delivery_is_shown_with_each_attempt_and_what_was_sent(
    service: Service, tenant: Tenant, endpoint: str
) -> None:
    job = end_a_job(service, tenant)
    (pending,) = listed(tenant.http)
    answer(service, pending["id"], 500)
    answer(service, pending["id"], 204)

    (found,) = listed(tenant.http)

    assert found == tenant.http.get(f"{DELIVERIES}/{found['id']}").json()
    assert (found["type"], found["endpoint"], found["state"]) == ("job.canceled", endpoint, "delivered")
    assert found["payload"]["data"]["job"] == job
    assert found["message"].startswith("msg_")
    told = [(a["number"], a["status"], a["milliseconds"], a["body"]) for a in found["attempts"]]
    assert told == [(1, 500, 12, "said \\x00"), (2, 204, 12, "said \\x00")]
    assert (pending["state"], pending["attempts"]) == ("pending", [])
    assert pending["next_attempt_at"] is not None


def test_deliveries_are_found_by_endpoint_state_type_and_time(
    service: Service, tenant: Tenant, http: httpx.Client, endpoint: str
) -> None:
    other = http.post(ENDPOINTS, json={"url": "https://a.example.com", "events": ["job.failed"]}).json()["id"]
    end_a_job(service, tenant)
    end_a_job(service, tenant)
    second, first = listed(http)
    answer(service, first["id"], 204)
    made = datetime.fromisoformat(second["created_at"])

    def ids(**query: Any) -> list[str]:
        return [found["id"] for found in listed(http, **query)]

    assert ids(endpoint=endpoint) == [second["id"], first["id"]]
    assert ids(endpoint=other) == ids(type="job.failed") == []
    assert ids(state="delivered") == [first["id"]]
    assert ids(state="pending", type="job.canceled") == [second["id"]]
    assert ids(since=(made + timedelta(minutes=1)).isoformat()) == []
    assert len(ids(since=(made - timedelta(hours=1)).isoformat())) == 2
    page = http.get(f"{DELIVERIES}?limit=1").json()
    assert ids(cursor=page["next_cursor"]) == [first["id"]]
    assert pointers(http.get(f"{DELIVERIES}?state=lost")) == ["/state"]


def test_one_delivery_is_made_again_under_its_id_with_all_attempts(
    service: Service, tenant: Tenant, http: httpx.Client, endpoint: str
) -> None:
    assert endpoint
    end_a_job(service, tenant)
    (before,) = listed(http)
    fail_for_good(service, before["id"])

    asked = http.post(f"{DELIVERIES}/{before['id']}/redeliver")
    answer(service, before["id"], 500)
    waiting = listed(http)[0]["state"]
    answer(service, before["id"], 204)

    assert (asked.status_code, asked.json()["state"]) == (202, "pending")
    assert asked.headers["location"] == f"{DELIVERIES}/{before['id']}"
    (after,) = listed(http)
    assert (waiting, after["state"], after["message"]) == ("pending", "delivered", before["message"])
    assert [attempt["number"] for attempt in after["attempts"]] == [1, 2, 3]


def test_what_waits_for_its_next_attempt_gets_it_now(
    service: Service, tenant: Tenant, http: httpx.Client, endpoint: str
) -> None:
    assert endpoint
    end_a_job(service, tenant)
    (found,) = listed(http)
    answer(service, found["id"], 500)

    http.post(f"{DELIVERIES}/{found['id']}/redeliver")

    (step,) = factories.steps_of(service.database, found["id"], "deliver")
    assert (step.state, step.not_before) == ("queued", 0)


def test_nothing_is_delivered_again_to_an_endpoint_that_is_disabled_or_deleted(
    service: Service, tenant: Tenant, http: httpx.Client, endpoint: str
) -> None:
    end_a_job(service, tenant)
    (found,) = listed(http)
    here, again = f"{ENDPOINTS}/{endpoint}", f"{DELIVERIES}/{found['id']}/redeliver"

    http.patch(here, json={"state": "disabled"})
    disabled = problem(http.post(again), 409, "conflict")
    replayed = http.post(f"{here}/replay", json={"since": "2026-01-01T00:00:00Z"})
    http.delete(here)

    assert "enabled" in disabled["detail"]
    problem(replayed, 409, "conflict")
    problem(http.post(again), 404, "not_found")
    assert [row["state"] for row in listed(http)] == ["canceled"]  # the log stays


@pytest.mark.parametrize(("state", "count"), [("failed", 2), ("delivered", 1), ("canceled", 0)])
def test_a_time_is_replayed_by_state(
    service: Service, tenant: Tenant, http: httpx.Client, endpoint: str, state: str, count: int
) -> None:
    for _ in range(3):
        end_a_job(service, tenant)
    third, second, first = listed(http)
    for failed in (first, second):
        fail_for_good(service, failed["id"])
    answer(service, third["id"], 204)
    since = (datetime.fromisoformat(first["created_at"]) - timedelta(seconds=1)).isoformat()

    asked = http.post(f"{ENDPOINTS}/{endpoint}/replay", json={"since": since, "state": state})

    assert (asked.status_code, asked.json()) == (202, {"count": count})
    assert len(listed(http, state="pending")) == count
    assert len(listed(http)) == 3


def test_a_replay_ends_where_it_is_told_to(
    service: Service, tenant: Tenant, http: httpx.Client, endpoint: str
) -> None:
    end_a_job(service, tenant)
    (found,) = listed(http)
    fail_for_good(service, found["id"])
    made = datetime.fromisoformat(found["created_at"])
    before, after = (made - timedelta(seconds=9)).isoformat(), (made + timedelta(seconds=9)).isoformat()

    def replay(since: str, until: str | None) -> Any:
        return http.post(f"{ENDPOINTS}/{endpoint}/replay", json={"since": since, "until": until}).json()

    assert replay(after, None) == replay(before, before) == {"count": 0}
    assert replay(before, after) == {"count": 1}


def test_what_was_missed_while_an_endpoint_was_disabled_can_be_told_once(
    service: Service, tenant: Tenant, http: httpx.Client, endpoint: str
) -> None:
    here = f"{ENDPOINTS}/{endpoint}"
    http.patch(here, json={"state": "disabled", "events": ["job.canceled"]})
    missed = end_a_job(service, tenant)
    http.patch(here, json={"state": "enabled"})
    assert listed(http) == []
    body = {"since": days_ago(1), "state": "missed"}

    first, second = http.post(f"{here}/replay", json=body), http.post(f"{here}/replay", json=body)

    assert (first.json(), second.json()) == ({"count": 1}, {"count": 0})
    assert [found["payload"]["data"]["job"] for found in listed(http)] == [missed]


def test_what_was_missed_before_deliveries_are_kept_is_not_guessed(http: httpx.Client, endpoint: str) -> None:
    here, longer = f"{ENDPOINTS}/{endpoint}/replay", days_ago(Kept.deliveries + 1)

    refused = http.post(here, json={"since": longer, "state": "missed"})

    assert pointers(refused) == ["/since"]
    assert f"kept for {Kept.deliveries} days" in problem(refused, 422, "invalid_input")["detail"]
    assert http.post(here, json={"since": longer, "state": "failed"}).status_code == 202


def test_a_replay_of_too_much_is_refused_whole(
    service: Service, tenant: Tenant, http: httpx.Client, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.endpoints.MOST_REPLAYED", 1)
    for _ in range(2):
        end_a_job(service, tenant)
    for found in listed(http):
        fail_for_good(service, found["id"])

    refused = http.post(f"{ENDPOINTS}/{endpoint}/replay", json={"since": "2026-01-01T00:00:00Z"})

    assert pointers(refused) == ["/since"]
    assert {found["state"] for found in listed(http)} == {"failed"}


def test_a_replay_is_done_once_per_key(
    service: Service, tenant: Tenant, http: httpx.Client, endpoint: str
) -> None:
    end_a_job(service, tenant)
    (found,) = listed(http)
    fail_for_good(service, found["id"])
    once = {"Idempotency-Key": "once"}

    def replay() -> httpx.Response:
        body = {"since": "2026-01-01T00:00:00Z"}
        return http.post(f"{ENDPOINTS}/{endpoint}/replay", json=body, headers=once)

    assert replay().json() == replay().json() == {"count": 1}
