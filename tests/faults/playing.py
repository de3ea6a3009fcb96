"""A worker whose children play the engine: `celery -A tests.faults.playing worker`."""

from tests.faults import napping  # first: what comes after sleeps by it
from worker import sandbox
from worker.tasks import celery

sandbox.CHILD = "tests.faults.played"
__all__ = ["celery", "napping"]
