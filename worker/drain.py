"""Stops hearing queues while an operator wants this worker, or its host, to take nothing more."""

import logging
import threading
from collections.abc import Sequence
from typing import Protocol

from sqlalchemy.exc import SQLAlchemyError

from app.db.queries import drains
from worker.process import Process

log = logging.getLogger(__name__)
LOOK_SECONDS = 5.0


class Consumer(Protocol):
    """What Celery's consumer can do, also from another thread."""

    def call_soon(self, function: object, *arguments: object) -> object:
        """Call this in the consumer's own thread."""

    def add_task_queue(self, queue: str) -> None:
        """Hear a queue."""

    def cancel_task_queue(self, queue: str) -> None:
        """Hear a queue no more."""


def follow(process: Process, consumer: Consumer, queues: Sequence[str]) -> None:
    """Look every five seconds until this worker stops; what runs goes on, and messages wait for others."""
    threading.Thread(target=_run, args=(process, consumer, queues), name="drain", daemon=True).start()


def _run(process: Process, consumer: Consumer, queues: Sequence[str]) -> None:
    hears = True
    while True:
        wanted = _wanted(process, hears=hears)
        if wanted != hears:
            log.info("this worker %s", "takes work again" if wanted else "is drained: it takes nothing more")
            change = consumer.add_task_queue if wanted else consumer.cancel_task_queue
            for queue in queues:
                consumer.call_soon(change, queue)
        hears = wanted
        if process.stopping.wait(LOOK_SECONDS):
            return


def _wanted(process: Process, *, hears: bool) -> bool:
    """Whether to hear the queues; as before while the database does not say."""
    try:
        with process.database.reading() as db:
            return not drains.is_drained(db, process.name)
    except SQLAlchemyError as error:
        log.warning("no database to ask whether this worker is drained: %s", error)
        return hears
