"""The worker's Celery side: `run_step` answers a doorbell, `sweep` keeps everything moving.

Started with `celery -A worker.tasks worker`; what runs it decides which queues it listens to.
"""

import logging
import threading
from functools import cache
from pathlib import Path
from typing import Any

from celery.signals import celeryd_init, setup_logging, worker_init, worker_ready, worker_shutting_down
from sqlalchemy.exc import SQLAlchemyError

from app import log as logs
from app import tracing
from app.broker import celery, doorbell
from app.db.queries import workers
from app.services import hosts, sweeper
from app.settings import Settings
from worker import drain, host, probe, run, stopping
from worker.process import Process, start

SWEEP_SECONDS = 5.0
SHOW_UP_SECONDS = 60.0
SEEN = "seen"  # its age in the home folder tells whoever watches over this process what /readyz tells of it
CONTROL, BENCHMARK = "control", "benchmark"
UNSAFE = (
    "FEWBITS_SANDBOX=require, but on this host these layers do not hold: {missing}. "
    "Use Linux 5.13 or newer with Landlock and seccomp, or set FEWBITS_SANDBOX=auto to work without them."
)
log = logging.getLogger(__name__)
starting = threading.RLock()
__all__ = ["celery"]


def process() -> Process:
    """This worker process; made once, at the first task, after any fork."""
    with starting:
        return _process()


@cache
def _process() -> Process:
    tracing.configure("worker")
    return start(Settings())


@celeryd_init.connect  # type: ignore[untyped-decorator] # the first, before anything is said
@setup_logging.connect  # type: ignore[untyped-decorator]
def log_as_we_do(**_: Any) -> None:  # noqa: ANN401 - Celery's signal arguments
    """Celery leaves logging alone when somebody else sees to it."""
    logs.configure()


@celery.task(name="run_step")  # type: ignore[untyped-decorator]
def run_step(step_id: str) -> None:
    """Run one step, if it is still to be run."""
    run.run(process(), step_id)


@celery.task(name="sweep")  # type: ignore[untyped-decorator]
def sweep() -> None:
    """End what is late, requeue what was lost, ring again for what nobody heard."""
    settings = process().settings
    sweeper.sweep(process().database, process().storage, settings.kept, settings.retention)


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def stop(**_: Any) -> None:  # noqa: ANN401 - Celery's signal arguments
    """Running steps go back to the queue at once; this process ends when they have."""
    process().stopping.set()
    threading.Thread(target=stopping.leave, args=(process(),), name="stopping").start()


@worker_init.connect  # type: ignore[untyped-decorator]
def check_sandbox(**_: Any) -> None:  # noqa: ANN401 - Celery's signal arguments
    """A worker that has to have every layer does not start without one."""
    settings = Settings()
    missing = [layer for layer, holds in probe.found().items() if not holds]
    if settings.sandbox == "require" and missing:
        raise SystemExit(UNSAFE.format(missing=", ".join(missing)))


@worker_ready.connect  # type: ignore[untyped-decorator]
def tick(sender: Any, **_: Any) -> None:  # noqa: ANN401 - Celery's signal arguments
    """The control worker calls for sweeps; every worker says that it is there."""
    queues = list(sender.app.amqp.queues.consume_from)
    threading.Thread(target=_show_up, args=(queues,), name="worker clock", daemon=True).start()
    drain.follow(process(), sender, queues)
    if CONTROL in queues:
        threading.Thread(target=_ring_for_sweeps, name="sweep clock", daemon=True).start()


def _ring_for_sweeps() -> None:
    while not process().stopping.wait(SWEEP_SECONDS):
        doorbell.send("sweep", CONTROL, expires=SWEEP_SECONDS * 2)


def _show_up(queues: list[str]) -> None:
    while True:
        try:
            with process().database.writing() as db:
                workers.see_worker(db, process().name, queues, probe.found())
                if BENCHMARK in queues:
                    hosts.seen(db, host.describe())
            _leave_sign(process().settings.home)
        except (SQLAlchemyError, OSError):
            log.warning("this worker could not be noted; trying again", exc_info=True)
        if process().stopping.wait(SHOW_UP_SECONDS):
            return


def _leave_sign(home: Path) -> None:
    home.mkdir(parents=True, exist_ok=True)
    (home / SEEN).touch()
