"""A verdict as OpenMetrics text, as GitLab's metrics report reads it.

Labels say the candidate's place and name, never an id: the same series exists on every branch.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest

from app.api.schemas.candidates import CandidateRead
from app.api.schemas.jobs import VerdictRead

MEDIA_TYPE = CONTENT_TYPE_LATEST
LABELS = ("position", "candidate")
UNREADABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
FIGURES: tuple[tuple[str, str, str, str, Callable[[Any], float]], ...] = (
    ("speedup", "ratio", "Times as fast as the float model", "latency", lambda f: f.speedup),
    ("speedup_low", "ratio", "Lower end of its 95 % interval", "latency", lambda f: f.ci[0]),
    ("speedup_high", "ratio", "Upper end of its 95 % interval", "latency", lambda f: f.ci[1]),
    ("latency_p50", "seconds", "Median run", "latency", lambda f: f.p50_ms / 1000),
    ("metric_value", "", "The metric, in its own units", "accuracy", lambda f: f.value),
    ("metric_drop", "", "Loss against the float model", "accuracy", lambda f: f.drop),
    ("metric_drop_low", "", "Lower end of its 95 % interval", "accuracy", lambda f: f.ci[0]),
    ("metric_drop_high", "", "Upper end of its 95 % interval", "accuracy", lambda f: f.ci[1]),
    ("sqnr", "decibels", "Signal to noise of the outputs", "fidelity", lambda f: f.sqnr_db),
    ("size", "bytes", "Bytes on disk", "size", lambda f: f.bytes),
    ("size", "ratio", "Bytes on disk, as a share of the upload's", "size", lambda f: f.ratio),
    ("memory", "bytes", "Resident bytes of the loaded model", "memory", lambda f: f.model_bytes),
)


def document(verdict: VerdictRead, candidates: Sequence[CandidateRead]) -> bytes:
    """The exposition, ended by `# EOF`."""
    registry = CollectorRegistry()
    gate = Gauge("fewbits_gate", "1 at what the gate concluded", ["conclusion"], registry=registry)
    for conclusion in ("pass", "fail", "inconclusive", "none"):
        gate.labels(conclusion).set(verdict.conclusion == conclusion)
    Gauge("fewbits_gate_blocking", "1 when a pipeline should stop", registry=registry).set(verdict.blocking)
    _figures(registry, candidates)
    _checks(registry, verdict, candidates)
    text: bytes = generate_latest(registry)  # type: ignore[no-untyped-call]
    return text


def _figures(registry: CollectorRegistry, candidates: Sequence[CandidateRead]) -> None:
    for name, unit, help_, section, read in FIGURES:
        known = [(i, c) for i, c in enumerate(candidates, 1) if getattr(c, section)]
        if known:
            gauge = Gauge(f"fewbits_candidate_{name}", help_, LABELS, unit=unit, registry=registry)
            for i, c in known:
                gauge.labels(str(i), _label(c.name)).set(read(getattr(c, section)))


def _checks(registry: CollectorRegistry, verdict: VerdictRead, candidates: Sequence[CandidateRead]) -> None:
    if not verdict.checks:
        return
    help_ = "1 when the check passes, 0 when it fails, NaN while it is undecided"
    gauge = Gauge("fewbits_check_passed", help_, (*LABELS, "check"), registry=registry)
    places = {c.id: (str(i), _label(c.name)) for i, c in enumerate(candidates, 1)}
    for check in verdict.checks:
        passed = {"pass": 1.0, "fail": 0.0}.get(check.conclusion, float("nan"))
        gauge.labels(*places[check.candidate], check.name).set(passed)


def _label(text: str) -> str:
    """One line of readable text; quotes and backslashes are escaped where it is written."""
    return UNREADABLE.sub(" ", text)
