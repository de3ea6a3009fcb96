"""Limits, checks and the verdict: pure decisions on measured figures and their bounds.

A check passes when the one-sided 95 % bound is within the limit, fails when the opposite bound is beyond it,
and is inconclusive otherwise. With k candidates each bound has the level .05/k (Bonferroni), so that trying
many recipes does not buy a pass.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from app.domain.against import COMPARED, FLOAT, PATTERN, Earlier, NoEarlier
from app.domain.errors import FieldError
from app.domain.estimate import LEVEL, QUANTITIES, UP_TO_1, Case, Estimate, Unknown, estimate
from app.domain.intervals import normal_quantile, quantile_interval
from app.domain.power import samples_for, samples_for_variance
from app.domain.recipe import FORBID_UNKNOWN
from app.domain.report import Accuracy, Figures

Conclusion = Literal["pass", "fail", "inconclusive"]
TOLERABLE_DROP = 0.01
TOLERABLE_SQNR_DB = 20.0
UNDECIDED_BY_SAMPLES = ("max_accuracy_drop", "max_relative_drop")


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Limits that a candidate must keep to. What is null is not checked.

    With `against`, drops, speed-up, size ratio and memory ratio are held against the best candidate of an
    earlier job of the same model; limits in milliseconds, bytes and dB are not.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN
    against: str = field(
        default=FLOAT,
        metadata={
            "pattern": PATTERN,
            "max_length": 2000,
            "description": "`float`, `ver_…`, `job_…`, `latest`, or `latest:branch=main` (labels of the job)",
        },
    )
    max_accuracy_drop: float | None = field(
        default=None,
        metadata={"strict": True, "description": "in the metric's units; 0.01 is one point of accuracy"},
    )
    max_relative_drop: float | None = field(
        default=None,
        metadata={
            "strict": True,
            "description": "the drop divided by what it is compared with; 0.01 is 1 % more perplexity",
        },
    )
    min_speedup: float | None = field(
        default=None, metadata={"strict": True, "gt": 0, "description": "1.2 is 20 % faster"}
    )
    max_latency_ms: float | None = field(
        default=None,
        metadata={
            "strict": True,
            "gt": 0,
            "description": "p50 of one run; holds for the measuring host only",
        },
    )
    max_size_ratio: float | None = field(
        default=None,
        metadata={"strict": True, "gt": 0, "description": "bytes on disk; 0.3 is 30 % of the upload"},
    )
    max_size_bytes: int | None = field(
        default=None, metadata={"strict": True, "ge": 1, "le": 2**60, "description": "bytes on disk"}
    )
    max_memory_ratio: float | None = field(
        default=None, metadata={"strict": True, "gt": 0, "description": "resident bytes of the loaded model"}
    )
    max_memory_bytes: int | None = field(
        default=None,
        metadata={"strict": True, "ge": 1, "le": 2**60, "description": "resident bytes of the loaded model"},
    )
    min_sqnr_db: float | None = field(
        default=None, metadata={"strict": True, "description": "signal to noise ratio in dB"}
    )
    on_inconclusive: Literal["pass", "fail"] = field(
        default="fail", metadata={"description": "whether an undecided gate stops a pipeline"}
    )

    def speedup_over_float(self) -> float | None:
        """The speed-up over the float model that a measurement should be able to tell."""
        return self.min_speedup if self.against == FLOAT else None


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
    against: str | None = None  # the earlier candidate; null: the float model, or nothing


@dataclass(frozen=True)
class Verdict:
    """The gate's answer. `blocking` says whether a pipeline should stop."""

    conclusion: Conclusion | Literal["none"]
    blocking: bool
    best: str | None
    checks: tuple[Check, ...]


def decide(
    gate: Gate | None, candidates: Mapping[str, Figures], against: Earlier | NoEarlier | None = None
) -> Verdict:
    """Hold the limits against every measured candidate (id → figures) and choose the best.

    `against` is what the gate's field of this name came to; null is the float model.
    """
    limits = limits_of(gate, against) if gate else {}
    if gate is None or not limits:
        return Verdict("none", False, best_of(candidates), ())
    level = LEVEL / max(len(candidates), 1)
    checks = {c: check_all(limits, c, figures, against, level) for c, figures in candidates.items()}
    passing = {c: candidates[c] for c, rows in checks.items() if all(r.conclusion == "pass" for r in rows)}
    conclusion = _conclude(list(checks.values()), passed=bool(passing))
    blocking = conclusion == "fail" or (conclusion == "inconclusive" and gate.on_inconclusive == "fail")
    everything = tuple(row for rows in checks.values() for row in rows)
    return Verdict(conclusion, blocking, best_of(passing or candidates), everything)


def limits_of(gate: Gate, against: Earlier | NoEarlier | None = None) -> dict[str, float]:
    """The limits that hold: on a model's first job nothing is compared with an earlier one."""
    first = isinstance(against, NoEarlier) and against.first
    values = {name: getattr(gate, name) for name in QUANTITIES if not (first and name in COMPARED)}
    return {name: value for name, value in values.items() if value is not None}


def misfits(gate: Gate, metric: str) -> tuple[FieldError, ...]:
    """Limits that mean nothing for this metric: a share cannot drop by more than 1."""
    limit = gate.max_accuracy_drop
    if metric not in {"auto", *UP_TO_1} or limit is None or abs(limit) <= 1:
        return ()
    detail = (
        f"is {limit:g}, but a share lies between 0 and 1: one point is 0.01; "
        "for a metric with another unit, name it in /evaluation/metric"
    )
    return (FieldError("/gate/max_accuracy_drop", detail),)


def check_all(
    limits: Mapping[str, float],
    candidate: str,
    figures: Figures,
    against: Earlier | NoEarlier | None,
    level: float,
) -> list[Check]:
    """Every limit against one candidate; `level` is the one-sided error of a bound."""
    return [_check(name, limit, candidate, figures, against, level) for name, limit in limits.items()]


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


def _conclude(checks: list[list[Check]], *, passed: bool) -> Conclusion:
    if passed:
        return "pass"
    if all(any(row.conclusion == "fail" for row in rows) for rows in checks):
        return "fail"
    return "inconclusive"


def _check(
    name: str,
    limit: float,
    candidate: str,
    figures: Figures,
    against: Earlier | NoEarlier | None,
    level: float,
) -> Check:
    earlier = against if name in COMPARED else None
    if isinstance(earlier, NoEarlier):
        return Check(candidate, name, limit, None, None, "inconclusive", reason=earlier.reason)
    compared = earlier.candidate if earlier else None
    match estimate(name, Case(candidate, figures, earlier, level)):
        case Unknown(reason, value):
            return Check(candidate, name, limit, value, None, "inconclusive", None, reason, compared)
        case Estimate() as found:
            conclusion, bound = _hold(name, limit, found)
            needed = _needed(name, limit, figures, level) if conclusion == "inconclusive" else None
            return Check(candidate, name, limit, found.value, bound, conclusion, needed, found.note, compared)


def _hold(name: str, limit: float, found: Estimate) -> tuple[Conclusion, float]:
    """The limit against the bounds: pass on the near one, fail on the opposite one, else undecided."""
    if name.startswith("max"):
        conclusion = _three_valued(found.upper <= limit, found.lower > limit)
        return conclusion, found.lower if conclusion == "fail" else found.upper
    conclusion = _three_valued(found.lower >= limit, found.upper < limit)
    return conclusion, found.upper if conclusion == "fail" else found.lower


def _needed(name: str, limit: float, figures: Figures, level: float) -> int | None:
    accuracy = figures.accuracy
    if name not in UNDECIDED_BY_SAMPLES or accuracy is None:
        return None
    scale = abs(accuracy.baseline) if name == "max_relative_drop" else 1.0
    return samples_needed(accuracy, limit * scale, level)


def samples_needed(accuracy: Accuracy, limit: float, level: float) -> int | None:
    """About how many samples decide this limit, at the spread of the drop seen; null without samples.

    If there are as many already, those that tell the drop seen from the limit. `level` is the one-sided error
    of a bound.
    """
    variance = _variance(accuracy)
    if variance is None:
        return None
    samples = samples_for_variance if accuracy.quantiles else samples_for
    needed = samples(abs(limit), variance, level)
    if needed > accuracy.samples:
        return needed
    return max(samples(abs(limit - accuracy.drop), variance, level), accuracy.samples + 1)


def _variance(accuracy: Accuracy) -> float | None:
    """The variance of one sample's drop: a share's flip rate, else what the bootstrap implies."""
    if accuracy.quantiles:
        low, high = quantile_interval(accuracy.quantiles, LEVEL)
        return accuracy.samples * ((high - low) / (2 * normal_quantile(LEVEL))) ** 2
    if accuracy.lost is None or accuracy.gained is None:
        return None
    return (accuracy.lost + accuracy.gained + 1) / (accuracy.samples + 1)


def _three_valued(passes: bool, fails: bool) -> Conclusion:
    if passes:
        return "pass"
    return "fail" if fails else "inconclusive"
