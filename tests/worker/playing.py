"""A real worker whose inspections never end by themselves: `celery -A tests.worker.playing`."""

from app.services.outcomes import Record
from tests.worker import misbehaving
from worker import sandbox, tasks
from worker.steps import STEPS
from worker.work import Work

celery = tasks.celery


def hang(work: Work) -> Record:
    """Run an engine call that sleeps, in the real sandbox."""
    work.call("sleep", {"mark": str(work.folder / "mark")}, dict)
    raise AssertionError("it sleeps")


sandbox.CHILD = misbehaving.__name__
STEPS["inspect_version"] = hang
