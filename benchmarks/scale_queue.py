"""What a backlog costs: the part `queue` of benchmarks/scale.py."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import httpx
from sqlalchemy import func, select, update

from app import broker
from app.db.models import Step
from app.db.queries.steps import RING_AGAIN
from app.db.session import Database
from app.services import sweeper
from app.services.steps import RINGS_PER_QUEUE, Claim
from app.storage import LocalStorage
from benchmarks.scale_place import Place, end_preparation, fill, judge, median, new_key, say, timed
from tests import factories
from tests.app.conftest import serving

FLAT = 2.0
FEW, SAMPLES = 100, 30
MINUTES, SWEEPS_A_MINUTE = 10, 12
SETTLE_S = 60.0


@dataclass(frozen=True)
class Backlog:
    """Jobs that are queued, and an API that lists them."""

    database: Database
    storage: LocalStorage
    http: httpx.Client
    steps: list[str]


def run(place: Place, jobs: int) -> bool:
    """A short and a long backlog, and what sweeps add to the long one."""
    with ExitStack() as stack:
        few = stack.enter_context(_backlog(place, place.other_url, FEW))
        many = stack.enter_context(_backlog(place, place.database_url, jobs))
        held = [_is_flat(what, few, many, take) for what, take in MEASURES.items()]
        held.append(_is_no_flood(place, many))
    return all(held)


@contextmanager
def _backlog(place: Place, url: str, jobs: int) -> Iterator[Backlog]:
    broker.ring = lambda *_: None  # what is made here is found by sweeps
    database, storage = Database(url), LocalStorage(place.folder / "blobs")
    headers = {"Authorization": f"Bearer {new_key(database, fill(database, jobs))}"}
    with database.reading() as db:
        queued = select(Step.id).where(Step.kind == "prepare", Step.state == "queued")
        ids = list(db.scalars(queued.order_by(func.random()).limit(SAMPLES)))
    with serving(place.settings(url)) as api, httpx.Client(base_url=api, headers=headers) as http:
        yield Backlog(database, storage, http, ids)
    database.dispose()


def _claim(there: Backlog, number: int) -> float:
    return timed(lambda: factories.take(there.database, there.steps[number]))[0]


def _end(there: Backlog, number: int) -> float:
    with there.database.reading() as db:
        step = db.get_one(Step, there.steps[number])
    claim = Claim(step.id, step.attempt, step.kind, step.subject_id, step.job_id, step.project_id, 0)
    return timed(lambda: end_preparation(there.database, claim))[0]


def _list(there: Backlog, _number: int) -> float:
    return timed(lambda: there.http.get("/v1/jobs").raise_for_status())[0]


def _list_queued(there: Backlog, _number: int) -> float:
    return timed(lambda: there.http.get("/v1/jobs?state=queued").raise_for_status())[0]


def _sweep(there: Backlog, _number: int) -> float:
    return timed(lambda: sweeper.sweep(there.database, there.storage))[0]


MEASURES = {
    "claim a step": _claim,
    "end a step, and queue what follows": _end,
    "GET /v1/jobs": _list,
    "GET /v1/jobs?state=queued": _list_queued,
    "a sweep": _sweep,
}


def _is_flat(what: str, few: Backlog, many: Backlog, take: Callable[[Backlog, int], float]) -> bool:
    """In turns, so that what else the host does falls on both alike."""
    pairs = [(take(few, number), take(many, number)) for number in range(SAMPLES)]
    short, long = median(pair[0] for pair in pairs), median(pair[1] for pair in pairs)
    say(f"{what}: ms beside a short and a long backlog", f"{short:.1f} {long:.1f}")
    return judge(f"{what}: times as long", long / short, FLAT)


def _is_no_flood(place: Place, there: Backlog) -> bool:
    """Sweep as often as in ten minutes in which nobody works; to make a minute, the clock is turned back."""
    broker.ring = broker.doorbell.ring
    with place.redis() as redis:
        empty = redis.info("memory")["used_memory"]
        for _ in range(MINUTES):
            with there.database.writing() as db:
                db.execute(update(Step).values(rung_at=Step.rung_at - RING_AGAIN))
            for _ in range(SWEEPS_A_MINUTE):
                sweeper.sweep(there.database, there.storage)
                broker.doorbell.settle(SETTLE_S)
        messages = int(redis.llen("default"))
        say(
            "bytes of Redis for each message",
            f"{(redis.info('memory')['used_memory'] - empty) / messages:.0f}",
        )
    return judge("messages after ten minutes of sweeps", messages, RINGS_PER_QUEUE)
