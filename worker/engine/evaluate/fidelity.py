"""How close a candidate's outputs stay to the float model's: signal to noise, cosine, equal top-1."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from app.domain.errors import Refused
from app.domain.note import Note
from app.domain.report import Fidelity
from worker.engine.data.dataset import Array
from worker.engine.evaluate.accuracy import top1
from worker.engine.sqnr import EXACT_DB, sqnr

UNKNOWN_SE_DB = 100.0  # one sample tells nothing about its spread
DB = 10 / math.log(10)
FIFTH_PERCENTILE = 5


@dataclass
class Closeness:
    """Running sums over the samples of one output, from `add` to `fidelity`."""

    name: str
    groups: list[int] = field(default_factory=list)  # which stream or pair each sample belongs to
    signal: list[float] = field(default_factory=list)  # per sample: sum of ref², float64
    noise: list[float] = field(default_factory=list)  # per sample: sum of (ref - out)²
    dot: float = 0.0
    energy: float = 0.0  # sum of out²
    equal_top1: int = 0
    ranked: int = 0

    def add(self, reference: Array, output: Array, group: int | None = None) -> None:
        """Take one sample in; both arrays have one shape. `group` is its stream or pair, if it has one.

        Raises:
            Refused: `output_changed`, the shapes differ.
        """
        refuse_another_shape(self.name, reference, output)
        ref, out = _finite(reference, output)
        self.groups.append(len(self.groups) if group is None else group)
        self.signal.append(float(ref @ ref))
        self.noise.append(float((ref - out) @ (ref - out)))
        self.dot += float(ref @ out)
        self.energy += float(out @ out)
        best = top1(reference)
        if best is not None:
            self.ranked += 1
            self.equal_top1 += best == top1(output)

    def fidelity(self) -> Fidelity:
        """The figures over all samples taken in, pooled: a sample counts by its energy."""
        signal, noise = np.asarray(self.signal), np.asarray(self.noise)
        per_sample = [sqnr(s, n) for s, n in zip(self.signal, self.noise, strict=True)]
        length = math.sqrt(float(signal.sum()) * self.energy)
        return Fidelity(
            sqnr_db=sqnr(float(signal.sum()), float(noise.sum())),
            sqnr_p05_db=float(np.percentile(per_sample, FIFTH_PERCENTILE)),
            sqnr_se_db=standard_error(*(self._by_group(sums) for sums in (signal, noise))),
            cosine=min(1.0, max(-1.0, self.dot / length)) if length else float(not self.energy),
            agreement=self.equal_top1 / self.ranked if self.ranked else None,
            samples=len(per_sample),
        )

    def _by_group(self, sums: Array) -> Array:
        """Sums over streams or pairs, which are drawn independently where their samples are not."""
        return np.bincount(np.unique(self.groups, return_inverse=True)[1], sums)


def refuse_another_shape(name: str, reference: Array, output: Array) -> None:
    """A candidate's output is compared number by number.

    Raises:
        Refused: `output_changed`, the shapes differ.
    """
    if reference.shape != output.shape:
        detail = (
            f"The candidate's output {name!r} has the shape {output.shape}, the float model's "
            f"{reference.shape}. If its length depends on values, as behind NonMaxSuppression, export the "
            "model without that."
        )
        raise Refused("output_changed", detail)


def standard_error(signal: Array, noise: Array) -> float:
    """Standard error in dB of the pooled ratio over samples, by the delta method.

    For the ratio of two means, log(S̄ / N̄) varies as the mean of s/S̄ - n/N̄ (Cochran, Sampling Techniques,
    1977, chapter 6).

    Args:
        signal: [samples] float64, sums of squares of the reference.
        noise: [samples] float64, sums of squares of the difference.
    """
    if not noise.any():
        return 0.0
    if len(noise) == 1 or not signal.any() or not np.isfinite(noise).all():
        return UNKNOWN_SE_DB
    influence = signal / signal.mean() - noise / noise.mean()
    return float(DB * influence.std(ddof=1) / math.sqrt(len(noise)))


def exact(samples: int) -> Fidelity:
    """The float model's fidelity to itself."""
    return Fidelity(EXACT_DB, EXACT_DB, 0.0, 1.0, 1.0, samples)


def headline(outputs: Mapping[str, Closeness]) -> tuple[Fidelity, tuple[Note, ...]]:
    """The figures of the output that suffers most, and a note with each when there are several."""
    figures = {name: closeness.fidelity() for name, closeness in outputs.items()}
    worst = min(figures, key=lambda name: figures[name].sqnr_db)
    if len(figures) == 1:
        return figures[worst], ()
    each = ", ".join(f"{name} {figure.sqnr_db:.1f} dB" for name, figure in figures.items())
    return figures[worst], (Note("outputs", f"{each}; the figures are those of {worst}"),)


def _finite(reference: Array, output: Array) -> tuple[Array, Array]:
    """Both as flat float64, without the places where both hold the same infinity."""
    ref, out = reference.ravel().astype(np.float64), output.ravel().astype(np.float64)
    if np.isfinite(ref).all() and np.isfinite(out).all():
        return ref, out
    usable = ~(np.isinf(ref) & (ref == out))
    return np.clip(ref[usable], -1e150, 1e150), np.clip(out[usable], -1e150, 1e150)
