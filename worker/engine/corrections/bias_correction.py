"""Bias correction: what rounding and clipping shift on average is taken out of the biases."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from worker.engine.choices.islands import has_weights
from worker.engine.choices.selection import listed
from worker.engine.choices.setting import Samples
from worker.engine.corrections.activations import Array, activations
from worker.engine.passes.scopes import (
    all_names,
    array,
    as_initializer,
    consumers,
    initializers,
    opset,
    producers,
    tensor_names,
    unused_name,
)

_BIAS = 2
_AXES_AS_INPUT = 18  # of ReduceMean


@dataclass(frozen=True)
class Pairs:
    """The arranged float model and what the quantizer made of it; nodes keep their names."""

    arranged: onnx.ModelProto
    quantized: onnx.ModelProto


def bias_correction(
    model: onnx.ModelProto, nodes: Sequence[str], pairs: Pairs, samples: Samples
) -> tuple[str, ...]:
    """Subtract from each bias the mean shift of its node's outputs (Nagel et al. 2019, empirical).

    1. Each quantized Conv, MatMul and Gemm runs beside its float twin on the same float inputs, quantized as
       the quantizer has them; the mean difference over samples and positions is its shift, by channel. Errors
       of earlier nodes are no part of it: they are taken out where they arise.
    2. Conv and Gemm get a bias where they have none; a MatMul's is the row that the next node adds. A MatMul
       without one is left: an Add more would cost more than it mends.

    Args:
        model: the float model that will be quantized; it is changed.
        nodes: names of the chosen nodes.
        pairs: the same model, quantized once.
        samples: gives the calibration feeds anew at each call.

    Returns:
        What was done, and what was left.
    """
    shifts = _shifts(pairs, nodes, samples)
    done, left = list[str](), list[str]()
    for node in model.graph.node:
        if node.name in shifts:
            (done if _shift(model.graph, node, shifts[node.name]) else left).append(node.name)
    reasons = [f"bias_correction of {len(done)} nodes"]
    reasons += (
        [f"bias_correction leaves products without a bias of their own: {listed(left)}"] if left else []
    )
    return tuple(reasons)


def _shifts(pairs: Pairs, nodes: Sequence[str], samples: Samples) -> dict[str, Array]:
    """The mean of quantized minus float outputs, [channels], by node."""
    twins = onnx.ModelProto()
    twins.CopyFrom(pairs.arranged)
    means = dict(_add_twins(twins, pairs, nodes))
    sums: dict[str, Array] = {name: np.zeros(1) for name in means}
    count = 0
    for values in activations(twins, list(means.values()), samples):
        count += 1
        for name, mean in means.items():
            sums[name] = sums[name] + values[mean].astype(np.float64).reshape(-1)
    return {name: total / count for name, total in sums.items()} if count else {}


def _add_twins(twins: onnx.ModelProto, pairs: Pairs, nodes: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Add a quantized twin of each weighted node; its name, and the tensor of its mean shift."""
    graph, names = twins.graph, all_names(twins.graph)
    _add_domains(twins, pairs.quantized)
    constants, made = initializers(pairs.quantized.graph), producers(pairs.quantized.graph)
    known = {node.name: node for node in pairs.quantized.graph.node}
    weighted = [
        n for n in pairs.arranged.graph.node if n.name in nodes and has_weights(n, initializers(graph))
    ]
    for node in weighted:
        read = [made.get(name) for name in known[node.name].input[:2]]
        if all(part is not None and part.op_type == "DequantizeLinear" for part in read):
            activation, weight = (part for part in read if part is not None)
            yield node.name, _add_twin(twins, node, activation, weight, constants, names)


def _add_domains(twins: onnx.ModelProto, quantized: onnx.ModelProto) -> None:
    present = {entry.domain for entry in twins.opset_import}
    twins.opset_import.extend(entry for entry in quantized.opset_import if entry.domain not in present)


def _add_twin(
    twins: onnx.ModelProto,
    node: onnx.NodeProto,
    activation: onnx.NodeProto,
    weight: onnx.NodeProto,
    constants: Mapping[str, onnx.TensorProto],
    names: set[str],
) -> str:
    """Q, DQ, the node on quantized weights, the difference and its mean; answers the mean's name."""
    graph = twins.graph
    present = initializers(graph)
    for name in (*activation.input[1:], *weight.input):
        if name not in present:
            graph.initializer.add().CopyFrom(constants[name])
    codes, read, widened, twin, difference = (
        unused_name(f"{node.output[0]}_{part}", names)
        for part in ("codes", "read", "widened", "twin", "difference")
    )
    quantize = helper.make_node(
        "QuantizeLinear", [node.input[0], *activation.input[1:]], [codes], domain=activation.domain
    )
    dequantize, widen, run = onnx.NodeProto(), onnx.NodeProto(), onnx.NodeProto()
    for copy, source in ((dequantize, activation), (widen, weight), (run, node)):
        copy.CopyFrom(source)
    dequantize.input[0], dequantize.output[0], widen.output[0] = codes, read, widened
    run.input[0], run.input[1], run.output[0] = read, widened, twin
    subtract = helper.make_node("Sub", [twin, node.output[0]], [difference])
    added = [quantize, dequantize, widen, run, subtract, *_mean(twins, node, difference, names)]
    for part, extra in enumerate(added):
        extra.name = unused_name(f"{node.output[0]}_twin_{part}", names)
    graph.node.extend(added)
    return str(added[-1].output[0])


def _mean(
    twins: onnx.ModelProto, node: onnx.NodeProto, difference: str, names: set[str]
) -> list[onnx.NodeProto]:
    """The mean by channel: axis 1 of a Conv, the last one of a product."""
    rows, mean = (unused_name(f"{difference}_{part}", names) for part in ("rows", "mean"))
    shape = unused_name(f"{difference}_shape", names)
    conv = node.op_type == "Conv"
    axes = [0, 2] if conv else [0]
    twins.graph.initializer.append(as_initializer(_flat(twins.graph, node), shape))
    reshape = helper.make_node("Reshape", [difference, shape], [rows])
    if opset(twins) < _AXES_AS_INPUT:
        return [reshape, helper.make_node("ReduceMean", [rows], [mean], axes=axes, keepdims=0)]
    wanted = unused_name(f"{difference}_axes", names)
    twins.graph.initializer.append(as_initializer(np.array(axes, np.int64), wanted))
    return [reshape, helper.make_node("ReduceMean", [rows, wanted], [mean], keepdims=0)]


def _flat(graph: onnx.GraphProto, node: onnx.NodeProto) -> Array:
    """The shape [N, C, positions] of a Conv's outputs, [rows, C] of a product's."""
    if node.op_type == "Conv":
        return np.array([0, 0, -1], np.int64)
    dims = initializers(graph)[node.input[1]].dims
    transposed = node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)
    return np.array([-1, dims[0] if transposed else dims[1]], np.int64)


def _shift(graph: onnx.GraphProto, node: onnx.NodeProto, shift: Array) -> bool:
    """Take a shift out of a node's bias; False where it has none and gets none."""
    constants, readers = initializers(graph), consumers(graph)
    name = _row(node, constants, readers) if node.op_type == "MatMul" else ""
    if node.op_type == "MatMul" and not name:
        return False
    if node.op_type != "MatMul" and len(node.input) > _BIAS:
        name = node.input[_BIAS]
    values = array(constants[name]) if name else np.zeros(len(shift), array(constants[node.input[1]]).dtype)
    corrected = as_initializer((values - shift).astype(values.dtype), name)
    if name and len(readers[name]) == 1:
        constants[name].CopyFrom(corrected)
        return True
    corrected.name = unused_name(f"{node.output[0]}_bias", tensor_names(graph))
    graph.initializer.append(corrected)
    if node.op_type == "MatMul":
        adding = readers[node.output[0]][0]
        adding.input[list(adding.input).index(name)] = corrected.name
    else:
        node.input[:] = [*node.input[:_BIAS], corrected.name]
    return True


def _row(
    node: onnx.NodeProto,
    constants: Mapping[str, onnx.TensorProto],
    readers: Mapping[str, Sequence[onnx.NodeProto]],
) -> str:
    """The row of constants that the only reader of a MatMul adds."""
    after = readers.get(node.output[0], [])
    if len(after) != 1 or after[0].op_type != "Add":
        return ""
    rows = [name for name in after[0].input if name in constants and len(constants[name].dims) == 1]
    return rows[0] if rows else ""
