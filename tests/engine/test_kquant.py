from typing import Any

import numpy as np
import pytest

from tests.engine.graphs import Array, weights
from worker.engine.methods.weight_only.blocks import Blocks, Grid, cut, round_to_nearest
from worker.engine.methods.weight_only.kquant import kquant

GRIDS = [Grid(bits, 32, symmetric) for bits in (2, 4, 8) for symmetric in (False, True)]


def weighted_errors(matrix: Array, quantized: Blocks) -> Array:
    """By block, as k-quants count them: by an error's value and its block's root mean square."""
    blocks, _ = cut(matrix, 32)
    values, _ = cut(quantized.values(), 32)
    typical = np.sqrt(np.square(blocks).mean(-1, keepdims=True))
    errors: Array = ((typical + abs(blocks)) * np.square(blocks - values)).sum(-1)
    return errors


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_kquant_beats_rounding_to_nearest_on_ordinary_weights(grid: Grid) -> None:
    matrix = weights(64, 256)

    before, after = (weighted_errors(matrix, method(matrix, grid)) for method in (round_to_nearest, kquant))

    least = {2: 0.92, 4: 0.93, 8: 0.95}[grid.bits]  # of the error may remain
    assert after.sum() < least * before.sum()


@pytest.mark.parametrize("grid", [*GRIDS, Grid(2, 32, symmetric=True, ternary=True)], ids=str)
def test_kquant_is_no_worse_on_any_block(grid: Grid) -> None:
    """Zeros alone, one value, one sign, an outlier, a filled-up end, a constant."""
    rng = np.random.default_rng(3)
    odd = rng.normal(size=(8, 40)).astype(np.float32)
    odd[0], odd[1], odd[2], odd[3, 5], odd[4] = 0, 0, abs(odd[2]) + 3, 1000, 0.25
    odd[1, 7], odd[5] = 1, -abs(odd[5])

    before, after = (weighted_errors(odd, method(odd, grid)) for method in (round_to_nearest, kquant))

    assert (after <= before * 1.001 + 1e-9).all()
    assert np.isfinite(kquant(odd, grid).scales).all()


def test_kquant_keeps_what_its_grid_holds_exactly() -> None:
    rng = np.random.default_rng(5)
    codes = rng.integers(0, 16, size=(16, 64))
    codes[:, ::32], codes[:, 1::32] = 0, 15
    matrix: Any = ((codes - 6) * 0.125).astype(np.float32)

    assert np.allclose(kquant(matrix, Grid(4, 32, symmetric=False)).values(), matrix, atol=1e-6)
