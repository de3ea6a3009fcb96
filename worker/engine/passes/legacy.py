"""Operators of 2018 that left the standard are rewritten, since no converter knows them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from worker.engine.passes.scopes import (
    as_initializer,
    attribute,
    opset,
    replace_nodes,
    tensor_names,
    unused_name,
)

_SLICE_TAKES_INPUTS = 10
Values = np.floating[Any] | npt.NDArray[np.float32]
Rewrite = Callable[[onnx.ModelProto, onnx.NodeProto, set[str]], list[onnx.NodeProto]]


def rewrite_legacy(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Rewrite ImageScaler, Affine and Crop.

    1. ImageScaler and Affine become a Mul and an Add with constants.
    2. Crop by a border becomes a Slice of height and width; with a `scale` it stays.
    3. Slice takes attributes before opset 10, so from 10 on Crop stays.
    """
    names = tensor_names(model.graph)
    nodes: list[onnx.NodeProto] = []
    rewritten = list[str]()
    for node in model.graph.node:
        rewrite = _REWRITES.get(node.op_type) if not node.domain else None
        replaced = rewrite(model, node, names) if rewrite else []
        rewritten += [node.name] if replaced else []
        nodes.extend(replaced or [node])
    if rewritten:
        replace_nodes(model.graph, nodes)
    return model, rewritten


def _image_scaler(model: onnx.ModelProto, node: onnx.NodeProto, names: set[str]) -> list[onnx.NodeProto]:
    bias = np.array(attribute(node, "bias", [0.0]), np.float32).reshape(1, -1, 1, 1)
    return _scale_and_shift(model, node, names, np.float32(attribute(node, "scale", 1.0)), bias)


def _affine(model: onnx.ModelProto, node: onnx.NodeProto, names: set[str]) -> list[onnx.NodeProto]:
    alpha, beta = (np.float32(attribute(node, name, 1.0)) for name in ("alpha", "beta"))
    return _scale_and_shift(model, node, names, alpha, beta)


def _scale_and_shift(
    model: onnx.ModelProto, node: onnx.NodeProto, names: set[str], scale: Values, shift: Values
) -> list[onnx.NodeProto]:
    output = node.output[0]
    factor, term, scaled = (unused_name(f"{output}_{part}", names) for part in ("scale", "shift", "scaled"))
    model.graph.initializer.append(as_initializer(np.asarray(scale), factor))
    model.graph.initializer.append(as_initializer(np.asarray(shift), term))
    return [
        helper.make_node("Mul", [node.input[0], factor], [scaled], name=f"{node.name}_scale"),
        helper.make_node("Add", [scaled, term], [output], name=f"{node.name}_shift"),
    ]


def _crop(model: onnx.ModelProto, node: onnx.NodeProto, _: set[str]) -> list[onnx.NodeProto]:
    left, top, right, bottom = attribute(node, "border", None) or (0, 0, 0, 0)
    if opset(model) >= _SLICE_TAKES_INPUTS or attribute(node, "scale", None):
        return []
    far = np.iinfo(np.int32).max
    ends = [-bottom if bottom else far, -right if right else far]
    return [
        helper.make_node(
            "Slice",
            list(node.input),
            list(node.output),
            node.name,
            axes=[2, 3],
            starts=[top, left],
            ends=ends,
        )
    ]


_REWRITES: dict[str, Rewrite] = {"ImageScaler": _image_scaler, "Affine": _affine, "Crop": _crop}
