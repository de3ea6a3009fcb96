"""One doorbell: wait for the host, claim the step, do it, write how it ended."""

import fcntl
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from opentelemetry.trace import SpanKind
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from app import broker
from app.db.models import Step, StepLog
from app.db.queries import drains
from app.domain.errors import BlobDamaged, DomainError, Problem
from app.log import about
from app.services import orphans, outcomes, quotas, steps
from app.services.events import acting_as
from app.services.outcomes import Record
from app.services.steps import Claim, Stale
from app.tracing import span
from worker import deliver, footprint, hostlock, probe
from worker.child import host_trouble
from worker.lease import Lease
from worker.process import Process
from worker.sandbox import ChildLost, Interrupted, Outgrown, Refusal
from worker.steps import STEPS
from worker.work import Work

log = logging.getLogger(__name__)
WITHOUT_ENGINE = ("report",)
RETRY_SECONDS = 5.0
LONGEST_WAIT_SECONDS = 300.0
DOUBLINGS = 6  # of the wait; more would be longer than the longest
PATIENCE = 6  # with a step that fills the disk itself
WRITE_SECONDS = 60.0
WRITE_AGAIN_SECONDS = 0.5


def run(process: Process, step_id: str) -> None:
    """Run a step if it is still free; every way it can end is written down, or left to the sweeper."""
    with process.database.reading() as db:
        step = db.get(Step, step_id)
    if step is None or step.state != "queued":
        return
    if step.kind == "deliver":
        deliver.hand_over(process, step_id)
        return
    try:
        with acting_as("worker"), _host(process, step.kind):
            _claim_and_work(process, step_id)
    except hostlock.Stopped:
        log.info("%s stays queued: this worker stops", step_id)


@contextmanager
def _host(process: Process, kind: str) -> Iterator[None]:
    if kind in WITHOUT_ENGINE:
        yield
        return
    stopping = process.stopping.is_set
    with hostlock.hold(process.settings.locks, exclusive=kind == "benchmark", stopping=stopping):
        yield


def _claim_and_work(process: Process, step_id: str) -> None:
    with process.database.writing() as db:
        if process.stopping.is_set() or drains.is_drained(db, process.name):
            return  # its message came before; the sweeper rings for others
        claim = outcomes.begin(db, step_id, process.name, process.settings.quotas, probe.layers())
    if claim is None:
        return
    with about(**claim.ids), span(claim.kind, claim.traceparent, SpanKind.CONSUMER, claim.ids):
        log.info("%s %s of %s, attempt %d", claim.kind, step_id, claim.subject_id, claim.attempt)
        try:
            _work_while_ours(process, claim)
        finally:
            _give_way(process, claim)


def _work_while_ours(process: Process, claim: Claim) -> None:
    published: list[str] = []
    try:
        _work(process, claim, published)
    except Stale:
        log.info("%s was taken away; its result is dropped", claim.step_id)
    _forget(process, published)


def _forget(process: Process, published: list[str]) -> None:
    """Delete what a step wrote into the store and no row names.

    Not after an end that could not be written, for that may have been: the sweeper looks a week later.
    """
    if not published:
        return
    try:
        orphans.delete_unknown(process.database, process.storage, published)
    except (OSError, SQLAlchemyError):
        log.warning("could not delete what a step left in the store", exc_info=True)


def _give_way(process: Process, claim: Claim) -> None:
    """A build has ended: others of its project may have waited for that."""
    if claim.kind != "build":
        return
    with process.database.reading() as db:
        waiting = quotas.waiting_builds(db, claim.project_id, process.settings.quotas)
    for step_id in waiting:
        broker.ring(step_id, claim.kind)


def _work(process: Process, claim: Claim, published: list[str]) -> None:
    """Do the step and write its end; `published` gets what is in the store until rows name it.

    Raises:
        Stale: The step is not ours any more.
    """
    try:
        record = _do(process, claim, published)
    except Outgrown as error:
        _wait(process, claim, error.problem, most=PATIENCE)
    except Refusal as refusal:
        _refuse(process, claim, refusal.problem)
    except Interrupted:
        _hand_back(process, claim)
    except ChildLost as loss:
        _lose(process, claim, loss.detail, RETRY_SECONDS * claim.losses)
    except BlobDamaged as error:  # sent again, the bytes serve: nothing was wrong with the upload
        _wait(process, claim, Problem.of(error))
    except DomainError as error:
        _fail(process, claim, Problem.of(error))
    except (OSError, SQLAlchemyError) as error:
        log.exception("%s of %s: the store, the disk or the database failed", claim.kind, claim.subject_id)
        _wait(process, claim, host_trouble(error))
    except Exception as error:
        log.exception("%s of %s failed: this is a bug", claim.kind, claim.subject_id)
        _lose(process, claim, f"{type(error).__name__}: {error}", RETRY_SECONDS * (claim.losses + 1))
    else:
        _write(process, lambda db: outcomes.complete(db, claim, record))
        published.clear()


def _do(process: Process, claim: Claim, published: list[str]) -> Record:
    with _folder(process, claim) as folder, Lease(process.database, claim) as lease:
        work = Work(process, claim, lease, folder, published=published)
        try:
            return STEPS[claim.kind](work)
        finally:
            _keep_printed(work)


def _keep_printed(work: Work) -> None:
    """Write what the engine printed, whatever came of the step; it is no reason to fail one."""
    text = work.printed.text(work.folder)
    if not text:
        return
    try:
        with work.process.database.writing() as db:
            db.add(StepLog(step_id=work.claim.step_id, attempt=work.claim.attempt, text=text))
    except SQLAlchemyError:
        log.warning("could not keep what %s printed", work.claim.step_id, exc_info=True)


@contextmanager
def _folder(process: Process, claim: Claim) -> Iterator[Path]:
    """The step's own folder, locked while it is in use: what a killed worker left goes with the next step."""
    work, in_use = process.settings.work, ExitStack()
    work.mkdir(parents=True, exist_ok=True)
    with _locked(work):
        for leftover in work.iterdir():
            with suppress(OSError), _locked(leftover, fcntl.LOCK_NB):
                footprint.remove(leftover)
        # Without links: what lies below it is told by its whole path, here and by the kernel.
        folder = Path(tempfile.mkdtemp(prefix=f"{claim.step_id}-", dir=work)).resolve()
        in_use.enter_context(_locked(folder))
    with in_use:
        try:
            yield folder
        finally:
            footprint.remove(folder)


@contextmanager
def _locked(folder: Path, how: int = 0) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | how)
        yield
    finally:
        os.close(descriptor)


def _refuse(process: Process, claim: Claim, problem: Problem) -> None:
    """A refusal that says to try again is this host's trouble, not the upload's."""
    if problem.retryable:
        _wait(process, claim, problem)
    else:
        _fail(process, claim, problem)


def _wait(process: Process, claim: Claim, problem: Problem, most: int = sys.maxsize) -> None:
    """Try again, later each time: a job's step until the deadline, an inspection as long as it takes.

    What has filled the disk itself is tried `most` times: others would suffer from it for ever.
    """
    times = claim.troubles + 1
    if times >= most:
        _fail(process, claim, problem)
        return
    wait_s = min(RETRY_SECONDS * 2 ** min(times, DOUBLINGS), LONGEST_WAIT_SECONDS)
    _write(process, lambda db: steps.hand_back(db, claim, trouble=True, wait_s=wait_s))


def _fail(process: Process, claim: Claim, problem: Problem) -> None:
    _write(process, lambda db: outcomes.fail(db, process.storage, claim, problem))


def _lose(process: Process, claim: Claim, detail: str, wait_s: float = 0) -> None:
    _write(process, lambda db: outcomes.lose(db, process.storage, claim, detail, wait_s))


def _hand_back(process: Process, claim: Claim) -> None:
    _write(process, lambda db: steps.hand_back(db, claim))


def _write(process: Process, end: Callable[[Session], None]) -> None:
    """Write how a step ended. A database that is away for a moment costs no work and is no loss.

    Trying again is harmless: what was committed after all, or given to somebody else, is stale.

    Raises:
        Stale: The step is not ours any more.
    """
    give_up = time.monotonic() + WRITE_SECONDS
    while True:
        try:
            with process.database.writing() as db:
                end(db)
        except DBAPIError as error:
            away = isinstance(error, OperationalError) or error.connection_invalidated
            if not away or time.monotonic() > give_up or process.stopping.is_set():
                raise
            log.warning("the end of a step could not be written; trying again: %s", error)
            time.sleep(WRITE_AGAIN_SECONDS)
        else:
            return
