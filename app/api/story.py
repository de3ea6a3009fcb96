"""The order of the OpenAPI document: what a newcomer does first comes first, and leads to what comes next."""

from typing import Any

STORY: dict[str, tuple[str, tuple[str, ...]]] = {
    "upload": (
        "A model and samples go in: by form, by hash, or in pieces that a broken line does not lose.",
        (
            *("create_version", "create_dataset", "check_dataset", "preview_dataset"),
            *("list_models", "read_model", "list_versions", "read_version", "download_version"),
            *("delete_model", "list_datasets", "read_dataset", "delete_dataset", "has_blob", "put_blob"),
            *("describe_uploads", "create_upload", "find_offset", "append_to_upload", "read_upload"),
            "terminate_upload",
        ),
    ),
    "run": (
        "Quantize in many ways, measure each against the float model, let the gate decide.",
        ("quantize", "create_job", "cancel_job", "retry_job", "list_recipes", "list_targets"),
    ),
    "watch": (
        "How far a job is, what it does, and where the time goes.",
        ("read_job", "watch_job", "list_steps", "read_logs", "list_jobs", "delete_job"),
    ),
    "get": (
        "The verdict, the report, and the quantized models.",
        (
            *("read_verdict", "read_report", "list_candidates", "read_candidate", "download_candidate"),
            *("read_layers", "read_flips", "list_artifacts", "download_artifact"),
        ),
    ),
    "compare": (
        "Two candidates side by side, and one model over time.",
        ("compare", "read_trend"),
    ),
    "webhooks": (
        "Be told when a job ends, a gate fails or an upload is rejected: signed by Standard Webhooks.",
        (
            *("create_endpoint", "test_endpoint", "list_endpoints", "read_endpoint", "change_endpoint"),
            *("rotate_secret", "delete_endpoint", "list_deliveries", "read_delivery", "redeliver"),
            "replay_deliveries",
        ),
    ),
    "projects and keys": (
        "Who may do what. A key belongs to one project; what another project has is 404.",
        (
            *("me", "open_session", "close_session"),
            *("create_key", "list_keys", "read_key", "change_key", "rotate_key", "revoke_key"),
            *("create_project", "list_projects", "read_project", "read_project_usage"),
            *("change_project", "close_project"),
        ),
    ),
    "service": (
        "What is allowed, what is used, what happened, and whether the service is well.",
        ("read_limits", "read_usage", "list_events", "healthz", "readyz", "metrics"),
    ),
}
_OF_JOB = (
    *("read_job", "watch_job", "list_steps", "read_logs", "list_candidates", "list_artifacts"),
    *("read_verdict", "read_report", "cancel_job", "retry_job", "delete_job"),
)
_ID = "$response.body#/id"
_FIRST = "$response.body#/items/0/id"
LINKS: tuple[tuple[tuple[str, ...], str, str, tuple[str, ...]], ...] = (
    (
        ("create_version",),
        "version_id",
        _ID,
        ("read_version", "download_version"),
    ),
    (
        ("create_version",),
        "model_id",
        "$response.body#/model",
        ("read_model", "list_versions", "read_trend", "delete_model"),
    ),
    (
        ("create_dataset",),
        "dataset_id",
        _ID,
        ("read_dataset", "preview_dataset", "check_dataset", "delete_dataset"),
    ),
    (("quantize", "create_job", "retry_job"), "job_id", _ID, _OF_JOB),
    (
        ("list_candidates",),
        "candidate_id",
        _FIRST,
        ("read_candidate", "download_candidate", "read_layers", "read_flips"),
    ),
    (("list_artifacts",), "artifact_id", _FIRST, ("download_artifact",)),
    (("list_models",), "model_id", _FIRST, ("read_model", "list_versions", "read_trend", "delete_model")),
    (
        ("create_upload",),
        "upload_id",
        _ID,
        ("find_offset", "append_to_upload", "read_upload", "terminate_upload"),
    ),
    (("put_blob",), "sha256", "$response.body#/sha256", ("has_blob",)),
    (
        ("create_endpoint",),
        "endpoint_id",
        _ID,
        (
            *("read_endpoint", "test_endpoint", "change_endpoint", "rotate_secret", "replay_deliveries"),
            "delete_endpoint",
        ),
    ),
    (("list_deliveries",), "delivery_id", _FIRST, ("read_delivery", "redeliver")),
    (("test_endpoint",), "delivery_id", _ID, ("read_delivery", "redeliver")),
    (("create_key",), "key_id", _ID, ("read_key", "change_key", "rotate_key", "revoke_key")),
    (
        ("create_project",),
        "project_id",
        _ID,
        ("read_project", "read_project_usage", "change_project", "close_project"),
    ),
)


def tags() -> list[dict[str, str]]:
    """The chapters."""
    return [{"name": name, "description": text} for name, (text, _) in STORY.items()]


def chapter_of(operation_id: str) -> str:
    """The tag of an operation; what the story does not tell belongs to the service."""
    return next((tag for tag, (_, names) in STORY.items() if operation_id in names), "service")


def in_order(paths: dict[str, Any]) -> dict[str, Any]:
    """Paths by the first of their operations that the story tells."""
    told = [name for _, names in STORY.values() for name in names]

    def place(path: str) -> int:
        names = [operation["operationId"] for operation in paths[path].values()]
        return min(told.index(name) if name in told else len(told) for name in names)

    return {path: paths[path] for path in sorted(paths, key=place)}


def links_of(operation_id: str) -> dict[str, Any]:
    """Where an answer of this operation leads: OpenAPI links."""
    return {
        name: {"operationId": name, "parameters": {parameter: expression}}
        for sources, parameter, expression, targets in LINKS
        if operation_id in sources
        for name in targets
    }
