"""What the fidelity benchmark finds: rows per model, who dominates whom, and the tables."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter

from app.domain.intervals import median_interval

OURS = "Fewbits, default"
MARGIN_DB = 0.5
LEVEL = 0.025
Interval = tuple[float, float]


@dataclass
class Row:
    """What one contender does on one model; `failure` says why it is refused or has no figures."""

    contender: str
    failure: str | None = None
    sqnr_db: float | None = None
    accuracy: float | None = None
    integer_macs: int = 0
    share: float = 0.0
    speedup: float | None = None
    interval: Interval | None = None
    against_ours: Interval | None = None  # its speed over ours, in the same rounds
    eligible: bool = False
    dominates: bool = False


@dataclass
class Result:
    """A model's rows; ours is the first."""

    model: str
    metric: str
    float_accuracy: float | None
    noise: Interval | None
    calibration: int
    evaluation: int
    rows: list[Row]

    @property
    def lost(self) -> bool:
        """Whether another contender dominates ours."""
        return any(row.dominates for row in self.rows)

    @property
    def timed(self) -> list[Row]:
        """The contenders whose models run."""
        return [row for row in self.rows if row.sqnr_db is not None]


_RESULTS = TypeAdapter(dict[str, Result])


def read(path: Path) -> dict[str, Result]:
    """What an earlier run found, by model."""
    return _RESULTS.validate_json(path.read_bytes()) if path.exists() else {}


def write(results: Mapping[str, Result], path: Path) -> None:
    """Keep what was found so far."""
    path.write_bytes(_RESULTS.dump_json(dict(results), indent=1))


def add_speeds(result: Result, logs: npt.NDArray[np.float64], noise: Iterable[float]) -> None:
    """Fill in speeds and judge.

    Args:
        result: of one model.
        logs: log-ratios of float to each timed row, [rounds, rows].
        noise: log-ratios of float to itself, by round.
    """
    for index, row in enumerate(result.timed):
        row.speedup, row.interval = math.exp(median(logs[:, index])), _interval(logs[:, index])
        if result.timed[0].contender == OURS:
            row.against_ours = _interval(logs[:, index] - logs[:, 0])
    result.noise = _interval(noise)
    _judge(result.rows)


def _interval(logs: Iterable[float]) -> Interval:
    ratios = [math.exp(one) for one in logs]
    return median_interval(ratios, LEVEL) or (min(ratios), max(ratios))


def _judge(rows: Sequence[Row]) -> None:
    ours = rows[0]
    for row in rows[1:]:
        if row.contender.startswith("Fewbits") or row.sqnr_db is None or row.interval is None:
            continue
        enough = row.integer_macs > 0 and 2 * row.integer_macs >= ours.integer_macs
        row.eligible = row.interval[1] >= 1 and enough
        better = ours.sqnr_db is None or row.sqnr_db > ours.sqnr_db + MARGIN_DB
        as_fast = row.against_ours is None or row.against_ours[1] >= 1
        row.dominates = row.eligible and better and as_fast


def show(result: Result) -> None:
    """Print one model's table."""
    accuracy = "" if result.float_accuracy is None else f", {result.metric} {result.float_accuracy:.2f}"
    samples = f"{result.calibration} / {result.evaluation} samples"
    print(f"\n{result.model}: {samples}{accuracy}, A/A {_range(result.noise)}\n")
    print("| | SQNR, dB | accuracy | speed-up | against ours | integer MACs | |")
    print("|---|---:|---:|---|---|---:|---|")
    for row in result.rows:
        figures = [
            _figure(row.sqnr_db, 1),
            _figure(row.accuracy, 2),
            "–" if row.speedup is None else f"{row.speedup:.2f} ({_range(row.interval)})",
            _range(row.against_ours),
            f"{row.share:.0%}",
            row.failure or ("dominates" if row.dominates else "eligible" if row.eligible else ""),
        ]
        print(f"| {row.contender} | {' | '.join(figures)} |", flush=True)


def summarize(results: Mapping[str, Result]) -> None:
    """Print one table of all models: per contender SQNR, speed-up, share of integer multiplications."""
    contenders = [row.contender for row in max(results.values(), key=lambda r: len(r.rows)).rows]
    print(f"\n| | samples | {' | '.join(contenders)} |")
    print(f"|---|---|{'---:|' * len(contenders)}")
    for result in results.values():
        rows = {row.contender: _short(row) for row in result.rows}
        cells = " | ".join(rows.get(name, "–") for name in contenders)
        print(f"| {result.model} | {result.calibration} / {result.evaluation} | {cells} |")


def _short(row: Row) -> str:
    if row.sqnr_db is None:
        return "fails"
    speed = "" if row.speedup is None else f", {row.speedup:.2f}×"
    mark = " **dominates**" if row.dominates else " refused" if row.failure else ""
    return f"{row.sqnr_db:.1f}{speed} ({row.share:.0%}){mark}"


def _figure(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _range(pair: Interval | None) -> str:
    return "–" if pair is None else f"{pair[0]:.2f} … {pair[1]:.2f}"
