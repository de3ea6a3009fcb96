"""Divide the channels of what products read: in the operator that wrote them, or by a Mul of its own."""

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from worker.engine.passes.scopes import (
    all_names,
    array,
    as_initializer,
    consumers,
    initializers,
    producers,
    tensor_types,
    unused_name,
)

Doubles = npt.NDArray[np.float64]
NORMS = frozenset({"LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization"})
Constants = Mapping[str, onnx.TensorProto]


def gain_and_bias(
    graph: onnx.GraphProto, tensor: str, readers: Collection[str], width: int
) -> tuple[str, ...]:
    """The constants that scale and shift a tensor, [channels], when only these nodes read them and it.

    They belong to a normalization, whole or as Mul and Add, or to a Mul alone; empty where there are none.

    Args:
        graph: the main graph.
        tensor: what the products read.
        readers: names of the products.
        width: how many channels it has.
    """
    reading, shown = consumers(graph), {value.name for value in graph.output}
    if {node.name for node in reading[tensor]} != set(readers) or tensor in shown:
        return ()
    written, constants = producers(graph), initializers(graph)
    found = _constants(written.get(tensor), written, constants)
    inner = {name for node in _between(written.get(tensor), written, constants) for name in node.output[:1]}
    own = all(len(reading[name]) == 1 for name in (*found, *inner)) and not inner & shown
    rows = all(tuple(constants[name].dims) == (width,) for name in found)
    return found if own and rows else ()


def _constants(
    node: onnx.NodeProto | None, written: Mapping[str, onnx.NodeProto], constants: Constants
) -> tuple[str, ...]:
    if node is None:
        return ()
    if node.op_type in NORMS:
        named = tuple(name for name in node.input[1:3] if name)
        whole = all(name in constants for name in named) and not any(node.output[1:])
        return named if whole else ()
    if node.op_type == "Mul":
        gain = [name for name in node.input if name in constants]
        return (gain[0],) if len(gain) == 1 else ()
    return parts(node, written, constants)


def _between(
    node: onnx.NodeProto | None, written: Mapping[str, onnx.NodeProto], constants: Constants
) -> Iterable[onnx.NodeProto]:
    """The Mul of a normalization in parts."""
    if node is None or node.op_type != "Add":
        return ()
    return [written[name] for name in node.input if name in written and name not in constants]


def parts(
    add: onnx.NodeProto, written: Mapping[str, onnx.NodeProto], constants: Constants
) -> tuple[str, ...]:
    """Gain and bias of a LayerNormalization written as Mul and Add."""
    bias = [name for name in add.input if name in constants]
    inner = [written.get(name) for name in add.input if name not in constants]
    if add.op_type != "Add" or len(bias) != 1 or inner[0] is None or inner[0].op_type != "Mul":
        return ()
    gain = [name for name in inner[0].input if name in constants]
    return (gain[0], bias[0]) if len(gain) == 1 else ()


def fold(graph: onnx.GraphProto, place: Sequence[str], scales: Doubles) -> set[str]:
    """Divide gain and bias by scales [channels]; the tensors that change."""
    constants = initializers(graph)
    for name in place:
        values = array(constants[name])
        constants[name].CopyFrom(as_initializer((values / scales).astype(values.dtype), name))
    return {out for node in graph.node if set(place) & set(node.input) for out in node.output[:1]}


def divide(graph: onnx.GraphProto, tensor: str, scales: Doubles, readers: Collection[str]) -> str:
    """Put a Mul by 1 / scales between a tensor and these nodes; the tensor that it writes."""
    names, kind = all_names(graph), tensor_types(graph).get(tensor, onnx.TensorProto.FLOAT)
    smooth = unused_name(f"{tensor}_smooth", names)
    factors = unused_name(f"{tensor}_smoothing", names)
    values = (1.0 / scales).astype(helper.tensor_dtype_to_np_dtype(kind))
    graph.initializer.append(as_initializer(values, factors))
    graph.value_info.append(helper.make_tensor_value_info(smooth, kind, None))
    first = next(i for i, node in enumerate(graph.node) if node.name in readers)
    for node in graph.node:
        if node.name in readers:
            node.input[0] = smooth
    node = helper.make_node("Mul", [tensor, factors], [smooth], unused_name(f"{smooth}_mul", names))
    graph.node.insert(first, node)
    return smooth
