"""Transactions: one commit, callbacks after it, and writers that take turns."""

import logging
import threading

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError

from app.db import queries
from app.db.models import Project
from app.db.session import Database, after_commit
from tests import factories


def count(database: Database) -> int:
    with database.reading() as db:
        return db.scalars(select(func.count()).select_from(Project)).one()


def test_writing_commits_and_reading_does_not(database: Database) -> None:
    with database.writing() as db:
        db.add(Project(name="kept"))
    with database.reading() as db:
        db.add(Project(name="not kept"))
        db.flush()

    assert count(database) == 1


def test_callbacks_run_once_after_the_commit_and_in_order(database: Database) -> None:
    heard: list[tuple[str, int]] = []

    with database.writing() as db:
        db.add(Project(name="kept"))
        after_commit(db, lambda name: heard.append((name, count(database))), "first")
        after_commit(db, lambda: heard.append(("second", count(database))))
        assert heard == []

    assert heard == [("first", 1), ("second", 1)]


def test_callbacks_do_not_run_after_a_rollback(database: Database) -> None:
    heard: list[str] = []

    def fail() -> None:
        with database.writing() as db:
            after_commit(db, heard.append, "too late")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    with database.writing():
        pass

    assert heard == []


def test_a_callback_that_fails_is_logged_and_the_others_run(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[str] = []

    with caplog.at_level(logging.ERROR), database.writing() as db:
        after_commit(db, lambda: 1 / 0)
        after_commit(db, heard.append, "still here")

    assert heard == ["still here"]
    assert "after the commit" in caplog.text


def test_many_writers_at_once_all_get_their_turn(database: Database) -> None:
    wrong: list[BaseException] = []

    def add_ten(name: int) -> None:
        try:
            for i in range(5):
                with database.writing() as db:
                    total = db.scalars(select(func.count()).select_from(Project)).one()
                    db.add(Project(name=f"{name} {i} {total}"))
        except BaseException as error:  # noqa: BLE001 - the test's thread shall see it
            wrong.append(error)

    threads = [threading.Thread(target=add_ten, args=[name]) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []
    assert count(database) == 40


def test_foreign_keys_hold(database: Database) -> None:
    project = factories.make_project(database)
    version = factories.make_version(database, project)

    with pytest.raises(Exception, match=r"(?i)foreign key"), database.writing() as db:
        db.execute(text("DELETE FROM projects WHERE id = :id"), {"id": project})

    assert factories.row(database, version).state == "ready"


def test_the_databases_clock_counts_microseconds_and_does_not_stand_still(database: Database) -> None:
    with database.reading() as db:
        first = queries.now(db)
    with database.reading() as db:
        seconds = queries.now(db) / 1e6
        assert queries.now(db) >= first
    with database.writing() as db:
        stamped = Project(name="now")
        db.add(stamped)
        db.flush()
        db.refresh(stamped)
    assert abs(stamped.created_at / 1e6 - seconds) < 60
    assert 1.7e9 < seconds < 5e9


def test_a_process_that_stands_still_in_a_transaction_loses_its_locks(
    own_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is stopped, or whose host is, would hold up its job and every sweep."""
    other = Database(own_postgres_url)
    monkeypatch.setattr("app.db.session.SILENT_SECONDS", 1)
    stopped = Database(own_postgres_url)
    project = factories.make_project(other)
    lock = select(Project).where(Project.id == project).with_for_update()

    with stopped.engine.connect() as connection:
        connection.execute(lock)
        with other.writing() as db:
            assert db.scalars(lock).one().id == project
        with pytest.raises(DBAPIError, match="idle-in-transaction"):
            connection.execute(lock)
    other.dispose()
    stopped.dispose()
