"""Inspections that end as a test says, and a look at their step."""

from collections.abc import Callable

from sqlalchemy import update

from app.db.models import Step
from app.db.session import Database
from app.services.outcomes import Record
from worker import run
from worker.process import Process
from worker.work import Work

Do = Callable[[Callable[[Work], Record]], None]


def raising(error: Exception) -> Callable[[Work], Record]:
    def fail(_work: Work) -> Record:
        raise error

    return fail


def one(database: Database, step_id: str) -> Step:
    with database.reading() as db:
        return db.get_one(Step, step_id)


def run_often(process: Process, step: str, times: int) -> None:
    for _ in range(times):
        with process.database.writing() as db:
            db.execute(update(Step).values(not_before=0))
        run.run(process, step)
