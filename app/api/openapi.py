"""The OpenAPI document: streamed bodies, problems, examples, links, and how to send the key."""

import json
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from app.api import notices, refusals, story

PROBLEM = {
    "type": "object",
    "description": "An error (RFC 9457): a code for programs, a sentence for people.",
    "required": ["type", "title", "status", "detail", "code", "errors", "request_id", "retryable"],
    "properties": {
        "type": {"type": "string", "description": "`urn:fewbits:problem:` and the code"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What happened, and what to do next"},
        "code": {"type": "string", "description": "Stable; decide by this"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "detail"],
                "properties": {
                    "pointer": {"type": "string", "description": "A JSON pointer into the request"},
                    "detail": {"type": "string"},
                },
            },
        },
        "request_id": {"type": "string", "description": "Name it when you ask the operator"},
        "retryable": {"type": "boolean", "description": "Whether the same request may succeed later"},
    },
}
DESCRIPTION = """
Send your key with every request. Where you run `make serve` yourself:

```
export URL=http://127.0.0.1:8000 KEY=$(cat var/admin.key)
.venv/bin/python examples/digits/data.py digits.npz
```

Upload, quantize, measure and decide in one request:

```
curl -fsS -H "Authorization: Bearer $KEY" -H 'Prefer: wait=600' "$URL/v1/quantize?status=http" \\
  -F model=@examples/digits/digits.onnx -F data=@digits.npz -F preprocess=unit \\
  -F max_accuracy_drop=0.02 -F min_speedup=1.1 -o verdict.json
```

The answer is the verdict: 200 when the gate passes, 422 when a pipeline should stop (curl exits with 22).
It names the job, and the best candidate:

```
JOB=$(python3 -c 'import json; print(json.load(open("verdict.json"))["job"])')
BEST=$(python3 -c 'import json; print(json.load(open("verdict.json"))["best"])')
curl -fsS -H "Authorization: Bearer $KEY" "$URL/v1/jobs/$JOB/report?format=md"
curl -fsS -H "Authorization: Bearer $KEY" "$URL/v1/candidates/$BEST/content" -o best.onnx
```

On the page `/docs`, press **Authorize**, paste the key, and go from top to bottom: **Try it out** fills in
the examples, and ids that end in `e7amp1e` stand for the newest of their kind that this page has shown.
"""
SNAPSHOT = Path(__file__).parents[2] / "docs" / "openapi.json"
EXAMPLES = json.loads(Path(__file__).with_name("examples.json").read_text())
KEY = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "fb_…",
    "description": "An API key. `make serve` prints the first one and keeps it in `var/admin.key`.",
}
SESSION = {
    "type": "apiKey",
    "in": "cookie",
    "name": "fewbits_session",
    "description": "The cookie that `POST /v1/session` sets; good for GET and HEAD.",
}
CHANGES = ("KeyChange", "ProjectChange", "EndpointChange")
UNAUTHENTICATED = ("/healthz", "/readyz", "/metrics")
IDS = {
    "artifact_id": "art",
    "candidate_id": "cnd",
    "dataset_id": "dst",
    "delivery_id": "dlv",
    "endpoint_id": "whe",
    "job_id": "job",
    "key_id": "key",
    "model_id": "mdl",
    "project_id": "prj",
    "upload_id": "upl",
    "version_id": "ver",
}
GOOD = {
    "200": "The answer",
    "201": "Made; `Location` says where it is",
    "202": "Accepted; `Location` says where to look",
    "204": "Done; there is nothing to say",
}
LOCATION = {"Location": {"description": "Where it is", "schema": {"type": "string"}}}
NEXT = {"Link": {"description": 'The next page, as `<…>; rel="next"`', "schema": {"type": "string"}}}


def form(properties: dict[str, Any]) -> dict[str, Any]:
    """A multipart body that a route reads as a stream; what has no example begins empty on the page."""
    for field in properties["properties"].values():
        if field.get("type") == "string" and not field.keys() & {"format", "example", "enum", "pattern"}:
            field.setdefault("default", "")
    content = {"multipart/form-data": {"schema": {"type": "object", **properties}}}
    return {"requestBody": {"required": True, "content": content}}


def form_or_json(properties: dict[str, Any], model: Any, example: Any) -> dict[str, Any]:  # noqa: ANN401 - any
    """A multipart body, or JSON of this type."""
    extra = form(properties)
    schema = TypeAdapter(model).json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    extra["requestBody"]["content"]["application/json"] = {"schema": schema, "example": example}
    return extra


def name_of(route: APIRoute) -> str:
    """The id of an operation: its function's name, which stays when a path changes."""
    return route.name


def describe(app: FastAPI) -> None:
    """Add what FastAPI cannot know: the order, the problems, the examples, the links, the key."""
    plain, once = app.openapi, Lock()

    def openapi() -> dict[str, Any]:
        with once:
            if app.openapi_schema is None:
                complete(plain())
            return plain()

    app.openapi = openapi  # type: ignore[method-assign]


def as_text(app: FastAPI) -> str:
    """The document as the repository keeps it, so that a change shows in a review."""
    return json.dumps(app.openapi(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def complete(document: dict[str, Any]) -> None:
    """Everything that FastAPI's document lacks."""
    components = document["components"]
    schemas = components["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["ProblemDetails"] = PROBLEM
    for name in CHANGES:  # what is not named stays: there are no defaults
        for field in schemas[name]["properties"].values():
            field.pop("default", None)
    _close_tuples(schemas)
    components["examples"] = refusals.examples()
    components["securitySchemes"] = {"key": KEY, "session": SESSION}
    document["security"] = [{"key": []}]
    document["tags"] = story.tags()
    document["paths"] = story.in_order(document["paths"])
    document["webhooks"] = notices.described(schemas)
    for method, path, operation in _operations(document):
        _complete(operation, method, path)


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield method, path, operation


def _complete(operation: dict[str, Any], method: str, path: str) -> None:
    operation["tags"] = [story.chapter_of(operation["operationId"])]
    operation["summary"] = operation["description"].partition(". ")[0].split("\n")[0].rstrip(".")
    for parameter in operation.get("parameters", ()):
        _name_ids(parameter)
    if _is_fastapis(operation):
        del operation["responses"]["422"]
    if path in UNAUTHENTICATED:
        operation["security"] = []
    else:
        refusals.add_common(operation, method, path)
        if method in {"get", "head"}:
            operation["security"] = [{"key": []}, {"session": []}]
    for status in GOOD.keys() & operation["responses"].keys():
        _show(operation, status)


def _close_tuples(schema: Any) -> None:  # noqa: ANN401 - any part of a schema
    """Say of tuples what their items are, for tools that know only lists."""
    if isinstance(schema, dict):
        if "prefixItems" in schema:
            schema["items"] = schema["prefixItems"][0]
        for child in schema.values():
            _close_tuples(child)
    elif isinstance(schema, list):
        for child in schema:
            _close_tuples(child)


def _is_fastapis(operation: dict[str, Any]) -> bool:
    return "application/json" in operation["responses"].get("422", {}).get("content", {})


def _name_ids(parameter: dict[str, Any]) -> None:
    kind = IDS.get(parameter["name"])
    if kind:
        parameter["description"] = f"Begins with `{kind}_`"
        parameter["example"] = f"{kind}_01k9000000000000000e7amp1e"


def _show(operation: dict[str, Any], status: str) -> None:
    """A good answer: what it means, how it looks, where it leads."""
    response, name = operation["responses"][status], operation["operationId"]
    if response["description"] == "Successful Response":
        response["description"] = GOOD[status]
    content = response.get("content", {}).get("application/json")
    if content and name in EXAMPLES:
        content["example"] = EXAMPLES[name]
        paged = "next_cursor" in EXAMPLES[name]
        response["headers"] = response.get("headers", {}) | (NEXT if paged else {})
    if status in {"201", "202"}:
        response["headers"] = response.get("headers", {}) | LOCATION
    if links := story.links_of(name):
        response["links"] = links
    if not response.get("headers"):
        response.pop("headers", None)
