"""What codes can stand for, integers on a grid or the values of a table, and what quantizes to both."""

from collections.abc import Callable

import numpy as np

from worker.engine.methods.weight_only.blocks import (
    Blocks,
    Floats,
    Grid,
    as_blocks,
    closest,
    cut,
    encode,
    joined,
    round_to_nearest,
    slices,
)
from worker.engine.methods.weight_only.bnb4 import Table, TableBlocks, closest_values, largest_values
from worker.engine.methods.weight_only.hqq import half_quadratic
from worker.engine.methods.weight_only.kquant import kquant

Form = Grid | Table
Quantized = Blocks | TableBlocks

_ON_GRIDS: dict[str, Callable[[Floats, Grid], Blocks]] = {
    "rtn": round_to_nearest,
    "hqq": half_quadratic,
    "kquant": kquant,
}
_ON_TABLES: dict[str, Callable[[Floats, Table], TableBlocks]] = {
    "rtn": largest_values,
    "kquant": closest_values,
}


def without_data(form: Form, algorithm: str) -> str:
    """The algorithm itself, or what takes its place where it needs data that a weight does not have."""
    if isinstance(form, Table):
        return algorithm if algorithm in _ON_TABLES else "kquant"
    return algorithm if algorithm in _ON_GRIDS else "hqq"


def quantize_alone(weights: Floats, form: Form, algorithm: str) -> Quantized:
    """A matrix [rows, columns], by an algorithm that looks at nothing else."""
    if isinstance(form, Table):
        return _ON_TABLES[algorithm](weights, form)
    return _ON_GRIDS[algorithm](weights, form)


def closest_to(weights: Floats, form: Form, importance: Floats) -> Quantized:
    """A matrix [rows, columns] with the scales of the least weighted squared error found.

    Args:
        weights: the matrix.
        form: of the codes.
        importance: weights of the errors, [columns].
    """
    if isinstance(form, Table):
        return closest_values(weights, form, importance)
    return joined([_portion(weights[rows], form, importance) for rows in slices(*weights.shape)])


def _portion(weights: Floats, grid: Grid, importance: Floats) -> Blocks:
    blocks, real = cut(weights, grid.block_size)
    weighted, _ = cut(importance[None].astype(np.float32), grid.block_size)
    scales, zeros = closest(blocks, grid, weighted[0] * real)
    return as_blocks(grid, weights.shape[1], encode(blocks, scales, zeros, grid), scales, zeros)
