"""Reads objects again, a few in each sweep, so that damage is known before somebody needs them.

A damaged blob counts as not there: who would refer to it is asked to send it again, and that repairs it.
"""

import hashlib
import logging
from collections.abc import Sequence

from sqlalchemy.orm import Session

from app.db.base import MICROSECONDS
from app.db.models import Blob
from app.db.queries import projects
from app.db.queries import scrubbing as statements
from app.db.session import Database
from app.services import events
from app.storage import Storage
from app.storage.base import chunks

log = logging.getLogger(__name__)
EVERY_S = 7 * 24 * 3600
AT_ONCE = 100
AT_ONCE_BYTES = 64 * 1024 * 1024


def scrub(database: Database, storage: Storage) -> None:
    """Read what was not read for a week, about 64 MiB of it; one larger object is read alone.

    Raises:
        OSError: The store is away.
    """
    with database.writing() as db:
        due = _affordable(statements.unchecked_blobs(db, EVERY_S * MICROSECONDS, AT_ONCE))
        statements.check_blobs(db, [blob.sha256 for blob in due])
    for blob in due:
        if not is_whole(storage, blob):
            with database.writing() as db:
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
    if not statements.damage_blob(db, blob.sha256, blob.key):
        return
    log.error("the object %s is damaged: it is not the blob %s any more", blob.key, blob.sha256)
    for project_id in holders:
        events.record(db, project_id, project_id, "blob.damaged", sha256=blob.sha256)
