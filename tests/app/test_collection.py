"""Bytes are collected while others begin to refer to them: what was promised is kept."""

import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import update

from app.db import queries
from app.db.base import now_us
from app.db.models import Blob, ProjectBlob, Version
from app.db.session import Database
from app.domain.errors import InvalidInput
from app.services import blobs, deletion, models
from app.storage import LocalStorage
from app.storage.base import chunks
from tests import factories
from tests.app.tus import hexdigest

CONTENT = b"the same bytes"
SHA256 = hexdigest(CONTENT)
ROUNDS = 10


def send(database: Database, storage: LocalStorage, project: str) -> bool:
    received = factories.store(storage, CONTENT)
    with database.writing() as db:
        blobs.keep(db, storage, project, received, 3600)
    return True


def renew(database: Database, _storage: LocalStorage, project: str) -> bool:
    with database.writing() as db:
        return blobs.renewed(db, project, SHA256, 3600) is not None


def refer(database: Database, _storage: LocalStorage, project: str) -> bool:
    try:
        with database.writing() as db:
            found = blobs.referable(db, project, SHA256, "/files")
            models.add_version(db, project, secrets.token_hex(4), [("m.onnx", found)], {})
    except InvalidInput:
        return False
    return True


def collect(database: Database, storage: LocalStorage, project: str) -> None:
    with database.writing() as db:
        blobs.collect(db, storage, project, SHA256)


def delete(database: Database, storage: LocalStorage, project: str) -> None:
    with database.writing() as db:
        model = db.query(Version).filter_by(project_id=project, deleted_at=None).order_by(Version.id).first()
        assert model is not None
        deletion.delete_model(db, storage, project, model.model_id)


def expired(database: Database, storage: LocalStorage, project: str) -> None:
    """A blob that nobody used in time."""
    send(database, storage, project)
    with database.writing() as db:
        mine = update(ProjectBlob).where(ProjectBlob.project_id == project)
        db.execute(mine.values(expires_at=now_us() - 1))


def used(database: Database, storage: LocalStorage, project: str) -> None:
    """A blob of a model."""
    send(database, storage, project)
    assert refer(database, storage, project)


def is_readable(database: Database, storage: LocalStorage, project: str) -> bool:
    """Whether the project's blob is there with its bytes."""
    with database.reading() as db:
        found = queries.project_blob(db, project, SHA256)
        if found is None:
            return False
        with storage.open(found.key) as file:
            return b"".join(chunks(file)) == CONTENT


@pytest.mark.parametrize("others", [0, 1], ids=["alone", "with another project"])
@pytest.mark.parametrize(
    ("before", "remove", "claim"),
    [(expired, collect, send), (expired, collect, renew), (expired, collect, refer), (used, delete, refer)],
)
def test_what_is_promised_while_it_is_collected_is_there(
    postgres_database: Database,
    storage: LocalStorage,
    before: Callable[..., None],
    remove: Callable[..., None],
    claim: Callable[..., bool],
    others: int,
) -> None:
    project = factories.make_project(postgres_database)
    for other in [factories.make_project(postgres_database) for _ in range(others)]:
        send(postgres_database, storage, other)
    start = threading.Barrier(2)

    def at_once(verb: Callable[..., object]) -> object:
        start.wait()
        return verb(postgres_database, storage, project)

    with ThreadPoolExecutor(2) as both:
        for _ in range(ROUNDS):
            before(postgres_database, storage, project)
            removed, claimed = both.submit(at_once, remove), both.submit(at_once, claim)
            removed.result()
            if claimed.result():
                assert is_readable(postgres_database, storage, project)
            with postgres_database.writing() as db:
                for version in db.query(Version).filter_by(project_id=project, deleted_at=None):
                    deletion.delete_model(db, storage, project, version.model_id)


def test_nothing_is_left_when_everybody_has_let_go(
    postgres_database: Database, storage: LocalStorage
) -> None:
    projects = [factories.make_project(postgres_database) for _ in range(4)]

    def come_and_go(project: str) -> None:
        for _ in range(ROUNDS // 4):
            send(postgres_database, storage, project)
            with postgres_database.writing() as db:
                blobs.drop(db, storage, project, SHA256)

    with ThreadPoolExecutor(4) as senders:
        list(senders.map(come_and_go, projects))

    with postgres_database.reading() as db:
        assert db.get(Blob, SHA256) is None
    assert [path for path in storage.root.rglob("*") if path.is_file()] == []
