"""What an operator's Prometheus reads, and whether the service says that it is ready."""

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import inspect, update

from app import broker
from app.db.base import first_id
from app.db.models import Job, Step
from app.db.queries.workload import HOUR
from app.settings import Settings
from tests import factories
from tests.app.conftest import Service, Tenant, finished, serving


def scrape(url: str) -> dict[tuple[str, ...], float]:
    """Every sample by its name and the values of its labels."""
    answer = httpx.get(f"{url}/metrics", timeout=60)
    assert (answer.status_code, answer.headers["content-type"]) == (
        200,
        "text/plain; version=0.0.4; charset=utf-8",
    )
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_requests_are_counted_by_route_and_status(service: Service, tenant: Tenant) -> None:
    before = scrape(service.url)
    version = factories.make_version(service.database, tenant.project)
    for _ in range(3):
        tenant.http.get(f"/v1/versions/{version}")
    tenant.http.get("/v1/versions/ver_none")
    tenant.http.get("/nothing/here")
    httpx.request("BREW", f"{service.url}/healthz")
    after = scrape(service.url)

    def grown(*sample: str) -> float:
        return after.get(sample, 0) - before.get(sample, 0)

    route = "/v1/versions/{version_id}"
    assert grown("fewbits_requests_total", "GET", route, "200") == 3
    assert grown("fewbits_requests_total", "GET", route, "404") == 1
    assert grown("fewbits_request_seconds_count", "GET", route) == 4
    assert grown("fewbits_requests_total", "GET", "none", "404") == 1
    assert "BREW" not in {label for _, *labels in after for label in labels}
    assert not [sample for sample in after if version in "".join(sample)]


def test_the_queue_is_counted_by_kind(service: Service, tenant: Tenant) -> None:
    before = scrape(service.url)
    job = factories.make_job(service.database, tenant.project)
    factories.work_off(service.database, service.storage, job, until="build")
    lost = factories.steps_of(service.database, job, "build")[0].id
    with service.database.writing() as db:
        db.execute(update(Step).where(Step.id == lost).values(losses=2))
    after = scrape(service.url)

    for sample, more in {
        ("fewbits_steps", "build", "queued"): 2,
        ("fewbits_jobs", "running"): 1,
        ("fewbits_jobs_of_last_hour", "running"): 1,
        ("fewbits_step_losses",): 2,
    }.items():
        assert after[sample] - before.get(sample, 0) == more
    assert after["fewbits_queue_age_seconds", "build"] >= 0
    assert after["fewbits_database_up",] == 1


def test_jobs_that_ended_long_ago_are_not_counted(service: Service, tenant: Tenant) -> None:
    job = factories.job_row(service.database, finished(service, tenant))
    before = scrape(service.url)
    long_ago = {"id": first_id("job", job.created_at - 2 * HOUR)}
    with service.database.writing() as db:
        db.add(Job(**{c.key: getattr(job, c.key) for c in inspect(Job).column_attrs} | long_ago))
    after = scrape(service.url)

    sample = ("fewbits_jobs_of_last_hour", "succeeded")
    assert after[sample] == before[sample] >= 1
    assert ("fewbits_jobs", "succeeded") not in after


def test_without_a_database_the_metrics_say_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    nowhere = Settings(home=tmp_path_factory.mktemp("empty"), database_url="sqlite:////nowhere/at/all.db")
    with serving(nowhere) as url:
        assert scrape(url)["fewbits_database_up",] == 0
        assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}
        answer = httpx.get(f"{url}/readyz", timeout=60)

    assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")


def test_without_a_broker_the_service_is_degraded(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    assert httpx.get(f"{service.url}/readyz", timeout=60).json()["status"] == "ok"
    monkeypatch.setattr(broker.celery.conf, "broker_url", "redis://127.0.0.1:1/0")

    answer = httpx.get(f"{service.url}/readyz", timeout=60)

    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
