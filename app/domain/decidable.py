"""How small a drop a dataset can decide, and how many samples the limits of a gate need."""

from collections.abc import Iterator
from dataclasses import dataclass

from app.domain.estimate import LEVEL
from app.domain.gate import Gate
from app.domain.power import samples_for, smallest_drop

FLIP_RATES = (0.01, 0.03, 0.05)


@dataclass(frozen=True)
class Rate:
    """What can be decided if this share of the samples flips."""

    flip_rate: float
    smallest_drop: float


@dataclass(frozen=True)
class Needed:
    """Samples that decide a limit if this share of them flips."""

    flip_rate: float
    samples: int
    enough: bool


@dataclass(frozen=True)
class LimitDecidable:
    """What one limit of a gate needs."""

    name: str
    limit: float
    needed: tuple[Needed, ...]


@dataclass(frozen=True)
class Decidable:
    """How small a drop the data can decide, with 80 % power at one-sided 95 % over all candidates.

    `samples` are those left for evaluation when the dataset also calibrates.
    """

    samples: int
    candidates: int
    drops: tuple[Rate, ...]
    limits: tuple[LimitDecidable, ...]


def decidable(samples: int, candidates: int, gate: Gate | None) -> Decidable:
    """What so many labelled samples decide, each candidate's bounds at .05/k."""
    level = LEVEL / candidates
    return Decidable(
        samples=samples,
        candidates=candidates,
        drops=tuple(Rate(q, round(smallest_drop(samples, q, level), 6)) for q in FLIP_RATES),
        limits=tuple(_limit(name, limit, samples, level) for name, limit in _drop_limits(gate)),
    )


def _drop_limits(gate: Gate | None) -> Iterator[tuple[str, float]]:
    """Limits on drops; a relative one is taken as if float were always right, its easiest case."""
    for name in ("max_accuracy_drop", "max_relative_drop"):
        limit = getattr(gate, name) if gate else None
        if limit is not None:
            yield name, limit


def _limit(name: str, limit: float, samples: int, level: float) -> LimitDecidable:
    needed = [(q, samples_for(abs(limit), q, level)) for q in FLIP_RATES]
    return LimitDecidable(name, limit, tuple(Needed(q, count, count <= samples) for q, count in needed))
