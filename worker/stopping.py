"""A graceful stop: what ends in a moment is written down, the rest goes back to the queue.

All of it within the ten seconds that supervisors wait before they kill.
"""

import logging
import time

from sqlalchemy.exc import SQLAlchemyError

from app import broker
from app.db.queries import workers
from app.services import steps
from app.services.steps import Claim, Stale
from worker.process import Process

log = logging.getLogger(__name__)
GRACE_SECONDS = 5.0
RING_SECONDS = 1.0
POLL_SECONDS = 0.05


def leave(process: Process, grace_s: float = GRACE_SECONDS) -> None:
    """Wait a moment for messages under way, hand back the others, and say that this worker is gone.

    Engine steps see `stopping` themselves, and are handed back by whoever runs them.
    """
    end = time.monotonic() + grace_s
    while process.sending and time.monotonic() < end:
        time.sleep(POLL_SECONDS)
    for claim in list(process.sending.values()):
        if claim:
            _hand_back(process, claim)
    try:
        with process.database.writing() as db:
            workers.forget_worker(db, process.name)
    except SQLAlchemyError as error:
        log.warning("no database to say that this worker stops: %s", error)
    broker.doorbell.settle(RING_SECONDS)


def _hand_back(process: Process, claim: Claim) -> None:
    """Its receiver may have it and gets it again, with the same id: at least once is what is promised."""
    try:
        with process.database.writing() as db:
            steps.hand_back(db, claim)
    except Stale:
        log.info("%s ended at the last moment", claim.step_id)
    except SQLAlchemyError as error:
        log.warning("%s could not be handed back, and will count as lost: %s", claim.step_id, error)
