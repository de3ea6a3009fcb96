"""Resumable uploads on bad connections: what is durable counts once, from one writer at a time."""

import random
import secrets
import threading

import httpx
import pytest

from app.api import body, resumable
from app.db.models import Upload
from app.services import sweeper, uploads
from tests.app.conftest import MIB, Service
from tests.app.problems import problem
from tests.app.tus import (
    CHUNK,
    TUS,
    age,
    broken,
    checksum,
    create,
    half_sent,
    hexdigest,
    locked,
    offset,
    patch,
)
from tests.app.uploading import content
from tests.waiting import in_time


@pytest.fixture(autouse=True)
def long_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """No writer's lease runs out by itself."""
    monkeypatch.setattr(uploads, "LEASE_SECONDS", 3600)


def test_a_broken_connection_keeps_what_came(service: Service, http: httpx.Client) -> None:
    sent = content(2 * MIB)
    url = create(http, len(sent))

    broken(service, http, url, sent[:1_500_000], len(sent))

    kept = offset(http, url)
    assert 0 < kept <= 1_500_000
    assert patch(http, url, kept, sent[kept:]).headers["fewbits-sha256"] == hexdigest(sent)


def test_a_broken_connection_keeps_nothing_that_no_checksum_was_compared_for(
    service: Service, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = content(2 * MIB)
    url = create(http, len(sent))
    monkeypatch.setitem(CHUNK, "Upload-Checksum", checksum(sent)["Upload-Checksum"])

    broken(service, http, url, sent[:1_500_000], len(sent))

    assert offset(http, url) == 0
    assert patch(http, url, 0, sent).headers["fewbits-sha256"] == hexdigest(sent)


def test_uploads_broken_at_random_bytes_all_end_right(service: Service, http: httpx.Client) -> None:
    chosen = random.Random(4)  # noqa: S311 - the same bytes in each run
    for _ in range(10):
        sent = secrets.token_bytes(chosen.randrange(1, 2 * MIB))
        url = create(http, len(sent))
        broken(service, http, url, sent[: chosen.randrange(len(sent))], len(sent))
        assert http.head(f"/v1/blobs/{hexdigest(sent)}").status_code == 404

        start = offset(http, url)

        assert patch(http, url, start, sent[start:]).headers["fewbits-sha256"] == hexdigest(sent)


def test_one_writer_at_a_time(service: Service, http: httpx.Client) -> None:
    sent = content(2 * MIB)
    url = create(http, len(sent))
    first = half_sent(service, http, url, sent[:MIB], len(sent))
    assert in_time(lambda: locked(service, url))

    second = patch(http, url, 0, sent)

    problem(second, 423, "upload_locked")
    assert second.headers["retry-after"]
    first.sendall(sent[MIB:])
    assert first.recv(1000).startswith(b"HTTP/1.1 204")
    first.close()
    assert http.get(url).json()["sha256"] == hexdigest(sent)


def test_who_takes_over_a_silent_writer_is_not_disturbed_by_it(service: Service, http: httpx.Client) -> None:
    sent, other = content(2 * MIB), content(2 * MIB)
    url = create(http, len(sent))
    silent = half_sent(service, http, url, other[:MIB], len(sent))
    assert in_time(lambda: locked(service, url))
    age(service, url, "lease_until")

    assert patch(http, url, 0, sent[:1000]).status_code == 204
    silent.sendall(other[MIB:])
    late = silent.recv(1000)
    silent.close()

    assert late.startswith(b"HTTP/1.1 423")
    assert offset(http, url) == 1000
    assert patch(http, url, 1000, sent[1000:]).headers["fewbits-sha256"] == hexdigest(sent)


@pytest.mark.parametrize("kept", [0, 700])
def test_what_a_killed_writer_counted_goes_on_in_a_part_of_its_own(
    service: Service, http: httpx.Client, kept: int
) -> None:
    sent, before = content(), len(service.objects())
    url = create(http, len(sent))
    upload_id = url.rpartition("/")[2]
    with service.database.writing() as db:
        project = db.get_one(Upload, upload_id).project_id
        claim = uploads.claim(db, service.storage, project, upload_id, 0)
    with service.storage.extend(claim.parts[-1].key, 0) as part:
        part.write(sent[:kept] + b"never counted")
    with service.database.writing() as db:
        uploads.advance(db, claim, kept, 3600)
    problem(patch(http, url, kept, sent[kept:]), 423, "upload_locked")
    age(service, url, "lease_until")

    assert patch(http, url, kept, sent[kept:]).headers["fewbits-sha256"] == hexdigest(sent)
    assert len(service.objects()) == before + 1


def test_two_who_send_at_once_make_one_upload(http: httpx.Client) -> None:
    sent = content(2 * MIB)
    url = create(http, len(sent))
    answers: list[httpx.Response] = []
    threads = [threading.Thread(target=lambda: answers.append(patch(http, url, 0, sent))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted({a.status_code for a in answers} - {409, 423}) == [204]
    assert sum(a.status_code == 204 for a in answers) == 1
    assert http.get(url).json()["sha256"] == hexdigest(sent)


def test_an_upload_that_is_being_sent_does_not_expire(service: Service, http: httpx.Client) -> None:
    url = create(http, 2 * MIB)
    connection = half_sent(service, http, url, content(MIB), 2 * MIB)
    assert in_time(lambda: locked(service, url))
    age(service, url, "expires_at")

    sweeper.sweep(service.database, service.storage)

    assert http.get(url).json()["state"] == "receiving"
    connection.close()


def test_a_writer_whose_upload_was_terminated_leaves_nothing(service: Service, http: httpx.Client) -> None:
    before = service.objects()
    url = create(http, 2 * MIB)
    connection = half_sent(service, http, url, content(MIB), 2 * MIB)
    assert in_time(lambda: locked(service, url))

    assert http.delete(url, headers=TUS).status_code == 204
    connection.sendall(content(MIB))

    assert connection.recv(1000).startswith(b"HTTP/1.1 4")
    connection.close()
    assert service.objects() == before


def test_a_client_that_falls_silent_is_told_and_keeps_what_came(
    service: Service, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resumable, "SYNC_BYTES", MIB)
    sent = content(2 * MIB)
    url = create(http, len(sent))
    connection = half_sent(service, http, url, sent[:MIB], len(sent))
    assert in_time(lambda: offset(http, url) == MIB)

    monkeypatch.setattr(body, "IDLE_SECONDS", 0.2)  # from the next byte on
    connection.sendall(sent[MIB : MIB + 1])

    assert connection.recv(1000).startswith(b"HTTP/1.1 408")
    connection.close()
    assert offset(http, url) == MIB + 1


def test_bytes_count_while_they_come(
    service: Service, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resumable, "SYNC_BYTES", MIB)
    sent = content(3 * MIB)
    url = create(http, len(sent))

    connection = half_sent(service, http, url, sent[: 2 * MIB], len(sent))

    assert in_time(lambda: offset(http, url) >= MIB)
    connection.close()
