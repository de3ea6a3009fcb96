"""The quantities that a gate limits, each with its bounds: pure functions of measured figures.

A bound is one-sided with the error `level`. With an earlier candidate, losses are counted between it and the
candidate, and speed-ups are divided by its speed-up: ratios may be compared across jobs, milliseconds not.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from app.domain.against import Earlier, pair, same_samples
from app.domain.intervals import (
    difference_interval,
    drop_interval,
    median_interval,
    normal_quantile,
    quantile_interval,
)
from app.domain.report import Accuracy, Figures

LEVEL = 0.05
SHARES = frozenset({"top1", "top5"})  # metrics that call each sample right or wrong
UP_TO_1 = SHARES | {"f1", "miou", "map", "map50"}
OTHER_HOST = "the earlier job was measured on another kind of host, or with other threads or batch"
UNPAIRED = "not paired: the earlier job was evaluated on other samples"
OWN_HOST = "milliseconds hold for this job's host only"


@dataclass(frozen=True)
class Estimate:
    """A value between its one-sided bounds; `note` says what to know about it."""

    value: float
    lower: float
    upper: float
    note: str | None = None


@dataclass(frozen=True)
class Unknown:
    """Why there is no estimate."""

    reason: str
    value: float | None = None


@dataclass(frozen=True)
class Case:
    """One candidate to be judged, and the earlier one that it is compared with, if not with float."""

    candidate: str
    figures: Figures
    earlier: Earlier | None
    level: float


Quantity = Callable[[Case], Estimate | Unknown]


def accuracy_drop(case: Case) -> Estimate | Unknown:
    """How much worse the metric is, in its units; above 0 is worse."""
    now = case.figures.accuracy
    if now is None:
        return _missing(case.figures, "accuracy")
    if case.earlier is None:
        return _bounded(now.drop, drop_bounds(now, case.level))
    before = case.earlier.figures.accuracy
    if before is None:
        return Unknown("the earlier candidate has no accuracy")
    if before.metric != now.metric:
        return Unknown(f"the earlier job measured {before.metric}, this one {now.metric}")
    return _between(case, case.earlier, before, now)


def relative_drop(case: Case) -> Estimate | Unknown:
    """The drop as a share of what it is compared with, whose value is taken as exact."""
    found = accuracy_drop(case)
    now = case.figures.accuracy
    if isinstance(found, Unknown) or now is None:
        return found
    before = case.earlier.figures.accuracy if case.earlier else None
    whole = abs(before.value if before else now.baseline)
    if whole == 0:
        return Unknown(f"{now.metric} is 0 before quantization, so there is no share of it to lose")
    return replace(found, value=found.value / whole, lower=found.lower / whole, upper=found.upper / whole)


def speedup(case: Case) -> Estimate | Unknown:
    """How many times as fast as the float model; with an earlier candidate, the ratio of both speed-ups."""
    latency = case.figures.latency
    if latency is None:
        return _missing(case.figures, "latency")
    if case.earlier is None:
        return _bounded(latency.speedup, median_interval(latency.ratios, case.level), _rounds(case))
    before = case.earlier.figures.latency
    if before is None:
        return Unknown("the earlier candidate has no latency")
    if not case.earlier.same_host:
        return Unknown(OTHER_HOST)
    mine, its = (median_interval(one.ratios, case.level / 2) for one in (latency, before))
    both = (mine[0] / its[1], mine[1] / its[0]) if mine and its else None
    return _bounded(latency.speedup / before.speedup, both, _rounds(case))


def latency_ms(case: Case) -> Estimate | Unknown:
    """Milliseconds per run: the median over rounds of each round's p50."""
    latency = case.figures.latency
    if latency is None:
        return _missing(case.figures, "latency")
    interval = median_interval(latency.p50s_ms, case.level)
    return _bounded(latency.p50_ms, interval, _rounds(case), note=OWN_HOST)


def size_ratio(case: Case) -> Estimate | Unknown:
    """Bytes on disk as a share of the upload's, or of the earlier candidate's."""
    size = case.figures.size
    if size is None:
        return _missing(case.figures, "size")
    if case.earlier is None:
        return _exact(size.ratio)
    before = case.earlier.figures.size
    return _exact(size.bytes / before.bytes) if before else Unknown("the earlier candidate has no size")


def size_bytes(case: Case) -> Estimate | Unknown:
    """Bytes on disk, external data included."""
    size = case.figures.size
    return _exact(size.bytes) if size else _missing(case.figures, "size")


def memory_ratio(case: Case) -> Estimate | Unknown:
    """Resident bytes of the loaded model as a share of the float model's, or of the earlier candidate's."""
    memory = case.figures.memory
    if memory is None:
        return _missing(case.figures, "memory")
    whole = memory.baseline_model_bytes
    if case.earlier is not None:
        before = case.earlier.figures.memory
        if before is None:
            return Unknown("the earlier candidate has no memory")
        if not case.earlier.same_host:
            return Unknown(OTHER_HOST)
        whole = before.model_bytes
    return _exact(memory.model_bytes / whole) if whole > 0 else Unknown("memory: too little to compare with")


def memory_bytes(case: Case) -> Estimate | Unknown:
    """Resident bytes of the loaded model: its process's peak without the runtime's share."""
    memory = case.figures.memory
    return _exact(memory.model_bytes) if memory else _missing(case.figures, "memory")


def sqnr(case: Case) -> Estimate | Unknown:
    """Signal to quantization noise in dB, always against the job's own float model."""
    fidelity = case.figures.fidelity
    if fidelity is None:
        return _missing(case.figures, "fidelity")
    width = normal_quantile(case.level) * fidelity.sqnr_se_db
    return Estimate(fidelity.sqnr_db, fidelity.sqnr_db - width, fidelity.sqnr_db + width)


QUANTITIES: dict[str, Quantity] = {
    "max_accuracy_drop": accuracy_drop,
    "max_relative_drop": relative_drop,
    "min_speedup": speedup,
    "max_latency_ms": latency_ms,
    "max_size_ratio": size_ratio,
    "max_size_bytes": size_bytes,
    "max_memory_ratio": memory_ratio,
    "max_memory_bytes": memory_bytes,
    "min_sqnr_db": sqnr,
}


def estimate(name: str, case: Case) -> Estimate | Unknown:
    """The quantity behind a limit; what is no finite number is unknown."""
    found = QUANTITIES[name](case)
    if isinstance(found, Unknown) or all(map(math.isfinite, (found.value, found.lower, found.upper))):
        return found
    return Unknown("what was measured is no finite number")


def drop_bounds(accuracy: Accuracy, level: float) -> tuple[float, float] | None:
    """One-sided bounds of the drop from float: Tango's score interval for shares, else the bootstrap's."""
    if accuracy.quantiles:
        return quantile_interval(accuracy.quantiles, level)
    if accuracy.lost is None or accuracy.gained is None or not accuracy.samples:
        return None
    return drop_interval(accuracy.lost, accuracy.gained, accuracy.samples, level)


def _between(case: Case, earlier: Earlier, before: Accuracy, now: Accuracy) -> Estimate | Unknown:
    """The drop from the earlier candidate to this one, by the best evidence that there is."""
    outcomes = case.earlier.now.get(case.candidate) if case.earlier else None
    paired = pair(earlier.outcomes, outcomes)
    if paired and not now.quantiles:  # samples of one stream are no evidence of their own
        drop = (paired.lost - paired.gained) / paired.samples
        return _bounded(drop, drop_interval(paired.lost, paired.gained, paired.samples, case.level))
    if same_samples(earlier.outcomes, outcomes) and before.baseline == now.baseline:
        return _of_drops(before, now, case.level)
    return _unpaired(before, now, case.level)


def _of_drops(before: Accuracy, now: Accuracy, level: float) -> Estimate | Unknown:
    """Two drops from the same float model on the same samples; each bound takes half of the error."""
    mine, its = drop_bounds(now, level / 2), drop_bounds(before, level / 2)
    both = (mine[0] - its[1], mine[1] - its[0]) if mine and its else None
    return _bounded(now.drop - before.drop, both)


def _unpaired(before: Accuracy, now: Accuracy, level: float) -> Estimate | Unknown:
    """Two shares on different samples."""
    if now.metric not in SHARES or now.quantiles or before.quantiles:
        return Unknown(f"{UNPAIRED}, which only shares of right answers can be compared across")
    bounds = difference_interval(before.value, before.samples, now.value, now.samples, level)
    return _bounded(before.value - now.value, bounds, note=UNPAIRED)


def _rounds(case: Case) -> str:
    latency = case.figures.latency
    rounds = latency.rounds if latency else 0
    return f"{rounds} rounds are too few for {round(LEVEL / case.level)} candidates"


def _bounded(
    value: float, bounds: tuple[float, float] | None, otherwise: str = "no interval", note: str | None = None
) -> Estimate | Unknown:
    return Estimate(value, *bounds, note) if bounds else Unknown(otherwise, value)


def _exact(value: float) -> Estimate:
    return Estimate(value, value, value)


def _missing(figures: Figures, figure: str) -> Unknown:
    reasons = (str(note) for note in figures.notes if note.about == figure)
    return Unknown(next(reasons, f"{figure} was not measured"))
