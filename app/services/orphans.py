"""Objects that no row knows: whoever wrote them was killed before the commit, or did not come to it."""

import logging
import time
from collections.abc import Collection

from app.db.queries import blobs as statements
from app.db.session import Database
from app.storage import Storage
from app.storage.base import SHELVES

log = logging.getLogger(__name__)
# The first file of a form waits for its row until the last one is there: a slow line may take days.
FORGOTTEN_S = 7 * 24 * 3600
SHELF_S = 5


def collect(database: Database, storage: Storage, shelf: int | None = None) -> int:
    """Delete what no row has known for a week, of one shelf: each has its turn within half an hour."""
    which = int(time.time()) // SHELF_S % SHELVES if shelf is None else shelf
    unknown = delete_unknown(database, storage, storage.older(which, FORGOTTEN_S))
    for key in unknown:
        log.warning("no row knows the object %s: deleted", key)
    return len(unknown)


def delete_unknown(database: Database, storage: Storage, keys: Collection[str]) -> set[str]:
    """Delete those of these objects that no row knows; nobody may be about to write a row for one."""
    with database.reading() as db:
        unknown = set(keys) - statements.known_keys(db, keys)
    for key in unknown:
        storage.delete(key)
    return unknown
