"""What a second worker brings: the part `workers` of benchmarks/scale.py."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
from sqlalchemy import func, select, text

from app import start
from app.db.base import MICROSECONDS
from app.db.models import Step
from app.db.queries import workers
from app.db.session import Database
from benchmarks.scale_place import Place, judge, new_key, say
from tests import factories
from tests.app.conftest import serving

ROOT = Path(__file__).resolve().parent.parent
DIGITS = ROOT / "examples" / "digits" / "digits.onnx"
SPEEDUP = 1.8
RECIPES = [{"method": "dynamic_int8"}, {"method": "float16"}]
POLL_S, READY_S, LONGEST_S = 0.5, 300.0, 1800.0


def run(place: Place, jobs: int) -> bool:
    """As many jobs for one worker as for two with a core each, and again in the other order."""
    database = Database(place.database_url)
    project = factories.make_project(database)
    headers = {"Authorization": f"Bearer {new_key(database, project)}"}
    with serving(place.settings()) as url, httpx.Client(base_url=url, headers=headers, timeout=60) as http:
        rates = [_candidates_a_minute(place, database, http, jobs, count) for count in (1, 2, 2, 1)]
    database.dispose()
    cores = len(os.sched_getaffinity(0))
    held = judge(
        "two workers build, times as many candidates as one",
        (rates[1] + rates[2]) / (rates[0] + rates[3]),
        SPEEDUP,
        least=True,
    )
    return held or cores < 2  # noqa: PLR2004 - one core for each worker


def _candidates_a_minute(
    place: Place, database: Database, http: httpx.Client, jobs: int, count: int
) -> float:
    used = _cpu_s()
    with ExitStack() as stack:
        before = _connections(place, database)
        for number in range(count):
            stack.enter_context(_worker(place, database, number))
        made = _make_jobs(http, jobs)
        _wait(lambda: _built(database, made)[0] == jobs * len(RECIPES), LONGEST_S)
        after = _connections(place, database)
    built, seconds = _built(database, made)
    say(f"workers of one core: {count}; candidates a minute", f"{built / seconds * 60:.1f}")
    say("s of CPU for each candidate, of all workers", f"{(_cpu_s() - used) / built:.1f}")
    each = [(late - early) / count for early, late in zip(before, after, strict=True)]
    say("connections of each worker to Postgres, to Redis", f"{each[0]:.1f} {each[1]:.1f}")
    return built / seconds * 60


@contextmanager
def _worker(place: Place, database: Database, number: int) -> Iterator[None]:
    """A worker that runs one step at a time, on one core."""
    settings = {"FEWBITS_DATABASE_URL": place.database_url, "FEWBITS_REDIS_URL": place.redis_url}
    command = start.worker(f"engine{number}", "inspect,default", 1)
    with (
        (place.folder / f"worker{number}.log").open("ab") as log,
        subprocess.Popen(  # noqa: S603 - our own command
            command,
            cwd=ROOT,
            env=os.environ | settings | {"FEWBITS_HOME": str(place.folder)},
            stdout=log,
            stderr=log,
        ) as process,
    ):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(process.pid, {cores[number % len(cores)]})
        try:
            _wait(lambda: _is_there(database, process.pid), READY_S)
            yield
        finally:
            process.kill()


def _cpu_s() -> float:
    """Seconds of CPU of the workers that have ended, and of what they ran."""
    times = os.times()
    return times.children_user + times.children_system


def _is_there(database: Database, pid: int) -> bool:
    with database.reading() as db:
        return any(worker.name.endswith(f":{pid}") for worker in workers.workers(db))


def _make_jobs(http: httpx.Client, jobs: int) -> list[str]:
    """Jobs that quantize and reuse nothing; nobody is there who would measure them."""
    sent = http.post(
        "/v1/models", files={"file": ("digits.onnx", DIGITS.read_bytes())}, headers={"Prefer": "wait=600"}
    )
    version = sent.raise_for_status().json()["id"]
    spec = {"version": version, "recipes": RECIPES, "reuse": "never"}
    return [http.post("/v1/jobs", json=spec).raise_for_status().json()["id"] for _ in range(jobs)]


def _built(database: Database, jobs: list[str]) -> tuple[int, float]:
    """How many candidates are built, in how many seconds from the first step to the last."""
    mine = Step.job_id.in_(jobs)
    counted = select(func.count(), func.max(Step.finished_at)).where(
        mine, Step.kind == "build", Step.state == "done"
    )
    with database.reading() as db:
        built, last = db.execute(counted).one()
        first = db.scalars(select(func.min(Step.started_at)).where(mine)).one()
    return built, (last - first) / MICROSECONDS if last and first else 0.0


def _connections(place: Place, database: Database) -> tuple[int, int]:
    """All that Postgres and the broker have now."""
    with database.reading() as db:
        here = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
        postgres = int(db.scalars(here).one())
    with place.redis() as redis:
        return postgres, len(redis.client_list())


def _wait(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            message = "the workers did not do it in time; their logs are gone with this message"
            raise TimeoutError(message)
        time.sleep(POLL_S)
