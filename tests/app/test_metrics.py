"""What an operator's Prometheus reads, and whether the service says that it is ready."""

import hashlib
import re
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import delete, func, inspect, select, update

from app import broker
from app.db.base import first_id
from app.db.models import UNTALLIED, Job, Step, Worker
from app.db.operations import Measure
from app.db.queries import workers
from app.db.queries.workload import HOUR
from app.services import sweeper
from app.settings import Settings
from tests import factories
from tests.app.conftest import Service, Tenant, finished, serving

METRICS_PAGE = Path(__file__).parent.parent.parent / "docs" / "metrics.md"


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
        ("fewbits_steps", "build", "default", "queued"): 2,
        ("fewbits_jobs", "running"): 1,
        ("fewbits_jobs_of_last_hour", "running"): 1,
        ("fewbits_step_losses",): 2,
    }.items():
        assert after[sample] - before.get(sample, 0) == more
    assert after["fewbits_queue_age_seconds", "build", "default"] >= 0
    assert after["fewbits_database_up",] == after["fewbits_broker_up",] == 1


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


def test_a_step_waits_since_it_is_due_not_since_it_was_made(service: Service, tenant: Tenant) -> None:
    job = factories.make_job(service.database, tenant.project)
    (step,) = factories.steps_of(service.database, job, "prepare")
    old = {"created_at": step.created_at - 10 * HOUR}
    waits, delayed = (
        ("fewbits_queue_age_seconds", "prepare", "default"),
        ("fewbits_steps_delayed", "prepare", "default"),
    )
    before = scrape(service.url).get(delayed, 0)

    alter(service, step.id, not_before=step.created_at + HOUR, **old)
    assert scrape(service.url)[delayed] == before + 1
    alter(service, step.id, not_before=step.created_at - HOUR, **old)
    due = scrape(service.url)
    alter(service, step.id, not_before=0, **old)

    assert due.get(delayed, 0) == before
    assert 3600 <= due[waits] < 2 * 3600
    assert scrape(service.url)[waits] >= 10 * 3600
    end(tenant, job)


def test_what_ended_is_counted_once_by_outcome_code_and_duration(service: Service, tenant: Tenant) -> None:
    sweep_all(service)
    before = scrape(service.url)
    finished(service, tenant)
    failing = factories.make_job(service.database, tenant.project)
    (step,) = factories.steps_of(service.database, failing, "prepare")
    with service.database.writing() as db:
        db.execute(update(Step).where(Step.id == step.id).values(losses=2))
    factories.fail(service.database, service.storage, step.id, "engine_crashed")
    slow = factories.make_job(service.database, tenant.project)
    (slow_step,) = factories.steps_of(service.database, slow, "prepare")
    factories.finish(service.database, factories.take(service.database, slow_step.id))
    alter(service, slow_step.id, started_at=slow_step.created_at - 400_000_000)
    end(tenant, slow)
    sweep_all(service)
    sweep_all(service)
    after = scrape(service.url)

    for sample, more in {
        ("fewbits_steps_ended_total", "build", "done"): 2,
        ("fewbits_steps_ended_total", "prepare", "failed"): 1,
        ("fewbits_step_failures_total", "engine_crashed", "prepare"): 1,
        ("fewbits_step_seconds_count", "prepare"): 2,
        ("fewbits_step_seconds_bucket", "prepare", "300.0"): 1,
        ("fewbits_step_seconds_bucket", "prepare", "600.0"): 2,
        ("fewbits_step_seconds_bucket", "prepare", "+Inf"): 2,
        ("fewbits_jobs_ended_total", "succeeded"): 1,
        ("fewbits_jobs_ended_total", "failed"): 1,
        ("fewbits_job_failures_total", "engine_crashed"): 1,
        ("fewbits_job_seconds_count",): 1,
        ("fewbits_step_losses",): 2,
    }.items():
        assert (sample, after[sample] - before.get(sample, 0)) == (sample, more)
    seconds = ("fewbits_step_seconds_sum", "prepare")
    assert after[seconds] - before.get(seconds, 0) >= 400


def test_blobs_are_measured_by_state_and_sweeps_leave_their_time(service: Service, tenant: Tenant) -> None:
    with service.database.writing() as db:
        db.execute(delete(Measure))
    tenant.http.put(
        f"/v1/blobs/{hashlib.sha256(b'unused').hexdigest()}", content=b"unused"
    ).raise_for_status()
    upload = {"Tus-Resumable": "1.0.0", "Upload-Length": "9"}
    tenant.http.post("/v1/uploads", headers=upload).raise_for_status()
    sweeper.sweep(service.database, service.storage)
    before = scrape(service.url)
    factories.make_version(service.database, tenant.project)
    sweeper.sweep(service.database, service.storage)
    kept = scrape(service.url)
    with service.database.writing() as db:
        db.execute(update(Measure).values(measured_at=0))
    sweeper.sweep(service.database, service.storage)
    after = scrape(service.url)

    used, used_bytes = ("fewbits_blobs", "used"), ("fewbits_blob_bytes", "used")
    assert kept[used] == before[used], "figures stay for five minutes: finding them reads every blob"
    assert (after[used], after[used_bytes]) == (before[used] + 1, before[used_bytes] + 3)
    assert after["fewbits_blob_bytes", "unused"] >= len(b"unused")
    assert after["fewbits_blobs", "receiving"] >= 1
    assert after["fewbits_last_sweep_timestamp_seconds",] > before["fewbits_last_sweep_timestamp_seconds",]


def test_workers_are_counted_by_the_queues_they_hear(service: Service) -> None:
    with service.database.writing() as db:
        db.execute(delete(Worker))
        workers.see_worker(db, "a:1", ["inspect", "default"], {})
        workers.see_worker(db, "b:1", ["default"], {})

    found = scrape(service.url)
    with service.database.writing() as db:
        db.execute(delete(Worker))

    assert (found["fewbits_workers", "default"], found["fewbits_workers", "inspect"]) == (2, 1)
    assert not [sample for sample in scrape(service.url) if sample[0] == "fewbits_workers"]


def test_the_page_of_metrics_tells_all_of_them_and_no_others(service: Service, tenant: Tenant) -> None:
    finished(service, tenant)
    see_a_worker(service)
    sweep_all(service)
    answer = httpx.get(f"{service.url}/metrics", timeout=60).text
    shown = {line.split()[2] for line in answer.splitlines() if line.startswith("# TYPE")}
    told = set(re.findall(r"fewbits_[a-z_]+", METRICS_PAGE.read_text()))

    plain = {re.sub(r"_(bucket|total)$", "", name) for name in told}
    assert {name.removesuffix("_total") for name in shown if not name.endswith("_created")} == plain


def see_a_worker(service: Service) -> None:
    with service.database.writing() as db:
        workers.see_worker(db, "a:1", ["default"], {})


def alter(service: Service, step_id: str, **values: object) -> None:
    with service.database.writing() as db:
        db.execute(update(Step).where(Step.id == step_id).values(**values))


def end(tenant: Tenant, job: str) -> None:
    tenant.http.post(f"/v1/jobs/{job}/cancel").raise_for_status()


def sweep_all(service: Service) -> None:
    """Sweep as long as there is something to count: it is a thousand at once."""
    open_ends = 1
    while open_ends:
        sweeper.sweep(service.database, service.storage)
        with service.database.reading() as db:
            open_ends = db.scalars(select(func.count()).select_from(Step).where(UNTALLIED)).one()


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
