"""The `webhooks` of the OpenAPI document: what this service sends, each type with schema and example."""

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from app.domain.notice import KINDS, DatasetNotice, JobNotice, Notice, PingNotice, VersionNotice, payload

REFERENCE = "#/components/schemas/{model}"
MOMENT = "2026-11-21T06:02:08.434Z"
JOB = "/v1/jobs/job_01k9000000000000000e7amp1e"
VERSION = "/v1/versions/ver_01k9000000000000000e7amp1e"
MODEL = "/v1/models/mdl_01k9000000000000000e7amp1e"
DATASET = "/v1/datasets/dst_01k9000000000000000e7amp1e"
ENDPOINT = "/v1/webhook-endpoints/whe_01k9000000000000000e7amp1e"
RESULTS = ("verdict", "report", "candidates")
EXAMPLES: Mapping[type[Notice], Notice] = {
    VersionNotice: VersionNotice(
        version=VERSION.rpartition("/")[2],
        model=MODEL.rpartition("/")[2],
        state="rejected",
        code="not_onnx",
        sequence=2,
        links={"version": VERSION, "model": MODEL},
    ),
    DatasetNotice: DatasetNotice(
        dataset=DATASET.rpartition("/")[2],
        state="rejected",
        code="invalid_dataset",
        sequence=2,
        links={"dataset": DATASET},
    ),
    PingNotice: PingNotice(endpoint=ENDPOINT.rpartition("/")[2], links={"endpoint": ENDPOINT}),
}
TOLD = {
    "job.succeeded": "A job has ended and has results",
    "job.failed": "A job has ended without results; `code` says why",
    "job.canceled": "A job was canceled",
    "job.expired": "A job was not done by its deadline",
    "gate.failed": "A job's gate has failed; it comes beside `job.succeeded`",
    "version.rejected": "An uploaded model cannot be used; `code` says why",
    "dataset.rejected": "An uploaded dataset cannot be used; `code` says why",
    "ping": "A test, asked for with POST /v1/webhook-endpoints/{endpoint_id}/test",
}
HEADERS = {
    "webhook-id": ("Of the message: the same in every attempt. Drop what you have seen", "msg_01k9…"),
    "webhook-timestamp": (
        "Of the attempt, in seconds since 1970. Refuse what is older than minutes",
        "1795240928",
    ),
    "webhook-signature": (
        "`v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`; two during a rotation, with a space",
        "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=",
    ),
}
ANSWERS = {
    "2XX": {"description": "Taken. Answer within 20 seconds, and work on it afterwards"},
    "410": {"description": "Gone: the endpoint is disabled"},
    "default": {"description": "Tried again: ten times in about three days, or when `Retry-After` says"},
}


def described(schemas: dict[str, Any]) -> dict[str, Any]:
    """One webhook for each type of message; what they carry is added to the document's schemas."""
    for notice in dict.fromkeys(KINDS.values()):
        schemas[notice.__name__] = TypeAdapter(notice).json_schema(ref_template=REFERENCE)
    return {kind: {"post": _operation(kind, notice)} for kind, notice in KINDS.items()}


def _operation(kind: str, notice: type[Notice]) -> dict[str, Any]:
    content = {"schema": _message(kind, notice), "example": example(kind)}
    return {
        "operationId": "on_" + kind.replace(".", "_"),
        "tags": ["webhooks"],
        "summary": TOLD[kind].partition(";")[0],
        "description": f"{TOLD[kind]}.",
        "security": [],
        "parameters": [_header(name, *told) for name, told in HEADERS.items()],
        "requestBody": {"required": True, "content": {"application/json": content}},
        "responses": ANSWERS,
    }


def _header(name: str, description: str, value: str) -> dict[str, Any]:
    schema = {"type": "string"}
    said = {"name": name, "in": "header", "required": True, "description": f"{description}."}
    return {**said, "schema": schema, "example": value}


def _message(kind: str, notice: type[Notice]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["type", "timestamp", "data"],
        "properties": {
            "type": {"const": kind},
            "timestamp": {"type": "string", "format": "date-time", "description": "when it happened"},
            "data": {"$ref": REFERENCE.format(model=notice.__name__)},
        },
    }


def example(kind: str) -> dict[str, Any]:
    """A message of this type."""
    notice = KINDS[kind]
    return payload(kind, MOMENT, _of_job(kind) if notice is JobNotice else EXAMPLES[notice])


def _of_job(kind: str) -> JobNotice:
    state = "succeeded" if kind == "gate.failed" else kind.removeprefix("job.")
    conclusion = {"job.succeeded": "pass", "gate.failed": "fail"}.get(kind)
    links = {name: f"{JOB}/{name}" for name in (RESULTS if conclusion else ("logs",))}
    return JobNotice(
        job=JOB.rpartition("/")[2],
        version=VERSION.rpartition("/")[2],
        state=state,
        conclusion=conclusion,
        best="cnd_01k9000000000000000e7amp1e" if conclusion == "pass" else None,
        code={"job.failed": "no_candidate", "job.expired": "deadline_exceeded"}.get(kind),
        sequence=12,
        links={"job": JOB} | links,
    )
