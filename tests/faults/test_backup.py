"""Backup and restore by the page's own commands, and migrations, while jobs are submitted and run."""

import hashlib
import itertools
import os
import re
import secrets
import shutil
import subprocess
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from threading import Event

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import select

from app.db.models import Job
from app.db.session import Database
from app.storage import LocalStorage
from tests.faults import parts
from tests.faults.conftest import Report
from tests.faults.promises import Client, Log, ended, submitting, verify

JOBS = 40
NEW_JOBS = 3  # after a restore
SUBMIT_EVERY_S = 0.3
ROUNDS = 3
PAGE = parts.ROOT / "docs" / "operations.md"
TABLES = ("jobs", "events", "candidates", "steps")
# One table each: who alters several in one transaction waits for requests that wait for it.
COLUMN = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = "{table}", "{before}"
def upgrade() -> None:
    op.add_column("{table}", sa.Column("of_the_next_release", sa.String(20)))
def downgrade() -> None:
    op.drop_column("{table}", "of_the_next_release")
"""
INDEX = """
from migrations import live
revision, down_revision = "index", "steps"
def upgrade() -> None:
    with live.outside_transaction():
        live.create_index("ix_of_the_next_release", "steps", ["of_the_next_release"])
def downgrade() -> None:
    with live.outside_transaction():
        live.drop_index("ix_of_the_next_release", "steps")
"""

pytestmark = pytest.mark.long


def commands(heading: str) -> str:
    """The shell commands below a heading of docs/operations.md, as they stand there."""
    section = PAGE.read_text(encoding="utf-8").partition(f"\n### {heading}\n")[2].partition("\n#")[0]
    blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    assert blocks, heading
    return "\n".join(blocks)


def run(heading: str, postgres: parts.Postgres, **variables: str) -> None:
    """Do what the page says, in the project's folder."""
    path = f"{postgres.binaries}:{Path(shutil.which('python3') or '').parent}:{os.environ['PATH']}"
    environment = {"PATH": f"{parts.ROOT / '.venv' / 'bin'}:{path}", **variables}
    done = subprocess.run(
        ["sh", "-euc", commands(heading)],
        env=environment,
        cwd=parts.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_backup_made_under_load_has_all_that_was_acknowledged_before(
    home: Path, postgres: parts.Postgres, figure: Report
) -> None:
    log, backup = Log(), home / "backup"
    with (
        parts.cluster(home, postgres) as cluster,
        submitting(cluster, log, range(JOBS), SUBMIT_EVERY_S) as settled,
    ):
        assert cluster.until(lambda: len(log.jobs) > JOBS / 4)
        before = Log(dict(log.jobs), set(log.blobs))
        dsn, blobs = postgres.dsn(cluster.database), str(home / "blobs")
        run("Back up a server", postgres, DATABASE=dsn, BLOBS=blobs, BACKUP=str(backup))
        assert cluster.until(settled)
        verify(log, cluster.database_url, LocalStorage(home / "blobs"))

    with tempfile.TemporaryDirectory(prefix="fewbits-fault-") as folder:
        there = Path(folder)
        shutil.copy(home / "admin.key", there)
        dsn, server = postgres.dsn(parts.name_of(there)), postgres.dsn("postgres")
        where = {"BLOBS": str(there / "blobs"), "BACKUP": str(backup), "NAME": parts.name_of(there)}
        run("Restore a server", postgres, DATABASE=dsn, SERVER=server, **where)
        found, rows = verify_restored(there, postgres)
    assert set(before.jobs.values()) <= rows
    figure(f"{len(rows)} jobs in the backup, {len(before.jobs)} acknowledged before it began: {found}")


def verify_restored(home: Path, postgres: parts.Postgres) -> tuple[object, set[str]]:
    """Let what was not done go on; the rows are what was promised, and old and new clients are served."""
    with parts.cluster(home, postgres, parts.Shape(restored=True)) as cluster:
        assert cluster.until(lambda: ended(cluster))
        database = Database(cluster.database_url)
        with database.reading() as db:
            rows = set(db.scalars(select(Job.id)))
        database.dispose()
        log = Log({job: job for job in rows})
        with Client(cluster, log) as client:
            assert sum(files_served(client, job) for job in rows)
        with submitting(cluster, log, range(JOBS, JOBS + NEW_JOBS)) as settled:
            assert cluster.until(settled)
        assert len(log.jobs) == len(rows) + NEW_JOBS
        return verify(log, cluster.database_url, LocalStorage(home / "blobs")), rows


def files_served(client: Client, job: str) -> int:
    """How many files a job made; each of them is sent as its digest says."""
    made = client.send("GET", f"/v1/jobs/{job}/artifacts").json()["items"]
    for artifact in made:
        sent = client.send("GET", artifact["links"]["content"]).content
        assert hashlib.sha256(sent).hexdigest() == artifact["sha256"]
    return len(made)


def test_a_backup_of_an_embedded_service_is_whole(home: Path, postgres: parts.Postgres) -> None:
    source, backup, there = home / "source", home / "backup", home / "there"
    source.mkdir()
    database = Database(f"sqlite:///{source / 'fewbits.db'}")
    with database.writing() as db:
        db.connection().exec_driver_sql("CREATE TABLE kept (text TEXT)")
        db.connection().exec_driver_sql("INSERT INTO kept VALUES ('this')")
    content = secrets.token_bytes(1000)
    with LocalStorage(source / "blobs").create() as writer:
        writer.write(content)
        received = writer.finish()
    for name in ("admin.key", "secret.key"):
        (source / name).write_text(name)

    run("Back up an embedded service", postgres, FEWBITS_HOME=str(source), BACKUP=str(backup))
    database.dispose()
    run("Restore an embedded service", postgres, FEWBITS_HOME=str(there), BACKUP=str(backup))

    restored = Database(f"sqlite:///{there / 'fewbits.db'}")
    with restored.reading() as db:
        kept = db.connection().exec_driver_sql("SELECT text FROM kept").scalar_one()
    restored.dispose()
    assert kept == "this"
    with LocalStorage(there / "blobs").open(received.key) as file:
        assert file.read() == content
    assert {(there / name).read_text() for name in ("admin.key", "secret.key")} == {"admin.key", "secret.key"}


def test_migrations_under_load_cost_no_request(home: Path, postgres: parts.Postgres, figure: Report) -> None:
    """This release works on the next one's tables: columns come and go, and an index, while jobs run."""
    log, done = Log(), Event()
    going_on = itertools.takewhile(lambda _: not done.is_set(), itertools.count())
    with (
        parts.cluster(home, postgres) as cluster,
        submitting(cluster, log, going_on, SUBMIT_EVERY_S) as settled,
        ExitStack() as stack,
    ):
        stack.callback(done.set)
        config = following(home / "versions", cluster.database_url)
        head = ScriptDirectory(parts.ROOT / "migrations").get_current_head() or ""
        assert cluster.until(lambda: log.jobs)
        for _ in range(ROUNDS):
            command.upgrade(config, "head")
            enough = len(log.jobs) + 2
            assert cluster.until(partial(has_jobs, log, enough))
            command.downgrade(config, head)
        done.set()
        assert cluster.until(settled)
        found = verify(log, cluster.database_url, LocalStorage(home / "blobs"))
    assert set(log.statuses) <= {200, 201, 202}
    assert found.states == {"succeeded": len(log.jobs)}
    figure(f"{ROUNDS} times up and down, no request refused: {found}")


def has_jobs(log: Log, number: int) -> bool:
    """Whether so many were acknowledged."""
    return len(log.jobs) >= number


def following(folder: Path, url: str) -> Config:
    """Our migrations, and a few more."""
    folder.mkdir()
    config = Config(parts.ROOT / "alembic.ini")
    head = ScriptDirectory.from_config(config).get_current_head() or ""
    for before, table in itertools.pairwise((head, *TABLES)):
        (folder / f"{table}.py").write_text(COLUMN.format(table=table, before=before))
    (folder / "index.py").write_text(INDEX)
    config.set_main_option(
        "version_locations", os.pathsep.join([str(parts.ROOT / "migrations" / "versions"), str(folder)])
    )
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return config
