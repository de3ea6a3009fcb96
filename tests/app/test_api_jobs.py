"""Jobs over HTTP: asked for, waited for, canceled, asked for again. A test plays the worker."""

import threading
import time
from typing import Any

import httpx
from sqlalchemy import update

from app.db.models import Step
from app.domain.gate import Gate
from tests import factories
from tests.app.conftest import Service, Tenant, finished
from tests.app.problems import problem


def spec(version: str, dataset: str) -> dict[str, Any]:
    return {
        "version": version,
        "evaluation": {"dataset": dataset},
        "recipes": [{"method": "dynamic_int8"}, {"method": "static_int8"}],
        "gate": {"min_speedup": 1.2},
        "labels": {"commit": "abc"},
    }


def test_a_job_is_accepted_and_can_be_polled(http: httpx.Client, version: str, dataset: str) -> None:
    answer = http.post("/v1/jobs", json=spec(version, dataset))

    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == job["links"]["self"] == f"/v1/jobs/{job['id']}"
    assert (job["state"], job["phase"], job["progress"]) == ("queued", "preparing", 0.0)
    assert (job["conclusion"], job["error"], job["best"]) == (None, None, None)
    assert job["baseline"]["name"] == "float"
    assert job["spec"]["labels"] == {"commit": "abc"}
    assert http.get(job["links"]["self"]).json() == job


def test_a_bare_job_is_enough(http: httpx.Client, version: str) -> None:
    answer = http.post("/v1/jobs", json={"version": version})

    assert answer.status_code == 202
    assert answer.json()["spec"]["gate"] is None


def test_every_step_of_the_way_is_shown(service: Service, tenant: Tenant) -> None:
    job = factories.make_job(service.database, tenant.project)
    seen = []
    for until in ("prepare", "build", "benchmark", "report", ""):
        factories.work_off(service.database, service.storage, job, until=until)
        seen.append(tenant.http.get(f"/v1/jobs/{job}").json())

    assert [s["phase"] for s in seen] == ["preparing", "building", "benchmarking", "reporting", None]
    assert [s["state"] for s in seen] == ["queued", "running", "running", "running", "succeeded"]
    progress = [s["progress"] for s in seen]
    assert progress == sorted(set(progress))
    assert (progress[0], progress[-1]) == (0.0, 1.0)
    steps = tenant.http.get(f"/v1/jobs/{job}/steps").json()["items"]
    assert {s["kind"]: s["state"] for s in steps} == dict.fromkeys(
        ("prepare", "build", "benchmark", "report"), "done"
    )
    assert all(s["attempt"] == 1 and s["finished_at"] for s in steps)
    assert all(s["losses"] == s["troubles"] == 0 for s in steps)


def test_a_step_that_was_lost_or_put_off_says_how_often(service: Service, tenant: Tenant) -> None:
    job = factories.make_job(service.database, tenant.project)
    factories.work_off(service.database, service.storage, job, until="build")
    with service.database.writing() as db:
        its_first = (Step.job_id == job, Step.kind == "prepare")
        db.execute(update(Step).where(*its_first).values(losses=1, troubles=3))

    prepare = tenant.http.get(f"/v1/jobs/{job}/steps").json()["items"][0]
    told = tenant.http.get(f"/v1/jobs/{job}/logs").text

    assert (prepare["kind"], prepare["losses"], prepare["troubles"]) == ("prepare", 1, 3)
    assert "lost 1 times before, put off 3 times for lack of room or a failing disk" in told


def test_who_waits_gets_the_job_as_soon_as_it_ends(
    service: Service, tenant: Tenant, version: str, dataset: str
) -> None:
    job = tenant.http.post("/v1/jobs", json=spec(version, dataset)).json()["id"]
    worker = threading.Thread(target=factories.work_off, args=[service.database, service.storage, job])
    worker.start()

    # Longer than the client has patience: only an end of the job answers in time.
    answer = tenant.http.get(f"/v1/jobs/{job}", headers={"Prefer": "wait=600"})

    worker.join()
    assert (answer.status_code, answer.json()["state"]) == (200, "succeeded")
    assert answer.headers["preference-applied"] == "wait=600"


def test_who_waits_in_vain_gets_the_job_as_it_is(http: httpx.Client, version: str) -> None:
    begun = time.monotonic()

    answer = http.post("/v1/jobs", json={"version": version}, headers={"Prefer": "wait=1"})

    assert (answer.status_code, answer.json()["state"]) == (202, "queued")
    assert time.monotonic() - begun >= 1


def test_a_job_that_has_ended_is_not_waited_for(service: Service, tenant: Tenant) -> None:
    job = finished(service, tenant)

    # Longer than the client has patience: waiting would break the request off.
    answer = tenant.http.get(f"/v1/jobs/{job}", headers={"Prefer": "wait=600"})

    assert answer.json()["state"] == "succeeded"


def test_a_failed_job_carries_its_problem(service: Service, tenant: Tenant) -> None:
    job = factories.make_job(service.database, tenant.project)
    factories.work_off(service.database, service.storage, job, until="build")
    for step in factories.steps_of(service.database, job, "build"):
        factories.fail(service.database, service.storage, step.id, "nothing_to_quantize")

    shown = tenant.http.get(f"/v1/jobs/{job}").json()

    assert (shown["state"], shown["conclusion"]) == ("failed", None)
    assert shown["error"]["code"] == "no_candidate"
    candidates = tenant.http.get(f"/v1/jobs/{job}/candidates").json()["items"]
    assert {c["error"]["code"] for c in candidates} == {"nothing_to_quantize"}
    detail = problem(tenant.http.get(f"/v1/jobs/{job}/verdict"), 409, "job_not_succeeded")["detail"]
    assert shown["error"]["detail"] in detail


def test_cancel_answers_the_canceled_job_and_409_from_then_on(service: Service, tenant: Tenant) -> None:
    job = factories.make_job(service.database, tenant.project)

    first = tenant.http.post(f"/v1/jobs/{job}/cancel")
    again = tenant.http.post(f"/v1/jobs/{job}/cancel")

    assert (first.status_code, first.json()["state"], first.json()["progress"]) == (200, "canceled", 1.0)
    assert first.json()["finished_at"]
    problem(again, 409, "job_finished")
    steps = tenant.http.get(f"/v1/jobs/{job}/steps").json()["items"]
    assert {s["state"] for s in steps} == {"canceled"}


def test_a_succeeded_job_cannot_be_canceled(service: Service, tenant: Tenant) -> None:
    job = finished(service, tenant)

    problem(tenant.http.post(f"/v1/jobs/{job}/cancel"), 409, "job_finished")


def test_a_retry_is_a_new_job_that_names_the_old_one(service: Service, tenant: Tenant) -> None:
    job = factories.make_job(service.database, tenant.project, gate=Gate(min_speedup=1.5))
    tenant.http.post(f"/v1/jobs/{job}/cancel")

    answer = tenant.http.post(f"/v1/jobs/{job}/retry")

    again = answer.json()
    assert (answer.status_code, answer.headers["location"]) == (202, f"/v1/jobs/{again['id']}")
    assert (again["retry_of"], again["state"]) == (job, "queued")
    assert again["spec"] == tenant.http.get(f"/v1/jobs/{job}").json()["spec"]


def test_what_another_project_has_does_not_exist(service: Service, tenant: Tenant, stranger: Tenant) -> None:
    job = finished(service, tenant)
    shown = tenant.http.get(f"/v1/jobs/{job}").json()
    candidate = tenant.http.get(f"/v1/jobs/{job}/candidates").json()["items"][0]
    version = tenant.http.get(f"/v1/versions/{shown['spec']['version']}").json()
    dataset = shown["spec"]["evaluation"]["dataset"]
    paths = [
        *shown["links"].values(),
        *candidate["links"].values(),
        version["links"]["self"],
        version["links"]["model"],
        f"/v1/models/{version['model']}/versions",
        f"/v1/versions/{version['id']}/content",
        f"/v1/datasets/{dataset}",
        f"/v1/artifacts/{candidate['artifact']}/content",
    ]

    assert len(paths) > 12
    for path in paths:
        problem(stranger.http.get(path), 404, "not_found")
    for path in (f"/v1/jobs/{job}/cancel", f"/v1/jobs/{job}/retry"):
        problem(stranger.http.post(path), 404, "not_found")
    for noun in ("jobs", "models", "datasets"):
        assert stranger.http.get(f"/v1/{noun}").json()["items"] == []
    problem(stranger.http.post("/v1/jobs", json={"version": version["id"]}), 422, "invalid_input")
