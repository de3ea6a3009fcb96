"""Weights stored in 16 bits; the runtime widens them once, when it loads the model."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from app.domain.errors import Refused
from app.domain.recipe import Chosen
from worker.engine.choices.selection import matching, refuse_nothing, stays_float
from worker.engine.passes.outputs import direct_outputs
from worker.engine.passes.scopes import (
    all_graphs,
    all_nodes,
    array,
    opset,
    replace_nodes,
    tensor_names,
    unused_name,
)

_SMALLEST = 256  # values; below it the Cast takes more bytes than it saves
_CLOSEST_DB = (
    30.0  # what a stored tensor must keep; numbers near the end of float16's range lose their digits
)
_FIRST_OPSET = {"float16": 6, "bfloat16": 13}  # of Cast
_KINDS = {"float16": onnx.TensorProto.FLOAT16, "bfloat16": onnx.TensorProto.BFLOAT16}
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Half:
    """A tensor in 16 bits: the raw bytes, and the values that they stand for."""

    raw: bytes
    values: Floats


def store_in_half(model: onnx.ModelProto, recipe: Chosen, method: str) -> tuple[onnx.ModelProto, list[str]]:
    """Store float32 constants in 16 bits, each with a Cast that the runtime folds when it loads the model.

    Computing stays float32, in the kernels that the float model has. Small constants stay; so does a constant
    that any node reads which was not chosen, one that is an output, and one whose values 16 bits cannot hold.

    Args:
        model: the prepared model; it is changed.
        recipe: which nodes.
        method: `float16` or `bfloat16`.

    Returns:
        The model, and the reasons.

    Raises:
        Refused: `nothing_to_quantize`, `selection_matches_nothing` or `opset_too_old`.
    """
    _refuse_old(model, method)
    kept_by_choice = _kept_by_choice(model.graph, recipe)
    names, node_names = tensor_names(model.graph), {node.name for node in all_nodes(model.graph)}
    left: dict[str, str] = {}
    stored: list[str] = []
    for graph in all_graphs(model.graph):
        casts = []
        for tensor in _large(graph):
            reason = kept_by_choice.get(tensor.name)
            half = None if reason else to_half(array(tensor), method)
            if half is None:
                left[tensor.name] = reason or f"{method} cannot hold its values"
                continue
            casts.append(_cast(tensor, half, method, names, node_names))
            stored.append(tensor.name)
        replace_nodes(graph, [*casts, *graph.node])
    refuse_nothing(stored, method, left)
    note = (
        f"{method}: runs as float32 on a CPU, at the float model's speed; {len(stored)} constants are halved"
    )
    return model, [note, *stays_float(left)]


def to_half(values: Floats, method: str) -> Half | None:
    """A tensor in 16 bits; None where it would overflow or lose its digits."""
    if not np.isfinite(values).all():
        return None
    half = _float16(values) if method == "float16" else _bfloat16(values)
    if not np.isfinite(half.values).all():
        return None
    noise = float(np.square(values - half.values, dtype=np.float64).sum())
    signal = float(np.square(values, dtype=np.float64).sum())
    return half if signal >= noise * 10 ** (_CLOSEST_DB / 10) else None


def _float16(values: Floats) -> Half:
    with np.errstate(over="ignore", under="ignore"):
        half = values.astype("<f2")
    return Half(half.tobytes(), half.astype(np.float32))


def _bfloat16(values: Floats) -> Half:
    """The upper half of each float32, rounded to the nearest, ties to even."""
    bits = np.ascontiguousarray(values, "<f4").view("<u4")
    upper = ((bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    return Half(upper.tobytes(), (upper.astype("<u4") << 16).view("<f4").reshape(values.shape))


def _refuse_old(model: onnx.ModelProto, method: str) -> None:
    version, first = opset(model), _FIRST_OPSET[method]
    if version < first:
        raise Refused(
            "opset_too_old",
            f"{method} needs opset {first}, and this model could not be converted from {version}; "
            f"export it with opset {first} or later.",
        )


def _kept_by_choice(graph: onnx.GraphProto, recipe: Chosen) -> dict[str, str]:
    """Tensors that a node reads which is excluded, or not included where some are; and outputs."""
    included, excluded = matching(graph, recipe.include), matching(graph, recipe.exclude)
    asked = bool(recipe.include.op_types or recipe.include.nodes)
    kept = dict.fromkeys(direct_outputs(graph), "it is an output")
    for node in all_nodes(graph):
        if node.name in excluded or (asked and node.name not in included):
            reason = "excluded" if node.name in excluded else "not included"
            kept |= dict.fromkeys(node.input, f"{reason}: a node reads it")
    return kept


def _large(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    for tensor in list(graph.initializer):
        if tensor.data_type == onnx.TensorProto.FLOAT and np.prod(tensor.dims, dtype=np.int64) >= _SMALLEST:
            yield tensor


def _cast(
    tensor: onnx.TensorProto, half: Half, method: str, names: set[str], node_names: set[str]
) -> onnx.NodeProto:
    """Make the tensor a 16-bit one under a new name; the Cast takes its name."""
    name, dims = tensor.name, list(tensor.dims)
    narrow = unused_name(f"{name}_{method}", names)
    tensor.Clear()
    tensor.name, tensor.data_type, tensor.raw_data = narrow, _KINDS[method], half.raw
    tensor.dims.extend(dims)
    node = unused_name(f"{name}_widen", node_names)
    return helper.make_node("Cast", [narrow], [name], node, to=onnx.TensorProto.FLOAT)
