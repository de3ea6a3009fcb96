"""What no honest client sends: text that cannot be stored, bodies of another kind than is expected."""

import json
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from fastapi import FastAPI, Request

from app.api import errors
from tests import factories
from tests.app.conftest import MIB, Service, Tenant
from tests.app.problems import pointers, problem
from tests.app.sockets import head, talk

HALF, NUL = "\ud800", "a\0b"
DYNAMIC = [{"method": "dynamic_int8"}]


@pytest.mark.parametrize(
    "part",
    [
        {"labels": {"branch": NUL}},
        {"state": {NUL: "h"}},
        {"labels": {"branch": HALF}},
        {"state": {"h": HALF}},
        {"evaluation": {"output": HALF}},
        {"recipes": [{"method": "dynamic_int8", "exclude": {"nodes": [HALF]}}]},
    ],
    ids=str,
)
def test_text_that_cannot_be_shown_is_not_stored(
    http: httpx.Client, version: str, part: dict[str, Any]
) -> None:
    spec = {"version": version, "recipes": DYNAMIC} | part

    answer = http.post("/v1/jobs", content=json.dumps(spec), headers={"Content-Type": "application/json"})

    problem(answer, 422, "invalid_input")
    assert http.get("/v1/jobs").json()["items"] == []


def test_a_cookie_with_an_escaped_nul_is_a_wrong_cookie(service: Service) -> None:
    answer = httpx.get(f"{service.url}/v1/me", headers={"Cookie": 'fewbits_session="ses_\\000.x"'})

    problem(answer, 401, "unauthenticated")


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x+json", "APPLICATION/JSON", "multipart/form-data"]
)
@pytest.mark.parametrize("path", ["/v1/datasets/dst_1/check", "/v1/jobs", "/v1/uploads"])
def test_what_is_read_into_memory_is_small_whatever_it_is_called(
    service: Service, tenant: Tenant, path: str, kind: str
) -> None:
    key = tenant.http.headers["authorization"].removeprefix("Bearer ")
    told = (f"Content-Type: {kind}", f"Content-Length: {MIB + 1}")

    status, found = talk(service, head(path, key, *told))

    assert (status, found["code"]) == (413, "too_large")


@pytest.mark.parametrize("kind", ["application/x+json", "APPLICATION/JSON", "application/json ; a=b"])
def test_another_body_with_a_used_key_is_told_apart_by_its_content(
    http: httpx.Client, version: str, kind: str
) -> None:
    headers = {"Content-Type": kind, "Idempotency-Key": f"one {kind}".replace(" ", "-")}
    first = http.post("/v1/jobs", json={"version": version, "recipes": DYNAMIC}, headers=headers)
    assert first.status_code == 202, first.text

    other = http.post("/v1/jobs", json={"version": version, "deadline_s": 60}, headers=headers)

    problem(other, 422, "idempotency_key_reused")


def test_a_name_that_no_file_system_takes_is_refused(http: httpx.Client) -> None:
    name = "é" * 128 + ".onnx"
    named = http.post("/v1/models", files={"file": (name, b"model")})
    listed = http.post("/v1/models", json={"name": "m", "files": {name: "0" * 64}})

    assert (pointers(named), pointers(listed)) == (["/file"], ["/files"])


def test_a_full_disk_is_not_called_a_mistake() -> None:
    app = FastAPI()
    errors.install(app)

    @app.get("/")
    def write(request: Request) -> None:
        request.state.request_id = "req_1"
        with Path("/dev/full").open("wb", buffering=0) as file:
            file.write(b"x")

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
            return await client.get("/")

    answer = anyio.run(ask)

    assert (answer.status_code, answer.json()["code"], answer.json()["retryable"]) == (
        507,
        "storage_full",
        True,
    )


@pytest.mark.parametrize(
    "labels", [{f"label {i}": "x" for i in range(51)}, {"commit": "x" * 201}], ids=["many", "long"]
)
def test_a_job_has_no_more_labels_than_a_form_may_send(
    service: Service, tenant: Tenant, labels: dict[str, str]
) -> None:
    version = factories.make_version(service.database, tenant.project)

    answer = tenant.http.post("/v1/jobs", json={"version": version, "labels": labels})

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"].startswith("/labels")


def test_a_nul_in_a_field_of_a_form_is_named(http: httpx.Client) -> None:
    sent = http.post("/v1/models", files={"file": ("m.onnx", b"model")}, data={"name": NUL})

    assert pointers(sent) == ["/name"]


def test_what_only_looks_like_a_nul_is_stored(http: httpx.Client, version: str) -> None:
    labels = {"path": "C:\\u0000", "\\\\u0000": "\\"}

    job = http.post("/v1/jobs", json={"version": version, "labels": labels}).json()

    assert job["spec"]["labels"] == labels


@pytest.mark.parametrize("path", ["/v1/jobs/%00", "/v1/jobs?version=%00", "/v1/jobs?label.a=%00"])
def test_a_nul_in_an_address_is_refused(http: httpx.Client, path: str) -> None:
    problem(http.get(path), 422, "invalid_input")


def test_what_must_have_a_form_is_told_in_words(http: httpx.Client, version: str) -> None:
    asked = {"version": version, "gate": {"min_speedup": 1.1, "against": "yesterday"}}
    upload = {"Tus-Resumable": "1.0.0", "Upload-Length": "many"}

    answers = (
        http.post("/v1/jobs", json=asked),
        http.post("/v1/uploads", headers=upload),
        http.post("/v1/uploads", headers=upload | {"Upload-Length": "1", "Upload-Checksum": "md5 x"}),
    )

    told = [problem(answer, 422, "invalid_input")["detail"] for answer in answers]
    assert "latest:key=value" in told[0]
    assert "a number of bytes" in told[1]
    assert "the digest in base64" in told[2]
    assert not [detail for detail in told if "^" in detail]


@pytest.mark.parametrize(
    "part",
    [
        {"deadline_s": True},
        {"benchmark": {"threads": "2"}},
        {"gate": {"min_speedup": True}},
        {"calibration": {"samples": 1.5}},
    ],
    ids=str,
)
def test_what_is_no_number_is_not_taken_for_one(
    http: httpx.Client, version: str, part: dict[str, Any]
) -> None:
    assert len(pointers(http.post("/v1/jobs", json={"version": version} | part))) == 1


def test_an_empty_id_is_no_id(http: httpx.Client, version: str) -> None:
    assert pointers(http.post("/v1/jobs", json={"version": ""})) == ["/version"]
    nothing = {"version": version, "evaluation": {"dataset": ""}}
    assert pointers(http.post("/v1/jobs", json=nothing)) == ["/evaluation/dataset"]
