"""The whole service in metrics for Prometheus, read from the database when somebody asks.

Every process of the API answers the same of it: alerts take the `max` over them, never the sum.
"""

from collections import Counter
from collections.abc import Iterable, Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from app.broker import QUEUES, reachable
from app.db.base import MICROSECONDS
from app.db.queries import workload
from app.db.session import Database
from app.domain.tally import BOUNDS, JOB, Key, Sum
from app.services.counting import BLOB_STATES, BLOBS, SWEPT

Row = tuple[tuple[str, ...], float]
Tallies = Iterable[tuple[Key, Sum]]


class Workload(Collector):
    """What is queued, under way and done."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def collect(self) -> Iterator[Metric]:
        """Whether broker and database answer, and if so what the database says."""
        yield _gauge("broker_up", "1 when the broker answers", (), [((), reachable())])
        try:
            with self._database.reading() as db:
                found = workload.read(db)
        except SQLAlchemyError:
            yield _gauge("database_up", "1 when the database answers", (), [((), 0)])
            return
        yield _gauge("database_up", "1 when the database answers", (), [((), 1)])
        yield from _waiting(found)
        yield from _ended([(key, total) for key, total in found.tallies if key.kind != JOB])
        yield from _ended_jobs([(key, total) for key, total in found.tallies if key.kind == JOB])
        yield from _health(found)

    def describe(self) -> Iterator[Metric]:
        """Nothing beforehand: registering must not ask the database."""
        return iter(())


def _waiting(found: workload.Workload) -> Iterator[Metric]:
    steps = [((kind, state, _queue(kind)), count) for kind, state, count in found.steps]
    delayed = [((kind, _queue(kind)), count) for kind, count in found.delayed]
    ages = [((kind, _queue(kind)), age / MICROSECONDS) for kind, age in found.ages]
    jobs = [((state,), count) for state, count in found.jobs]
    recent = [((state,), count) for state, count in found.recent]
    yield _gauge("steps", "Steps that wait or run", ("kind", "state", "queue"), steps)
    yield _gauge("steps_delayed", "Queued steps whose time is to come", ("kind", "queue"), delayed)
    yield _gauge("queue_age_seconds", "How long the oldest has waited", ("kind", "queue"), ages)
    yield _gauge("step_losses", "How often a step's worker was lost, in all", (), [((), found.losses)])
    yield _gauge("jobs", "Jobs that wait or run", ("state",), jobs)
    text = "Jobs made in the last hour, by the state they are in"
    yield _gauge("jobs_of_last_hour", text, ("state",), recent)


def _ended(tallies: Tallies) -> Iterator[Metric]:
    ended = [((key.kind, key.outcome), total.count) for key, total in tallies]
    failed = [((key.kind, key.code), total.count) for key, total in tallies if key.outcome == "failed"]
    yield _counter("steps_ended", "Steps that ended", ("kind", "outcome"), ended)
    yield _counter(
        "step_failures", "Steps that failed, by the code of their problem", ("kind", "code"), failed
    )
    text = "From a step's first start to its end, when it was done"
    seconds = HistogramMetricFamily("fewbits_step_seconds", text, labels=("kind",))
    done = [(key, total) for key, total in tallies if key.outcome == "done"]
    for kind in sorted({key.kind for key, _ in done}):
        of_kind = [(key, total) for key, total in done if key.kind == kind]
        seconds.add_metric([kind], _buckets(of_kind), _seconds(of_kind))
    yield seconds


def _ended_jobs(tallies: Tallies) -> Iterator[Metric]:
    ended = [((key.outcome,), total.count) for key, total in tallies]
    failed = [((key.code,), total.count) for key, total in tallies if key.code]
    succeeded = [(key, total) for key, total in tallies if key.outcome == "succeeded"]
    yield _counter("jobs_ended", "Jobs that ended", ("state",), ended)
    yield _counter(
        "job_failures", "Jobs that failed or expired, by the code of their problem", ("code",), failed
    )
    text = "From a job's creation to its end, when it succeeded"
    yield HistogramMetricFamily("fewbits_job_seconds", text, _buckets(succeeded), _seconds(succeeded))


def _health(found: workload.Workload) -> Iterator[Metric]:
    workers = [((queue,), 1) for queues in found.workers for queue in queues]
    yield _gauge("workers", "Workers seen in the last three minutes that hear a queue", ("queue",), workers)
    if swept := found.measures.get(SWEPT):
        at, took = swept.measured_at / MICROSECONDS, swept.value / MICROSECONDS
        yield _gauge("last_sweep_timestamp_seconds", "When the last sweep ended", (), [((), at)])
        yield _gauge("last_sweep_seconds", "How long the last sweep took", (), [((), took)])
    for name, unit in (("blobs", ""), ("blob_bytes", ".bytes")):
        known = [(state, found.measures.get(f"{BLOBS}.{state}{unit}")) for state in BLOB_STATES]
        rows = [((state,), measure.value) for state, measure in known if measure]
        text = "Blobs that are used, unused, coming, and (of the first two) damaged; every five minutes"
        yield _gauge(name, text, ("state",), rows)


def _gauge(name: str, text: str, labels: tuple[str, ...], rows: Iterable[Row]) -> Metric:
    family = GaugeMetricFamily(f"fewbits_{name}", text, labels=labels)
    for values, amount in _summed(rows):
        family.add_metric(values, amount)
    return family


def _counter(name: str, text: str, labels: tuple[str, ...], rows: Iterable[Row]) -> Metric:
    family = CounterMetricFamily(f"fewbits_{name}", text, labels=labels)
    for values, amount in _summed(rows):
        family.add_metric(values, amount)
    return family


def _summed(rows: Iterable[Row]) -> Iterable[Row]:
    """One row for each set of labels."""
    found = Counter[tuple[str, ...]]()
    for values, amount in rows:
        found[values] += amount  # type: ignore[assignment] # seconds are no whole numbers
    return found.items()


def _buckets(tallies: Tallies) -> list[tuple[str, float]]:
    """How many took at most so long, by seconds."""
    bounds = [(str(bound / MICROSECONDS), bound) for bound in BOUNDS]
    counts = [(name, sum(t.count for key, t in tallies if key.up_to <= bound)) for name, bound in bounds]
    return [*counts, ("+Inf", sum(total.count for _, total in tallies))]


def _seconds(tallies: Tallies) -> float:
    return sum(total.total for _, total in tallies) / MICROSECONDS


def _queue(kind: str) -> str:
    """Empty for what only a newer release knows."""
    return QUEUES.get(kind, "")
