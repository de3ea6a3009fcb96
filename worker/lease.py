"""The heartbeat of a running step: renews its lease, carries its progress, notices that it was taken away."""

import logging
import threading
import time
from contextvars import copy_context
from types import TracebackType
from typing import Self

from app.db import queries
from app.db.session import Database
from app.services.steps import Claim

log = logging.getLogger(__name__)
BEAT_SECONDS = 5.0
SILENCE_SECONDS = 20.0


class Lease:
    """Holds a claimed step while the block runs; `lost` becomes true when it is ours no more."""

    def __init__(self, database: Database, claim: Claim) -> None:
        self.progress = 0.0
        self._taken = False
        self._heard = time.monotonic()
        self._database = database
        self._claim = claim
        self._done = threading.Event()
        beat = copy_context()  # what it logs is about this step, too
        name = f"lease {claim.step_id}"
        self._thread = threading.Thread(target=beat.run, args=(self._beat,), name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    @property
    def lost(self) -> bool:
        """Whether the step was taken away, or the database not heard of for 20 s: also while a call hangs."""
        return self._taken or time.monotonic() - self._heard > SILENCE_SECONDS

    def _beat(self) -> None:
        while not self._taken and not self._done.wait(BEAT_SECONDS):
            try:
                self._taken = not self._renew()
                self._heard = time.monotonic()
            except Exception as error:  # noqa: BLE001 - the heartbeat must outlive whatever the driver raises
                log.warning("%s: no database to renew the lease: %s", self._claim.step_id, error)

    def _renew(self) -> bool:
        with self._database.writing() as db:
            return queries.renew_lease(db, self._claim.step_id, self._claim.attempt, self.progress)
