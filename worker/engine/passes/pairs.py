"""QuantizeLinear and DequantizeLinear that an upload brings along."""

from collections.abc import Mapping
from math import prod

import onnx

from worker.engine.passes.scopes import (
    attribute,
    consumers,
    initializers,
    producers,
    tensor_names,
    tensor_types,
    unused_name,
)

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_T = onnx.TensorProto
_INTEGERS = frozenset({_T.UINT8, _T.INT8, _T.UINT16, _T.INT16})
_ZERO_POINT = 2
_SCALED = frozenset({QUANTIZE, DEQUANTIZE, "QLinearMatMul"})
_SUMS = frozenset({"MatMulInteger", "ConvInteger"})


def name_zero_points(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Give QuantizeLinear and DequantizeLinear the zero point that they leave out.

    1. It is 0 of the type that the integers have: uint8, unless QuantizeLinear says another.
    2. Scales are constants, integers have 8 or 16 bits; all others stay as they are.
    """
    graph, changed = model.graph, list[str]()
    constants, types, names = initializers(graph), tensor_types(graph), tensor_names(graph)
    made: dict[tuple[str, int], str] = {}
    for node in graph.node:
        if node.op_type not in {QUANTIZE, DEQUANTIZE}:
            continue
        kind = _kind(node, types)
        if node.op_type == QUANTIZE:
            types[node.output[0]] = kind
        if any(node.input[_ZERO_POINT:]) or node.input[1] not in constants or kind not in _INTEGERS:
            continue
        place = node.input[1], kind
        if place not in made:
            made[place] = unused_name(f"{place[0]}_zero_point", names)
            dims = list(constants[place[0]].dims)
            graph.initializer.append(onnx.helper.make_tensor(made[place], kind, dims, [0] * prod(dims)))
        node.input[:] = [*node.input[:_ZERO_POINT], made[place]]
        changed.append(node.name)
    return model, changed


def restored(graph: onnx.GraphProto) -> set[str]:
    """Tensors that DequantizeLinear writes."""
    return {name for node in graph.node if node.op_type == DEQUANTIZE for name in node.output}


def among_integers(graph: onnx.GraphProto) -> set[str]:
    """Names of the nodes that make or scale integers, or that the runtime runs as integer kernels.

    1. Q, DQ and QLinearMatMul.
    2. What reads nothing but DQ, and behind that what writes for Q alone.
    3. Behind MatMulInteger and ConvInteger the Cast of its sums, the product that scales them, and the
       product of scales that this reads.
    """
    readers, makers, rows = consumers(graph), producers(graph), _float_rows(graph)
    found = {node.name for node in graph.node if node.op_type in _SCALED}
    taken = set[str]()
    for node in graph.node:
        read = [makers[name] for name in node.input if name in makers]
        behind = [reader for name in node.output for reader in readers.get(name, [])]
        restored = bool(read) and all(maker.op_type == DEQUANTIZE for maker in read)
        rounded = bool(behind) and all(reader.op_type == QUANTIZE for reader in behind)
        if not rows & set(node.input) and (restored or (rounded and taken & {m.name for m in read})):
            taken.add(node.name)
        if node.op_type == "Cast" and any(maker.op_type in _SUMS for maker in read):
            scaling = [reader for reader in behind if reader.op_type == "Mul"]
            scales = [makers[name] for reader in scaling for name in reader.input if name in makers]
            found.update(other.name for other in (node, *scaling, *scales))
    return found | taken


def _float_rows(graph: onnx.GraphProto) -> set[str]:
    """Constants of floats with more than one value: with these no integer kernel computes."""
    return {t.name for t in graph.initializer if t.data_type == _T.FLOAT and prod(t.dims) > 1}


def _kind(node: onnx.NodeProto, types: Mapping[str, int]) -> int:
    """The element type of a pair's integers; 0 where it is not known."""
    if node.op_type == DEQUANTIZE:
        return types.get(node.input[0], 0)
    given = types.get(node.input[_ZERO_POINT], 0) if any(node.input[_ZERO_POINT:]) else _T.UINT8
    return int(attribute(node, "output_dtype", 0)) or given


def is_whole(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether a Q or DQ has one constant scale and one zero point for all of a tensor, of 8 or 16 bits."""
    found = [constants.get(name) for name in node.input[1:]]
    known = [tensor for tensor in found if tensor is not None and prod(tensor.dims) == 1]
    return len(known) == _ZERO_POINT and known[1].data_type in _INTEGERS


def is_by_column(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether a DQ gives a constant matrix of 8 bits with a constant scale for each column."""
    found = [constants.get(name) for name in node.input]
    known = [tensor for tensor in found if tensor is not None]
    if len(known) <= _ZERO_POINT or known[0].data_type not in {_T.UINT8, _T.INT8}:
        return False
    matrix, *others = ([*tensor.dims] for tensor in known)
    by_column = attribute(node, "axis", 1) in {1, -1} and not attribute(node, "block_size", 0)
    return by_column and len(matrix) == 2 and all(dims == matrix[1:] for dims in others)  # noqa: PLR2004
