"""Notes when keys were used, at most once a minute each, in the background: no request waits for it."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy.exc import SQLAlchemyError

from app.db.queries import keys
from app.db.session import Database

log = logging.getLogger(__name__)
NOTED_EVERY_S = 60


class LastUsed:
    """One thread that writes; what it is still to write is bounded by the number of keys."""

    def __init__(self, database: Callable[[], Database]) -> None:
        self._database = database
        self._noted: dict[str, float] = {}
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="last used")

    def note(self, key_id: str) -> None:
        """The key is in use now."""
        now = time.monotonic()
        if now - self._noted.get(key_id, -NOTED_EVERY_S) < NOTED_EVERY_S:
            return
        self._noted[key_id] = now
        self._writer.submit(self._write, key_id)

    def close(self) -> None:
        """Write what is left, and end."""
        self._writer.shutdown()

    def _write(self, key_id: str) -> None:
        try:
            with self._database().writing() as db:
                keys.note_use(db, key_id)
        except SQLAlchemyError as error:
            log.warning("the use of %s was not noted: %s", key_id, error)
