"""Objects whose writers were killed before the commit are found and deleted; all others stay."""

import os
import time

from app.db.models import Upload, UploadPart
from app.db.session import Database
from app.services import blobs, orphans
from app.storage import LocalStorage
from app.storage.base import SHELVES
from tests import factories


def age(storage: LocalStorage, key: str, seconds: float) -> None:
    """Let an object be this old."""
    then = time.time() - seconds
    os.utime(storage.root / key[:2] / key, (then, then))


def collect(database: Database, storage: LocalStorage) -> set[str]:
    """What is left after all shelves had their turn."""
    for shelf in range(SHELVES):
        orphans.collect(database, storage, shelf)
    return {path.name for path in storage.root.rglob("*") if path.is_file()}


def test_what_no_row_knows_is_deleted_after_a_week(
    database: Database, storage: LocalStorage, project: str
) -> None:
    known, orphan, young = (factories.store(storage, text) for text in (b"known", b"orphan", b"young"))
    with database.writing() as db:
        blobs.keep(db, storage, project, known, 3600)
    for received in (known, orphan):
        age(storage, received.key, orphans.FORGOTTEN_S + 60)
    age(storage, young.key, orphans.FORGOTTEN_S - 60)

    assert collect(database, storage) == {known.key, young.key}


def test_the_parts_of_an_upload_that_waits_are_no_orphans(
    database: Database, storage: LocalStorage, project: str
) -> None:
    key = "0f" * 16
    with storage.extend(key, 0) as part:
        part.write(b"the first bytes")
    age(storage, key, orphans.FORGOTTEN_S + 60)
    with database.writing() as db:
        upload = Upload(project_id=project, length=100, expires_at=2**60)
        upload.parts = [UploadPart(start=0, key=key)]
        db.add(upload)

    assert collect(database, storage) == {key}
