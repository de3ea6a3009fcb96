"""Objects that no row knows: whoever wrote them was killed between the last byte and the commit."""

import logging
import time

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
    old = storage.older(which, FORGOTTEN_S)
    with database.reading() as db:
        known = statements.known_keys(db, old)
    unknown = set(old) - known
    for key in unknown:
        log.warning("no row knows the object %s: deleted", key)
        storage.delete(key)
    return len(unknown)
