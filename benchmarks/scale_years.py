"""What a job leaves in the database, at first and for good: the part `years` of benchmarks/scale.py."""

import json
from pathlib import Path

import httpx
from sqlalchemy import inspect, text
from sqlalchemy.orm import Session

from app.db.session import Database
from app.domain.pruning import Kept
from app.services import counting, pruning
from benchmarks.scale_place import Place, new_key, say
from examples.digits import data as digits
from tests import factories
from tests.e2e.conftest import serving

DIGITS = Path(__file__).resolve().parent.parent / "examples" / "digits" / "digits.onnx"
COPIES, KB = 2000, 1000
RECIPES = [
    {"method": "dynamic_int8"},
    {"method": "static_int8"},
    {"method": "static_int8", "ranges": {"method": "percentile", "percentile": 99.9}},
    {"method": "float16"},
]
SPEC = {"recipes": RECIPES, "benchmark": {"max_seconds": 3}, "labels": {"branch": "main", "commit": "0" * 40}}
NOTHING = Kept(printed=-1, timeline=-1, deliveries=-1)
OF_JOB = {
    "jobs": "x.id = :job",
    "job_labels": "x.job_id = :job",
    "candidates": "x.job_id = :job",
    "artifacts": "x.job_id = :job",
    "events": "x.subject_id = :job",
    "steps": "x.job_id = :job",
    "step_logs": "x.step_id IN (SELECT id FROM steps WHERE job_id = :job)",
}
OWN_IDS = {"id", "job_id", "subject_id", "step_id"}  # those of others stay: project, version, dataset
ID = "left(x.{0}, 14) || lpad(n::text, 6, '0') || right(x.{0}, 10)"


def run(place: Place) -> bool:
    """Copy a job that was really done, look at what its rows take, prune, and look again."""
    database = Database(place.database_url)
    job = _done(place, database)
    before = _sizes(database)
    with database.writing() as db:
        db.execute(text("SET LOCAL session_replication_role = replica"))  # copies need no second look
        rows = {table: _copied(db, table, which, job) for table, which in OF_JOB.items()}
    fresh = _sizes(database)
    while _pruned(database):
        pass
    kept = _sizes(database)
    for table, count in rows.items():
        at_first, for_good = ((size[table] - before[table]) / COPIES / KB for size in (fresh, kept))
        say(
            f"{table}: rows of a job",
            f"{count / COPIES:.0f}",
            f"kB at first {at_first:.1f}, for good {for_good:.1f}",
        )
    total = [sum(size[table] - before[table] for table in rows) / COPIES / KB for size in (fresh, kept)]
    say("kB of a job of four candidates, at first and for good", f"{total[0]:.1f} {total[1]:.1f}")
    database.dispose()
    return True


def _done(place: Place, database: Database) -> str:
    """A job of four candidates, done by real workers."""
    headers = {
        "Authorization": f"Bearer {new_key(database, factories.make_project(database))}",
        "Prefer": "wait=600",
    }
    digits.write(digits.held_out(), place.folder / "digits.npz")
    files = {
        "model": ("digits.onnx", DIGITS.read_bytes()),
        "data": ("digits.npz", (place.folder / "digits.npz").read_bytes()),
    }
    form = {"spec": json.dumps(SPEC), "preprocess": "unit", "max_accuracy_drop": "0.02"}
    urls = {"FEWBITS_DATABASE_URL": place.database_url, "FEWBITS_REDIS_URL": place.redis_url}
    with serving(place.folder / "home", **urls) as (url, _), httpx.Client(timeout=700) as http:
        answer = http.post(f"{url}/v1/quantize", files=files, data=form, headers=headers)
    job = answer.raise_for_status().json()
    assert job["state"] == "succeeded", job["error"]  # noqa: S101 - else the figures mean nothing
    with database.writing() as db:
        counting.count_ended(db)  # the sweeper may not have come to it
    return str(job["id"])


def _copied(db: Session, table: str, which: str, job: str) -> int:
    columns = [column["name"] for column in inspect(db.connection()).get_columns(table)]
    values = [ID.format(name) if name in OWN_IDS else f"x.{name}" for name in columns]
    statement = f"""INSERT INTO {table} ({", ".join(columns)}) SELECT {", ".join(values)}
        FROM {table} x, generate_series(1, :copies) n WHERE {which}"""  # noqa: S608 - names of our own
    return int(db.execute(text(statement), {"job": job, "copies": COPIES}).rowcount)  # type: ignore[attr-defined]


def _pruned(database: Database) -> int:
    with database.writing() as db:
        return pruning.prune(db, NOTHING)


def _sizes(database: Database) -> dict[str, int]:
    """Bytes of the tables with their indexes, packed."""
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SET statement_timeout = 0"))
        connection.execute(text("VACUUM FULL"))
        sizes = text("SELECT relname, pg_total_relation_size(oid) FROM pg_class WHERE relname = ANY(:tables)")
        return {row.relname: row[1] for row in connection.execute(sizes, {"tables": list(OF_JOB)})}
