"""The OpenAPI document: request bodies that are read as streams, the errors, and the key."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from pydantic import TypeAdapter

PROBLEM = {
    "type": "object",
    "description": "An error (RFC 9457).",
    "required": ["type", "title", "status", "detail", "code", "errors", "request_id", "retryable"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"pointer": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
        "request_id": {"type": "string"},
        "retryable": {"type": "boolean"},
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

Here, press **Authorize** and paste the key; then every example can be tried.
"""
REFERENCE = {"$ref": "#/components/schemas/ProblemDetails"}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {"application/problem+json": {"schema": REFERENCE}}}
    for status, text in {
        401: "No valid key",
        403: "The key lacks the scope",
        404: "Not in this project",
        409: "The state does not allow it",
        413: "Too large",
        422: "The input does not fit",
        429: "Too often, or more than a quota allows",
        503: "The database does not answer",
    }.items()
}


def form(properties: dict[str, Any]) -> dict[str, Any]:
    """A multipart body that a route reads as a stream."""
    content = {"multipart/form-data": {"schema": {"type": "object", **properties}}}
    return {"requestBody": {"required": True, "content": content}}


def form_or_json(properties: dict[str, Any], model: Any) -> dict[str, Any]:  # noqa: ANN401 - any type
    """A multipart body, or JSON of this type."""
    extra = form(properties)
    schema = TypeAdapter(model).json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    extra["requestBody"]["content"]["application/json"] = {"schema": schema}
    return extra


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for path in document["paths"].values():
        yield from path.values()


def describe(app: FastAPI) -> None:
    """Add what FastAPI cannot know: the problem's schema and how to send the key."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        document = plain()
        components = document.setdefault("components", {})
        components.setdefault("schemas", {})["ProblemDetails"] = PROBLEM
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
        for operation in _operations(document):
            operation["summary"] = operation["description"].partition(". ")[0].split("\n")[0].rstrip(".")
        for unauthenticated in ("/healthz", "/readyz", "/metrics"):
            for operation in document["paths"].get(unauthenticated, {}).values():
                operation["security"] = []
        return document

    app.openapi = openapi  # type: ignore[method-assign]
