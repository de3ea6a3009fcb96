"""Deleting models and datasets: the bytes go, finished jobs stay readable, unfinished ones are in the way."""

import hashlib

import httpx
import pytest
from sqlalchemy import update

from app.db.base import now_us
from app.db.models import ProjectBlob
from app.services import blobs, sweeper
from tests import factories
from tests.app.conftest import Service, Tenant
from tests.app.problems import problem
from tests.app.uploading import Files, content


def sha(sent: bytes) -> str:
    return hashlib.sha256(sent).hexdigest()


def model_of(http: httpx.Client, version: str) -> str:
    return str(http.get(f"/v1/versions/{version}").json()["model"])


def test_a_deleted_model_is_gone_with_its_versions_and_bytes(service: Service, http: httpx.Client) -> None:
    before = service.objects()
    files: Files = [("file", ("m.onnx", content())), ("file", ("w.bin", content()))]
    versions = [http.post("/v1/models", files=f, data={"name": "net"}).json() for f in (files, files[:1])]
    model = versions[0]["model"]

    assert http.delete(f"/v1/models/{model}").status_code == 204

    for path in (f"/v1/models/{model}", f"/v1/models/{model}/versions", versions[0]["links"]["content"]):
        problem(http.get(path), 404, "not_found")
    problem(http.get(versions[1]["links"]["self"]), 404, "not_found")
    problem(http.delete(f"/v1/models/{model}"), 404, "not_found")
    assert model not in [row["id"] for row in http.get("/v1/models").json()["items"]]
    assert service.objects() == before


def test_the_name_of_a_deleted_model_is_free(http: httpx.Client) -> None:
    first = http.post("/v1/models", files={"file": ("m.onnx", content())}, data={"name": "net"}).json()
    http.delete(f"/v1/models/{first['model']}")

    second = http.post("/v1/models", files={"file": ("m.onnx", content())}, data={"name": "net"}).json()

    assert second["model"] != first["model"]
    assert second["name"] == "net"


def test_bytes_that_something_else_refers_to_stay(http: httpx.Client) -> None:
    sent = content()
    first = http.post("/v1/models", files={"file": ("a.onnx", sent)}, data={"name": "a"}).json()
    second = http.post("/v1/models", files={"file": ("b.onnx", sent)}, data={"name": "b"}).json()

    http.delete(f"/v1/models/{first['model']}")

    assert http.get(second["links"]["content"]).content == sent


def test_another_projects_bytes_stay(tenant: Tenant, stranger: Tenant) -> None:
    sent = content()
    mine, theirs = (
        someone.http.post("/v1/models", files={"file": ("a.onnx", sent)}).json()
        for someone in (tenant, stranger)
    )

    problem(stranger.http.delete(f"/v1/models/{mine['model']}"), 404, "not_found")
    tenant.http.delete(f"/v1/models/{mine['model']}")

    assert stranger.http.get(theirs["links"]["content"]).content == sent
    assert tenant.http.head(f"/v1/blobs/{sha(sent)}").status_code == 404


@pytest.mark.parametrize("what", ["model", "dataset"])
def test_an_unfinished_job_is_in_the_way(service: Service, tenant: Tenant, what: str) -> None:
    version = factories.make_version(service.database, tenant.project)
    dataset = factories.make_dataset(service.database, tenant.project)
    job = factories.make_job(service.database, tenant.project, version=version, dataset=dataset)
    path = f"/v1/models/{model_of(tenant.http, version)}" if what == "model" else f"/v1/datasets/{dataset}"

    assert job in problem(tenant.http.delete(path), 409, "in_use")["detail"]

    tenant.http.post(f"/v1/jobs/{job}/cancel")
    assert tenant.http.delete(path).status_code == 204


def test_a_job_that_measures_a_version_as_its_candidate_is_in_the_way(
    service: Service, tenant: Tenant
) -> None:
    candidate = factories.make_version(service.database, tenant.project)
    spec = {"version": factories.make_version(service.database, tenant.project), "candidates": [candidate]}
    job = tenant.http.post("/v1/jobs", json=spec).json()["id"]

    refused = tenant.http.delete(f"/v1/models/{model_of(tenant.http, candidate)}")

    assert job in problem(refused, 409, "in_use")["detail"]


def test_a_job_that_only_mentions_an_id_is_not_in_the_way(service: Service, tenant: Tenant) -> None:
    version, other = (factories.make_version(service.database, tenant.project) for _ in range(2))
    spec = {"version": other, "labels": {"compared_with": version, "next to": version.replace("_", "-")}}
    assert tenant.http.post("/v1/jobs", json=spec).status_code == 202

    assert tenant.http.delete(f"/v1/models/{model_of(tenant.http, version)}").status_code == 204


def test_a_finished_job_stays_readable_without_its_model_and_data(service: Service, tenant: Tenant) -> None:
    version = factories.make_version(service.database, tenant.project)
    dataset = factories.make_dataset(service.database, tenant.project)
    job = factories.make_job(service.database, tenant.project, version=version, dataset=dataset)
    factories.work_off(service.database, service.storage, job)
    http = tenant.http
    before = http.get(f"/v1/jobs/{job}/report").json()
    best = http.get(f"/v1/jobs/{job}").json()["best"]
    model = http.get(f"/v1/candidates/{best}/content").content

    http.delete(f"/v1/models/{model_of(http, version)}")
    http.delete(f"/v1/datasets/{dataset}")

    assert http.get(f"/v1/jobs/{job}/report").json() == before
    assert http.get(f"/v1/candidates/{best}/content").content == model
    kinds = {row["kind"] for row in http.get(f"/v1/jobs/{job}/artifacts").json()["items"]}
    assert "feeds" not in kinds, "feeds are samples of the deleted data"
    refused = http.post(f"/v1/jobs/{job}/retry")
    assert {e["pointer"] for e in problem(refused, 422, "invalid_input")["errors"]} >= {"/version"}


def test_a_deleted_dataset_is_gone_with_its_bytes(service: Service, http: httpx.Client) -> None:
    before = service.objects()
    dataset = http.post("/v1/datasets", files={"file": ("d.npz", content())}).json()["id"]

    assert http.delete(f"/v1/datasets/{dataset}").status_code == 204

    problem(http.get(f"/v1/datasets/{dataset}"), 404, "not_found")
    problem(http.delete(f"/v1/datasets/{dataset}"), 404, "not_found")
    assert dataset not in [row["id"] for row in http.get("/v1/datasets").json()["items"]]
    assert service.objects() == before


def test_an_open_inspection_ends_with_what_it_inspects(service: Service, http: httpx.Client) -> None:
    version = http.post("/v1/models", files={"file": ("m.onnx", content())}).json()
    step = factories.step_of(service.database, version["id"], "inspect_version")
    factories.take(service.database, step.id)

    http.delete(f"/v1/models/{version['model']}")

    assert factories.step_of(service.database, version["id"], "inspect_version").state == "canceled"


def test_a_job_on_what_was_deleted_is_refused(service: Service, tenant: Tenant) -> None:
    version = factories.make_version(service.database, tenant.project)
    tenant.http.delete(f"/v1/models/{model_of(tenant.http, version)}")

    answer = tenant.http.post("/v1/jobs", json={"version": version})

    assert problem(answer, 422, "invalid_input")["errors"][0]["pointer"] == "/version"


def expire(service: Service, tenant: Tenant, sha256: str) -> None:
    mine = (ProjectBlob.project_id == tenant.project, ProjectBlob.sha256 == sha256)
    with service.database.writing() as db:
        db.execute(update(ProjectBlob).where(*mine).values(expires_at=now_us() - 1))


def test_bytes_that_nobody_used_in_time_are_collected(service: Service, tenant: Tenant) -> None:
    before, unused, used = service.objects(), content(), content()
    tenant.http.put(f"/v1/blobs/{sha(unused)}", content=unused)
    version = tenant.http.post("/v1/models", files={"file": ("m.onnx", used)}).json()
    for sent in (unused, used):
        expire(service, tenant, sha(sent))

    sweeper.sweep(service.database, service.storage)

    assert tenant.http.head(f"/v1/blobs/{sha(unused)}").status_code == 404
    assert len(service.objects()) == len(before) + 1
    assert tenant.http.get(version["links"]["content"]).content == used


def test_asking_for_a_blob_keeps_it(service: Service, tenant: Tenant) -> None:
    sent = content()
    tenant.http.put(f"/v1/blobs/{sha(sent)}", content=sent)
    expire(service, tenant, sha(sent))

    assert tenant.http.head(f"/v1/blobs/{sha(sent)}").status_code == 200
    sweeper.sweep(service.database, service.storage)
    with service.database.writing() as db:  # renewed between the sweeper's look and its deed
        blobs.collect(db, service.storage, tenant.project, sha(sent))

    assert tenant.http.head(f"/v1/blobs/{sha(sent)}").status_code == 200
