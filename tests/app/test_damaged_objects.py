"""Whatever the store: damage is found by who needs the bytes, and repaired by who has them."""

import os
from pathlib import Path

import pytest
from sqlalchemy import update

from app.db.models import Step
from app.db.session import Database
from app.services import blobs, models, scrubbing
from app.services.outcomes import Record
from app.settings import Settings
from app.storage.base import CHUNK
from tests import factories
from tests.object_stores import Store
from worker import run
from worker.process import Process
from worker.steps import STEPS
from worker.work import Work

CONTENT = os.urandom(2 * CHUNK + 5)


def test_a_step_waits_for_damaged_bytes_until_they_are_sent_again(
    store: Store,
    postgres_database: Database,
    rings: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    database, storage, staged = postgres_database, store.storage, []
    project = factories.make_project(database)
    sent = factories.store(storage, CONTENT)
    with database.writing() as db:
        blob = blobs.keep(db, storage, project, sent, 3600)
        version = models.add_version(db, project, "m", [("m.onnx", blob)], {}).id

    def inspect(work: Work) -> Record:
        staged.append(work.stage(sent.sha256, "m.onnx").read_bytes())
        return factories.accepted(version)

    monkeypatch.setitem(STEPS, "inspect_version", inspect)
    process = Process(Settings(home=tmp_path / "home"), database, storage, "a worker")
    (step,) = rings
    store.replace(sent.key, CONTENT[:CHUNK])

    run.run(process, step)
    scrubbing.scrub(database, storage)
    with database.writing() as db:
        db.execute(update(Step).values(not_before=0))
    run.run(process, step)
    waiting = factories.step_of(database, version, "inspect_version").state
    again = factories.store(storage, CONTENT)
    with database.writing() as db:
        assert blobs.keep(db, storage, project, again, 3600).key == again.key
        db.execute(update(Step).values(not_before=0))
    run.run(process, step)

    assert waiting == "queued"
    assert factories.row(database, version).state == "ready"
    assert staged == [CONTENT]
