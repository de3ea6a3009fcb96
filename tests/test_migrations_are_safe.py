"""Migrations do not stop a live service, and the release before goes on working while they run."""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, event, inspect
from sqlalchemy.engine.interfaces import ReflectedColumn

from tests import servers

ROOT = Path(__file__).parent.parent
RELEASED = "0071"  # the last revision of the release before: its code has to work on the newest schema
CHANGES = ("ALTER", "CREATE", "DROP")
ORDER = ["projects", "jobs", "candidates", "steps"]  # of the service's locks: in another one, both would wait
ALTERED = re.compile(r"ALTER TABLE (\w+)")


@dataclass(frozen=True)
class Column:
    """What code that knows a column relies on."""

    type: str
    takes_null: bool
    fills_itself: bool


@dataclass(frozen=True)
class Schema:
    """Columns by table and name, and what has to be unique in each table."""

    columns: dict[tuple[str, str], Column]
    unique: dict[str, set[tuple[str, ...]]]


@dataclass(frozen=True)
class Upgraded:
    """The schema of the release before and the newest, and the statements of each revision in order."""

    before: Schema
    after: Schema
    statements: dict[str, list[str]]


@pytest.fixture(scope="module")
def upgraded(postgres_url: str) -> Iterator[Upgraded]:
    """An empty database, brought up one revision after the other."""
    with servers.fresh_postgres(postgres_url, "safe") as url:
        config = Config(ROOT / "alembic.ini")
        config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
        statements: dict[str, list[str]] = {}
        before = None
        for revision in in_order(config):
            statements[revision] = ran(config, revision)
            before = schema(url) if revision == RELEASED else before
        assert before is not None
        yield Upgraded(before, schema(url), statements)


def in_order(config: Config) -> list[str]:
    revisions = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    return revisions[::-1]


def ran(config: Config, revision: str) -> list[str]:
    """The changes that an upgrade to this revision makes, as they are sent."""
    found: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: Any) -> None:
        if statement.split(maxsplit=1)[0] in CHANGES and "alembic_version" not in statement:
            found.append(statement.strip())

    event.listen(Engine, "before_cursor_execute", note)
    try:
        command.upgrade(config, revision)
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    return found


def schema(url: str) -> Schema:
    engine = create_engine(url)
    found = inspect(engine)
    tables = set(found.get_table_names()) - {"alembic_version"}
    columns = {
        (table, column["name"]): relied_on(column) for table in tables for column in found.get_columns(table)
    }
    indexes = {
        table: [i["column_names"] for i in found.get_indexes(table) if i["unique"]] for table in tables
    }
    unique = {
        table: {tuple(str(name) for name in names) for names in lists} for table, lists in indexes.items()
    }
    engine.dispose()
    return Schema(columns, unique)


def relied_on(column: ReflectedColumn) -> Column:
    return Column(str(column["type"]), column["nullable"], column["default"] is not None)


def squawk(statements: list[str], *, in_transaction: bool, folder: Path) -> str:
    """What the linter finds; nothing when all is well."""
    path = folder / "migration.sql"
    path.write_text("".join(f"{statement};\n" for statement in statements))
    how = ["--assume-in-transaction"] if in_transaction else []
    binary = Path(sys.executable).parent / "squawk"
    told = [str(binary), "--config", str(ROOT / ".squawk.toml"), "--reporter", "gcc", *how, str(path)]
    done = subprocess.run(told, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_no_migration_locks_a_table_for_long(upgraded: Upgraded, tmp_path: Path) -> None:
    scripts = ScriptDirectory.from_config(Config(ROOT / "alembic.ini"))
    texts = {script.revision: Path(script.path).read_text() for script in scripts.walk_revisions()}
    found = {
        revision: squawk(
            statements, in_transaction="outside_transaction" not in texts[revision], folder=tmp_path
        )
        for revision, statements in upgraded.statements.items()
        if statements
    }

    assert {revision: text for revision, text in found.items() if text} == {}


def test_migrations_lock_tables_in_the_order_in_which_the_service_locks_rows(upgraded: Upgraded) -> None:
    for revision, statements in upgraded.statements.items():
        altered = [found[1] for found in map(ALTERED.match, statements) if found and found[1] in ORDER]

        assert altered == sorted(altered, key=ORDER.index) or _commits_each(revision), revision


def _commits_each(revision: str) -> bool:
    script = ScriptDirectory.from_config(Config(ROOT / "alembic.ini")).get_revision(revision)
    return "outside_transaction" in Path(script.path).read_text()


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE INDEX ix_jobs_isa ON jobs (isa)",
        "ALTER TABLE jobs ADD COLUMN size INTEGER NOT NULL",
        "ALTER TABLE jobs ALTER COLUMN isa TYPE BIGINT",
        "ALTER TABLE jobs DROP COLUMN isa",
        "ALTER TABLE jobs RENAME COLUMN isa TO cpu",
        "ALTER TABLE jobs ADD CONSTRAINT fk FOREIGN KEY (isa) REFERENCES hosts (fingerprint)",
    ],
)
def test_a_migration_that_would_is_found(statement: str, tmp_path: Path) -> None:
    assert squawk([statement], in_transaction=True, folder=tmp_path)


def test_what_the_release_before_knows_is_all_there(upgraded: Upgraded) -> None:
    kept = {name: column.type for name, column in upgraded.after.columns.items()}

    for name, column in upgraded.before.columns.items():
        assert (name, kept.get(name)) == (name, column.type)


def test_rows_of_the_release_before_are_taken(upgraded: Upgraded) -> None:
    """It names none of the new columns, may leave empty what it could leave empty, and knows no new rule."""
    tables = {table for table, _ in upgraded.before.columns}
    for (table, name), column in upgraded.after.columns.items():
        known = upgraded.before.columns.get((table, name))
        if table in tables and known is None:
            assert column.takes_null or column.fills_itself, (table, name)
        if known is not None:
            assert column.takes_null >= known.takes_null, (table, name)
            assert column.fills_itself >= known.fills_itself, (table, name)
    for table in tables:
        assert upgraded.after.unique[table] <= upgraded.before.unique[table], table
