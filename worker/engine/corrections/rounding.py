"""Closed-form rounding: each weight's code makes up for the errors of those before it (GPTQ)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from worker.engine.choices.islands import has_weights
from worker.engine.choices.selection import listed
from worker.engine.corrections.columns import Columns, round_columns
from worker.engine.corrections.hessians import hessians
from worker.engine.corrections.roots import damped, inverse_root
from worker.engine.corrections.subject import Corrected, Overrides, Subject
from worker.engine.corrections.weights import (
    Doubles,
    Grid,
    Weight,
    overrides,
    put_rows,
    rows_of,
    weights,
    whole_range,
)
from worker.engine.passes.scopes import initializers

Indices = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Rounded:
    """A weight's rows on its grid, and how many decibels closer its products are than the nearest."""

    rows: Doubles
    gain_db: float


def rounding(subject: Subject) -> Corrected:
    """Choose codes so that products with the calibration samples change least (Frantar et al. 2022, OBQ).

    1. Convolutions are products with the patches that they read; each of their groups is rounded by itself.
    2. Grids are the quantizer's, or those that `weight_clipping` found. Rounded weights are stored as values
       of the grid, which are handed on, so the quantizer gives exactly these codes.
    3. Rows for which the nearest codes are closer keep those.
    """
    samples = subject.samples("rounding")
    chosen = list(weights(subject))
    made, gains = {}, {}
    for weight, sums in hessians(subject.model, chosen, samples):
        rows = rows_of(subject.model, weight)
        grid = grid_of(weight, rows, subject.overrides)
        rounded = round_rows(rows, grid, sums)
        put_rows(subject.model, weight, rounded.rows)
        made[weight.name], gains[weight.node.name] = overrides(weight, grid), rounded.gain_db
    return Corrected(
        statistics=subject.statistics,
        overrides={**subject.overrides, **made},
        reasons=tuple(_reasons(subject, gains)),
    )


def round_rows(rows: Doubles, grid: Grid, sums: Doubles) -> Rounded:
    """Round a weight, group by group.

    Args:
        rows: [rows, columns].
        grid: of these rows.
        sums: of `x.T @ x` over the samples, [groups, columns, columns].
    """
    nearest, learned = grid.rounded(rows), np.empty_like(rows)
    groups = np.split(np.arange(len(rows)), len(sums))
    for part, hessian in zip(groups, sums, strict=True):
        mine = Grid(grid.scales[part], grid.zeros[part], grid.codes)
        learned[part] = _round_group(rows[part], mine, hessian)
    plain, best = _harm(nearest - rows, groups, sums), _harm(learned - rows, groups, sums)
    kept = np.where((best < plain)[:, None], learned, nearest)
    total = np.minimum(plain, best).sum()
    return Rounded(kept, float(10 * np.log10(plain.sum() / total)) if total > 0 else 0.0)


def _round_group(rows: Doubles, grid: Grid, hessian: Doubles) -> Doubles:
    regular = damped(hessian)
    order = np.argsort(-np.diag(regular), kind="stable")
    lowest, highest = grid.codes
    shape = rows.T.shape
    columns = Columns(
        np.broadcast_to(grid.scales[:, 0], shape),
        np.broadcast_to(grid.zeros[:, 0] - lowest, shape),
        highest - lowest,
    )
    codes = np.empty(shape)
    spread = inverse_root(regular[np.ix_(order, order)])
    codes[order] = round_columns(rows.T[order], columns, spread)
    return (codes.T + lowest - grid.zeros) * grid.scales


def _harm(errors: Doubles, groups: Sequence[Indices], sums: Doubles) -> Doubles:
    """What errors of rows do to their products over the samples, [rows]."""
    return np.concatenate(
        [
            np.einsum("rk,kl,rl->r", errors[g], h, errors[g], optimize=True)
            for g, h in zip(groups, sums, strict=True)
        ]
    )


def grid_of(weight: Weight, rows: Doubles, given: Overrides) -> Grid:
    """The grid that a weight was given, else the quantizer's own over these rows [rows, columns]."""
    entries = given.get(weight.name)
    if entries is None:
        return whole_range(weight, rows)
    ones = np.ones((len(rows), 1))
    scales, zeros = (np.array([e[k] for e in entries], np.float64)[:, None] for k in ("scale", "zero_point"))
    return Grid(scales * ones, zeros * ones, weight.codes)


def _reasons(subject: Subject, gains: dict[str, float]) -> Iterator[str]:
    if gains:
        median = float(np.median(list(gains.values())))
        yield f"rounding: {len(gains)} weights, their products closer by {median:.1f} dB (median)"
    constants = initializers(subject.model.graph)
    left = [
        node.name
        for node in subject.model.graph.node
        if node.name in subject.nodes and has_weights(node, constants) and node.name not in gains
    ]
    if left:
        yield f"rounding leaves weights that several nodes read, or that saw no samples: {listed(left)}"
