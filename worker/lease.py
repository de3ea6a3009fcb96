"""The heartbeat of a running step: renews its lease, carries its progress, notices that it was taken away."""

import logging
import threading
import time
from types import TracebackType
from typing import Self

from sqlalchemy.exc import SQLAlchemyError

from app.db import queries
from app.db.session import Database
from app.services.steps import Claim

log = logging.getLogger(__name__)
BEAT_SECONDS = 5.0
SILENCE_SECONDS = 20.0


class Lease:
    """Holds a claimed step while the block runs; `lost` becomes true when it is ours no more."""

    def __init__(self, database: Database, claim: Claim) -> None:
        self.lost = False
        self.progress = 0.0
        self._database = database
        self._claim = claim
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"lease {claim.step_id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _beat(self) -> None:
        heard = time.monotonic()
        while not self._done.wait(BEAT_SECONDS):
            try:
                with self._database.writing() as db:
                    self.lost = not queries.renew_lease(
                        db, self._claim.step_id, self._claim.attempt, self.progress
                    )
                heard = time.monotonic()
            except SQLAlchemyError as error:
                log.warning("%s: no database to renew the lease: %s", self._claim.step_id, error)
                self.lost = time.monotonic() - heard > SILENCE_SECONDS
            if self.lost:
                return
