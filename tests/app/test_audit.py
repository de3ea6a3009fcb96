"""Who did what: every transition names its actor, and the project can list them."""

from datetime import datetime, timedelta
from typing import Any

import httpx

from app.services.events import acting_as
from tests import factories
from tests.app.conftest import Service, Tenant
from tests.app.problems import pointers


def test_a_job_tells_who_asked_who_worked_and_who_ended_it(service: Service, tenant: Tenant) -> None:
    me = tenant.http.get("/v1/me").json()["key"]
    version = factories.make_version(service.database, tenant.project)
    job = tenant.http.post("/v1/jobs", json={"version": version}).json()["id"]
    with acting_as("worker"):
        factories.take(service.database, factories.step_of(service.database, job, "prepare").id)
    tenant.http.post(f"/v1/jobs/{job}/cancel")

    found = tenant.http.get("/v1/events", params={"subject": job}).json()["items"]

    told = [(event["type"], event["actor"]) for event in reversed(found)]
    assert told[:3] == [("job.queued", me), ("job.phase", me), ("job.running", "worker")]
    assert told[-1] == ("job.canceled", me)
    assert [event["seq"] for event in reversed(found)] == list(range(1, len(found) + 1))


def test_what_nobody_asked_for_is_done_by_the_system(service: Service, tenant: Tenant) -> None:
    version = factories.make_version(service.database, tenant.project)

    found = tenant.http.get("/v1/events", params={"subject": version}).json()["items"]

    assert {event["actor"] for event in found} == {"system"}


def test_events_are_listed_in_pages_and_by_type_and_time(service: Service, tenant: Tenant) -> None:
    factories.make_job(service.database, tenant.project)
    everything = tenant.http.get("/v1/events?limit=100").json()["items"]

    pages: list[Any] = []
    cursor: str | None = ""
    while cursor is not None:
        page = tenant.http.get(
            "/v1/events", params={"limit": 2} | ({"cursor": cursor} if cursor else {})
        ).json()
        pages, cursor = pages + page["items"], page["next_cursor"]
    created = tenant.http.get("/v1/events", params={"type": "version.created"}).json()["items"]
    moment = datetime.fromisoformat(everything[0]["at"])
    later = tenant.http.get("/v1/events", params={"since": (moment + timedelta(minutes=1)).isoformat()})
    earlier = tenant.http.get("/v1/events", params={"since": (moment - timedelta(hours=1)).isoformat()})

    assert pages == everything
    assert [event["type"] for event in created] == ["version.created"]
    assert later.json()["items"] == []
    assert earlier.json()["items"] == everything[:20]


def test_a_time_without_a_zone_is_refused(http: httpx.Client) -> None:
    assert pointers(http.get("/v1/events?since=2026-01-01T00:00:00")) == ["/since"]
    assert pointers(http.get("/v1/events?since=yesterday")) == ["/since"]
    assert pointers(http.get("/v1/events?since=0.5")) == ["/since"]


def test_times_that_no_event_can_have_find_nothing_or_everything(http: httpx.Client) -> None:
    assert http.get("/v1/events?since=9999-12-31T00:00:00Z").json()["items"] == []
    assert http.get("/v1/events?since=0001-01-02T00:00:00Z").status_code == 200
