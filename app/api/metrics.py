"""Metrics for Prometheus: what this address answers, beside those of the whole service."""

import os
import time

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.workload import Workload
from app.db.session import Database

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
V1 = "/v1"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """One application's own registry; processes that share an address tell their sum."""

    def __init__(self, database: Database) -> None:
        self.registry = CollectorRegistry()
        shared = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        own = None if shared else self.registry
        if shared:
            MultiProcessCollector(self.registry)  # type: ignore[no-untyped-call]
        labels = ["method", "route", "status"]
        self.requests = Counter("fewbits_requests", "Answers begun", labels, registry=own)
        self.latency = Histogram(
            "fewbits_request_seconds",
            "From the request to the beginning of its answer, waiting included",
            ["method", "route"],
            buckets=BUCKETS,
            registry=own,
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


def _route(scope: Scope) -> str:
    """The route's pattern, never the path: ids would make a series each. `none` where nothing was routed."""
    path = getattr(scope.get("route"), "path", None)
    if path is None:
        return "none"
    versioned = scope["path"].startswith(f"{V1}/") and not path.startswith(f"{V1}/")
    return f"{V1}{path}" if versioned else str(path)  # a route does not know where its router hangs
