"""The OpenAPI document: complete, consistent with itself, and shown without a foreign server."""

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter

from app.api.middleware import COOKIE
from app.api.openapi import EXAMPLES, SNAPSHOT, as_text
from app.api.story import STORY
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


def test_forms_are_filled_in_with_what_is_accepted(document: dict[str, Any]) -> None:
    forms = [
        content["multipart/form-data"]["schema"]["properties"]
        for _, _, operation in operations(document)
        if "multipart/form-data" in (content := operation.get("requestBody", {}).get("content", {}))
    ]
    narrow = [
        (name, field)
        for form in forms
        for name, field in form.items()
        if field.keys() & {"pattern", "enum"} or "exclusiveMinimum" in field
    ]

    assert len(forms) == 3
    assert [name for name, field in narrow if "example" not in field] == []
    shown = {name: field["example"] for name, field in narrow}
    assert shown["against"] == "float"
    assert Draft202012Validator({"properties": dict(narrow)}).is_valid(shown)


def test_the_document_has_its_frame(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    assert document["info"]["title"] == "Fewbits"
    schemes = document["components"]["securitySchemes"]
    assert (schemes["key"]["type"], schemes["key"]["scheme"]) == ("http", "bearer")
    assert (schemes["session"]["in"], schemes["session"]["name"]) == ("cookie", COOKIE)
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


def test_every_operation_of_the_api_says_what_any_of_them_can_refuse(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        if path.startswith("/v1/"):
            assert {"401", "403", "413", "429", "503"} <= operation["responses"].keys(), (method, path)
            assert "404" in operation["responses"] or "_id}" not in path, (method, path)


def test_every_error_is_a_problem_with_an_example_of_each_code(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        for status, response in operation["responses"].items():
            if status.startswith(("2", "3")) or method == "head":
                continue
            content = response["content"]["application/problem+json"]
            assert content["schema"] == PROBLEM, (method, path, status)
            for name in content["examples"]:
                example = document["components"]["examples"][name]["value"]
                assert example["status"] == int(status), (method, path, name)
                assert f"`{example['code']}`" in response["description"]


def test_the_story_tells_every_operation_once_and_in_order(document: dict[str, Any]) -> None:
    told = [name for _, names in STORY.values() for name in names]
    named = {operation["operationId"] for _, _, operation in operations(document)}

    assert set(told) == named, "put a new operation into STORY of app/api/story.py"
    assert len(told) == len(set(told))
    assert [tag["name"] for tag in document["tags"]] == list(STORY)


def test_every_parameter_says_what_it_is(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        for parameter in operation.get("parameters", []):
            described = parameter.get("description") or parameter["schema"].get("description")
            assert described, (method, path, parameter["name"])


def test_links_lead_to_operations_that_take_their_parameters(document: dict[str, Any]) -> None:
    taken = {
        operation["operationId"]: {p["name"] for p in operation.get("parameters", [])}
        for _, _, operation in operations(document)
    }
    for _, _, operation in operations(document):
        for response in operation["responses"].values():
            for link in response.get("links", {}).values():
                assert link["parameters"].keys() <= taken[link["operationId"]]


def test_every_example_of_an_answer_is_one_that_its_operation_gives(app: FastAPI) -> None:
    told = set()
    for context in iter_route_contexts(app.routes):
        route = context.original_route
        if isinstance(route, APIRoute) and route.name in EXAMPLES and route.response_model:
            shown = TypeAdapter(route.response_model)
            example = shown.validate_json(json.dumps(EXAMPLES[route.name]))
            missing = shown.dump_python(example, mode="json").keys() - EXAMPLES[route.name].keys()
            assert not missing, f"{route.name}: add {missing} to app/api/examples.json"
            told.add(route.name)
    assert len(told) > 40


def test_the_document_changes_only_on_purpose(app: FastAPI) -> None:
    assert SNAPSHOT.read_text() == as_text(app), "run `make openapi`, and look at what changed for clients"


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
    page, document, script, *assets = await _get(
        app,
        "/docs",
        "/openapi.json",
        "/static/docs.js",
        "/static/docs.css",
        "/static/swagger-ui-bundle.js",
        "/static/swagger-ui.css",
        "/static/favicon.svg",
    )

    assert page.status_code == document.status_code == 200
    assert all(asset.status_code == 200 and asset.content for asset in assets)
    assert EXTERNAL.search(page.text) is None
    assert "/openapi.json" in script.text
    assert "<script>" not in page.text
    assert "script-src 'self';" in page.headers["content-security-policy"]
    for asset in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert asset.startswith("/static/")


@pytest.mark.anyio
async def test_the_front_door_leads_to_the_docs(app: FastAPI) -> None:
    (answer,) = await _get(app, "/")

    assert (answer.status_code, answer.headers["location"]) == (307, "/docs")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
