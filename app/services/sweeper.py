"""What keeps everything moving when messages or workers are lost. Harmless to run twice at once."""

import logging
import threading
import time
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

from app import broker
from app.db import queries
from app.db.queries import drains, idempotency, keys, workers
from app.db.queries.blobs import expired_grants
from app.db.queries.uploads import expired_uploads
from app.db.session import Database, within
from app.domain.pruning import Kept
from app.domain.retention import Retention
from app.services import (
    blobs,
    counting,
    jobs,
    orphans,
    outcomes,
    pruning,
    retention,
    scrubbing,
    steps,
    uploads,
)
from app.services.retention import Due
from app.services.steps import Stale
from app.storage import Storage
from app.storage.base import SHELVES

log = logging.getLogger(__name__)
KEPT = Kept()
FOR_GOOD = Retention()

_one_at_a_time = threading.Lock()


def sweep(database: Database, storage: Storage, kept: Kept = KEPT, defaults: Retention = FOR_GOOD) -> None:
    """End what is late, requeue what was lost, ring for what nobody heard, let go what is kept no longer."""
    begun = time.monotonic()
    _notice_forgetting(database)  # first: what this sweep rings for is heard
    with database.reading() as db:
        late, lost = list(queries.jobs_past_deadline(db)), [s.id for s in queries.expired_leases(db)]
    for job_id in late:
        _alone(database, jobs.expire, job_id)
    for step_id in lost:
        _alone(database, outcomes.recover, storage, step_id)
    waiting = broker.waiting()
    with database.writing() as db:
        steps.ring_again(db, waiting)
        idempotency.forget_keys(db)
        keys.forget_browser_sessions(db)
        workers.forget_silent_workers(db)
        drains.forget_ended(db)
    _alone(database, counting.count_ended)
    _alone(database, pruning.prune, kept)
    _alone(database, counting.measure_blobs)
    _clear(database, storage, defaults)
    with database.writing() as db:
        counting.swept(db, time.monotonic() - begun)


def _notice_forgetting(database: Database) -> None:
    if broker.forgot():
        with database.writing() as db:
            steps.note_forgetting(db)


def _clear(database: Database, storage: Storage, defaults: Retention) -> None:
    """What waits for the store, so it comes last, and one sweep does it: a store that hangs stops no other.

    Sweeps come every few seconds, and each that waited would take one of the few threads that also ring.
    """
    if not _one_at_a_time.acquire(blocking=False):
        return
    try:
        _expire_in_time(database, storage, defaults)
        _collect(database, storage)
        _tidy(database, storage)
    finally:
        _one_at_a_time.release()


def _tidy(database: Database, storage: Storage) -> None:
    """A store that is away must not keep the sweep from its other work."""
    try:
        storage.tidy()
        orphans.collect(database, storage)
        scrubbing.scrub(database, storage)
    except (OSError, SQLAlchemyError):
        log.warning("the blob store could not be swept", exc_info=True)


def _expire_in_time(database: Database, storage: Storage, defaults: Retention) -> None:
    """Look once a minute for what projects keep no longer."""
    with database.writing() as db:
        is_time = retention.is_time(db)
    if is_time:
        _expire(database, storage, defaults)


def _expire(database: Database, storage: Storage, defaults: Retention) -> set[Due]:
    """Let go some of what projects keep no longer, each within its own project's rows."""
    with database.reading() as db:
        found = retention.due(db, defaults)
    for late in found:
        with within(late.project_id):
            _alone(database, retention.expire, storage, late)
    return set(found)


def collect_all(database: Database, storage: Storage, defaults: Retention = FOR_GOOD) -> dict[str, int]:
    """Delete now what sweep after sweep deletes in time; how many of what went."""
    expired: set[str] = set()
    while late := {due.what for due in _expire(database, storage, defaults)} - expired:
        expired |= late
    tried: set[tuple[str, ...]] = set()
    while found := _collect(database, storage) - tried:
        tried |= found
    storage.tidy()
    objects = sum(orphans.collect(database, storage, shelf) for shelf in range(SHELVES))
    ended = sum(len(what) == 1 for what in tried)
    return {"expired": len(expired), "uploads": ended, "blobs": len(tried) - ended, "objects": objects}


def _collect(database: Database, storage: Storage) -> set[tuple[str, ...]]:
    """Some uploads and blobs whose time is over: `(upload,)` and `(project, sha256)`."""
    with database.reading() as db:
        unfinished, unused = expired_uploads(db), expired_grants(db)
    for upload_id in unfinished:
        _alone(database, uploads.expire, storage, upload_id)
    for project_id, sha256 in unused:
        _alone(database, blobs.collect, storage, project_id, sha256)
    return {(upload_id,) for upload_id in unfinished} | set(unused)


def _alone(database: Database, verb: Callable[..., object], *what: object) -> None:
    """One transaction of its own: one bad row must not keep the sweep from the others."""
    try:
        with database.writing() as db:
            verb(db, *what)
    except Stale:
        log.info("%s ended while it was being swept", what[-1])
    except Exception:
        log.exception("%s of %s failed in a sweep", verb.__name__, what[-1:])
