"""Totals and measures for an operator's metrics, kept up by the sweeper."""

from sqlalchemy.orm import Session

from app.db.base import MICROSECONDS
from app.db.queries import health, measures, scrubbing, tallies
from app.domain import tally

SWEPT = health.SWEEP
BLOBS = "blobs"
BLOB_STATES = ("used", "unused", "receiving", "damaged")
MEASURED_EVERY = 300 * MICROSECONDS


def count_ended(db: Session) -> None:
    """Count the steps and jobs that ended since the last sweep."""
    tallies.add(db, tally.summed([*tallies.mark_steps(db), *tallies.mark_jobs(db)]))


def measure_blobs(db: Session) -> None:
    """Count blobs and their bytes every five minutes: it reads all of their rows."""
    age = measures.age_us(db, f"{BLOBS}.used")
    if age is not None and age < MEASURED_EVERY:
        return
    blobs, size = measures.all_blobs(db)
    used, used_size = measures.used_blobs(db)
    unused = (blobs - used, size - used_size)
    found = ((used, used_size), unused, measures.coming_uploads(db), scrubbing.damaged_blobs(db))
    for state, (count, its_size) in zip(BLOB_STATES, found, strict=True):
        measures.keep(db, f"{BLOBS}.{state}", count)
        measures.keep(db, f"{BLOBS}.{state}.bytes", its_size)


def swept(db: Session, took_s: float) -> None:
    """A sweep came to its end."""
    measures.keep(db, SWEPT, int(took_s * MICROSECONDS))
