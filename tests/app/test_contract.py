"""What the OpenAPI document promises, held against the running service by a tool that knows nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.app.conftest import Service, new_tenant
from tests.waiting import SECONDS

ROOT = Path(__file__).resolve().parents[2]
SHORT = (
    *("--phases", "examples,fuzzing,stateful", "--max-examples", "2"),
    *("--max-time", "35", "--request-timeout", str(SECONDS)),
    *("--seed", "1", "--generation-deterministic", "--no-color"),
)


def test_the_service_keeps_every_promise_of_its_document(
    service: Service, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.api.routes.webhooks.TEST_SECONDS", 0.1)  # no worker is there to wait for
    if "postgres" in request.node.name:
        pytest.skip("one database is enough")
    with new_tenant(service, ("read", "write", "admin", "operator")) as tenant:
        key = tenant.http.headers["Authorization"]
        run = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "--config-file", ROOT / "schemathesis.toml"),
                *("run", f"{service.url}/openapi.json", "--header", f"Authorization: {key}"),
                *("--exclude-path-regex", "/events$", "--report-dir", tmp_path, *SHORT),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/api-keys", "GET, HEAD, POST"),
        ("/v1/models/mdl_0", "GET, HEAD, DELETE"),
        ("/v1/candidates/cnd_0/content", "GET, HEAD"),
    ],
)
def test_a_method_that_is_not_there_is_answered_with_all_that_are(
    service: Service, path: str, allowed: str
) -> None:
    with new_tenant(service, ("read", "write", "admin")) as tenant:
        answer = tenant.http.put(path)

    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


def test_a_body_that_is_no_text_is_invalid_input(service: Service) -> None:
    with new_tenant(service) as tenant:
        answer = tenant.http.post("/v1/jobs", content=b"\xff{", headers={"Content-Type": "application/json"})

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
