"""Objects are read again in time: damage is found, told, and repaired by whoever has the bytes."""

import base64
import os
import secrets
from pathlib import Path

import pytest
from sqlalchemy import update

from app.api.tus import CHUNK_TYPE
from app.db import queries
from app.db.models import Blob, Event, Project
from app.db.session import Database
from app.domain.errors import BlobDamaged
from app.domain.quota import Quotas
from app.services import blobs, counting, scrubbing
from app.storage import LocalStorage, StoreUnavailable
from tests import factories
from tests.app.conftest import Service, Tenant
from tests.app.problems import problem
from tests.app.tus import hexdigest
from tests.app.uploading import content


def keep(database: Database, storage: LocalStorage, project: str, sent: bytes) -> Path:
    """Where the object of a new blob lies."""
    received = factories.store(storage, sent)
    with database.writing() as db:
        return storage._path(blobs.keep(db, storage, project, received, 3600).key)


def age(database: Database, *sent: bytes) -> None:
    """Let it be long ago that these blobs were read."""
    with database.writing() as db:
        for days, bytes_sent in enumerate(reversed(sent)):
            db.execute(update(Blob).where(Blob.sha256 == hexdigest(bytes_sent)).values(checked_at=days))


def flip(path: Path) -> None:
    """Change one bit on the disk."""
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)


def is_damaged(database: Database, sent: bytes) -> bool:
    with database.reading() as db:
        return queries.blob(db, hexdigest(sent)).damaged_at is not None


@pytest.mark.parametrize("harm", [flip, os.unlink, lambda path: os.truncate(path, 3)])
def test_a_damaged_object_is_found_and_told(
    database: Database, storage: LocalStorage, project: str, harm: object
) -> None:
    good, bad = content(), content()
    keep(database, storage, project, good)
    assert callable(harm)
    harm(keep(database, storage, project, bad))
    age(database, good, bad)

    scrubbing.scrub(database, storage)

    assert (is_damaged(database, good), is_damaged(database, bad)) == (False, True)
    with database.reading() as db:
        (event,) = db.query(Event).filter_by(type="blob.damaged").all()
        assert (event.project_id, event.data) == (project, {"sha256": hexdigest(bad)})
        with pytest.raises(BlobDamaged, match=hexdigest(bad)):
            blobs.whole(db, hexdigest(bad))


def test_an_object_that_comes_back_whole_is_healed(
    database: Database, storage: LocalStorage, project: str
) -> None:
    sent = content()
    path = keep(database, storage, project, sent)
    elsewhere = path.rename(path.with_suffix(".away"))
    age(database, sent)
    scrubbing.scrub(database, storage)
    assert is_damaged(database, sent)

    elsewhere.rename(path)
    age(database, sent)
    scrubbing.scrub(database, storage)

    assert not is_damaged(database, sent)


def test_what_was_read_lately_is_not_read_again(
    database: Database, storage: LocalStorage, project: str
) -> None:
    first, second = content(), content()
    paths = [keep(database, storage, project, sent) for sent in (first, second)]
    age(database, first)
    scrubbing.scrub(database, storage)
    for path in paths:
        path.unlink()

    scrubbing.scrub(database, storage)

    assert not is_damaged(database, first)
    assert not is_damaged(database, second)


def test_a_sweep_reads_only_so_much_and_the_longest_unread_first(
    database: Database, storage: LocalStorage, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrubbing, "AT_ONCE_BYTES", 1)
    sent = [content(), content()]
    for one in sent:
        keep(database, storage, project, one).unlink()
    age(database, *sent)

    scrubbing.scrub(database, storage)
    assert [is_damaged(database, one) for one in sent] == [False, True]
    scrubbing.scrub(database, storage)
    assert [is_damaged(database, one) for one in sent] == [True, True]


def test_an_object_that_cannot_be_read_keeps_nobody_from_the_others_and_is_tried_again(
    database: Database, storage: LocalStorage, project: str
) -> None:
    stubborn, bad = content(), content()
    path = keep(database, storage, project, stubborn)
    path.unlink()
    path.mkdir()  # opening it fails, and not because it is gone
    keep(database, storage, project, bad).unlink()
    age(database, bad, stubborn)

    scrubbing.scrub(database, storage)

    assert (is_damaged(database, stubborn), is_damaged(database, bad)) == (False, True)
    with database.writing() as db:
        soon = update(Blob).where(Blob.sha256 == hexdigest(stubborn))
        db.execute(soon.values(checked_at=Blob.checked_at - 2 * scrubbing.AGAIN_S * 1_000_000))
    path.rmdir()
    scrubbing.scrub(database, storage)
    assert is_damaged(database, stubborn)


def test_a_store_that_is_not_mounted_damages_nothing(
    database: Database, storage: LocalStorage, project: str
) -> None:
    sent = [content(), content()]
    for one in sent:
        keep(database, storage, project, one)
    age(database, *sent)
    mounted = storage.root.rename(storage.root.with_suffix(".away"))
    storage.root.mkdir()

    with pytest.raises(StoreUnavailable, match="mounted"):
        scrubbing.scrub(database, storage)

    assert not any(is_damaged(database, one) for one in sent)
    storage.root.rmdir()
    mounted.rename(storage.root)
    with database.reading() as db:
        assert blobs.whole(db, hexdigest(sent[0]))


def test_an_object_that_was_deleted_meanwhile_is_not_damaged(
    database: Database, storage: LocalStorage, project: str
) -> None:
    sent = content()
    keep(database, storage, project, sent)
    with database.reading() as db:
        seen = queries.blob(db, hexdigest(sent))
    with database.writing() as db:
        blobs.drop(db, storage, project, hexdigest(sent))
    keep(database, storage, project, sent)

    with database.writing() as db:
        scrubbing._mark(db, seen)

    assert not is_damaged(database, sent)


def test_sending_the_bytes_again_repairs_what_refers_to_them(service: Service, tenant: Tenant) -> None:
    http, sent = tenant.http, content()
    url = f"/v1/blobs/{hexdigest(sent)}"
    http.put(url, content=sent)
    version = http.post("/v1/models", json={"name": "m", "files": {"m.onnx": hexdigest(sent)}}).json()
    with service.database.reading() as db:
        flip(service.storage._path(queries.blob(db, hexdigest(sent)).key))
    age(service.database, sent)
    scrubbing.scrub(service.database, service.storage)
    with service.database.writing() as db:
        counting.measure_blobs(db)

    refused = http.post("/v1/datasets", json={"name": "d", "sha256": hexdigest(sent)})
    assert problem(refused, 422, "invalid_input")["errors"][0]["pointer"] == "/sha256"
    assert http.head(url).status_code == 404
    assert hexdigest(sent) in problem(http.get(version["links"]["content"]), 410, "blob_damaged")["detail"]
    assert http.put(url, content=sent).status_code == 201

    assert http.head(url).status_code == 200
    assert http.get(version["links"]["content"]).content == sent


def test_sending_damaged_bytes_again_costs_nothing_of_the_quota(service: Service, tenant: Tenant) -> None:
    http, by_put, by_upload = tenant.http, secrets.token_bytes(60), secrets.token_bytes(40)
    with service.database.writing() as db:
        db.get_one(Project, tenant.project).quotas = Quotas(bytes=100)
    for sent in (by_put, by_upload):
        assert http.put(f"/v1/blobs/{hexdigest(sent)}", content=sent).status_code == 201
        with service.database.reading() as db:
            flip(service.storage._path(queries.blob(db, hexdigest(sent)).key))
    age(service.database, by_put, by_upload)
    scrubbing.scrub(service.database, service.storage)

    assert http.put(f"/v1/blobs/{hexdigest(by_put)}", content=by_put).status_code == 201
    announced = {"Upload-Length": str(len(by_upload)), "Upload-Metadata": f"sha256 {encoded(by_upload)}"}
    begun = http.post("/v1/uploads", headers={"Tus-Resumable": "1.0.0"} | announced)

    assert begun.status_code == 201, begun.text
    headers = {"Tus-Resumable": "1.0.0", "Upload-Offset": "0", "Content-Type": CHUNK_TYPE}
    assert http.patch(begun.headers["location"], content=by_upload, headers=headers).status_code == 204
    assert http.get("/v1/usage").json()["bytes"]["total"] == 100


def test_only_one_upload_takes_the_place_of_damaged_bytes_in_the_quota(
    service: Service, tenant: Tenant
) -> None:
    http, sent = tenant.http, content(60)
    with service.database.writing() as db:
        db.get_one(Project, tenant.project).quotas = Quotas(bytes=100)
    flip(keep(service.database, service.storage, tenant.project, sent))
    age(service.database, sent)
    scrubbing.scrub(service.database, service.storage)
    announced = {"Upload-Length": "60", "Upload-Metadata": f"sha256 {encoded(sent)}"}

    begun = [http.post("/v1/uploads", headers={"Tus-Resumable": "1.0.0"} | announced) for _ in range(2)]

    assert [answer.status_code for answer in begun] == [201, 413]
    found = http.get("/v1/usage").json()["bytes"]
    assert (found["total"], found["uploads"]) == (60, 60)


def encoded(sent: bytes) -> str:
    """A digest as Upload-Metadata has it."""
    return base64.b64encode(hexdigest(sent).encode()).decode()
