"""Deleting jobs: report, candidates and files go at once; the audit stays, and open jobs are not harmed."""

import pytest
from sqlalchemy import func, select

from app.db.models import Candidate, JobLabel, StepLog
from app.domain.gate import Gate
from tests import factories
from tests.app.conftest import Service, Tenant, finished
from tests.app.problems import problem

LATEST = Gate(max_accuracy_drop=0.1, against="latest")


def best_of(tenant: Tenant, job: str) -> str:
    return str(tenant.http.get(f"/v1/jobs/{job}").json()["best"])


def test_a_deleted_job_is_found_nowhere_and_its_bytes_are_gone(service: Service, tenant: Tenant) -> None:
    before, http = service.objects(), tenant.http
    job = finished(service, tenant)
    files = http.get(f"/v1/jobs/{job}/artifacts").json()["items"]
    best = best_of(tenant, job)
    with service.database.writing() as db:
        prepare = factories.step_of(service.database, job, "prepare").id
        db.add(StepLog(step_id=prepare, attempt=1, text="printed"))

    assert http.delete(f"/v1/jobs/{job}").status_code == 204

    for path in ("", "/report", "/verdict", "/candidates", "/steps", "/logs", "/artifacts", "/events"):
        problem(http.get(f"/v1/jobs/{job}{path}"), 404, "not_found")
    for path in (f"/v1/candidates/{best}", f"/v1/candidates/{best}/content", files[0]["links"]["content"]):
        problem(http.get(path), 404, "not_found")
    for method, path in (("DELETE", ""), ("POST", "/cancel"), ("POST", "/retry")):
        problem(http.request(method, f"/v1/jobs/{job}{path}"), 404, "not_found")
    assert http.get("/v1/jobs").json()["items"] == []
    assert service.objects() == before
    assert http.get("/v1/usage").json()["bytes"]["artifacts"] == 0
    with service.database.reading() as db:
        for column in (Candidate.job_id, JobLabel.job_id):
            assert db.scalars(select(func.count()).where(column == job)).one() == 0
        assert db.scalars(select(func.count()).where(StepLog.step_id == prepare)).one() == 0


def test_who_deleted_a_job_and_the_digests_of_its_files_stay(service: Service, tenant: Tenant) -> None:
    job = finished(service, tenant)
    digests = {row["sha256"] for row in tenant.http.get(f"/v1/jobs/{job}/artifacts").json()["items"]}
    me = tenant.http.get("/v1/me").json()["key"]

    tenant.http.delete(f"/v1/jobs/{job}")

    told = tenant.http.get("/v1/events", params={"subject": job, "limit": 100}).json()["items"]
    assert (told[0]["type"], told[0]["actor"]) == ("job.deleted", me)
    assert set(told[0]["data"]["sha256"]) == digests
    assert {"job.queued", "job.succeeded"} <= {event["type"] for event in told}


def test_what_another_job_took_over_from_it_stays(service: Service, tenant: Tenant) -> None:
    first = finished(service, tenant)
    spec = tenant.http.get(f"/v1/jobs/{first}").json()["spec"]
    second = tenant.http.post("/v1/jobs", json=spec).json()["id"]
    factories.work_off(service.database, service.storage, second)
    best = best_of(tenant, second)
    model = tenant.http.get(f"/v1/candidates/{best}/content").content
    report = tenant.http.get(f"/v1/jobs/{second}/report").json()
    assert tenant.http.get(f"/v1/candidates/{best}").json()["reused"]["job"] == first

    assert tenant.http.delete(f"/v1/jobs/{first}").status_code == 204

    assert tenant.http.get(f"/v1/candidates/{best}/content").content == model
    assert tenant.http.get(f"/v1/jobs/{second}/report").json() == report


@pytest.mark.parametrize("until", ["prepare", "build"])
def test_an_open_job_is_not_deleted(service: Service, tenant: Tenant, until: str) -> None:
    job = factories.make_job(service.database, tenant.project)
    factories.work_off(service.database, service.storage, job, until=until)

    assert "cancel" in problem(tenant.http.delete(f"/v1/jobs/{job}"), 409, "job_not_finished")["detail"]

    tenant.http.post(f"/v1/jobs/{job}/cancel")
    assert tenant.http.delete(f"/v1/jobs/{job}").status_code == 204


def test_what_the_gate_of_an_open_job_compares_with_is_not_deleted(service: Service, tenant: Tenant) -> None:
    version = factories.make_version(service.database, tenant.project)
    older, newer = (factories.make_job(service.database, tenant.project, version=version) for _ in range(2))
    for job in (older, newer):
        factories.work_off(service.database, service.storage, job)
    waiting = factories.make_job(service.database, tenant.project, version=version, gate=LATEST)

    assert waiting in problem(tenant.http.delete(f"/v1/jobs/{newer}"), 409, "in_use")["detail"]
    assert tenant.http.delete(f"/v1/jobs/{older}").status_code == 204

    factories.work_off(service.database, service.storage, waiting)
    assert tenant.http.delete(f"/v1/jobs/{newer}").status_code == 204


def test_a_deleted_job_is_no_baseline_and_no_point_of_the_trend(service: Service, tenant: Tenant) -> None:
    version = factories.make_version(service.database, tenant.project)
    first = factories.make_job(service.database, tenant.project, version=version)
    factories.work_off(service.database, service.storage, first)
    model = tenant.http.get(f"/v1/versions/{version}").json()["model"]
    tenant.http.delete(f"/v1/jobs/{first}")

    second = factories.make_job(service.database, tenant.project, version=version, gate=LATEST)
    assert tenant.http.get(f"/v1/models/{model}/trend").json()["items"] == []
    factories.work_off(service.database, service.storage, second)

    notes = tenant.http.get(f"/v1/jobs/{second}").json()["notes"]
    assert any("first job" in note for note in notes)


def test_a_deleted_job_still_counts_for_the_day(service: Service, tenant: Tenant) -> None:
    job = finished(service, tenant)
    tenant.http.delete(f"/v1/jobs/{job}")

    assert tenant.http.get("/v1/usage").json()["jobs_today"] == 1
