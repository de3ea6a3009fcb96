"""Blobs over HTTP: put raw, kept once, and open only to the project that sent them."""

import hashlib
import secrets
import socket

import httpx
import pytest

from tests.app.conftest import MIB, Service, Tenant
from tests.app.problems import pointers, problem
from tests.app.uploading import content


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
    host, port = service.address
    head = (
        f"PUT {url} HTTP/1.1\r\nHost: {host}\r\nAuthorization: {http.headers['authorization']}\r\n"
        f"Content-Length: {len(sent)}\r\nExpect: 100-continue\r\n\r\n"
    )

    with socket.create_connection((host, port)) as connection:
        connection.sendall(head.encode())
        answer = connection.recv(1000)

    assert answer.startswith(b"HTTP/1.1 200")


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
