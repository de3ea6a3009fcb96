"""Migrations go up, down and up again, and make what the models say."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, event, inspect

from app.db import models
from app.db.base import Base
from app.db.queries.job_lists import JobFilter, jobs_where
from app.db.session import Database
from app.domain.job import JobSpec
from app.domain.recipe import DynamicInt8
from app.services import jobs
from app.storage import LocalStorage
from tests import factories, servers

ROOT = Path(__file__).parent.parent
NEVER_DOWN = {"alembic_version"}
CHANGING = {"ALTER", "CREATE", "DROP", "INSERT", "UPDATE"}
VERSIONS = ROOT / "migrations" / "versions"
BROKEN = """
import sqlalchemy as sa
from alembic import op

revision, down_revision = "broken", {head!r}


def upgrade():
    op.create_table("halves", sa.Column("id", sa.Integer()))
    op.execute("INSERT INTO halves VALUES (1)")
    op.execute("SELECT this fails")
"""
SPLIT = [path for path in sorted(VERSIONS.glob("*.py")) if "outside_transaction" in path.read_text()]


@pytest.fixture(params=["sqlite", "postgres"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
        return
    with servers.fresh_postgres(request.getfixturevalue("postgres_url"), "empty") as url:
        yield url


@pytest.fixture
def config(empty_url: str) -> Config:
    found = Config(ROOT / "alembic.ini")
    found.set_main_option("sqlalchemy.url", empty_url.replace("%", "%%"))
    return found


def tables(url: str) -> set[str]:
    database = Database(url)
    found = set(inspect(database.engine).get_table_names())
    database.dispose()
    return found


def test_migrations_make_exactly_what_the_models_say(empty_url: str, config: Config) -> None:
    command.upgrade(config, "head")

    command.check(config)  # raises when a migration is missing
    assert tables(empty_url) == set(Base.metadata.tables) | NEVER_DOWN
    assert models.Job.__tablename__ in Base.metadata.tables


def test_migrations_go_down_to_nothing_and_up_again(empty_url: str, config: Config) -> None:
    command.upgrade(config, "head")
    command.downgrade(config, "base")
    assert tables(empty_url) == NEVER_DOWN

    command.upgrade(config, "head")

    command.check(config)


class Killed(Exception):
    """A process that ends after one of its statements."""


def upgrade_killed_after_each_change(config: Config, revision: str) -> None:
    """An upgrade that is killed after its first change, then after its second, until one comes through."""
    changes = 0
    while killed_after(changes, config, revision):
        changes += 1


def killed_after(changes: int, config: Config, revision: str) -> bool:
    """Whether an upgrade had more changes to make than these, after which it is killed."""
    left = iter(range(changes))

    def kill(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.split(maxsplit=1)[0] in CHANGING and next(left, None) is None:
            raise Killed

    event.listen(Engine, "after_cursor_execute", kill)
    try:
        command.upgrade(config, revision)
    except Killed:
        return True
    finally:
        event.remove(Engine, "after_cursor_execute", kill)
    return False


def test_a_migration_that_fails_half_way_leaves_nothing(
    empty_url: str, config: Config, tmp_path: Path
) -> None:
    command.upgrade(config, "head")
    before = tables(empty_url)
    head = ScriptDirectory.from_config(config).get_current_head()
    (tmp_path / "broken.py").write_text(BROKEN.format(head=head))
    config.set_main_option("version_locations", os.pathsep.join([str(VERSIONS), str(tmp_path)]))

    with pytest.raises(Exception, match="this fails"):
        command.upgrade(config, "head")

    assert tables(empty_url) == before
    (tmp_path / "broken.py").unlink()
    command.check(config)


@pytest.mark.parametrize("path", SPLIT, ids=lambda path: path.stem)
def test_a_migration_outside_a_transaction_goes_on_wherever_it_was_killed(config: Config, path: Path) -> None:
    scripts = ScriptDirectory.from_config(config)
    (script,) = [found for found in scripts.walk_revisions() if Path(found.path) == path]
    command.upgrade(config, str(script.down_revision))

    upgrade_killed_after_each_change(config, script.revision)

    command.upgrade(config, "head")
    command.check(config)


def test_migrating_twice_changes_nothing_and_keeps_rows(empty_url: str, config: Config) -> None:
    command.upgrade(config, "head")
    database = Database(empty_url)
    project = factories.make_project(database)

    command.upgrade(config, "head")

    with database.reading() as db:
        assert db.get(models.Project, project) is not None
    database.dispose()


def test_jobs_that_are_here_already_are_found_by_model_conclusion_and_label(
    empty_url: str, config: Config, tmp_path: Path
) -> None:
    command.upgrade(config, "head")
    database, storage = Database(empty_url), LocalStorage(tmp_path / "blobs")
    project = factories.make_project(database)
    version = factories.make_version(database, project)
    labels = {"branch": "main", 'a."b"': "ü"}
    with database.writing() as db:
        spec = JobSpec(version=version, recipes=(DynamicInt8(),), labels=labels)
        job = jobs.create(db, project, spec).id
        waiting = jobs.create(db, project, spec).id
    factories.work_off(database, storage, job)

    command.downgrade(config, "0050")
    command.upgrade(config, "0053")
    upgrade_killed_after_each_change(config, "0054")
    command.upgrade(config, "head")

    with database.reading() as db:
        model = db.get_one(models.Version, version).model_id
        for wanted in (JobFilter(model=model), JobFilter(labels=labels)):
            assert {found.id for found in db.scalars(jobs_where(project, wanted))} == {job, waiting}
        (concluded,) = db.scalars(jobs_where(project, JobFilter(conclusion="none")))
        assert (concluded.id, db.get_one(models.Job, waiting).conclusion) == (job, None)
    database.dispose()
