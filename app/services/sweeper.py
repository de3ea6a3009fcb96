"""What keeps everything moving when messages or workers are lost. Harmless to run twice at once."""

import logging
from collections.abc import Callable

from app.db import queries
from app.db.queries import idempotency, keys, workers
from app.db.queries.blobs import expired_grants
from app.db.queries.uploads import expired_uploads
from app.db.session import Database
from app.services import blobs, jobs, orphans, outcomes, steps, uploads
from app.services.steps import Stale
from app.storage import Storage

log = logging.getLogger(__name__)


def sweep(database: Database, storage: Storage) -> None:
    """End what is late, requeue what was lost, ring for what nobody heard."""
    with database.reading() as db:
        late, lost = list(queries.jobs_past_deadline(db)), [s.id for s in queries.expired_leases(db)]
        unfinished, unused = expired_uploads(db), expired_grants(db)
    for job_id in late:
        _alone(database, jobs.expire, job_id)
    for step_id in lost:
        _alone(database, outcomes.recover, storage, step_id)
    for upload_id in unfinished:
        _alone(database, uploads.expire, storage, upload_id)
    for project_id, sha256 in unused:
        _alone(database, blobs.collect, storage, project_id, sha256)
    with database.writing() as db:
        steps.ring_again(db)
        idempotency.forget_keys(db)
        keys.forget_browser_sessions(db)
        workers.forget_silent_workers(db)
    storage.tidy()
    orphans.collect(database, storage)


def _alone(database: Database, verb: Callable[..., None], *what: object) -> None:
    """One transaction of its own: one bad row must not keep the sweep from the others."""
    try:
        with database.writing() as db:
            verb(db, *what)
    except Stale:
        log.info("%s ended while it was being swept", what[-1])
    except Exception:
        log.exception("%s could not be swept", what[-1])
