"""BatchNormalization moves into the weights before or behind it."""

from collections.abc import Iterator, Mapping

import numpy as np
import onnx

from worker.engine.passes.affine import (
    Affine,
    Place,
    fold_after,
    fold_before,
    hindrance_after,
    hindrance_before,
)
from worker.engine.passes.inference import inferred_ranks
from worker.engine.passes.scopes import (
    all_nodes,
    array,
    attribute,
    drop_unused,
    initializers,
    subgraphs,
    tensor_names,
)

_NORM = "BatchNormalization"
_STATISTICS = slice(1, 5)  # scale, shift, mean, variance


def fold_batchnorm(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Fold BatchNormalization into the operators before or behind it.

    1. The four statistics and the operators' weights are constants; the BatchNormalization does not train.
    2. Into the Conv, ConvTranspose, Gemm or MatMul before it, also with a constant added in between, when
       nothing else reads what lies between.
    3. Else into the Conv, Gemm and MatMul behind it, when nothing else reads its result; zeros that a Conv
       pads with must not be shifted.
    4. A MatMul works on rows: with more axes its columns are not the channels, unless a Transpose in between
       puts the channels last.
    5. Changed weights are new constants: whoever shares the old ones keeps them.
    """
    folded = list[str]()
    for place in _places(model):
        for norm in [node for node in place.graph.node if node.op_type == _NORM]:
            if _hindrance(place, norm) is None:
                _fold(place, norm)
                folded.append(norm.name)
                place.graph.node.remove(norm)
    if folded:
        drop_unused(model.graph)
    return model, folded


def batchnorms_left(model: onnx.ModelProto) -> dict[str, str]:
    """Why each BatchNormalization stays, by node name."""
    norms = ((place, n) for place in _places(model) for n in place.graph.node if n.op_type == _NORM)
    return {
        norm.name: _hindrance(place, norm) or "folding it could not be shown to change nothing"
        for place, norm in norms
    }


def _places(model: onnx.ModelProto) -> Iterator[Place]:
    kinds = {node.op_type for node in all_nodes(model.graph)}
    if _NORM in kinds:
        ranks = inferred_ranks(model) if "MatMul" in kinds else {}
        yield from _below(model.graph, {}, ranks, tensor_names(model.graph))


def _below(
    graph: onnx.GraphProto,
    outer: Mapping[str, onnx.TensorProto],
    ranks: Mapping[str, int],
    names: set[str],
) -> Iterator[Place]:
    place = Place(graph, {**outer, **initializers(graph)}, ranks, names)
    yield place
    for node in graph.node:
        for inner in subgraphs(node):
            yield from _below(inner, place.constants, ranks, names)


def _hindrance(place: Place, norm: onnx.NodeProto) -> str | None:
    own = _own_hindrance(place, norm)
    if own:
        return own
    affine = _affine(place, norm)
    before, after = hindrance_before(place, affine), hindrance_after(place, affine)
    return f"{before}, and {after}" if before and after else None


def _own_hindrance(place: Place, norm: onnx.NodeProto) -> str | None:
    if attribute(norm, "training_mode", 0) or any(norm.output[1:]):
        return "it normalizes by its own batch, as in training; export the model for inference"
    if not all(name in place.constants for name in norm.input[_STATISTICS]):
        return "its statistics are computed"
    if any(len(place.constants[name].dims) != 1 for name in norm.input[_STATISTICS]):
        return "its statistics are not one value per channel"
    return None


def _affine(place: Place, norm: onnx.NodeProto) -> Affine:
    scale, shift, mean, variance = (
        array(place.constants[name]).astype(np.float64) for name in norm.input[_STATISTICS]
    )
    factor = scale / np.sqrt(variance + attribute(norm, "epsilon", 1e-5))
    return Affine(norm, factor, shift - mean * factor)


def _fold(place: Place, norm: onnx.NodeProto) -> None:
    affine = _affine(place, norm)
    if hindrance_before(place, affine) is None:
        fold_before(place, affine)
    else:
        fold_after(place, affine)
