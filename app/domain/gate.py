"""Limits, checks and the verdict: pure decisions on measured figures and their bounds.

A check passes when the one-sided 95 % bound is within the limit, fails when the opposite bound is beyond it,
and is inconclusive otherwise. With k candidates each bound has the level .05/k (Bonferroni), so that trying
many recipes does not buy a pass.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from app.domain.intervals import drop_interval, median_interval, normal_quantile
from app.domain.recipe import FORBID_UNKNOWN
from app.domain.report import Accuracy, Figures

Conclusion = Literal["pass", "fail", "inconclusive"]
LEVEL = 0.05
DECIDING_FACTOR = 6.2  # (z.05 + z.20)^2: 80 % power at one-sided 95 %
TOLERABLE_DROP = 0.01
TOLERABLE_SQNR_DB = 20.0


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Limits that a candidate must keep to. What is null is not checked."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN
    max_accuracy_drop: float | None = field(default=None, metadata={"ge": -1, "le": 1})
    min_speedup: float | None = field(default=None, metadata={"gt": 0})
    max_size_ratio: float | None = field(default=None, metadata={"gt": 0})
    min_sqnr_db: float | None = None
    on_inconclusive: Literal["pass", "fail"] = "fail"


@dataclass(frozen=True)
class Check:
    """One limit held against one candidate."""

    candidate: str
    name: str
    limit: float
    value: float | None
    bound: float | None
    conclusion: Conclusion
    samples_needed: int | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Verdict:
    """The gate's answer. `blocking` says whether a pipeline should stop."""

    conclusion: Conclusion | Literal["none"]
    blocking: bool
    best: str | None
    checks: tuple[Check, ...]


def decide(gate: Gate | None, candidates: Mapping[str, Figures]) -> Verdict:
    """Hold the limits against every measured candidate (id → figures) and choose the best."""
    if gate is None or not _limits(gate):
        return Verdict("none", False, best_of(candidates), ())
    level = LEVEL / max(len(candidates), 1)
    checks = {name: check_all(gate, name, figures, level) for name, figures in candidates.items()}
    passing = {c: candidates[c] for c, rows in checks.items() if all(r.conclusion == "pass" for r in rows)}
    conclusion = _conclude(list(checks.values()), passed=bool(passing))
    blocking = conclusion == "fail" or (conclusion == "inconclusive" and gate.on_inconclusive == "fail")
    everything = tuple(row for rows in checks.values() for row in rows)
    return Verdict(conclusion, blocking, best_of(passing or candidates), everything)


def check_all(gate: Gate, candidate: str, figures: Figures, level: float) -> list[Check]:
    """Every limit of the gate against one candidate; `level` is the one-sided error of a bound."""
    return [CHECKS[name](candidate, limit, figures, level) for name, limit in _limits(gate).items()]


def best_of(candidates: Mapping[str, Figures]) -> str | None:
    """The fastest (or, without latency, the smallest) among those that stay close to the float model.

    Close is a drop of at most 0.01, or without labels 20 dB. If none is close, the closest one.
    """
    if not candidates:
        return None
    close = {name: f for name, f in candidates.items() if _loss(f) <= 0}
    if close:
        return max(close, key=lambda name: _gain(close[name]))
    return min(candidates, key=lambda name: _loss(candidates[name]))


def pareto(candidates: Mapping[str, Figures]) -> frozenset[str]:
    """Candidates that no other beats in loss, speed and size at once."""
    points = {name: (_loss(f), *(-g for g in _gain(f))) for name, f in candidates.items()}
    return frozenset(n for n, p in points.items() if not any(_dominates(q, p) for q in points.values()))


def _dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and tuple(a) != tuple(b)


def _loss(figures: Figures) -> float:
    """How far the candidate is beyond what is tolerable; 0 and below is close enough."""
    if figures.accuracy:
        return figures.accuracy.drop - TOLERABLE_DROP
    if figures.fidelity:
        return TOLERABLE_SQNR_DB - figures.fidelity.sqnr_db
    return 0.0


def _gain(figures: Figures) -> tuple[float, float]:
    speedup = figures.latency.speedup if figures.latency else 0.0
    return speedup, -figures.size.ratio if figures.size else -math.inf


def _limits(gate: Gate) -> dict[str, float]:
    values = {name: getattr(gate, name) for name in CHECKS}
    return {name: value for name, value in values.items() if value is not None}


def _conclude(checks: list[list[Check]], *, passed: bool) -> Conclusion:
    if passed:
        return "pass"
    if all(any(row.conclusion == "fail" for row in rows) for rows in checks):
        return "fail"
    return "inconclusive"


def _missing(candidate: str, name: str, limit: float, figures: Figures, word: str) -> Check:
    reason = next((note for note in figures.notes if word in note.lower()), f"{word} was not measured")
    return Check(candidate, name, limit, None, None, "inconclusive", reason=reason)


def _accuracy_drop(candidate: str, limit: float, figures: Figures, level: float) -> Check:
    a = figures.accuracy
    if a is None:
        return _missing(candidate, "max_accuracy_drop", limit, figures, "accuracy")
    lower, upper = drop_interval(a.lost, a.gained, a.samples, level)
    conclusion = _three_valued(upper <= limit, lower > limit)
    needed = samples_needed(a, limit) if conclusion == "inconclusive" else None
    bound = lower if conclusion == "fail" else upper
    return Check(candidate, "max_accuracy_drop", limit, a.drop, bound, conclusion, needed)


def samples_needed(accuracy: Accuracy, limit: float) -> int:
    """About how many samples decide this limit, at the flip rate seen."""
    flip_rate = (accuracy.lost + accuracy.gained + 1) / (accuracy.samples + 1)
    needed = DECIDING_FACTOR * flip_rate / max(limit * limit, 1e-6)
    if needed > accuracy.samples:
        return math.ceil(needed)
    margin = max(abs(limit - accuracy.drop), 1e-3)
    return max(math.ceil(DECIDING_FACTOR * flip_rate / margin**2), accuracy.samples + 1)


def _speedup(candidate: str, limit: float, figures: Figures, level: float) -> Check:
    latency = figures.latency
    if latency is None:
        return _missing(candidate, "min_speedup", limit, figures, "latency")
    interval = median_interval(latency.ratios, level)
    if interval is None:
        reason = f"{latency.rounds} rounds are too few for {round(1 / level * LEVEL)} candidates"
        return Check(candidate, "min_speedup", limit, latency.speedup, None, "inconclusive", reason=reason)
    lower, upper = interval
    conclusion = _three_valued(lower >= limit, upper < limit)
    bound = upper if conclusion == "fail" else lower
    return Check(candidate, "min_speedup", limit, latency.speedup, bound, conclusion)


def _size_ratio(candidate: str, limit: float, figures: Figures, _level: float) -> Check:
    if figures.size is None:
        return _missing(candidate, "max_size_ratio", limit, figures, "size")
    ratio = figures.size.ratio
    return Check(
        candidate, "max_size_ratio", limit, ratio, ratio, _three_valued(ratio <= limit, ratio > limit)
    )


def _sqnr(candidate: str, limit: float, figures: Figures, level: float) -> Check:
    f = figures.fidelity
    if f is None:
        return _missing(candidate, "min_sqnr_db", limit, figures, "fidelity")
    width = normal_quantile(level) * f.sqnr_se_db
    lower, upper = f.sqnr_db - width, f.sqnr_db + width
    conclusion = _three_valued(lower >= limit, upper < limit)
    bound = upper if conclusion == "fail" else lower
    return Check(candidate, "min_sqnr_db", limit, f.sqnr_db, bound, conclusion)


def _three_valued(passes: bool, fails: bool) -> Conclusion:
    if passes:
        return "pass"
    return "fail" if fails else "inconclusive"


CHECKS: dict[str, Callable[[str, float, Figures, float], Check]] = {
    "max_accuracy_drop": _accuracy_drop,
    "min_speedup": _speedup,
    "max_size_ratio": _size_ratio,
    "min_sqnr_db": _sqnr,
}
