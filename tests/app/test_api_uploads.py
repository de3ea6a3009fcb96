"""Uploads over HTTP: three ways in, and nothing left behind by any that fails."""

import hashlib
import json
import secrets
import socket
import threading
import time
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from app.db.models import Version
from app.domain.errors import Problem
from app.services import models
from tests import factories
from tests.app.conftest import MIB, Service, Tenant

JSON = {"Content-Type": "application/json"}
Files = list[tuple[str, Any]]


def content(size: int = 1000) -> bytes:
    """Bytes that no other test sends."""
    return secrets.token_bytes(size)


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem that this answer must be."""
    found: dict[str, Any] = answer.json()
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    assert (answer.status_code, found["status"], found["code"]) == (status, status, code), answer.text
    assert found["request_id"] == answer.headers["x-request-id"]
    assert found["detail"]
    return found


def pointers(answer: httpx.Response) -> list[str]:
    return [error["pointer"] for error in problem(answer, 422, "invalid_input")["errors"]]


def test_a_model_is_uploaded_as_a_form_and_comes_back_byte_for_byte(http: httpx.Client) -> None:
    sent = content(2 * MIB)

    answer = http.post(
        "/v1/models",
        files={"file": ("digits.onnx", sent)},
        data={"name": "digits", "labels": '{"branch": "main"}'},
    )

    version = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == version["links"]["self"] == f"/v1/versions/{version['id']}"
    assert (version["state"], version["name"], version["labels"]) == (
        "inspecting",
        "digits",
        {"branch": "main"},
    )
    sha256 = hashlib.sha256(sent).hexdigest()
    assert version["files"] == [{"path": "digits.onnx", "sha256": sha256, "size": len(sent)}]
    assert http.get(version["links"]["content"]).content == sent
    assert http.get(version["links"]["self"]).json() == version


def test_external_data_are_further_files_and_the_onnx_file_comes_first(http: httpx.Client) -> None:
    files: Files = [("file", ("weights.bin", content())), ("file", ("m.onnx", content()))]

    version = http.post("/v1/models", files=files).json()

    assert [file["path"] for file in version["files"]] == ["m.onnx", "weights.bin"]
    assert version["name"] == "m"


def test_a_second_upload_under_a_name_is_a_further_version(http: httpx.Client) -> None:
    first, second = (
        http.post("/v1/models", files={"file": ("a.onnx", content())}, data={"name": "n"}).json()
        for _ in range(2)
    )

    assert first["model"] == second["model"]
    listed = http.get(f"/v1/models/{first['model']}/versions").json()["items"]
    assert {v["id"] for v in listed} == {first["id"], second["id"]}
    assert http.get(f"/v1/models/{first['model']}").json()["name"] == "n"


def test_a_blob_is_put_raw_and_becomes_a_version_by_its_hash(http: httpx.Client) -> None:
    sent = content(3 * MIB)
    sha256 = hashlib.sha256(sent).hexdigest()
    assert http.head(f"/v1/blobs/{sha256}").status_code == 404

    put = http.put(f"/v1/blobs/{sha256}", content=sent)
    version = http.post("/v1/models", json={"name": "m", "files": {"m.onnx": sha256}})

    assert (put.status_code, put.json()) == (201, {"sha256": sha256, "size": len(sent)})
    here = http.head(f"/v1/blobs/{sha256}")
    assert (here.status_code, here.headers["etag"]) == (200, f'"{sha256}"')
    assert here.headers["content-length"] == str(len(sent))
    assert version.status_code == 201
    assert http.get(version.json()["links"]["content"]).content == sent


def test_putting_the_same_blob_again_keeps_it_once(service: Service, http: httpx.Client) -> None:
    sent = content()
    url = f"/v1/blobs/{hashlib.sha256(sent).hexdigest()}"
    assert http.put(url, content=sent).status_code == 201
    before = service.objects()

    assert http.put(url, content=sent).status_code == 200

    assert service.objects() == before


def test_a_blob_that_is_here_needs_no_body_from_who_asks_first(service: Service, http: httpx.Client) -> None:
    sent = content(2 * MIB)
    url = f"/v1/blobs/{hashlib.sha256(sent).hexdigest()}"
    http.put(url, content=sent)
    host, _, port = service.url.removeprefix("http://").partition(":")
    head = (
        f"PUT {url} HTTP/1.1\r\nHost: {host}\r\nAuthorization: {http.headers['authorization']}\r\n"
        f"Content-Length: {len(sent)}\r\nExpect: 100-continue\r\n\r\n"
    )

    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode())
        answer = connection.recv(1000)

    assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/datasets", "/v1/quantize", "/v1/blobs/" + "a" * 64, "/v1/uploads"]
)
@pytest.mark.parametrize(("key", "length", "status"), [("", 1000, 401), ("mine", 8 * MIB, 413)])
def test_a_refusal_comes_before_the_body(
    service: Service, http: httpx.Client, path: str, key: str, length: int, status: int
) -> None:
    method = "PUT" if "blobs" in path else "POST"
    host, _, port = service.url.removeprefix("http://").partition(":")
    authorization = http.headers["authorization"] if key else "Bearer fb_nobody_x"
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: {authorization}\r\n"
        f"Content-Type: multipart/form-data; boundary=B\r\nContent-Length: {length}\r\n\r\n"
    )

    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(head.encode())
        answer = connection.recv(4000)

    assert answer.startswith(f"HTTP/1.1 {status}".encode())
    assert b"application/problem+json" in answer


def test_bytes_with_another_digest_are_refused_and_leave_nothing(
    service: Service, http: httpx.Client
) -> None:
    sha256 = secrets.token_hex(32)
    before = service.objects()

    answer = http.put(f"/v1/blobs/{sha256}", content=content())

    assert sha256 in problem(answer, 422, "digest_mismatch")["detail"]
    assert service.objects() == before
    assert http.head(f"/v1/blobs/{sha256}").status_code == 404


def test_an_empty_blob_is_refused_and_leaves_nothing(service: Service, http: httpx.Client) -> None:
    before = service.objects()

    answer = http.put(f"/v1/blobs/{hashlib.sha256(b'').hexdigest()}", content=b"")

    problem(answer, 422, "empty_file")
    assert service.objects() == before


@pytest.mark.parametrize("sha256", ["abc", "A" * 64, "g" * 64, "a" * 65])
def test_a_hash_that_is_none_is_named(http: httpx.Client, sha256: str) -> None:
    assert pointers(http.put(f"/v1/blobs/{sha256}", content=b"x")) == ["/sha256"]


def test_a_hash_of_another_project_opens_nothing(tenant: Tenant, stranger: Tenant) -> None:
    sent = content()
    sha256 = hashlib.sha256(sent).hexdigest()
    tenant.http.put(f"/v1/blobs/{sha256}", content=sent)

    assert stranger.http.head(f"/v1/blobs/{sha256}").status_code == 404
    answer = stranger.http.post("/v1/models", json={"name": "m", "files": {"m.onnx": sha256}})
    assert pointers(answer) == ["/files"]
    answer = stranger.http.post("/v1/datasets", json={"name": "d", "sha256": sha256})
    assert pointers(answer) == ["/sha256"]


def test_a_dataset_is_uploaded_as_a_form_and_by_its_hash(http: httpx.Client) -> None:
    sent = content()
    sha256 = hashlib.sha256(sent).hexdigest()

    first = http.post(
        "/v1/datasets",
        files={"file": ("val.npz", sent)},
        data={"preprocess": "imagenet", "input": "image"},
    )
    second = http.post("/v1/datasets", json={"name": "val", "sha256": sha256, "preprocess": "signed"})

    assert (first.status_code, second.status_code) == (201, 201)
    assert first.headers["location"] == f"/v1/datasets/{first.json()['id']}"
    assert (first.json()["name"], first.json()["input"]) == ("val.npz", "image")
    assert first.json()["preprocess"]["resize"] == 256
    assert second.json()["preprocess"]["mean"] == [1.0]
    assert first.json()["sha256"] == second.json()["sha256"] == sha256
    assert http.get(first.json()["links"]["self"]).json() == first.json()


def form(*parts: tuple[str, bytes], end: bytes = b"--B--\r\n") -> bytes:
    return b"".join(b"--B\r\nContent-Disposition: form-data; " + _part(*p) for p in parts) + end


def _part(disposition: str, body: bytes) -> bytes:
    return disposition.encode() + b"\r\n\r\n" + body + b"\r\n"


FILE = ('name="file"; filename="m.onnx"', b"bytes")
MULTIPART = {"Content-Type": "multipart/form-data; boundary=B"}


def post_form(http: httpx.Client, body: bytes, path: str = "/v1/models") -> httpx.Response:
    return http.post(path, content=body, headers=MULTIPART)


def test_a_form_that_ends_too_early_is_refused_and_leaves_nothing(
    service: Service, http: httpx.Client
) -> None:
    before = service.objects()
    whole = form(FILE, ('name="name"', b"m"))

    for cut in (len(whole) - 6, len(whole) // 2, 40, 3, 0):
        problem(post_form(http, whole[:cut]), 422, "invalid_multipart")

    assert service.objects() == before
    assert post_form(http, whole).status_code == 201


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "multipart/form-data"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {},
    ],
)
def test_a_body_that_is_no_form_is_refused(http: httpx.Client, headers: dict[str, str]) -> None:
    problem(http.post("/v1/models", content=form(FILE), headers=headers), 422, "invalid_multipart")


def test_garbage_under_a_forms_name_is_refused(http: httpx.Client) -> None:
    problem(post_form(http, content()), 422, "invalid_multipart")


def test_a_part_of_an_unknown_name_is_refused_and_leaves_nothing(
    service: Service, http: httpx.Client
) -> None:
    before = service.objects()

    answer = post_form(http, form(FILE, ('name="fiel"', b"x")))

    assert pointers(answer) == ["/fiel"]
    assert "file" in answer.json()["errors"][0]["detail"]
    assert service.objects() == before


@pytest.mark.parametrize(
    ("path", "part"), [("/v1/models", "/file"), ("/v1/datasets", "/file"), ("/v1/quantize", "/model")]
)
def test_a_form_without_its_file_says_which_part_is_missing(http: httpx.Client, path: str, part: str) -> None:
    assert pointers(post_form(http, form(('name="name"', b"m")), path)) == [part]


def test_too_many_parts_are_refused_and_leave_nothing(service: Service, http: httpx.Client) -> None:
    before = service.objects()

    problem(post_form(http, form(*[FILE] * 101)), 422, "invalid_multipart")

    assert service.objects() == before


def test_a_field_that_is_too_long_is_refused(http: httpx.Client) -> None:
    assert pointers(post_form(http, form(FILE, ('name="name"', b"x" * (MIB + 1))))) == ["/name"]


@pytest.mark.parametrize("path", ["/v1/datasets", "/v1/quantize"])
def test_a_second_file_where_one_belongs_is_refused_and_leaves_nothing(
    service: Service, http: httpx.Client, path: str
) -> None:
    part = "data" if path == "/v1/quantize" else "file"
    files: Files = [(part, ("a.npz", content())), (part, ("b.npz", content()))]
    model: Files = [("model", ("m.onnx", content()))] if path == "/v1/quantize" else []
    before = service.objects()

    assert pointers(http.post(path, files=model + files)) == [f"/{part}"]
    assert service.objects() == before


@pytest.mark.parametrize("names", [("m.onnx", "m.onnx"), ("a/m.onnx", "b/m.onnx")])
def test_two_files_of_one_name_are_refused_and_leave_nothing(
    service: Service, http: httpx.Client, names: tuple[str, str]
) -> None:
    before = service.objects()
    files: Files = [("file", (name, content())) for name in names]

    assert pointers(http.post("/v1/models", files=files)) == ["/file"]
    assert service.objects() == before


@pytest.mark.parametrize(
    "paths",
    [
        ("../m.onnx",),
        ("/etc/m.onnx",),
        ("a/../../m.onnx",),
        ("a\\m.onnx",),
        ("m.onnx\0",),
        ("",),
        (".",),
        ("x" * 501,),
        ("m.onnx", "./m.onnx"),
        ("m.onnx", "m.onnx/data"),
    ],
)
def test_paths_that_lead_outside_or_collide_are_refused(http: httpx.Client, paths: tuple[str, ...]) -> None:
    sent = content()
    sha256 = hashlib.sha256(sent).hexdigest()
    http.put(f"/v1/blobs/{sha256}", content=sent)

    answer = http.post("/v1/models", json={"name": "m", "files": dict.fromkeys(paths, sha256)})

    assert pointers(answer) == ["/files"]


@pytest.mark.parametrize(
    ("filename", "path"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:/models/m.onnx", "m.onnx"),
        ("", "model.onnx"),
        ("päth with spaces.onnx", "päth with spaces.onnx"),
    ],
)
def test_a_filename_is_only_a_name(http: httpx.Client, filename: str, path: str) -> None:
    body = form((f'name="file"; filename="{filename}"', b"bytes"))

    assert post_form(http, body).json()["files"][0]["path"] == path


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"labels": "{"}, "/labels"),
        ({"labels": "[]"}, "/labels"),
        ({"labels": '{"a": 1}'}, "/labels/a"),
        ({"labels": '{"a": "' + "x" * 201 + '"}'}, "/labels/a"),
    ],
)
def test_labels_that_are_no_object_of_strings_are_refused(
    service: Service, http: httpx.Client, fields: dict[str, str], pointer: str
) -> None:
    before = service.objects()

    answer = http.post("/v1/models", files={"file": ("m.onnx", content())}, data=fields)

    assert pointers(answer) == [pointer]
    assert service.objects() == before


@pytest.mark.parametrize(
    ("preprocess", "pointer"),
    [
        ("imagenette", "/preprocess"),
        ("{", "/preprocess"),
        ('{"resize": "big"}', "/preprocess/resize"),
        ('{"rezize": 2}', "/preprocess/rezize"),
        ('{"mean": [1, "a"]}', "/preprocess/mean/1"),
    ],
)
def test_preprocessing_that_makes_no_sense_is_refused_where_it_is_wrong(
    service: Service, http: httpx.Client, preprocess: str, pointer: str
) -> None:
    before = service.objects()

    answer = http.post("/v1/datasets", files={"file": ("d.npz", content())}, data={"preprocess": preprocess})

    assert pointers(answer) == [pointer]
    assert service.objects() == before


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"files": {"m.onnx": "a" * 64}}, "/name"),
        ({"name": "m"}, "/files"),
        ({"name": "m", "files": {}}, "/files"),
        ({"name": "", "files": {"m.onnx": "a" * 64}}, "/name"),
        ({"name": "m", "files": {"m.onnx": "abc"}}, "/files/m.onnx"),
        ({"name": "m", "files": {"m.onnx": "a" * 64}, "lables": {}}, "/lables"),
    ],
)
def test_a_version_in_json_is_refused_where_it_is_wrong(
    http: httpx.Client, body: dict[str, object], pointer: str
) -> None:
    assert pointers(http.post("/v1/models", json=body)) == [pointer]


@pytest.mark.parametrize("text", ["\0", "a\0b", "\ud800"])
def test_text_that_no_database_can_hold_is_refused(http: httpx.Client, text: str) -> None:
    sent = content()
    sha256 = hashlib.sha256(sent).hexdigest()
    http.put(f"/v1/blobs/{sha256}", content=sent)
    bodies: list[dict[str, object]] = [
        {"name": text, "files": {"m.onnx": sha256}},
        {"name": "m", "files": {"m.onnx": sha256}, "labels": {"a": text}},
    ]

    for body in bodies:
        answer = http.post("/v1/models", content=json.dumps(body), headers=JSON)
        if answer.status_code != 201 or text == "\ud800":  # SQLite can hold a NUL
            problem(answer, 422, "invalid_input")


def reject(service: Service, version_id: str) -> None:
    """What a worker does with a file that is no model."""
    with service.database.writing() as db:
        models.reject(db, service.storage, version_id, Problem("not_onnx", "This is no model."))


def test_who_waits_for_an_inspection_gets_a_rejection_as_the_answer(service: Service, tenant: Tenant) -> None:
    answers: list[httpx.Response] = []
    files: Files = [("file", ("m.onnx", content()))]
    asking = threading.Thread(
        target=lambda: answers.append(
            tenant.http.post("/v1/models", files=files, headers={"Prefer": "wait=50"})
        )
    )
    asking.start()
    with service.database.reading() as db:
        mine = select(Version.id).where(Version.project_id == tenant.project)
        while (version := db.scalars(mine).first()) is None:
            db.rollback()
            time.sleep(0.02)

    reject(service, version)
    asking.join()

    assert version in problem(answers[0], 422, "not_onnx")["detail"]


def test_a_rejected_version_keeps_its_problem_and_loses_its_bytes(
    service: Service, http: httpx.Client
) -> None:
    stored = http.post("/v1/models", files={"file": ("m.onnx", content())}).json()

    reject(service, stored["id"])

    shown = http.get(stored["links"]["self"]).json()
    gone = http.get(stored["links"]["content"])
    refused = http.post("/v1/jobs", json={"version": stored["id"]})
    assert (shown["state"], shown["error"]["code"], shown["files"]) == ("rejected", "not_onnx", [])
    problem(gone, 404, "not_found")
    assert "This is no model." in problem(refused, 422, "invalid_input")["errors"][0]["detail"]


def test_waiting_for_an_inspection_that_does_not_end_gives_the_version_as_it_is(
    http: httpx.Client,
) -> None:
    answer = http.post("/v1/models", files={"file": ("m.onnx", content())}, headers={"Prefer": "wait=1"})

    assert (answer.status_code, answer.json()["state"]) == (201, "inspecting")
    assert answer.headers["preference-applied"] == "wait=1"


def test_a_path_picks_one_file_of_a_version(http: httpx.Client) -> None:
    weights = content()
    files: Files = [("file", ("m.onnx", content())), ("file", ("w.bin", weights))]
    version = http.post("/v1/models", files=files).json()

    assert http.get(version["links"]["content"], params={"path": "w.bin"}).content == weights
    problem(http.get(version["links"]["content"], params={"path": "x.bin"}), 404, "not_found")


def test_a_version_that_is_inspected_shows_what_is_in_it(service: Service, http: httpx.Client) -> None:
    version = http.post("/v1/models", files={"file": ("m.onnx", content())}).json()

    factories.accept(service.database, version["id"])

    shown = http.get(version["links"]["self"]).json()
    assert shown["state"] == "ready"
    assert shown["examination"]["op_types"] == {"Gemm": 1}
