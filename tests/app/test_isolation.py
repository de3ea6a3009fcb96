"""Everything of another project is not there: every route, every id in a path, a query or a body.

The routes are read from the OpenAPI document. A new one is walked by itself; one with a parameter or a field
that nobody has classified fails here.
"""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from app.db.base import Base
from app.db.models import Artifact, Candidate, Project, Version
from app.main import create_app
from app.settings import Settings
from tests import factories
from tests.app.conftest import Service, Tenant, new_key
from tests.app.problems import problem
from tests.app.uploading import content

METHODS = ("get", "head", "post", "put", "patch", "delete")
ID_QUERIES = {"a", "b", "cursor", "endpoint", "model", "subject", "version"}
PLAIN_QUERIES = {
    "after", "conclusion", "format", "index", "kind", "label.branch", "limit", "path", "since", "state",
    "status", "type",
}  # fmt: skip
ID_FIELDS = {
    "/v1/jobs": ("/version", "/calibration/dataset", "/evaluation/dataset", "/candidates/*", "/gate/against"),
    "/v1/models": ("/files/*",),
    "/v1/datasets": ("/sha256",),
    "/v1/datasets/{dataset_id}/check": ("/version", "/gate/against"),
}
PLAIN_FIELDS = {
    "description", "input", "labels", "name", "onnxruntime", "output", "preprocess", "recipes", "scores",
    "state", "url",
}  # fmt: skip
HEADERS = {
    ("patch", "/v1/uploads/{upload_id}"): {
        "Content-Type": "application/offset+octet-stream",
        "Upload-Offset": "0",
    }
}
OWN_UPLOAD = {"Tus-Resumable": "1.0.0", "Upload-Length": "10"}


@dataclass(frozen=True)
class Victim:
    """Another project that has one of everything."""

    project: str
    ids: dict[str, str]

    def secrets(self) -> set[str]:
        """What must not be seen elsewhere."""
        return {self.project, *self.ids.values()}


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    app = create_app(Settings(home=tmp_path_factory.mktemp("home")))
    found: dict[str, Any] = json.loads(json.dumps(app.openapi()))
    return found


@pytest.fixture
def victim(service: Service, stranger: Tenant) -> Victim:
    version = factories.make_version(service.database, stranger.project)
    dataset = factories.make_dataset(service.database, stranger.project)
    endpoint = stranger.http.post("/v1/webhook-endpoints", json={"url": "https://example.com"}).json()["id"]
    job = factories.make_job(service.database, stranger.project, version=version, dataset=dataset)
    factories.work_off(service.database, service.storage, job)
    upload = stranger.http.post("/v1/uploads", headers=OWN_UPLOAD).headers["location"].rpartition("/")[2]
    (delivery,) = (row["id"] for row in stranger.http.get("/v1/webhook-deliveries").json()["items"])
    with service.database.reading() as db:
        found = db.get_one(Version, version)
        ids = {
            "model_id": found.model_id,
            "version_id": version,
            "dataset_id": dataset,
            "job_id": job,
            "candidate_id": db.scalars(select(Candidate.id).where(Candidate.job_id == job)).first() or "",
            "artifact_id": db.scalars(select(Artifact.id).where(Artifact.job_id == job)).first() or "",
            "sha256": found.files[0].sha256,
        }
    ids |= {"endpoint_id": endpoint, "delivery_id": delivery, "upload_id": upload}
    key = stranger.http.get("/v1/me").json()["key"]
    return Victim(stranger.project, ids | {"key_id": key, "project_id": stranger.project})


@pytest.fixture
def intruder(service: Service, tenant: Tenant) -> httpx.Client:
    """Somebody who may do everything in their own project."""
    key = new_key(service, tenant.project, ("read", "write", "admin"))
    tenant.http.headers["Authorization"] = f"Bearer {key}"
    return tenant.http


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method in METHODS:
            if path.startswith("/v1/") and method in item:
                yield method, path, item[method]


def parameters(operation: dict[str, Any], place: str) -> list[str]:
    return [p["name"] for p in operation.get("parameters", []) if p["in"] == place]


def everything(service: Service, project: str) -> dict[str, list[Any]]:
    """All rows of a project, but for when its key was last used."""
    found = {}
    with service.database.reading() as db:
        for table in Base.metadata.sorted_tables:
            if "project_id" in table.c:
                columns = [column for column in table.c if column.name != "last_used_at"]
                rows = db.execute(select(*columns).where(table.c.project_id == project))
                found[table.name] = sorted(map(repr, rows))
        found["projects"] = [repr(db.get_one(Project, project).closed_at)]
    return found


def body_of(path: str, method: str, ids: dict[str, str]) -> dict[str, Any]:
    """A body with which the operation would work on something of one's own."""
    own = {
        "/v1/datasets/{dataset_id}/check": {"version": ids["version_id"]},
        "/v1/api-keys/{key_id}": {"name": "stolen"},
        "/v1/projects/{project_id}": {"name": "stolen"},
        "/v1/webhook-endpoints/{endpoint_id}": {"url": "https://thief.example.com"},
        "/v1/webhook-endpoints/{endpoint_id}/replay": {"since": "2026-01-01T00:00:00Z"},
    }
    return own.get(path, {}) if method in {"post", "patch", "put"} else {}


def test_every_path_with_an_id_of_another_project_leads_nowhere(
    service: Service, intruder: httpx.Client, tenant: Tenant, victim: Victim, document: dict[str, Any]
) -> None:
    before, walked = everything(service, victim.project), 0
    own = {"version_id": factories.make_version(service.database, tenant.project)}
    for method, path, operation in operations(document):
        names = parameters(operation, "path")
        if not names:
            continue
        url = path.format(**{name: victim.ids[name] for name in names})  # a new kind of id: make one above
        headers = {"Tus-Resumable": "1.0.0"} | HEADERS.get((method, path), {})
        answer = intruder.request(method, url, json=body_of(path, method, own), headers=headers)

        expected = 403 if path.startswith("/v1/projects") else 422 if method == "put" else 404
        assert answer.status_code == expected, (method, path, answer.text)
        leaked = {secret for secret in victim.secrets() if secret in answer.text and secret not in url}
        assert leaked == set(), (method, path)
        walked += 1
    assert walked > 30
    assert everything(service, victim.project) == before


def test_every_query_with_an_id_of_another_project_finds_nothing(
    intruder: httpx.Client, victim: Victim, document: dict[str, Any]
) -> None:
    ids = victim.ids
    foreign = {"a": ids["candidate_id"], "b": ids["candidate_id"], "model": ids["model_id"]}
    foreign |= {"version": ids["version_id"], "subject": ids["job_id"], "cursor": ids["job_id"]}
    foreign |= {"endpoint": ids["endpoint_id"]}
    for method, path, operation in operations(document):
        asked = parameters(operation, "query")
        assert set(asked) <= ID_QUERIES | PLAIN_QUERIES, (method, path)
        wanted = {name: foreign[name] for name in asked if name in ID_QUERIES}
        if method != "get" or not wanted or parameters(operation, "path"):
            continue
        answer = intruder.get(path, params=wanted)

        assert answer.status_code in {200, 403, 404, 422}, (path, answer.text)
        leaked = {s for s in victim.secrets() if s in answer.text and s not in wanted.values()}
        assert leaked == set(), path
        if answer.status_code == 200 and wanted.keys() - {"cursor"}:
            assert answer.json()["items"] == [], path


def text_fields(document: dict[str, Any], schema: dict[str, Any], pointer: str = "") -> Iterator[str]:
    """Where a JSON body has free text: it may be an id."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    for choice in ("anyOf", "oneOf", "allOf"):
        for child in schema.get(choice, []):
            yield from text_fields(document, child, pointer)
    if schema.get("type") == "string" and not schema.keys() & {"enum", "const", "format"}:
        yield pointer
    for name, child in schema.get("properties", {}).items():
        yield from text_fields(document, child, f"{pointer}/{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from text_fields(document, schema[key], f"{pointer}/*")


def test_every_text_in_a_body_is_known_to_be_an_id_or_none(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        body = operation.get("requestBody", {}).get("content", {}).get("application/json")
        for pointer in set(text_fields(document, body["schema"])) if body else ():
            plain = pointer.split("/")[1] in PLAIN_FIELDS or pointer.split("/")[-1] in PLAIN_FIELDS
            assert plain or pointer in ID_FIELDS.get(path, ()), (method, path, pointer)


def bodies(ids: dict[str, str], own: dict[str, str]) -> list[tuple[str, dict[str, Any], str]]:
    """Each body with one id of another project, and where it is."""
    job = {"version": own["version_id"]}
    against = {"gate": {"min_speedup": 1.0, "against": ids["version_id"]}}
    return [
        ("/v1/jobs", {"version": ids["version_id"]}, "/version"),
        ("/v1/jobs", job | {"calibration": {"dataset": ids["dataset_id"]}}, "/calibration/dataset"),
        ("/v1/jobs", job | {"evaluation": {"dataset": ids["dataset_id"]}}, "/evaluation/dataset"),
        ("/v1/jobs", job | {"candidates": [ids["version_id"]]}, "/candidates/*"),
        ("/v1/jobs", job | against, "/gate/against"),
        ("/v1/models", {"name": "m", "files": {"m.onnx": ids["sha256"]}}, "/files/*"),
        ("/v1/datasets", {"name": "d", "sha256": ids["sha256"]}, "/sha256"),
        (f"/v1/datasets/{own['dataset_id']}/check", {"version": ids["version_id"]}, "/version"),
        (f"/v1/datasets/{own['dataset_id']}/check", job | against, "/gate/against"),
    ]


def test_every_body_with_an_id_of_another_project_is_refused_where_it_is(
    service: Service, intruder: httpx.Client, tenant: Tenant, victim: Victim
) -> None:
    own = {
        "version_id": factories.make_version(service.database, tenant.project),
        "dataset_id": factories.make_dataset(service.database, tenant.project),
    }
    before = everything(service, victim.project)
    tried = []
    for path, body, pointer in bodies(victim.ids, own):
        answer = intruder.post(path, json=body)

        sent = json.dumps(body)
        assert {s for s in victim.secrets() if s in answer.text and s not in sent} == set(), (path, pointer)
        if pointer != "/gate/against":  # it may name what is deleted by then: nothing is compared with it
            assert answer.status_code in {404, 422}, (path, pointer, answer.text)
        if answer.status_code == 422:
            found = problem(answer, 422, "invalid_input")["errors"][0]["pointer"]
            assert found.startswith(pointer.rstrip("/*")), (path, pointer, found)
        tried.append((path.replace(own["dataset_id"], "{dataset_id}"), pointer))
    assert sorted(tried) == sorted((path, p) for path, pointers in ID_FIELDS.items() for p in pointers)
    assert everything(service, victim.project) == before


def test_a_hash_alone_opens_nobody_elses_bytes(intruder: httpx.Client, stranger: Tenant) -> None:
    sent = content()
    sha256 = stranger.http.post("/v1/models", files={"file": ("m.onnx", sent)}).json()["files"][0]["sha256"]
    expected = base64.b64encode(sha256.encode()).decode()

    headers = {
        "Tus-Resumable": "1.0.0",
        "Upload-Length": str(len(sent)),
        "Upload-Metadata": f"sha256 {expected}",
    }
    begun = intruder.post("/v1/uploads", headers=headers)

    assert intruder.head(f"/v1/blobs/{sha256}").status_code == 404
    assert (begun.json()["state"], begun.json()["offset"]) == ("receiving", 0)


def test_the_lists_of_one_project_have_nothing_of_another(
    intruder: httpx.Client, victim: Victim, document: dict[str, Any]
) -> None:
    for method, path, operation in operations(document):
        if method == "get" and not parameters(operation, "path"):
            answer = intruder.get(path)
            assert not [secret for secret in victim.secrets() if secret in answer.text], path
