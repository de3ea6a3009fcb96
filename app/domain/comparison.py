"""Two candidates side by side: how their figures differ, where they may be compared, and why not elsewhere.

Within one job, rounds are paired: in each, both candidates ran beside the same baseline. Across jobs only
ratios to a baseline are compared, never milliseconds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from app.domain.estimate import SHARES
from app.domain.gate import Check, Conclusion
from app.domain.intervals import median_interval, normal_quantile
from app.domain.report import Accuracy, Figures, Latency

LEVEL = 0.025  # each side of a two-sided 95 % interval
SAME_JOB = "milliseconds and bytes in memory are only compared within one job"
Letter = Literal["a", "b"]


@dataclass(frozen=True)
class Side:
    """A candidate, and what its figures were measured on."""

    job: str
    version: str
    evaluation: str | None
    cpu: str | None
    figures: Figures


@dataclass(frozen=True)
class Difference:
    """One figure of both. `change` is b / a for a `ratio`, b - a for a `difference`; null with a `reason`.

    `better` is null where the interval does not tell, or there is none.
    """

    figure: str
    a: float | None
    b: float | None
    kind: Literal["ratio", "difference"]
    change: float | None = None
    ci: tuple[float, float] | None = None
    better: Letter | None = None
    reason: str | None = None


@dataclass(frozen=True)
class CheckPair:
    """One check of both gates; it flips when both were decided, and differently."""

    name: str
    a_limit: float | None
    b_limit: float | None
    a: Conclusion | None
    b: Conclusion | None
    flips: bool


def compare(a: Side, b: Side) -> list[Difference]:
    """Every figure that either has."""
    return [_speedup(a, b), _p50(a, b), _drop(a, b), _sqnr(a, b), _size(a, b), _memory(a, b)]


def pair_checks(a: Sequence[Check], b: Sequence[Check]) -> list[CheckPair]:
    """The checks of both candidates by name."""
    mine, others = {check.name: check for check in a}, {check.name: check for check in b}
    return [_pair(name, mine.get(name), others.get(name)) for name in {**mine, **others}]


def notes(a: Side, b: Side) -> list[str]:
    """What to know before the figures are read."""
    found = []
    if a.version != b.version:
        found.append("The versions differ: each is compared with its own float model.")
    if a.evaluation != b.evaluation:
        found.append("The evaluation data differ: drops and SQNR are of different samples.")
    if a.job != b.job:
        found.append("The jobs differ: speed-ups are ratios to each job's own baseline.")
        if a.cpu != b.cpu:
            found.append(f"The CPUs differ: {a.cpu or 'unknown'} and {b.cpu or 'unknown'}.")
    return found


def _pair(name: str, a: Check | None, b: Check | None) -> CheckPair:
    left, right = a.conclusion if a else None, b.conclusion if b else None
    flips = {left, right} == {"pass", "fail"}
    return CheckPair(name, a.limit if a else None, b.limit if b else None, left, right, flips)


def _speedup(a: Side, b: Side) -> Difference:
    x, y = a.figures.latency, b.figures.latency
    left, right = x.speedup if x else None, y.speedup if y else None
    if x is None or y is None:
        return Difference("speedup", left, right, "ratio", reason="latency was not measured of both")
    if (x.threads, x.batch) != (y.threads, y.batch):
        reason = f"{x.threads} threads and batch {x.batch} against {y.threads} threads and batch {y.batch}"
        return Difference("speedup", left, right, "ratio", reason=reason)
    change, ci = _paired_rounds(x, y) if a.job == b.job else _apart(x, y)
    return Difference("speedup", left, right, "ratio", change, ci, _better(ci, 1.0, more=True))


def _paired_rounds(x: Latency, y: Latency) -> tuple[float, tuple[float, float] | None]:
    if len(x.ratios) != len(y.ratios):
        return _apart(x, y)
    ratios = [right / left for left, right in zip(x.ratios, y.ratios, strict=True)]
    return median(ratios), median_interval(ratios, LEVEL)


def _apart(x: Latency, y: Latency) -> tuple[float, tuple[float, float] | None]:
    """Bonferroni: both intervals at half the error hold at once, so their quotient does."""
    left, right = median_interval(x.ratios, LEVEL / 2), median_interval(y.ratios, LEVEL / 2)
    ci = (right[0] / left[1], right[1] / left[0]) if left and right else None
    return y.speedup / x.speedup, ci


def _p50(a: Side, b: Side) -> Difference:
    x, y = a.figures.latency, b.figures.latency
    left, right = x.p50_ms if x else None, y.p50_ms if y else None
    return _within_job("p50_ms", a, b, left, right)


def _memory(a: Side, b: Side) -> Difference:
    x, y = a.figures.memory, b.figures.memory
    left, right = x.model_bytes if x else None, y.model_bytes if y else None
    return _within_job("memory_bytes", a, b, left, right)


def _within_job(figure: str, a: Side, b: Side, left: float | None, right: float | None) -> Difference:
    if left is None or right is None:
        return Difference(figure, left, right, "ratio", reason="not measured of both")
    if a.job != b.job:
        return Difference(figure, left, right, "ratio", reason=SAME_JOB)
    return Difference(figure, left, right, "ratio", right / left if left else None)


def _drop(a: Side, b: Side) -> Difference:
    x, y = a.figures.accuracy, b.figures.accuracy
    left, right = x.drop if x else None, y.drop if y else None
    if x is None or y is None:
        return Difference("drop", left, right, "difference", reason="accuracy was not measured of both")
    if x.metric != y.metric:
        return Difference("drop", left, right, "difference", reason=f"{x.metric} against {y.metric}")
    if a.evaluation != b.evaluation or (a.version != b.version and x.metric not in SHARES):
        reason = "other data, or another model's metric in its own units"
        return Difference("drop", left, right, "difference", reason=reason)
    ci = _difference_of_drops(x, y)
    return Difference("drop", left, right, "difference", y.drop - x.drop, ci, _better(ci, 0.0, more=False))


def _difference_of_drops(x: Accuracy, y: Accuracy) -> tuple[float, float]:
    """MOVER (Zou and Donner, Statistics in Medicine 27, 2008) from both intervals, taken as independent.

    On the same samples the drops tend to go together, so that the interval is rather too wide.
    """
    change = y.drop - x.drop
    below = math.hypot(y.drop - y.ci[0], x.ci[1] - x.drop)
    above = math.hypot(y.ci[1] - y.drop, x.drop - x.ci[0])
    return change - below, change + above


def _sqnr(a: Side, b: Side) -> Difference:
    x, y = a.figures.fidelity, b.figures.fidelity
    left, right = x.sqnr_db if x else None, y.sqnr_db if y else None
    if x is None or y is None:
        return Difference("sqnr_db", left, right, "difference", reason="fidelity was not measured of both")
    if (a.version, a.evaluation) != (b.version, b.evaluation):
        reason = "another float model or other data"
        return Difference("sqnr_db", left, right, "difference", reason=reason)
    width = normal_quantile(LEVEL) * math.hypot(x.sqnr_se_db, y.sqnr_se_db)
    change = y.sqnr_db - x.sqnr_db
    ci = change - width, change + width
    return Difference("sqnr_db", left, right, "difference", change, ci, _better(ci, 0.0, more=True))


def _size(a: Side, b: Side) -> Difference:
    x, y = a.figures.size, b.figures.size
    if x is None or y is None:
        left, right = x.bytes if x else None, y.bytes if y else None
        return Difference("size_bytes", left, right, "ratio", reason="not built of both")
    change = y.bytes / x.bytes
    exact = (change, change)
    return Difference("size_bytes", x.bytes, y.bytes, "ratio", change, exact, _better(exact, 1.0, more=False))


def _better(ci: tuple[float, float] | None, same: float, *, more: bool) -> Letter | None:
    """Whose figure is better, when the whole interval of the change is on one side of no change."""
    if ci is None or ci[0] <= same <= ci[1]:
        return None
    return "b" if (ci[0] > same) == more else "a"
