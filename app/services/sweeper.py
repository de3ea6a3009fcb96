"""What keeps everything moving when messages or workers are lost. Harmless to run twice at once."""

import logging

from app.db import queries
from app.db.session import Database
from app.services import jobs, outcomes, steps
from app.services.steps import Stale
from app.storage import Storage

log = logging.getLogger(__name__)


def sweep(database: Database, storage: Storage) -> None:
    """End what is late, requeue what was lost, ring for what nobody heard."""
    with database.reading() as db:
        late, lost = list(queries.jobs_past_deadline(db)), [s.id for s in queries.expired_leases(db)]
    for job_id in late:
        with database.writing() as db:
            jobs.expire(db, job_id)
    for step_id in lost:
        _recover(database, storage, step_id)
    with database.writing() as db:
        steps.ring_again(db)


def _recover(database: Database, storage: Storage, step_id: str) -> None:
    try:
        with database.writing() as db:
            outcomes.recover(db, storage, step_id)
    except Stale:
        log.info("%s was finished while it was being recovered", step_id)
