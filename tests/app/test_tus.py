"""Resumable uploads over HTTP: the protocol, from creation to a blob, an end or a refusal."""

import httpx
import pytest

from app.db.models import Event
from app.services import sweeper
from tests.app.conftest import MIB, UPLOAD_LIMIT, Service, Tenant, new_key
from tests.app.problems import problem
from tests.app.tus import CHUNK, TUS, age, checksum, create, hexdigest, offset, patch, text
from tests.app.uploading import content


def test_the_server_says_what_it_speaks(http: httpx.Client) -> None:
    answer = http.options("/v1/uploads")

    assert answer.status_code == 204
    assert answer.headers["tus-resumable"] == answer.headers["tus-version"] == "1.0.0"
    assert set(answer.headers["tus-extension"].split(",")) == {
        "creation",
        "creation-with-upload",
        "expiration",
        "termination",
        "checksum",
    }
    assert answer.headers["tus-checksum-algorithm"] == "sha256"
    assert answer.headers["tus-max-size"] == str(UPLOAD_LIMIT)


def test_an_upload_in_pieces_becomes_a_blob_and_a_version(service: Service, http: httpx.Client) -> None:
    sent, before = content(3 * MIB), len(service.objects())
    url = create(http, len(sent), **{"Upload-Metadata": f"filename {text('größe.onnx')},private"})

    for start in range(0, len(sent), MIB):
        assert offset(http, url) == start
        answer = patch(http, url, start, sent[start : start + MIB])
        assert (answer.status_code, answer.headers["upload-offset"]) == (204, str(start + MIB))

    assert answer.headers["fewbits-sha256"] == hexdigest(sent)
    head = http.head(url, headers=TUS).headers
    assert (head["upload-length"], head["upload-offset"]) == (str(len(sent)), str(len(sent)))
    assert head["cache-control"] == "no-store"
    assert head["upload-metadata"] == f"filename {text('größe.onnx')},private"
    shown = http.get(url).json()
    assert (shown["state"], shown["sha256"], shown["filename"]) == ("ready", hexdigest(sent), "größe.onnx")
    version = http.post("/v1/models", json={"name": "m", "files": {"m.onnx": hexdigest(sent)}}).json()
    assert http.get(version["links"]["content"]).content == sent
    assert len(service.objects()) == before + 1


def test_the_first_bytes_may_come_with_the_creation(http: httpx.Client) -> None:
    sent = content()

    part = http.post("/v1/uploads", content=sent[:400], headers={**CHUNK, "Upload-Length": str(len(sent))})
    rest = patch(http, part.headers["location"], 400, sent[400:])
    whole = http.post("/v1/uploads", content=sent, headers={**CHUNK, "Upload-Length": str(len(sent))})

    assert (part.status_code, part.headers["upload-offset"]) == (201, "400")
    assert rest.headers["fewbits-sha256"] == whole.headers["fewbits-sha256"] == hexdigest(sent)


def test_bytes_that_the_project_has_need_not_be_sent_again(tenant: Tenant, stranger: Tenant) -> None:
    sent = content()
    known = {"Upload-Metadata": f"sha256 {text(hexdigest(sent))}"}
    tenant.http.put(f"/v1/blobs/{hexdigest(sent)}", content=sent)

    mine, foreign = (create(someone.http, len(sent), **known) for someone in (tenant, stranger))

    assert offset(tenant.http, mine) == len(sent)
    assert offset(stranger.http, foreign) == 0


@pytest.mark.parametrize("version", [None, "0.2.2", "2.0.0"])
def test_another_version_of_the_protocol_is_refused(http: httpx.Client, version: str | None) -> None:
    headers = {"Upload-Length": "10"} | ({"Tus-Resumable": version} if version else {})

    answer = http.post("/v1/uploads", headers=headers)

    problem(answer, 412, "unsupported_tus_version")
    assert answer.headers["tus-version"] == answer.headers["tus-resumable"] == "1.0.0"


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 422, "invalid_input"),
        ({"Upload-Length": "-1"}, 422, "invalid_input"),
        ({"Upload-Length": "many"}, 422, "invalid_input"),
        ({"Upload-Length": "0"}, 422, "empty_file"),
        ({"Upload-Length": str(UPLOAD_LIMIT + 1)}, 413, "too_large"),
        ({"Upload-Length": "9", "Upload-Metadata": "filename !"}, 422, "invalid_input"),
        ({"Upload-Length": "9", "Upload-Metadata": "filename /w=="}, 422, "invalid_input"),
        ({"Upload-Length": "9", "Upload-Metadata": f"sha256 {text('abc')}"}, 422, "invalid_input"),
        ({"Upload-Length": "9", "Upload-Checksum": "md5 abc"}, 422, "invalid_input"),
    ],
)
def test_an_upload_that_cannot_be_is_refused(
    http: httpx.Client, headers: dict[str, str], status: int, code: str
) -> None:
    answer = http.post("/v1/uploads", headers=TUS | headers)

    problem(answer, status, code)
    assert answer.headers["tus-resumable"] == "1.0.0"


def test_every_refusal_speaks_tus(service: Service, stranger: Tenant, http: httpx.Client) -> None:
    url = create(http, 10)
    nobody = httpx.Client(base_url=service.url, headers={"Authorization": "Bearer none"})

    answers = [
        nobody.patch(url, content=b"x", headers={**CHUNK, "Upload-Offset": "0"}),
        patch(stranger.http, url, 0, b"x"),
        patch(http, url, 1, b"x"),
        http.patch(url, content=b"x", headers={**TUS, "Upload-Offset": "0"}),
        patch(http, url, 0, b"x" * 11),
        http.put(url),
    ]

    assert [answer.status_code for answer in answers] == [401, 404, 409, 415, 413, 405]
    assert {answer.headers["tus-resumable"] for answer in answers} == {"1.0.0"}
    assert offset(http, url) == 0
    nobody.close()


def test_another_projects_upload_is_not_there(tenant: Tenant, stranger: Tenant) -> None:
    url = create(tenant.http, 10)

    for method in ("HEAD", "GET", "DELETE"):
        assert stranger.http.request(method, url, headers=TUS).status_code == 404
    problem(patch(stranger.http, url, 0, b"x" * 10), 404, "not_found")
    assert offset(tenant.http, url) == 0


def test_a_wrong_checksum_counts_nothing_and_the_piece_can_be_sent_again(http: httpx.Client) -> None:
    sent = content(2 * MIB)
    url = create(http, len(sent))
    patch(http, url, 0, sent[:MIB], **checksum(sent[:MIB]))

    wrong = patch(http, url, MIB, content(MIB), **checksum(sent[MIB:]))

    problem(wrong, 460, "checksum_mismatch")
    assert offset(http, url) == MIB
    again = patch(http, url, MIB, sent[MIB:], **checksum(sent[MIB:]))
    assert again.headers["fewbits-sha256"] == hexdigest(sent)


def test_other_bytes_than_announced_fail_the_upload_and_leave_nothing(
    service: Service, http: httpx.Client
) -> None:
    sent, before = content(), service.objects()
    url = create(http, len(sent), **{"Upload-Metadata": f"sha256 {text(hexdigest(sent))}"})

    answer = patch(http, url, 0, content())

    problem(answer, 422, "digest_mismatch")
    assert (http.head(url).status_code, http.get(url).json()["state"]) == (410, "failed")
    problem(patch(http, url, 0, sent), 410, "upload_gone")
    assert http.head(f"/v1/blobs/{hexdigest(sent)}").status_code == 404
    assert service.objects() == before


def test_an_upload_that_nobody_went_on_with_expires(service: Service, http: httpx.Client) -> None:
    before = service.objects()
    url = create(http, 100)
    answer = patch(http, url, 0, b"x" * 50)
    assert answer.headers["upload-expires"].endswith("GMT")
    sweeper.sweep(service.database, service.storage)
    assert offset(http, url) == 50

    age(service, url, "expires_at")
    sweeper.sweep(service.database, service.storage)

    assert http.head(url).status_code == 410
    problem(patch(http, url, 50, b"x" * 50), 410, "upload_gone")
    assert http.get(url).json()["state"] == "expired"
    assert service.objects() == before


def test_a_terminated_upload_is_forgotten_but_not_its_blob(service: Service, http: httpx.Client) -> None:
    sent, before = content(), service.objects()
    unfinished, finished = create(http, 100), create(http, len(sent))
    patch(http, unfinished, 0, b"x")
    assert http.delete(unfinished, headers=TUS).status_code == 204
    assert service.objects() == before
    patch(http, finished, 0, sent)

    assert http.delete(finished, headers=TUS).status_code == 204

    for url in (unfinished, finished):
        assert http.head(url).status_code == 404
        problem(http.delete(url, headers=TUS), 404, "not_found")
    assert http.head(f"/v1/blobs/{hexdigest(sent)}").status_code == 200


def test_the_method_may_come_in_a_header(http: httpx.Client) -> None:
    url = create(http, 4)
    headers = {**CHUNK, "Upload-Offset": "0", "X-HTTP-Method-Override": "PATCH"}

    assert http.post(url, content=b"abcd", headers=headers).status_code == 204


def test_a_read_only_key_cannot_override_its_way_to_deleting(service: Service, tenant: Tenant) -> None:
    url = create(tenant.http, 4)
    key = new_key(service, tenant.project, ("read",))
    headers = {**TUS, "X-HTTP-Method-Override": "DELETE", "Authorization": f"Bearer {key}"}

    problem(tenant.http.get(url, headers=headers), 403, "forbidden")


@pytest.mark.parametrize("sent", [b"x" * 11, [b"x" * 6, b"x" * 5]])
def test_more_than_was_announced_is_refused(http: httpx.Client, sent: bytes | list[bytes]) -> None:
    url = create(http, 10)

    answer = http.patch(url, content=sent, headers={**CHUNK, "Upload-Offset": "0"})

    problem(answer, 413, "too_large")
    assert http.get(url).json()["state"] == "receiving"
    assert patch(http, url, 0, b"y" * 10).headers["fewbits-sha256"] == hexdigest(b"y" * 10)


def test_each_change_of_state_is_an_event(service: Service, http: httpx.Client) -> None:
    url = create(http, 4)
    patch(http, url, 0, b"abcd")
    http.delete(url, headers=TUS)

    with service.database.reading() as db:
        mine = db.query(Event).filter(Event.subject_id == url.rpartition("/")[2]).order_by(Event.seq)
        assert [event.type for event in mine] == ["upload.created", "upload.ready", "upload.deleted"]
