"""The OpenAPI document: request bodies that are read as streams, the errors, and the key."""

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


def describe(app: FastAPI) -> None:
    """Add what FastAPI cannot know: the problem's schema and how to send the key."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        document = plain()
        components = document.setdefault("components", {})
        components.setdefault("schemas", {})["ProblemDetails"] = PROBLEM
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
        for unauthenticated in ("/healthz", "/readyz"):
            for operation in document["paths"].get(unauthenticated, {}).values():
                operation["security"] = []
        return document

    app.openapi = openapi  # type: ignore[method-assign]
