"""Reads objects again, a few in each sweep, so that damage is known before somebody needs them.

A damaged blob counts as not there: who would refer to it is asked to send it again, and that repairs it.
It is read again too: a store that was mounted wrong has its objects when it comes back.
"""

import hashlib
import logging
import threading
from collections.abc import Sequence

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.db import queries
from app.db.base import MICROSECONDS
from app.db.models import Blob
from app.db.queries import projects
from app.db.queries import scrubbing as statements
from app.db.session import Database
from app.services import events
from app.storage import Storage, StoreUnavailable
from app.storage.base import chunks

log = logging.getLogger(__name__)
EVERY_S = 7 * 24 * 3600
AGAIN_S = 3600  # of what is damaged, or could not be read
AT_ONCE = 100
AT_ONCE_BYTES = 64 * 1024 * 1024

_one_at_a_time = threading.Lock()


def scrub(database: Database, storage: Storage) -> None:
    """Read what was not read for a week, about 64 MiB of it; one larger object is read alone.

    One that cannot be read keeps nobody from the others: it is neither whole nor damaged, and tried again.

    Raises:
        StoreUnavailable: The store is away.
    """
    if not _one_at_a_time.acquire(blocking=False):
        return  # sweeps come every few seconds, however long the store takes
    try:
        with database.reading() as db:
            due = _affordable(statements.unchecked_blobs(db, EVERY_S * MICROSECONDS, AT_ONCE))
        for blob in due:
            _read_again(database, storage, blob)
    finally:
        _one_at_a_time.release()


def _read_again(database: Database, storage: Storage, blob: Blob) -> None:
    with database.writing() as db:
        statements.check_blob(db, blob.sha256)
    try:
        whole = is_whole(storage, blob)
    except (OSError, SQLAlchemyError) as error:
        with database.writing() as db:
            statements.check_blob_at(db, blob.sha256, _due_soon(db))
        if isinstance(error, StoreUnavailable):
            raise
        log.exception("the object %s of the blob %s could not be read", blob.key, blob.sha256)
        return
    if whole == (blob.damaged_at is None):
        return
    with database.writing() as db:
        if whole:
            statements.heal_blob(db, blob.sha256, blob.key)
        else:
            _mark(db, blob)


def _affordable(found: Sequence[Blob]) -> list[Blob]:
    taken: list[Blob] = []
    size = 0
    for blob in found:
        size += blob.size
        if taken and size > AT_ONCE_BYTES:
            break
        taken.append(blob)
    return taken


def is_whole(storage: Storage, blob: Blob) -> bool:
    """Whether a blob's object is there, and is what it was."""
    digest = hashlib.sha256()
    try:
        with storage.open(blob.key) as file:
            for chunk in chunks(file):
                digest.update(chunk)
    except FileNotFoundError:
        return False
    return digest.hexdigest() == blob.sha256


def _mark(db: Session, blob: Blob) -> None:
    """Locks projects before the blob, as everywhere."""
    holders = statements.holders(db, blob.sha256)
    for project_id in holders:
        projects.lock_project(db, project_id)
    if not statements.damage_blob(db, blob.sha256, blob.key, _due_soon(db)):
        return
    log.error("the object %s is damaged: it is not the blob %s any more", blob.key, blob.sha256)
    for project_id in holders:
        events.record(db, project_id, project_id, "blob.damaged", sha256=blob.sha256)


def _due_soon(db: Session) -> int:
    return queries.now(db) - (EVERY_S - AGAIN_S) * MICROSECONDS
