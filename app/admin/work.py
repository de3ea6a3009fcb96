"""Commands about work under way: do a job again, empty a host, collect what nobody needs."""

import math
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence

from app import broker
from app.admin.answer import Answer, Commands, Refused
from app.db.models import Job
from app.db.queries import drains, workers
from app.db.session import Database
from app.services import jobs, sweeper
from app.settings import Settings
from app.storage import open_storage

POLL_SECONDS = 0.5
RING_SECONDS = 5.0


def add_commands(commands: Commands, shared: ArgumentParser) -> None:
    """How they are called."""
    retry = commands.add_parser("retry", parents=[shared], help="make a new job with the spec of another one")
    retry.add_argument("job")
    retry.set_defaults(run=_retry)
    drain = commands.add_parser(
        "drain", parents=[shared], help="let a worker, or all workers of a host, take nothing more"
    )
    drain.add_argument("name", help="HOST:PID of a worker, or HOST")
    drain.add_argument(
        "--wait", type=_seconds, default=0, metavar="S", help="until nothing runs there, at most S seconds"
    )
    drain.set_defaults(run=_drain)
    undrain = commands.add_parser("undrain", parents=[shared], help="let them take work again")
    undrain.add_argument("name")
    undrain.set_defaults(run=_undrain)
    collect = commands.add_parser(
        "collect", parents=[shared], help="delete bytes that nothing needs any more, now"
    )
    collect.set_defaults(run=_collect)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < math.inf:
        raise ArgumentTypeError(f"{text} is no time to wait; use seconds from 0 on")
    return seconds


def _retry(_settings: Settings, database: Database, arguments: Namespace) -> Answer:
    with database.writing() as db:
        job = db.get(Job, arguments.job)
        if job is None:
            raise Refused(f"There is no job {arguments.job!r}; name one by its id, such as job_01k….")
        facts = {
            "job": jobs.retry(db, job.project_id, job.id).id,
            "retry_of": job.id,
            "project": job.project_id,
        }
    broker.doorbell.settle(RING_SECONDS)
    return Answer(f"{facts['job']} does {job.id} again", facts)


def _drain(_settings: Settings, database: Database, arguments: Namespace) -> Answer:
    name = arguments.name
    with database.writing() as db:
        seen = sorted(worker.name for worker in workers.workers(db))
        if not any(name in drains.names_of(worker) for worker in seen):
            raise Refused(f"No worker {name!r} was seen lately; seen were: {_listed(seen)}.")
        drains.drain(db, name)
    running = _wait(database, name, arguments.wait)
    facts = {"drained": name, "running": list(running)}
    if not running:
        return Answer(f"{name} takes nothing more, and nothing runs there", facts)
    text = f"{name} takes nothing more; still running there: {_listed(running)}"
    return Answer(text, facts, ok=not arguments.wait)


def _wait(database: Database, name: str, seconds: float) -> Sequence[str]:
    """The steps that still run there when there are none, or when the time is over."""
    end = time.monotonic() + seconds
    while True:
        with database.reading() as db:
            running = drains.running_there(db, name)
        if not running or time.monotonic() >= end:
            return running
        time.sleep(POLL_SECONDS)


def _undrain(_settings: Settings, database: Database, arguments: Namespace) -> Answer:
    name = arguments.name
    with database.writing() as db:
        if not drains.undrain(db, name):
            raise Refused(f"{name!r} is not drained; drained are: {_listed(drains.drained(db))}.")
    return Answer(f"{name} takes work again", {"undrained": name})


def _collect(settings: Settings, database: Database, _arguments: Namespace) -> Answer:
    found = sweeper.collect_all(database, open_storage(settings), settings.retention)
    text = ", ".join(f"{count} {what}" for what, count in found.items())
    return Answer(f"Deleted: {text}", dict(found))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
