"""What work costs besides the engine's: the parts `plane` and `store` of benchmarks/scale.py."""

import os

from sqlalchemy import select

from app import broker
from app.db import queries
from app.db.models import Step
from app.db.session import Database
from app.services.steps import Claim
from app.storage import open_storage
from app.storage.base import CHUNK, chunks
from benchmarks.scale_place import Place, cpu_s, end_preparation, fill, say, timed
from tests import factories

STEPS, STORED = 300, 128 * CHUNK
MS, GB = 1000.0, 1e9


def plane(place: Place) -> bool:
    """Steps through their whole life, but for the engine's work."""
    broker.ring = lambda *_: None  # nobody listens
    database = Database(place.database_url)
    fill(database, STEPS)
    with database.reading() as db:
        ids = list(db.scalars(select(Step.id).where(Step.kind == "prepare")))
    begun = cpu_s(database)
    claims = [factories.take(database, step_id) for step_id in ids]
    claimed = cpu_s(database)
    for claim in claims:
        _renew(database, claim)
    renewed = cpu_s(database)
    for claim in claims:
        end_preparation(database, claim)
    ended = cpu_s(database)
    _say_cost("a step claimed", begun, claimed)
    _say_cost("a lease renewed", claimed, renewed)
    _say_cost("a step ended, and the next queued", renewed, ended)
    database.dispose()
    return True


def _renew(database: Database, claim: Claim) -> None:
    with database.writing() as db:
        queries.renew_lease(db, claim.step_id, claim.attempt, 0.5)


def _say_cost(what: str, before: tuple[float, float], after: tuple[float, float]) -> None:
    worker, server = ((late - early) / STEPS * MS for early, late in zip(before, after, strict=True))
    say(f"{what}: ms of CPU in the worker, in Postgres", f"{worker:.2f} {server:.2f}")


def store(place: Place) -> bool:
    """One object of 128 MiB."""
    content, database = os.urandom(STORED), Database(place.database_url)
    for url in (f"file:{place.folder / 'blobs'}", "database:"):
        storage = open_storage(place.settings().model_copy(update={"storage_url": url}))
        begun = cpu_s(database)
        wrote, received = timed(lambda: factories.store(storage, content))  # noqa: B023 - used now
        written = cpu_s(database)
        with storage.open(received.key) as file:
            took, size = timed(lambda: sum(map(len, chunks(file))))
        assert size == STORED  # noqa: S101 - else the figure means nothing
        kind = url.partition(":")[0]
        _say_rate(f"{kind}, in", wrote, begun, written)
        _say_rate(f"{kind}, out", took, written, cpu_s(database))
        storage.close()
    database.dispose()
    return True


def _say_rate(
    what: str, milliseconds: float, before: tuple[float, float], after: tuple[float, float]
) -> None:
    ours, server = ((late - early) / STORED * GB for early, late in zip(before, after, strict=True))
    rate = STORED / 1e6 / milliseconds * MS
    say(f"{what}: MB/s; s of CPU a GB here, in Postgres", f"{rate:.0f} {ours:.2f} {server:.2f}")
