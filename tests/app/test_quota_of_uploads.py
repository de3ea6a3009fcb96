"""Uploads that are not complete count towards the project's bytes: with all they announced, and once."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from app.db.models import Project
from app.domain.quota import Quotas
from app.services import sweeper
from tests.app.conftest import Service, Tenant
from tests.app.problems import problem
from tests.app.tus import TUS, age, create, hexdigest, patch, text
from tests.app.uploading import content

ROOM = 100


@pytest.fixture
def http(service: Service, tenant: Tenant) -> httpx.Client:
    """A client of a project that may store a hundred bytes."""
    with service.database.writing() as db:
        db.get_one(Project, tenant.project).quotas = Quotas(bytes=ROOM)
    return tenant.http


def begin(http: httpx.Client, length: int, **headers: str) -> httpx.Response:
    return http.post("/v1/uploads", headers={**TUS, "Upload-Length": str(length), **headers})


def put(http: httpx.Client, sent: bytes) -> httpx.Response:
    return http.put(f"/v1/blobs/{hexdigest(sent)}", content=sent)


def named(sent: bytes) -> dict[str, str]:
    """The header that announces what an upload will be."""
    return {"Upload-Metadata": f"sha256 {text(hexdigest(sent))}"}


def used(http: httpx.Client) -> tuple[int, int]:
    """All bytes that count, and those of uploads that are not complete."""
    found = http.get("/v1/usage").json()["bytes"]
    return found["total"], found["uploads"]


def test_an_upload_counts_from_its_beginning_with_all_that_it_announced(http: httpx.Client) -> None:
    url = create(http, 60)
    patch(http, url, 0, content(59)).raise_for_status()

    assert used(http) == (60, 60)
    told = problem(begin(http, 41), 413, "quota_exceeded")["detail"]
    assert f"may store {ROOM} bytes and would have 101 with this upload" in told
    assert "60 of them" in told
    assert "DELETE /v1/uploads/{id}" in told
    problem(put(http, content(41)), 413, "quota_exceeded")
    problem(http.post("/v1/models", files={"file": ("m.onnx", content(41))}), 413, "quota_exceeded")
    assert used(http) == (60, 60), "what was refused does not count"
    assert begin(http, 40).status_code == 201


def test_who_has_no_other_upload_is_told_of_none(http: httpx.Client) -> None:
    assert "uploads" not in problem(begin(http, 101), 413, "quota_exceeded")["detail"]


def test_an_upload_that_completes_counts_once(http: httpx.Client) -> None:
    sent = content(ROOM)
    url = create(http, ROOM)
    patch(http, url, 0, sent[:50]).raise_for_status()

    patch(http, url, 50, sent[50:]).raise_for_status()

    assert used(http) == (ROOM, 0)
    assert begin(http, ROOM, **named(sent)).status_code == 201, "bytes that are here cost nothing"
    assert used(http) == (ROOM, 0)


def test_bytes_that_come_again_without_being_named_count_until_they_are_known(http: httpx.Client) -> None:
    sent = content(50)
    put(http, sent).raise_for_status()
    url = create(http, 50)
    assert used(http) == (100, 50)

    patch(http, url, 0, sent).raise_for_status()

    assert used(http) == (50, 0)


def test_naming_bytes_that_are_here_brings_no_others_in(http: httpx.Client) -> None:
    small = content(1)
    put(http, small).raise_for_status()

    problem(begin(http, ROOM, **named(small)), 413, "quota_exceeded")

    assert used(http) == (1, 0)


def terminated(service: Service, http: httpx.Client, url: str) -> None:
    assert service.url
    http.delete(url, headers=TUS).raise_for_status()


def expired(service: Service, http: httpx.Client, url: str) -> None:
    age(service, url, "expires_at")
    sweeper.sweep(service.database, service.storage)
    assert http.get(url).json()["state"] == "expired"


def failed(_service: Service, http: httpx.Client, url: str) -> None:
    problem(patch(http, url, 0, content(ROOM)), 422, "digest_mismatch")


@pytest.mark.parametrize("end", [terminated, expired, failed])
def test_an_upload_that_ends_makes_room(
    service: Service, http: httpx.Client, end: Callable[[Service, httpx.Client, str], None]
) -> None:
    url = create(http, ROOM, **named(b"something else"))
    problem(begin(http, 1), 413, "quota_exceeded")

    end(service, http, url)

    assert used(http) == (0, 0)
    assert begin(http, ROOM).status_code == 201


def test_uploads_begun_at_once_cannot_pass_the_quota_together(http: httpx.Client) -> None:
    with ThreadPoolExecutor(4) as senders:
        answers = [answer.status_code for answer in senders.map(lambda _: begin(http, 60), range(4))]

    assert sorted(answers) == [201, 413, 413, 413]


def test_uploads_that_fit_can_all_be_completed_at_once(http: httpx.Client) -> None:
    urls = [create(http, 25) for _ in range(4)]

    with ThreadPoolExecutor(4) as senders:
        answers = list(senders.map(lambda url: patch(http, url, 0, content(25)).status_code, urls))

    assert answers == [204] * 4
    assert used(http) == (ROOM, 0)
