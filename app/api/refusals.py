"""Which problems an operation answers, each with an example, for the OpenAPI document."""

from http import HTTPStatus
from typing import Any

from app.api.errors import MEDIA_TYPE, PHRASES, problem_body, status_of
from app.api.forms import InvalidMultipart
from app.domain import errors as domain
from app.domain.errors import DomainError, FieldError, Problem
from app.secrets import NO_KEY, NoSecretKey

Responses = dict[int | str, dict[str, Any]]
SCHEMA = {"$ref": "#/components/schemas/ProblemDetails"}
REQUEST_ID = "req_5f0e7d8c9b6a41327f5e8d90"
_JOB = "job_01k9000000000000000e7amp1e"
_ERRORS: dict[str, DomainError] = {
    "already_created": domain.AlreadyCreated(
        "The first request with this key made key_01k9000000000000000e7amp1e; its answer held a secret "
        "and is not kept; rotate it, which answers a new one."
    ),
    "blob_damaged": domain.BlobDamaged(),
    "checksum_mismatch": domain.ChecksumMismatch(),
    "conflict": domain.Conflict("There is a project named 'speech team' already; choose another name."),
    "digest_mismatch": domain.DigestMismatch(),
    "empty_file": domain.EmptyFile(),
    "endpoint_disabled": domain.Conflict(
        "The endpoint whe_01k9000000000000000e7amp1e is disabled; "
        'PATCH /v1/webhook-endpoints/whe_01k9000000000000000e7amp1e with {"state": "enabled"} first.'
    ),
    "expired": domain.Expired(
        "'01-static_int8.onnx' expired on 2026-11-21. Its SHA-256, db01934a02281c10f1c6acdc976a7e1201b8e4c"
        f"c00315510b9c18752980f26de, and the report of {_JOB} are kept; a retry of that job makes it again."
    ),
    "forbidden": domain.Forbidden("This key has no scope 'write'; POST /v1/jobs needs it."),
    "idempotency_key_reused": domain.IdempotencyKeyReused(),
    "in_progress": domain.InProgress(),
    "in_use": domain.InUse(f"An unfinished job uses it: {_JOB}. Cancel it, or wait for its end."),
    "invalid_input": domain.InvalidInput(
        "/name: this field is required", errors=(FieldError("/name", "this field is required"),)
    ),
    "invalid_multipart": InvalidMultipart("The multipart body ends before its closing boundary."),
    "job_finished": domain.JobFinished(f"The job {_JOB} is succeeded; nothing is left to cancel."),
    "job_not_finished": domain.JobNotFinished(),
    "job_not_succeeded": domain.JobNotSucceeded(),
    "no_layers": domain.NoLayers(),
    "no_secret_key": NoSecretKey(NO_KEY),
    "not_found": domain.NotFound("This project has no job with the id 'job_0'."),
    "not_inspected": domain.NotInspected(),
    "not_onnx": domain.Refused(
        "not_onnx", "ver_01k9000000000000000e7amp1e was rejected: it is no ONNX model."
    ),
    "not_readable": domain.Refused(
        "invalid_dataset", "dst_01k9000000000000000e7amp1e was rejected: it is no npz, zip, tar or table."
    ),
    "offset_mismatch": domain.OffsetMismatch(),
    "quota_exceeded": domain.NoSpaceLeft(
        "The project may store 100000000 bytes and would have 104857600 with this upload. "
        "Delete models, datasets or jobs, or ask an operator for a larger quota."
    ),
    "too_large": domain.TooLarge(
        "The request has more than 1 MiB, the limit for this path and Content-Type."
    ),
    "too_many_endpoints": domain.TooManyEndpoints(
        "A project may have 20 webhook endpoints and this one has; delete one first."
    ),
    "too_many_jobs": domain.TooManyJobs("This project has 50 unfinished jobs, its quota.", 60),
    "unauthenticated": domain.Unauthenticated(),
    "upload_gone": domain.UploadGone(),
    "upload_locked": domain.UploadLocked(),
}
_OTHERS: dict[str, tuple[int, Problem]] = {
    "rate_limited": (
        429,
        Problem(
            "rate_limited",
            "A key may make 6000 writes a minute; the next minute begins in 17 s.",
            retryable=True,
        ),
    ),
    "range_not_satisfiable": (416, Problem("range_not_satisfiable", "The range begins after the end.")),
    "request_timeout": (408, Problem("request_timeout", "Nothing of the body came for 60 s; send it again.")),
    "storage_full": (
        507,
        Problem(
            "storage_full",
            "The server's disk is full: tell the operator. A resumable upload keeps what it has counted.",
            retryable=True,
        ),
    ),
    "unavailable": (503, Problem("unavailable", "The database does not answer.", retryable=True)),
    "unsupported_media_type": (
        415,
        Problem("unsupported_media_type", "Send `Content-Type: application/offset+octet-stream`."),
    ),
    "unsupported_tus_version": (412, Problem("unsupported_tus_version", "Send `Tus-Resumable: 1.0.0`.")),
}
KNOWN = {name: (status_of(error), Problem.of(error)) for name, error in _ERRORS.items()} | _OTHERS
ALWAYS = ("unauthenticated", "forbidden", "too_large", "rate_limited", "unavailable")
FORMS = ("invalid_multipart", "empty_file", "quota_exceeded", "request_timeout", "storage_full")
AGAIN = {
    "Retry-After": {"description": "Seconds until trying again makes sense", "schema": {"type": "integer"}}
}


def refuses(*names: str) -> Responses:
    """The responses in which an operation refuses with these problems."""
    found: Responses = {}
    for name in names:
        _add(found, name)
    return found


def add_common(operation: dict[str, Any], method: str, path: str) -> None:
    """Add what follows from how an operation is asked: its key, its path, its parameters, its body."""
    parameters = operation.get("parameters", ())
    asked = {parameter["name"].lower() for parameter in parameters}
    names = list(ALWAYS)
    names += ["not_found"] if "_id}" in path else []
    names += ["invalid_input"] if asked or "requestBody" in operation else []
    names += ["request_timeout"] if "requestBody" in operation else []
    names += ["in_progress", "idempotency_key_reused"] if "idempotency-key" in asked else []
    for name in names:
        _add(operation["responses"], name, key=str)
    operation["responses"] = dict(sorted(operation["responses"].items()))
    if method == "head":
        for status, response in operation["responses"].items():
            if not status.startswith("2"):
                response.pop("content", None)  # an answer to HEAD has no body


def examples() -> dict[str, Any]:
    """Every problem as an example to be referred to."""
    return {
        name: {"summary": problem.code, "value": problem_body(problem, status, REQUEST_ID)}
        for name, (status, problem) in KNOWN.items()
    }


def _add(responses: dict[Any, Any], name: str, key: type = int) -> None:
    status = KNOWN[name][0]
    response = responses.setdefault(key(status), {})
    content = response.setdefault("content", {}).setdefault(MEDIA_TYPE, {"schema": SCHEMA})
    content.setdefault("examples", {})[name] = {"$ref": f"#/components/examples/{name}"}
    codes = dict.fromkeys(KNOWN[one][1].code for one in content["examples"])
    response["description"] = f"{PHRASES[status]}: {', '.join(f'`{code}`' for code in codes)}"
    if status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.LOCKED}:
        response["headers"] = AGAIN
