"""How much two sets of outputs are alike, in decibels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

EXACT = 200.0
Outputs = Sequence[Any]


def likeness_db(reference: Sequence[Outputs], outputs: Sequence[Outputs]) -> float:
    """The lowest signal-to-noise ratio over the outputs, each pooled over the samples.

    Args:
        reference: for each sample the values of each output.
        outputs: the same of the other model.

    Returns:
        Decibels; 200 where all is equal, minus infinity where shapes, infinities or text differ.
    """
    return min((_of_output(pairs) for pairs in _by_output(reference, outputs)), default=EXACT)


def _by_output(
    reference: Sequence[Outputs], outputs: Sequence[Outputs]
) -> list[list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]]:
    samples = [
        [(np.asarray(a), np.asarray(b)) for a, b in zip(before, after, strict=True)]
        for before, after in zip(reference, outputs, strict=True)
    ]
    return [list(column) for column in zip(*samples, strict=True)]


def _of_output(pairs: list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]) -> float:
    signal = noise = 0.0
    for before, after in pairs:
        if before.shape != after.shape or before.dtype != after.dtype:
            return -np.inf
        if before.dtype.kind not in "fiub":
            if not np.array_equal(before, after):
                return -np.inf
            continue
        energy = _energies(before.astype(np.float64), after.astype(np.float64))
        signal, noise = signal + energy[0], noise + energy[1]
    if not noise:
        return EXACT
    return float(min(10 * np.log10(signal / noise), EXACT)) if signal and np.isfinite(noise) else -np.inf


def _energies(before: npt.NDArray[np.float64], after: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Of the values and of their difference; what is not finite must be so in both, and equal."""
    finite = np.isfinite(before)
    if not np.array_equal(before[~finite], after[~finite], equal_nan=True):
        return 0.0, np.inf
    return float(np.sum(before[finite] ** 2)), float(np.sum((before[finite] - after[finite]) ** 2))
