"""A model's versions over time."""

from typing import Any

from tests import factories
from tests.app.conftest import Service, Tenant
from tests.app.problems import problem
from tests.app.uploading import content


def upload(tenant: Tenant, service: Service, name: str) -> dict[str, Any]:
    answer = tenant.http.post("/v1/models", files={"file": ("m.onnx", content())}, data={"name": name})
    version: dict[str, Any] = answer.json()
    factories.accept(service.database, version["id"])
    return version


def run(tenant: Tenant, service: Service, version: str, branch: str, speedup: float) -> str:
    asked = {"version": version, "labels": {"branch": branch}, "reuse": "never"}
    job = str(tenant.http.post("/v1/jobs", json=asked).json()["id"])
    factories.work_off(service.database, service.storage, job, lambda _: factories.figures(speedup=speedup))
    return job


def test_each_version_shows_the_best_of_its_newest_job(service: Service, tenant: Tenant) -> None:
    first, second, _idle = (upload(tenant, service, "resnet") for _ in range(3))
    run(tenant, service, first["id"], "main", 1.5)
    newest = run(tenant, service, first["id"], "main", 2.0)
    run(tenant, service, second["id"], "dev", 3.0)

    path = f"/v1/models/{first['model']}/trend"
    points = tenant.http.get(path).json()["items"]
    main = tenant.http.get(path, params={"label.branch": "main"}).json()["items"]

    assert [(p["id"], p["speedup"], p["labels"]["branch"]) for p in points] == [
        (second["id"], 3.0, "dev"),
        (first["id"], 2.0, "main"),
    ]
    assert [p["id"] for p in main] == [first["id"]]
    assert (main[0]["job"], main[0]["size_ratio"], main[0]["conclusion"]) == (newest, 0.25, "none")
    assert main[0]["drop_ci"][0] <= main[0]["drop"] <= main[0]["drop_ci"][1]
    assert tenant.http.get(f"/v1/candidates/{main[0]['candidate']}").json()["name"] == main[0]["name"]


def test_the_trend_comes_in_pages(service: Service, tenant: Tenant) -> None:
    versions = [upload(tenant, service, "resnet") for _ in range(3)]
    for version in versions:
        run(tenant, service, version["id"], "main", 2.0)
    path = f"/v1/models/{versions[0]['model']}/trend"

    first = tenant.http.get(path, params={"limit": 2}).json()
    rest = tenant.http.get(path, params={"limit": 2, "cursor": first["next_cursor"]}).json()

    ids = [point["id"] for point in first["items"] + rest["items"]]
    assert (ids, rest["next_cursor"]) == ([v["id"] for v in versions][::-1], None)


def test_another_projects_model_has_no_trend_here(service: Service, tenant: Tenant, stranger: Tenant) -> None:
    version = upload(tenant, service, "resnet")

    problem(stranger.http.get(f"/v1/models/{version['model']}/trend"), 404, "not_found")
