"""On Postgres, a statement that forgets its WHERE still shows and changes one project's rows alone."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Table, func, make_url, select, text
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.orm import Session

from app.db.base import Base, new_id
from app.db.keys import BrowserSession
from app.db.models import Event, Job, JobLabel, Project, StepLog, UploadPart
from app.db.queries import webhooks as stored
from app.db.queries.statements import changed
from app.db.retention import ExpiredArtifact
from app.db.session import TENANT, Database, across_projects, within
from app.db.webhooks import DeliveryAttempt, WebhookEndpoint
from app.services import idempotency, jobs, keys, uploads
from app.services.uploads import Announced
from app.storage import LocalStorage
from tests import factories, servers
from tests.app.conftest import Service, finished, new_tenant

ROOT = Path(__file__).parent.parent.parent
# What is nobody's: bytes by their hash, hosts, workers, and what operators count.
SHARED = {"blobs", "drains", "hosts", "measures", "stored_chunks", "stored_objects", "tallies", "workers"}
OWNED = sorted(set(Base.metadata.tables) - SHARED)


@pytest.fixture(scope="module")
def full(
    fresh_postgres: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Database, str, str]]:
    """A database in which two projects have rows in every table."""
    database, storage = Database(fresh_postgres("own_rows")), LocalStorage(tmp_path_factory.mktemp("own"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.broker.ring", lambda *_: None)
        projects = [factories.make_project(database) for _ in range(2)]
        for project in projects:
            fill(database, storage, project)
    yield database, projects[0], projects[1]
    database.dispose()


def fill(database: Database, storage: LocalStorage, project: str) -> None:
    with database.writing() as db:
        key = keys.create(db, db.get_one(Project, project), "one", ["read"]).key
        db.add(BrowserSession(id=new_id("ses"), key_id=key.id, digest=b"", expires_at=2**60))
        endpoint = WebhookEndpoint(
            project_id=project, url="", events=["job.canceled"], secret=b"", delivered_at=1
        )
        db.add(endpoint)
        idempotency.claim(db, project, "a key", "")
        upload = uploads.create(db, project, Announced(3), 3600)
        db.add(UploadPart(upload_id=upload.id, start=0, key=new_id("obj")))
    job = factories.make_job(database, project)
    factories.work_off(database, storage, job)
    with database.writing() as db:
        gone = {"filename": "m.onnx", "media_type": "", "sha256": "", "size": 1, "created_at": 1}
        db.add(
            ExpiredArtifact(
                id=new_id("art"), project_id=project, job_id=job, subject_id=job, kind="model", **gone
            )
        )
        db.add(StepLog(step_id=factories.step_of(database, job, "prepare").id, attempt=1, text=""))
    waiting = factories.make_job(database, project)
    with database.writing() as db:
        db.add(JobLabel(job_id=waiting, project_id=project, name="branch", value="main"))
        jobs.cancel(db, project, waiting)
        delivery = db.scalars(stored.deliveries(project, None, None, None, None)).one()
        db.add(DeliveryAttempt(delivery_id=delivery.id, number=1, milliseconds=1, body=""))


def rows(database: Database, table: Table) -> int:
    with database.reading() as db:
        return db.scalars(select(func.count()).select_from(table)).one()


@pytest.mark.parametrize("name", OWNED)
def test_without_a_where_a_project_sees_its_own_rows_alone(
    full: tuple[Database, str, str], name: str
) -> None:
    (database, *projects), table = full, Base.metadata.tables[name]
    found = []
    for project in projects:
        with within(project):
            found.append(rows(database, table))

    assert min(found) > 0
    assert sum(found) == rows(database, table)


@pytest.mark.parametrize("name", OWNED)
def test_without_a_where_a_project_changes_its_own_rows_alone(
    full: tuple[Database, str, str], name: str
) -> None:
    (database, mine, _), table = full, Base.metadata.tables[name]
    column = next(iter(table.primary_key.columns))
    with within(mine):
        own = rows(database, table)
    with within(mine), database.reading() as db:
        assert changed(db, table.update().values({column: column})) == own


def test_a_row_of_another_project_cannot_be_written(full: tuple[Database, str, str]) -> None:
    database, mine, other = full
    event = Event(project_id=other, subject_id="x", seq=1, type="forged", data={})

    with within(mine), pytest.raises(ProgrammingError, match="row-level security"), database.writing() as db:
        db.add(event)


def test_what_is_asked_across_projects_is_answered_and_then_no_more(full: tuple[Database, str, str]) -> None:
    database, mine, _ = full
    every = select(func.count()).select_from(Job)
    with within(mine), database.reading() as db:
        own = db.scalars(every).one()
        with across_projects(db):
            both = db.scalars(every).one()
        assert (both, db.scalars(every).one()) == (2 * own, own)


def test_a_connection_that_served_a_project_serves_the_next_one_whole(
    full: tuple[Database, str, str],
) -> None:
    database, mine, _ = full
    one = Database(database.engine.url.render_as_string(hide_password=False))
    with one.engine.connect() as connection:
        connection.execute(text("SELECT 1"))
    with within(mine):
        own = rows(one, Base.metadata.tables["jobs"])
    assert rows(one, Base.metadata.tables["jobs"]) == 2 * own
    one.dispose()


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1 / 0",
        "SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(9)",
        "SELECT pg_terminate_backend(pg_backend_pid())",
        "SELECT 1",
    ],
)
def test_a_connection_has_no_role_left_after_an_error(
    full: tuple[Database, str, str], statement: str
) -> None:
    database, mine, other = full
    one = Database(database.engine.url.render_as_string(hide_password=False))
    with within(mine), pytest.raises((DBAPIError, ZeroDivisionError)), one.writing() as db:
        fail(db, statement)

    with one.reading() as db:
        left = db.execute(
            text("SELECT session_user, current_user, current_setting('fewbits.project_id')")
        ).one()
    everybody, jobs_of = rows(one, Base.metadata.tables["jobs"]), []
    for project in (mine, other):
        with within(project):
            jobs_of.append(rows(one, Base.metadata.tables["jobs"]))

    assert (left[0], left[2]) == (left[1], "")
    assert sum(jobs_of) == everybody > max(jobs_of)
    one.dispose()


def fail(db: Session, statement: str) -> None:
    """By the statement, or by a mistake of ours behind it."""
    db.execute(text(statement))
    raise ZeroDivisionError


def test_a_project_stays_shut_in_after_a_savepoint_a_commit_and_a_look_across_that_fails(
    full: tuple[Database, str, str],
) -> None:
    database, mine, _ = full
    every = select(func.count()).select_from(Job)
    with within(mine), database.writing() as db:
        own = db.scalars(every).one()
        with pytest.raises(DBAPIError), across_projects(db), db.begin_nested():
            db.execute(text("SELECT 1 / 0"))
        after_savepoint = db.scalars(every).one()
        with pytest.raises(ZeroDivisionError), across_projects(db):
            raise ZeroDivisionError
        after_mistake = db.scalars(every).one()
        db.commit()
        after_commit = db.scalars(every).one()
        with pytest.raises(DBAPIError, match="division by zero"), across_projects(db):
            db.execute(text("SELECT 1 / 0"))
        db.rollback()

        assert [own] * 4 == [after_savepoint, after_mistake, after_commit, db.scalars(every).one()]


def test_no_function_view_or_right_leads_round_the_policies(full: tuple[Database, str, str]) -> None:
    database, *_ = full
    with database.reading() as db:
        owner = db.scalars(text("SELECT relowner FROM pg_class WHERE relname = 'jobs'")).one()
        role = db.execute(
            text(
                "SELECT rolsuper, rolbypassrls, rolcanlogin, rolcreaterole FROM pg_roles WHERE rolname = :r"
            ),
            {"r": TENANT},
        ).one()
        belongs_to = db.scalars(
            text("SELECT roleid::regrole::text FROM pg_auth_members WHERE member = CAST(:r AS regrole)"),
            {"r": TENANT},
        ).all()
        functions = db.scalars(
            text("SELECT proname FROM pg_proc WHERE prosecdef AND pronamespace = 'public'::regnamespace")
        ).all()
        views = db.scalars(
            text(
                "SELECT relname FROM pg_class WHERE relkind IN ('v', 'm') AND oid > 16383 AND relowner = :o"
            ),
            {"o": owner},
        ).all()
        rights = set(
            db.scalars(
                text("SELECT privilege_type FROM information_schema.role_table_grants WHERE grantee = :r"),
                {"r": TENANT},
            )
        )

    assert tuple(role) == (False, False, False, False)
    assert (belongs_to, functions, views) == ([], [], [])
    assert rights == {"SELECT", "INSERT", "UPDATE", "DELETE"}


def test_every_table_has_a_policy_or_is_nobodys(full: tuple[Database, str, str]) -> None:
    database, *_ = full
    with database.reading() as db:
        enabled = set(db.scalars(text("SELECT relname FROM pg_class WHERE relrowsecurity")))
        held = set(
            db.scalars(text("SELECT tablename FROM pg_policies WHERE :role = ANY(roles)"), {"role": TENANT})
        )

    assert enabled == held == set(OWNED)
    assert not {name for name in SHARED if "project_id" in Base.metadata.tables[name].columns}


def test_a_list_that_forgets_whose_rows_it_lists_shows_no_others(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    if service.database.engine.dialect.name != "postgresql":
        pytest.skip("SQLite has no row-level security")
    with new_tenant(service) as mine, new_tenant(service) as other:
        jobs_of = {tenant.project: finished(service, tenant) for tenant in (mine, other)}
        monkeypatch.setattr("app.api.routes.jobs.jobs_where", lambda *_: select(Job))

        shown = mine.http.get("/v1/jobs").json()["items"]

    assert [job["id"] for job in shown] == [jobs_of[mine.project]]


@contextmanager
def someone(server: str, name: str) -> Iterator[str]:
    """The URL of a database that belongs to a user without any privilege but this."""
    admin = make_url(server).set(drivername="postgresql").render_as_string(hide_password=False)
    with servers.fresh_postgres(server, name) as url, psycopg.connect(admin, autocommit=True) as connection:
        here = make_url(url)
        connection.execute(f"DROP ROLE IF EXISTS {here.database}")
        connection.execute(f"CREATE ROLE {here.database} LOGIN PASSWORD 'poor'")
        connection.execute(f"ALTER DATABASE {here.database} OWNER TO {here.database}")
        yield here.set(username=here.database, password="poor").render_as_string(hide_password=False)  # noqa: S106
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"DROP ROLE {here.database}")


def test_an_owner_that_may_not_make_the_role_is_told_what_to_do(
    postgres_url: str, migrated_postgres: str
) -> None:
    assert migrated_postgres, "the role is there"
    admin = make_url(postgres_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with someone(postgres_url, "poor") as url:
        config = Config(ROOT / "alembic.ini")
        config.set_main_option("sqlalchemy.url", url)
        with pytest.raises(ProgrammingError, match=f"CREATE ROLE {TENANT} NOLOGIN; GRANT {TENANT} TO poor"):
            command.upgrade(config, "head")
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute(f"GRANT {TENANT} TO {make_url(url).username}")

        command.upgrade(config, "head")

        database = Database(url)
        projects = [factories.make_project(database) for _ in range(2)]
        with within(projects[0]):
            assert rows(database, Base.metadata.tables["projects"]) == 1
        assert rows(database, Base.metadata.tables["projects"]) == 2
        database.dispose()
