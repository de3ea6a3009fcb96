"""The values that a quantized node's stored weights stand for."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from worker.engine.methods.borders import MARK
from worker.engine.methods.weight_only.bnb4 import KINDS, Table, TableBlocks
from worker.engine.passes.scopes import array, attribute

Array = npt.NDArray[Any]
Constants = Mapping[str, onnx.TensorProto]
_BYTE = 8
_INTEGER_PRODUCTS = frozenset({"ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul"})
_HALVES = frozenset({onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16})


def stored_weights(nodes: Sequence[onnx.NodeProto], constants: Constants, name: str) -> Array | None:
    """What stands in a candidate for the float constant `name`; None where that is not known.

    Args:
        nodes: the candidate's nodes that do the work of one float node.
        constants: the candidate's initializers.
        name: of the float model's initializer.

    Returns:
        float32, of the shape of the float constant; for blocks [rows, columns], as MatMulNBits has them.
    """
    for node in nodes:
        if node.op_type in {"MatMulNBits", "GatherBlockQuantized"}:
            return _blocks(node, constants)
        if node.op_type == "MatMulBnb4":
            return _table(node, constants)
        if not node.input:
            continue
        if node.op_type in _INTEGER_PRODUCTS:
            return _integers(constants, node.input[1].removesuffix("_quantized"))
        source = constants.get(node.input[0])
        if node.op_type == "DequantizeLinear" and _is_of(name, node.input[0]):
            return _dequantized(node, constants)
        if node.op_type == "Cast" and node.output[0] == name and source is not None:
            return array(source).astype(np.float32) if source.data_type in _HALVES else None
    return None


def _is_of(name: str, stored: str) -> bool:
    """Whether a constant has the codes of this one, or of the copy that a node got for itself."""
    ending = rf"(_padded|{MARK}\w+)?(_quantized)?"
    return stored.startswith(name) and re.fullmatch(ending, stored.removeprefix(name)) is not None


def _integers(constants: Constants, name: str) -> Array | None:
    parts = [constants.get(f"{name}_{part}") for part in ("quantized", "zero_point", "scale")]
    if any(part is None for part in parts):
        return None
    codes, zeros, scales = (array(part) for part in parts if part is not None)
    if scales.ndim > 1:  # of a ConvInteger, as they multiply its sums: [M, 1, …]
        scales = scales[:, np.newaxis]
    values: Array = (codes.astype(np.float32) - zeros.astype(np.float32)) * scales
    return values


def _dequantized(node: onnx.NodeProto, constants: Constants) -> Array | None:
    if not all(name in constants for name in node.input):
        return None
    codes, scales, *zeros = (array(constants[name]).astype(np.float32) for name in node.input)
    zero = zeros[0] if zeros else np.float32(0)
    if attribute(node, "block_size", 0):
        return None
    along = [-1 if axis == attribute(node, "axis", 1) % codes.ndim else 1 for axis in range(codes.ndim)]
    if scales.ndim:
        scales, zero = scales.reshape(along), np.broadcast_to(zero, scales.shape).reshape(along)
    values: Array = (codes - zero) * scales
    return values


def _blocks(node: onnx.NodeProto, constants: Constants) -> Array | None:
    """Codes [rows, blocks, bytes] or [rows, bytes], scales [rows, blocks], packed zeros [rows, bytes]."""
    table = node.op_type == "GatherBlockQuantized"
    names = (node.input[0], *node.input[2:]) if table else tuple(node.input[1:])
    if not all(name in constants for name in names[:2]):
        return None
    bits, size = attribute(node, "bits", 4), attribute(node, "block_size", 32)
    scales = array(constants[names[1]]).astype(np.float32)
    rows = len(array(constants[names[0]]))
    scales = scales.reshape(rows, -1)
    codes = unpack(array(constants[names[0]]).reshape(rows, -1), bits).astype(np.float32)
    zeros = np.full(scales.shape, 1 << (bits - 1), np.float32)
    if len(names) > 2 and names[2]:  # noqa: PLR2004 - the zero points come third
        zeros = unpack(array(constants[names[2]]).reshape(rows, -1), bits)[:, : scales.shape[1]]
    steps = np.repeat(scales, size, 1)[:, : codes.shape[1]]
    values: Array = (codes - np.repeat(zeros, size, 1)[:, : codes.shape[1]]) * steps
    return values if table else values[:, : attribute(node, "K", values.shape[1])]


def _table(node: onnx.NodeProto, constants: Constants) -> Array | None:
    """Codes of four bits [bytes], the first of two in the upper half, and scales [blocks]."""
    if not all(name in constants for name in node.input[1:]):
        return None
    packed, scales = (array(constants[name]) for name in node.input[1:])
    rows, columns = attribute(node, "N", 0), attribute(node, "K", 0)
    kind = KINDS[attribute(node, "quant_type", 0)]
    codes = unpack(packed, 4).reshape(-1, 2)[:, ::-1].reshape(-1)[: rows * columns]
    return TableBlocks(Table(kind, attribute(node, "block_size", 64)), rows, columns, codes, scales).values()


def unpack(packed: Array, bits: int) -> Array:
    """Bytes [..., n] as codes [..., n * 8 / bits], the lowest bits first."""
    shifts = np.arange(0, _BYTE, bits, dtype=np.uint8)
    codes: Array = (packed[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return codes.reshape(*packed.shape[:-1], -1)
