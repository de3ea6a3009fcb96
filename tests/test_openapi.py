"""The OpenAPI document: complete, consistent with itself, and shown without a foreign server."""

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.main import create_app
from app.settings import Settings

METHODS = {"get", "head", "options", "post", "put", "patch", "delete"}
OPEN = {"/healthz", "/readyz", "/metrics"}
PROBLEM = {"$ref": "#/components/schemas/ProblemDetails"}
EXTERNAL = re.compile(r"""(?:src|href|url)\s*[=:]\s*['"]?(?:https?:)?//""", re.IGNORECASE)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    return create_app(Settings(home=tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="module")
def document(app: FastAPI) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(app.openapi()))
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert method in METHODS
            yield method, path, operation


def references(value: Any) -> Iterator[str]:
    """Every `$ref` in the document."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for child in value.values():
            yield from references(child)
    elif isinstance(value, list):
        for child in value:
            yield from references(child)


def test_the_document_has_its_frame(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    assert document["info"]["title"] == "Fewbits"
    assert document["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    assert document["security"] == [{"key": []}]
    assert len(list(operations(document))) > 20


def test_every_reference_points_at_something(document: dict[str, Any]) -> None:
    for reference in set(references(document)):
        found: Any = document
        for part in reference.removeprefix("#/").split("/"):
            assert part in found, reference
            found = found[part]


def test_every_operation_says_what_it_does_and_has_a_name_of_its_own(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in operations(document)]

    assert len(names) == len(set(names))
    for method, path, operation in operations(document):
        assert operation.get("summary"), (method, path)
        assert operation.get("description"), (method, path)
        assert operation.get("tags"), (method, path)


def test_every_path_parameter_is_described(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        named = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
        assert named == set(re.findall(r"{(\w+)}", path)), (method, path)


def test_every_operation_has_an_answer_that_is_good(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        assert any(status.startswith("2") for status in operation["responses"]), (method, path)


@pytest.mark.parametrize("status", ["401", "403", "404", "409", "413", "422", "503"])
def test_every_error_is_documented_as_a_problem(document: dict[str, Any], status: str) -> None:
    for method, path, operation in operations(document):
        if not path.startswith("/v1/"):
            continue
        if (method, status) == ("head", "404"):
            continue  # an answer to HEAD has no body
        content = operation["responses"][status]["content"]
        assert content == {"application/problem+json": {"schema": PROBLEM}}, (method, path)


def test_only_health_needs_no_key(document: dict[str, Any]) -> None:
    without = {path for _, path, operation in operations(document) if operation.get("security") == []}

    assert without == OPEN


@pytest.mark.parametrize(
    ("path", "method", "kinds"),
    [
        ("/v1/quantize", "post", {"multipart/form-data"}),
        ("/v1/models", "post", {"multipart/form-data", "application/json"}),
        ("/v1/datasets", "post", {"multipart/form-data", "application/json"}),
        ("/v1/jobs", "post", {"application/json"}),
        ("/v1/blobs/{sha256}", "put", {"application/octet-stream"}),
    ],
)
def test_what_takes_a_body_says_which(
    document: dict[str, Any], path: str, method: str, kinds: set[str]
) -> None:
    assert set(document["paths"][path][method]["requestBody"]["content"]) == kinds


def test_jobs_come_with_examples_that_a_job_accepts(document: dict[str, Any]) -> None:
    content = document["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]

    assert len(content["examples"]) >= 2


async def _get(app: FastAPI, *paths: str) -> list[httpx.Response]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://fewbits") as client:
        return [await client.get(path) for path in paths]


@pytest.mark.anyio
async def test_the_docs_page_needs_no_foreign_server(app: FastAPI) -> None:
    page, document, *assets = await _get(
        app,
        "/docs",
        "/openapi.json",
        "/static/swagger-ui-bundle.js",
        "/static/swagger-ui.css",
        "/static/favicon.svg",
    )

    assert page.status_code == document.status_code == 200
    assert all(asset.status_code == 200 and asset.content for asset in assets)
    assert EXTERNAL.search(page.text) is None
    assert "/openapi.json" in page.text
    for asset in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert asset.startswith("/static/")


@pytest.mark.anyio
async def test_the_front_door_leads_to_the_docs(app: FastAPI) -> None:
    (answer,) = await _get(app, "/")

    assert (answer.status_code, answer.headers["location"]) == (307, "/docs")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
