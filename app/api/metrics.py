"""Metrics for Prometheus: what this process answers, and what the whole service has to do."""

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.db.base import MICROSECONDS
from app.db.queries import workload
from app.db.session import Database

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
V1 = "/v1"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """One application's own registry."""

    def __init__(self, database: Database) -> None:
        self.registry = CollectorRegistry()
        labels = ["method", "route", "status"]
        self.requests = Counter("fewbits_requests", "Answers begun", labels, registry=self.registry)
        self.latency = Histogram(
            "fewbits_request_seconds",
            "From the request to the beginning of its answer, waiting included",
            ["method", "route"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.registry.register(Workload(database))

    def count(self, scope: Scope, status: int, seconds: float) -> None:
        """One answer has begun."""
        method, route = scope["method"] if scope["method"] in METHODS else "other", _route(scope)
        self.requests.labels(method, route, str(status)).inc()
        self.latency.labels(method, route).observe(seconds)


class Measured:
    """Counts every answer; a stream counts when it begins."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on, and look at the status that comes back."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = time.perf_counter()

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.count(scope, message["status"], time.perf_counter() - begun)
            await send(message)

        try:
            await self.app(scope, receive, counting)
        except Exception:  # the answer to a bug is made further out
            self._metrics.count(scope, 500, time.perf_counter() - begun)
            raise


class Workload(Collector):
    """What is queued and under way, read from the database when somebody asks."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def collect(self) -> Iterator[Metric]:
        """Whether the database answers, and if so what it says."""
        up = GaugeMetricFamily("fewbits_database_up", "1 when the database answers")
        try:
            with self._database.reading() as db:
                found = workload.read(db)
        except SQLAlchemyError:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield from _families(found)

    def describe(self) -> Iterator[Metric]:
        """Nothing beforehand: registering must not ask the database."""
        return iter(())


def _families(found: workload.Workload) -> Iterator[Metric]:
    steps = GaugeMetricFamily("fewbits_steps", "Steps that wait or run", labels=["kind", "state"])
    oldest = GaugeMetricFamily("fewbits_queue_age_seconds", "Age of the oldest that waits", labels=["kind"])
    jobs = GaugeMetricFamily("fewbits_jobs", "Jobs that wait or run", labels=["state"])
    recent = GaugeMetricFamily(
        "fewbits_jobs_of_last_hour", "Jobs made in the last hour, by the state they are in", labels=["state"]
    )
    for kind, state, count in found.steps:
        steps.add_metric([kind, state], count)
    for kind, age in found.ages:
        oldest.add_metric([kind], age / MICROSECONDS)
    for state, count in found.jobs:
        jobs.add_metric([state], count)
    for state, count in found.recent:
        recent.add_metric([state], count)
    lost = GaugeMetricFamily(
        "fewbits_step_losses", "How often a step's worker was lost, in all", found.losses
    )
    yield from (steps, oldest, jobs, recent, lost)


def _route(scope: Scope) -> str:
    """The route's pattern, never the path: ids would make a series each. `none` where nothing was routed."""
    path = getattr(scope.get("route"), "path", None)
    if path is None:
        return "none"
    versioned = scope["path"].startswith(f"{V1}/") and not path.startswith(f"{V1}/")
    return f"{V1}{path}" if versioned else str(path)  # a route does not know where its router hangs
