"""Which weights are quantized, and why the others stay float."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count

import numpy as np
import onnx

from app.domain.recipe import WeightOnly
from worker.engine.choices.selection import matching
from worker.engine.methods.weight_only.blocks import BYTE, Grid
from worker.engine.passes.scopes import array, attribute, initializers, subgraphs

_MATRIX = 2  # axes
_OPERATORS = {"MatMul": 1, "Gemm": 1, "Gather": 0}  # and which input holds the weights
Scope = Mapping[str, tuple[int, onnx.TensorProto]]  # constants in sight, with the graph that holds them


@dataclass(frozen=True, order=True)
class Weight:
    """A constant as rows of blocks: one row per output of a product, or per entry of a table.

    `owner` counts graphs as `all_graphs` does; `turned` says that the file holds [columns, rows].
    """

    owner: int
    name: str
    rows: int
    columns: int
    turned: bool
    table: bool
    factor: float  # Gemm's alpha


@dataclass(frozen=True)
class Site:
    """A node that reads a weight; `activation` is its other operand, if that lies in the main graph."""

    node: str
    weight: Weight
    activation: str | None


def choose(model: onnx.ModelProto, recipe: WeightOnly, grid: Grid) -> tuple[list[Site], dict[str, str]]:
    """The nodes to quantize, in the order of the graphs, and the reason for each other candidate.

    Raises:
        Refused: `selection_matches_nothing`.
    """
    included, excluded = matching(model.graph, recipe.include), matching(model.graph, recipe.exclude)
    asked = bool(recipe.include.op_types or recipe.include.nodes)
    sites: list[Site] = []
    left: dict[str, str] = {}
    for owner, node, scope in _candidates(model.graph, {}, count()):
        reason = _hindrance(node, scope, recipe, grid)
        if node.name in excluded:
            reason = "excluded"
        elif asked and node.name not in included:
            reason = "not included"
        if reason is None:
            sites.append(_site(node, scope, main=owner == 0))
        else:
            left[node.name] = reason
    return sites, left


def _candidates(
    graph: onnx.GraphProto, outer: Scope, numbers: Iterator[int]
) -> Iterator[tuple[int, onnx.NodeProto, Scope]]:
    mine = next(numbers)
    scope = {**outer, **{name: (mine, tensor) for name, tensor in initializers(graph).items()}}
    for node in graph.node:
        if node.op_type in _OPERATORS and not node.domain:
            yield mine, node, scope
        for below in subgraphs(node):
            yield from _candidates(below, scope, numbers)


def _hindrance(node: onnx.NodeProto, scope: Scope, recipe: WeightOnly, grid: Grid) -> str | None:
    name = node.input[_OPERATORS[node.op_type]]
    if name not in scope:
        on_the_left = node.op_type != "Gather" and node.input[0] in scope
        return "its weights are its left operand" if on_the_left else "its weights are computed"
    tensor = scope[name][1]
    if tensor.data_type != onnx.TensorProto.FLOAT:
        kind = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
        return f"its weights are {kind}, not float32"
    if len(tensor.dims) != _MATRIX:
        return "its weights are not a matrix"
    if not np.isfinite(array(tensor)).all():
        return "its weights are not finite"
    weight = _weight(node, scope)
    return _operator(node, weight, recipe, grid) or _no_gain(weight, grid)


def _operator(node: onnx.NodeProto, weight: Weight, recipe: WeightOnly, grid: Grid) -> str | None:
    if node.op_type == "Gemm" and attribute(node, "transA", 0):
        return "transA is set"
    if not weight.table:
        return None
    if recipe.embeddings is False:
        return "embeddings are off"
    if attribute(node, "axis", 0) != 0:
        return "it looks up columns"
    if weight.columns % (BYTE // grid.bits):
        return f"rows of {weight.columns} values do not fill bytes at {grid.bits} bits"
    return None


def _no_gain(weight: Weight, grid: Grid) -> str | None:
    small = grid.bytes(weight.rows, weight.columns) >= 4 * weight.rows * weight.columns
    return "blocks would take no fewer bytes" if small else None


def _weight(node: onnx.NodeProto, scope: Scope) -> Weight:
    name = node.input[_OPERATORS[node.op_type]]
    owner, tensor = scope[name]
    table = node.op_type == "Gather"
    turned = not table and not (node.op_type == "Gemm" and attribute(node, "transB", 0))
    rows, columns = reversed(tensor.dims) if turned else tensor.dims
    factor = attribute(node, "alpha", 1.0) if node.op_type == "Gemm" else 1.0
    return Weight(owner, name, rows, columns, turned, table, factor)


def _site(node: onnx.NodeProto, scope: Scope, *, main: bool) -> Site:
    weight = _weight(node, scope)
    activation = node.input[0] if main and not weight.table else None
    return Site(node.name, weight, activation)
