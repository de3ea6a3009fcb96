"""Loss against speed-up as a small picture: points with their 95 % intervals, in SVG coordinates."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from app.api.schemas.candidates import CandidateRead
from app.domain.estimate import SHARES

WIDTH, HEIGHT = 640.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 56.0, 20.0, 16.0, 44.0
TICKS = 5


@dataclass(frozen=True)
class Point:
    """One candidate: where it lies, how far its intervals reach, and its number in the table."""

    number: int
    x: float
    y: float
    x_low: float
    x_high: float
    y_low: float
    y_high: float
    pareto: bool


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis."""

    at: float
    label: str


@dataclass(frozen=True)
class Plot:
    """Everything that the template draws."""

    points: tuple[Point, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    one: Tick
    y_title: str
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = WIDTH - RIGHT
    top: float = TOP
    bottom: float = HEIGHT - BOTTOM


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)

    def ticks(self) -> tuple[Tick, ...]:
        """Round numbers, about five of them."""
        rough = (self.high - self.low) / TICKS
        size = 10.0 ** math.floor(math.log10(rough))
        step = size * min((1, 2, 5, 10), key=lambda round_: abs(round_ - rough / size))
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return tuple(Tick(self.at(n * step), f"{n * step:.4g}") for n in range(first, last + 1))


def of(candidates: Sequence[CandidateRead]) -> Plot | None:
    """The picture; None while no candidate has both a latency and an accuracy."""
    known = [(i, c) for i, c in enumerate(candidates, 1) if c.latency and c.accuracy]
    if not known:
        return None
    metric = next(c.accuracy.metric for _, c in known if c.accuracy)
    scale = 100.0 if metric in SHARES else 1.0
    speeds = [x for _, c in known if c.latency for x in (*c.latency.ci, c.latency.speedup)]
    drops = [scale * y for _, c in known if c.accuracy for y in (*c.accuracy.ci, c.accuracy.drop)]
    x = _axis([*speeds, 1.0], LEFT, WIDTH - RIGHT)
    y = _axis([*drops, 0.0], TOP, HEIGHT - BOTTOM)  # less loss is higher up
    points = tuple(_point(i, c, x, y, scale) for i, c in known)
    unit = "points" if metric in SHARES else "its own units"
    return Plot(points, x.ticks(), y.ticks(), Tick(x.at(1.0), "float"), f"{metric} drop, {unit}")


def _point(number: int, c: CandidateRead, x: _Axis, y: _Axis, scale: float) -> Point:
    assert c.latency  # noqa: S101 - chosen for it
    assert c.accuracy  # noqa: S101 - chosen for it
    x_low, x_high = (x.at(value) for value in c.latency.ci)
    y_low, y_high = (y.at(scale * value) for value in c.accuracy.ci)
    at = x.at(c.latency.speedup), y.at(scale * c.accuracy.drop)
    return Point(number, *at, x_low, x_high, y_low, y_high, bool(c.pareto))


def _axis(values: Sequence[float], start: float, end: float) -> _Axis:
    low, high = min(values), max(values)
    margin = (high - low or 1.0) * 0.06
    return _Axis(low - margin, high + margin, start, end)
