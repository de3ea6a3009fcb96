"""What keeps everything moving when messages or workers are lost. Harmless to run twice at once."""

import logging
from collections.abc import Callable

from sqlalchemy.orm import Session

from app.db import queries
from app.db.queries import uploads
from app.db.session import Database
from app.services import jobs, outcomes, steps
from app.services import uploads as upload_service
from app.services.steps import Stale
from app.storage import Storage

log = logging.getLogger(__name__)


def sweep(database: Database, storage: Storage) -> None:
    """End what is late, requeue what was lost, ring for what nobody heard."""
    with database.reading() as db:
        late, lost = list(queries.jobs_past_deadline(db)), [s.id for s in queries.expired_leases(db)]
        unfinished = uploads.expired_uploads(db)
    for job_id in late:
        _alone(database, jobs.expire, job_id)
    for step_id in lost:
        _alone(database, lambda db, lost_id: outcomes.recover(db, storage, lost_id), step_id)
    for upload_id in unfinished:
        _alone(database, lambda db, late_id: upload_service.expire(db, storage, late_id), upload_id)
    with database.writing() as db:
        steps.ring_again(db)


def _alone(database: Database, verb: Callable[[Session, str], None], row_id: str) -> None:
    """One transaction of its own: one bad row must not keep the sweep from the others."""
    try:
        with database.writing() as db:
            verb(db, row_id)
    except Stale:
        log.info("%s ended while it was being swept", row_id)
    except Exception:
        log.exception("%s could not be swept", row_id)
