"""The blob store shows an object whole or not at all, and forgets it when nobody refers to it."""

import hashlib
import os
import threading
from pathlib import Path

import pytest

from app.db import queries
from app.db.models import Blob
from app.db.session import Database
from app.domain.errors import EmptyFile, InvalidInput, Problem
from app.services import blobs, models, sweeper
from app.storage import LocalStorage
from tests import factories

CONTENT = b"some bytes" * 300_000  # more than one chunk


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def objects_in(folder: Path) -> list[Path]:
    return [path for path in files_in(folder) if not path.name.startswith(".")]


def test_what_a_killed_writer_left_is_swept_after_a_day(database: Database, storage: LocalStorage) -> None:
    with storage.create() as dead, storage.create() as alive:
        dead.write(CONTENT)
        (left,) = [path for path in files_in(storage.root) if path.stat().st_size]
        alive.write(CONTENT)
        os.utime(left, (0, 0))

        sweeper.sweep(database, storage)

        assert not left.exists()
        key = alive.finish().key
    assert [path.name for path in files_in(storage.root)] == [key]


def keep(database: Database, storage: LocalStorage, project: str, content: bytes) -> str:
    received = factories.store(storage, content)
    with database.writing() as db:
        return blobs.keep(db, storage, project, received, 60).sha256


def drop(database: Database, storage: LocalStorage, project: str, sha256: str) -> None:
    with database.writing() as db:
        blobs.drop(db, storage, project, sha256)


def test_the_same_bytes_are_kept_once(database: Database, storage: LocalStorage) -> None:
    project = factories.make_project(database)

    first = keep(database, storage, project, CONTENT)
    second = keep(database, storage, project, CONTENT)

    assert first == second
    assert len(files_in(storage.root)) == 1


def test_the_same_bytes_sent_by_many_at_once_are_kept_once(
    postgres_database: Database, storage: LocalStorage
) -> None:
    database = postgres_database
    projects = [factories.make_project(database) for _ in range(6)]
    threads = [
        threading.Thread(target=keep, args=[database, storage, project, CONTENT]) for project in projects
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    (only,) = files_in(storage.root)
    with database.reading() as db:
        sha256 = hashlib.sha256(CONTENT).hexdigest()
        assert db.get_one(Blob, sha256).key == only.name
        assert all(queries.project_blob(db, project, sha256) for project in projects)


def test_empty_files_are_refused(database: Database, storage: LocalStorage) -> None:
    project = factories.make_project(database)

    with pytest.raises(EmptyFile):
        keep(database, storage, project, b"")


def test_bytes_are_dropped_when_nothing_refers_to_them(database: Database, storage: LocalStorage) -> None:
    project = factories.make_project(database)
    sha256 = keep(database, storage, project, CONTENT)

    drop(database, storage, project, sha256)

    assert files_in(storage.root) == []
    with database.reading() as db:
        assert db.get(Blob, sha256) is None


def test_bytes_that_another_project_has_are_kept_for_it_alone(
    database: Database, storage: LocalStorage
) -> None:
    mine, theirs = factories.make_project(database), factories.make_project(database)
    sha256 = keep(database, storage, mine, CONTENT)
    keep(database, storage, theirs, CONTENT)

    drop(database, storage, mine, sha256)

    assert len(files_in(storage.root)) == 1
    with database.reading() as db:
        assert queries.project_blob(db, theirs, sha256)
        assert queries.project_blob(db, mine, sha256) is None
    drop(database, storage, theirs, sha256)
    assert files_in(storage.root) == []


def test_bytes_that_a_version_refers_to_are_kept(database: Database, storage: LocalStorage) -> None:
    project = factories.make_project(database)
    sha256 = keep(database, storage, project, CONTENT)
    with database.writing() as db:
        models.add_version(db, project, "m", [("m.onnx", queries.blob(db, sha256))], {})

    drop(database, storage, project, sha256)

    assert len(files_in(storage.root)) == 1


def test_a_rejected_version_gives_its_bytes_back(database: Database, storage: LocalStorage) -> None:
    project = factories.make_project(database)
    first, second = (keep(database, storage, project, content) for content in (b"model", b"weights"))
    with database.writing() as db:
        files = [("m.onnx", queries.blob(db, first)), ("m.data", queries.blob(db, second))]
        version = models.add_version(db, project, "m", files, {})

    with database.writing() as db:
        models.reject(db, storage, version.id, Problem("not_onnx", "no"))

    assert files_in(storage.root) == []


def test_the_store_is_touched_only_after_the_commit(database: Database, storage: LocalStorage) -> None:
    project = factories.make_project(database)
    sha256 = keep(database, storage, project, CONTENT)

    def drop_and_fail() -> None:
        with database.writing() as db:
            blobs.drop(db, storage, project, sha256)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drop_and_fail()

    assert len(files_in(storage.root)) == 1
    with database.reading() as db:
        assert queries.project_blob(db, project, sha256)


def test_a_hash_alone_opens_nobody_elses_bytes(database: Database, storage: LocalStorage) -> None:
    mine, theirs = factories.make_project(database), factories.make_project(database)
    sha256 = keep(database, storage, theirs, CONTENT)

    with pytest.raises(InvalidInput) as refusal, database.reading() as db:
        blobs.referable(db, mine, sha256, "/sha256")

    assert refusal.value.errors[0].pointer == "/sha256"
