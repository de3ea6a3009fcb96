"""Made-up inputs. They serve latency and memory only: nothing is calibrated or judged on them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from worker.engine.data.bind import Input
from worker.engine.data.dataset import Array
from worker.engine.load import parse

SEED = 20_171
MASK = "mask"


def made_up(
    model: Path, inputs: Sequence[Input], shapes: Sequence[Sequence[int]], count: int
) -> list[dict[str, Array]]:
    """Normal floats, ids below the vocabulary's size, and ones for masks and all other integers.

    Args:
        model: looked through for the tables that ids index.
        inputs: what must be fed; a type that no array can hold is left out.
        shapes: one shape for each input.
        count: how many feeds.
    """
    draw = np.random.default_rng(SEED)
    rows = vocabularies(parse(model).graph)
    sized = [(i, tuple(shape)) for i, shape in zip(inputs, shapes, strict=True) if i.dtype is not None]
    return [{i.name: _values(draw, i, shape, rows.get(i.name)) for i, shape in sized} for _ in range(count)]


def vocabularies(graph: onnx.GraphProto) -> dict[str, int]:
    """How many rows the tables have that an input indexes, directly or through Cast, by input name."""
    rows = {tensor.name: tensor.dims[0] for tensor in graph.initializer if tensor.dims}
    made_from = {n.output[0]: n.input[0] for n in graph.node if n.op_type in {"Cast", "Identity"}}
    sizes: dict[str, int] = {}
    for node in graph.node:
        if node.op_type == "Gather" and node.input[0] in rows and not _axis(node):
            name = _origin(node.input[1], made_from)
            sizes[name] = min(rows[node.input[0]], sizes.get(name, rows[node.input[0]]))
    return sizes


def _origin(name: str, made_from: dict[str, str]) -> str:
    while name in made_from:
        name = made_from[name]
    return name


def _axis(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)


def _values(draw: np.random.Generator, item: Input, shape: tuple[int, ...], rows: int | None) -> Array:
    if item.dtype is not None and item.dtype.kind == "f":
        return draw.standard_normal(shape).astype(item.dtype)
    if rows and MASK not in item.name.lower():
        return draw.integers(0, rows, shape).astype(item.dtype)
    return np.ones(shape, item.dtype)
