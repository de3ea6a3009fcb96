"""Where benchmarks/scale.py measures, and how it says what it found."""

import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from redis import Redis
from sqlalchemy import inspect, text
from sqlalchemy.orm import Session

from app.db.models import Project
from app.db.session import Database
from app.domain.recipe import DynamicInt8
from app.services import candidates, keys
from app.services.steps import Claim
from app.settings import Settings
from tests import factories

T = TypeVar("T")
OF_JOB = "'job_0' || lpad(n::text, 25, '0')"
MS = 1000.0
PARENT, USER, PARENTS = 1, 11, 15  # fields of /proc/PID/stat, from its state on
COPIES = {
    "jobs": {"id": OF_JOB},
    "candidates": {"id": "'cnd_' || x.position || lpad(n::text, 25, '0')", "job_id": OF_JOB},
    "steps": {"id": "'stp_0' || lpad(n::text, 25, '0')", "job_id": OF_JOB, "subject_id": OF_JOB},
    "events": {"id": "'evt_' || x.seq || lpad(n::text, 25, '0')", "subject_id": OF_JOB},
}


@dataclass(frozen=True)
class Place:
    """A Postgres with two databases, a broker and a folder."""

    database_url: str
    other_url: str
    redis_url: str
    folder: Path

    def settings(self, database_url: str = "") -> Settings:
        """Of an API that is served here."""
        url = database_url or self.database_url
        return Settings(home=self.folder, database_url=url, redis_url=self.redis_url)

    def redis(self) -> Redis:
        """The broker, to look into."""
        return Redis.from_url(self.redis_url.replace("redis+socket://", "unix://"))


def say(what: str, value: str, more: str = "") -> None:
    """One figure."""
    print(f"{what:<56} {value:>14}  {more}".rstrip(), flush=True)


def judge(what: str, value: float, limit: float, *, least: bool = False) -> bool:
    """One figure against its limit; whether it holds."""
    held = value >= limit if least else value <= limit
    bound = f"at {'least' if least else 'most'} {limit:g}, ratio {value / limit:.2f}"
    say(what, f"{value:.2f}", bound + ("" if held else "  MISSED"))
    return held


def timed(call: Callable[[], T]) -> tuple[float, T]:
    """Milliseconds, and the answer."""
    begun = time.perf_counter()
    answer = call()
    return (time.perf_counter() - begun) * MS, answer


def median(times: Iterable[float]) -> float:
    """The middle one."""
    return statistics.median(times)


def new_key(database: Database, project: str) -> str:
    """A key of the project."""
    with database.writing() as db:
        return keys.create(db, db.get_one(Project, project), "a benchmark's", ("read", "write")).text


def fill(database: Database, jobs: int) -> str:
    """So many queued jobs, copied from one by SQL; the project that has them."""
    project = factories.make_project(database)
    job = factories.make_job(database, project, recipes=(DynamicInt8(),))
    with database.writing() as db:
        db.execute(text("SET LOCAL session_replication_role = replica"))  # copies need no second look
        for table, own in COPIES.items():
            _copy(db, table, own, {"job": job, "jobs": jobs - 1})
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))  # what autovacuum would have done by now
    return project


def _copy(db: Session, table: str, own: Mapping[str, str], given: Mapping[str, object]) -> None:
    columns = [column["name"] for column in inspect(db.connection()).get_columns(table)]
    values = [own.get(name, f"x.{name}") for name in columns]
    of = "x.id" if table == "jobs" else "x.subject_id" if table == "events" else "x.job_id"
    statement = f"""INSERT INTO {table} ({", ".join(columns)}) SELECT {", ".join(values)}
        FROM {table} x, generate_series(1, :jobs) n WHERE {of} = :job"""  # noqa: S608 - names of our own
    db.execute(text(statement), given)


def cpu_s(database: Database) -> tuple[float, float]:
    """Seconds of CPU that this process with its children, and the Postgres server, have used so far."""
    with database.reading() as db:
        backend = db.scalars(text("SELECT pg_backend_pid()")).one()
    server = _stat(backend)[PARENT]
    family = [_stat(int(path.name)) for path in Path("/proc").glob("[0-9]*") if path.is_dir()]
    used = [row for row in family if row and (row[PARENT] == server)] + [_stat(server)]
    ticks = sum(sum(row[USER:PARENTS]) for row in used)
    return sum(os.times()[:4]), ticks / os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[int]:
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return []
    return [0, *(int(word) for word in words[1:16])]


def end_preparation(database: Database, claim: Claim) -> None:
    """Write what a worker writes that has prepared a job, which queues the build."""
    found = factories.figures()
    factories.finish(database, claim, lambda db: candidates.prepared(db, claim.subject_id, found))
