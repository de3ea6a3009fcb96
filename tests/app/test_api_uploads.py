"""Models and datasets over HTTP: as forms and by hash, refused where they are wrong or before their body."""

import hashlib
import json
import socket

import httpx
import pytest

from tests.app.conftest import MIB, Service
from tests.app.problems import pointers, problem
from tests.app.uploading import Files, content
from tests.waiting import SECONDS

JSON = {"Content-Type": "application/json"}


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


def test_a_path_picks_one_file_of_a_version(http: httpx.Client) -> None:
    weights = content()
    files: Files = [("file", ("m.onnx", content())), ("file", ("w.bin", weights))]
    version = http.post("/v1/models", files=files).json()

    assert http.get(version["links"]["content"], params={"path": "w.bin"}).content == weights
    problem(http.get(version["links"]["content"], params={"path": "x.bin"}), 404, "not_found")


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


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/datasets", "/v1/quantize", "/v1/blobs/" + "a" * 64, "/v1/uploads"]
)
@pytest.mark.parametrize(("key", "length", "status"), [("", 1000, 401), ("mine", 8 * MIB, 413)])
def test_a_refusal_comes_before_the_body(
    service: Service, http: httpx.Client, path: str, key: str, length: int, status: int
) -> None:
    method = "PUT" if "blobs" in path else "POST"
    host, port = service.address
    authorization = http.headers["authorization"] if key else "Bearer fb_nobody_x"
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: {authorization}\r\n"
        f"Content-Type: multipart/form-data; boundary=B\r\nContent-Length: {length}\r\n\r\n"
    )

    with socket.create_connection((host, port), timeout=SECONDS) as connection:
        connection.sendall(head.encode())
        answer = connection.recv(4000)

    assert answer.startswith(f"HTTP/1.1 {status}".encode())
    assert b"application/problem+json" in answer


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
        problem(http.post("/v1/models", content=json.dumps(body), headers=JSON), 422, "invalid_input")
