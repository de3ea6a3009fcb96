"""No list and no metric reads a whole table, however many rows there are: Postgres's own plans say so.

Each statement that a request runs is explained as it was run, on tables of tens of thousands of rows.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, event, text

from app.api import openapi
from app.db.models import Project
from app.db.queries import workload
from app.db.session import Database, within
from app.domain.pruning import Kept
from app.services import counting, keys, pruning
from app.settings import Settings
from benchmarks import api_jobs
from tests.app.conftest import serving
from tests.waiting import SECONDS

ROWS = 20_000
LARGE = 5_000
PAGES = 400  # of 8 kB: a list of 100 rows, each of which has others, and by no means 20,000
MORE = {
    "steps": """INSERT INTO steps (id, project_id, job_id, subject_id, kind, round, state, attempt, losses,
    not_before, rung_at, progress, created_at, started_at, finished_at, tallied)
SELECT 'stp_00' || lpad(n::text, 24, '0'), :project, NULL, 'dlv_00' || lpad(n::text, 24, '0'), 'deliver', 0,
    CASE n % 1000 WHEN 0 THEN 'queued' ELSE 'done' END, 1, 0, 0, 0, 1, n, n,
    CASE n % 1000 WHEN 0 THEN NULL ELSE n END, n < :rows - 100
FROM generate_series(1, :rows) n""",
    "endpoint": """INSERT INTO webhook_endpoints (id, project_id, url, description, events, state, secret,
    failures, rest_until, created_at)
VALUES ('whe_00000000000000000000000001', :project, '', '', '[]', 'enabled', '', 0, 0, 0)""",
    "deliveries": """INSERT INTO deliveries (id, project_id, endpoint_id, message_id, type, payload, state,
    round, tries, created_at, finished_at)
SELECT 'dlv_00' || lpad(n::text, 24, '0'), :project, 'whe_00000000000000000000000001', 'msg',
    'job.failed', '{}', CASE n % 1000 WHEN 0 THEN 'failed' ELSE 'delivered' END, 0, 1, n, n
FROM generate_series(1, :rows) n""",
    "candidates": """INSERT INTO candidates (id, project_id, job_id, position, baseline, name, state, figures,
    created_at)
SELECT 'cnd_00' || lpad(n::text, 24, '0'), :project, 'job_00' || lpad(n::text, 24, '0'), 0, true, 'float',
    'measured', '{}', n
FROM generate_series(1, :rows) n""",
}
OF_JOB = "jobs/job_00000000000000000000000100"
LISTS = (
    "jobs?limit=20",
    "jobs?state=succeeded",
    "jobs?state=expired",
    "jobs?conclusion=inconclusive",
    "jobs?version=ver_00000000000000000000000001",
    "jobs?model=mdl_00000000000000000000000001",
    "jobs?label.branch=b7&state=failed",
    "models",
    "models/mdl_00000000000000000000000001/versions",
    "models/mdl_00000000000000000000000001/trend",
    "models/mdl_00000000000000000000000001/trend?label.branch=b7",
    "datasets",
    "events",
    "events?type=key.created",
    "events?subject=job_00000000000000000000000100",
    "events?since=2030-01-01T00:00:00Z",
    "api-keys",
    "webhook-endpoints",
    "webhook-endpoints?state=disabled",
    "webhook-deliveries",
    "webhook-deliveries?state=pending",
    "webhook-deliveries?type=gate.failed",
    "webhook-deliveries?since=2030-01-01T00:00:00Z",
    "webhook-deliveries?endpoint=whe_00000000000000000000000001&state=failed",
    f"{OF_JOB}/candidates",
    f"{OF_JOB}/steps",
    f"{OF_JOB}/logs",
    f"{OF_JOB}/artifacts",
)


@dataclass(frozen=True)
class Large:
    """A service whose database has many rows, and a client of it."""

    database: Database
    http: httpx.Client
    project: str


@dataclass(frozen=True)
class Ran:
    """One statement with what it was given."""

    statement: str
    parameters: Any


@pytest.fixture(scope="module")
def large(
    fresh_postgres: Callable[[str], str], quiet_broker: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Large]:
    assert quiet_broker is None
    url = fresh_postgres("large")
    settings, database = Settings(home=tmp_path_factory.mktemp("large"), database_url=url), Database(url)
    known = fill(database)
    headers = {"Authorization": f"Bearer {known['key']}"}
    with (
        serving(settings) as at,
        httpx.Client(base_url=f"{at}/v1/", headers=headers, timeout=SECONDS) as http,
    ):
        yield Large(database, http, known["project"])
    database.dispose()


def fill(database: Database) -> dict[str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.broker.ring", lambda *_: None)
        known = api_jobs.fill(database, ROWS)
    with database.writing() as db:
        db.execute(text("SET LOCAL session_replication_role = replica"))
        for statement in MORE.values():
            copy = text(statement)
            given = {"project": known["project"], "rows": ROWS}
            db.execute(copy, {name: given[name] for name in copy.compile().params})
        known["key"] = keys.create(db, db.get_one(Project, known["project"]), "all", keys.FIRST_SCOPES).text
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    return known


@contextmanager
def statements() -> Iterator[list[Ran]]:
    """The SELECTs that run meanwhile."""
    found: list[Ran] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if statement.lstrip().startswith(("SELECT", "WITH", "UPDATE steps", "UPDATE jobs", "DELETE")):
            found.append(Ran(statement, parameters))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def whole_tables_read(database: Database, ran: Ran) -> set[str]:
    """The large tables that this statement's plan reads from one end to the other."""
    with database.reading() as db:
        connection = db.connection()
        sizes = "SELECT relname FROM pg_class WHERE relkind = 'r' AND reltuples > :large"
        large = set(connection.scalars(text(sizes), {"large": LARGE}))
        explained = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {ran.statement}", ran.parameters)
        return {
            node["Relation Name"]
            for node in nodes(explained.scalar_one()[0]["Plan"])
            if node["Node Type"] == "Seq Scan"
        } & large


def pages_read(database: Database, ran: Ran) -> int:
    """How many pages of tables and indexes this statement looks at."""
    with database.reading() as db:
        how = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON)"
        explained = db.connection().exec_driver_sql(f"{how} {ran.statement}", ran.parameters)
        plan = explained.scalar_one()[0]["Plan"]
        return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A plan's nodes."""
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def check(database: Database, found: list[Ran]) -> None:
    assert found
    read = {ran.statement: whole_tables_read(database, ran) for ran in found}
    assert {statement: tables for statement, tables in read.items() if tables} == {}


@pytest.mark.parametrize("path", LISTS)
def test_a_list_reads_no_large_table_from_end_to_end(large: Large, path: str) -> None:
    with statements() as found:
        answer = large.http.get(path)

    assert answer.status_code == 200
    with within(large.project):  # as the request did, behind row-level security
        check(large.database, found)


@pytest.mark.parametrize("path", LISTS)
def test_row_level_security_does_not_make_a_list_read_more(large: Large, path: str) -> None:
    with statements() as found:
        large.http.get(path).raise_for_status()
    lists = [ran for ran in found if is_select(ran)]

    without = sum(pages_read(large.database, ran) for ran in lists)
    with within(large.project):
        behind = sum(pages_read(large.database, ran) for ran in lists)

    assert behind <= 1.5 * without + 20


@pytest.mark.parametrize("path", LISTS)
def test_a_list_reads_few_pages_also_where_an_index_leads_through_all_rows(large: Large, path: str) -> None:
    with statements() as found:
        large.http.get(path).raise_for_status()
    with within(large.project):
        read = {ran.statement: pages_read(large.database, ran) for ran in found if is_select(ran)}

    assert {statement: pages for statement, pages in read.items() if pages > PAGES} == {}


def test_every_list_of_the_api_is_looked_at() -> None:
    paths = json.loads(openapi.SNAPSHOT.read_text())["paths"]
    lists = {
        path.removeprefix("/v1/")
        for path, operations in paths.items()
        if any(given.get("name") == "cursor" for given in operations.get("get", {}).get("parameters", ()))
    }
    seen = {re.sub(r"\b(job|mdl)_\w+", "{}", path.partition("?")[0]) for path in LISTS}

    assert {re.sub(r"\{\w+\}", "{}", path) for path in lists} - seen == {"projects"}  # of which there are few


def is_select(ran: Ran) -> bool:
    return ran.statement.lstrip().startswith("SELECT")


def test_a_scrape_reads_no_large_table_from_end_to_end(large: Large) -> None:
    with statements() as found, large.database.reading() as db:
        read = workload.read(db)

    assert {state: count for _, state, count in read.steps}["queued"] >= ROWS // 1000
    check(large.database, found)


def test_a_sweep_counts_and_prunes_by_an_index(large: Large) -> None:
    with statements() as found, large.database.reading() as db:
        counting.count_ended(db)
        pruned = pruning.prune(db, Kept())

    assert pruned >= 500
    check(large.database, found)


def test_a_plan_that_reads_a_whole_table_is_seen(large: Large) -> None:
    ran = Ran("SELECT count(*) FROM jobs WHERE isa = %(isa)s", {"isa": "generic"})

    assert whole_tables_read(large.database, ran) == {"jobs"}
