"""A factor and a shift for each channel move into the weights of the linear operators beside them."""

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from worker.engine.passes.scopes import (
    FLOATS,
    array,
    as_initializer,
    attribute,
    consumers,
    drop_attribute,
    producers,
    unused_name,
)

Array = npt.NDArray[Any]
_BEFORE = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_AFTER = frozenset({"Conv", "Gemm", "MatMul"})
_PRODUCT = frozenset({"MatMul"})  # of rows, whatever the other axes are
_BIAS = 2
_MATRIX = 2
_FLOATING = FLOATS | {onnx.TensorProto.DOUBLE}


@dataclass(frozen=True)
class Place:
    """A graph or a subgraph.

    Attributes:
        graph: it is changed.
        constants: that it can see, those of outer graphs too; new ones are added.
        ranks: of its tensors, as far as they are known.
        names: of all tensors of the model; new ones are added.
    """

    graph: onnx.GraphProto
    constants: MutableMapping[str, onnx.TensorProto]
    ranks: Mapping[str, int]
    names: set[str]

    def add_constant(self, values: Array, wanted: str) -> str:
        """Add a constant; the name that it got."""
        name = unused_name(wanted, self.names)
        self.graph.initializer.append(as_initializer(values, name))
        self.constants[name] = self.graph.initializer[-1]
        return name


@dataclass(frozen=True)
class Affine:
    """A node that makes factor · x + shift of each channel; both float64 [channels]."""

    node: onnx.NodeProto
    factor: Array
    shift: Array


def hindrance_before(place: Place, affine: Affine) -> str | None:
    """Why the operator before the node cannot take it up."""
    operator, added = _before(place, affine.node)
    if operator is None:
        return "it follows no operator"
    if operator.op_type not in _BEFORE:
        return f"it follows {operator.op_type}"
    between = {operator.output[0], affine.node.input[0]}
    readers = consumers(place.graph)
    if between & _outputs(place) or any(len(readers[name]) > 1 for name in between):
        return f"others read the result of {operator.name} too"
    if operator.op_type == "MatMul" and place.ranks.get(operator.output[0]) != _MATRIX:
        return f"its channels are not the columns of {operator.name}"
    return _weights_hindrance(place, operator, len(affine.factor), by_output=True) or (
        _added_hindrance(place, operator, added) if added else None
    )


def fold_before(place: Place, affine: Affine) -> None:
    """Give the factor and the shift to the operator before the node; the node is to be removed."""
    operator, added = _before(place, affine.node)
    if operator is None:
        return
    blocks = _blocks(operator, _weights(place, operator))
    _set_weights(place, operator, blocks * affine.factor.reshape(blocks.shape[0], -1, 1, 1))
    if added:
        _scale_bias(place, operator, affine.factor, np.zeros(1))
        _scale_added(place, operator, added, affine)
    else:
        _scale_bias(place, operator, affine.factor, affine.shift)
    last = _last(place, operator, added)
    last.output[0] = affine.node.output[0]


def hindrance_after(place: Place, affine: Affine) -> str | None:
    """Why the operators after the node cannot take it up."""
    found = list(_readers(place, affine.node.output[0]))
    if not all(readers for _, readers in found):
        return "its result is an output"
    hindrances = (
        _reader_hindrance(place, reader, affine, tensor) for tensor, readers in found for reader in readers
    )
    return next((why for why in hindrances if why), None)


def fold_after(place: Place, affine: Affine) -> None:
    """Give the factor and the shift to the operators after the node; the node is to be removed."""
    output = affine.node.output[0]
    readers = [reader for _, found in _readers(place, output) for reader in found]
    for reader in [reader for reader in readers if reader.op_type in _AFTER]:
        blocks = _blocks(reader, _weights(place, reader))
        along = (blocks.shape[0], 1, -1, 1)
        shifted = (blocks * affine.shift.reshape(along)).sum(axis=(2, 3)).reshape(-1)
        _set_weights(place, reader, blocks * affine.factor.reshape(along))
        _scale_bias(place, reader, np.ones(1), shifted * attribute(reader, "alpha", 1.0))
    for reader in consumers(place.graph)[output]:
        reader.input[0] = affine.node.input[0]


def _before(place: Place, node: onnx.NodeProto) -> tuple[onnx.NodeProto | None, onnx.NodeProto | None]:
    """The operator before a node, and the sum with a constant in between."""
    writers = producers(place.graph)
    writer = writers.get(node.input[0])
    if writer is None or writer.op_type != "Add":
        return writer, None
    computed = [name for name in writer.input if name not in place.constants]
    operator = writers.get(computed[0]) if len(computed) == 1 else None
    return (operator, writer) if operator is not None and operator.op_type in _BEFORE else (writer, None)


def _readers(place: Place, output: str) -> Iterator[tuple[str, list[onnx.NodeProto]]]:
    """What is read of a tensor, by itself or turned so that its channels come last, and by whom.

    A tensor that is an output of the graph has no readers here.
    """
    every, outputs = consumers(place.graph), _outputs(place)
    readers = every.get(output, []) if output not in outputs else []
    turning = [node for node in readers if _is_turn(node)]
    if len(turning) < len(readers) or not readers:
        yield output, [node for node in readers if node not in turning]
    for node in turning:
        turned = node.output[0]
        yield turned, every.get(turned, []) if turned not in outputs else []


def _is_turn(node: onnx.NodeProto) -> bool:
    return node.op_type == "Transpose" and list(attribute(node, "perm", ()))[-1:] == [1]


def _outputs(place: Place) -> AbstractSet[str]:
    return {value.name for value in place.graph.output}


def _weights_hindrance(
    place: Place, operator: onnx.NodeProto, channels: int, *, by_output: bool
) -> str | None:
    """Constants of floats, and as many channels as there are factors."""
    known = all(name in place.constants for name in operator.input[1:] if name)
    weight = place.constants.get(operator.input[1])
    if not known or weight is None or weight.data_type not in _FLOATING:
        return f"the weights of {operator.name} are computed"
    if 0 in weight.dims:
        return f"the weights of {operator.name} hold no values"
    if operator.op_type == "MatMul" and len(weight.dims) != _MATRIX:
        return f"the weights of {operator.name} are not a matrix"
    groups, outputs, inputs, _ = _blocks(operator, array(weight)).shape
    if groups * (outputs if by_output else inputs) != channels:
        return f"its channels are not those of {operator.name}"
    return None


def _added_hindrance(place: Place, operator: onnx.NodeProto, added: onnx.NodeProto) -> str | None:
    constant = next(place.constants[name] for name in added.input if name in place.constants)
    fits = len(constant.dims) <= len(place.constants[operator.input[1]].dims)
    return None if fits else f"{added.name} adds axes"


def _reader_hindrance(place: Place, reader: onnx.NodeProto, affine: Affine, tensor: str) -> str | None:
    if reader.op_type == "Shape":  # it stays the same
        return None
    turned = tensor != affine.node.output[0]
    fits = _PRODUCT if turned else _AFTER
    if reader.op_type not in fits or list(reader.input).count(tensor) > 1 or reader.input[0] != tensor:
        return f"{reader.op_type} reads it"
    if reader.op_type == "MatMul" and not turned and place.ranks.get(tensor) != _MATRIX:
        return f"its channels are not the columns that {reader.name} sums"
    if attribute(reader, "transA", 0):
        return f"{reader.name} reads it turned"
    if affine.shift.any() and _pads(reader):
        return f"{reader.name} pads it with zeros, which would need to be shifted"
    return _weights_hindrance(place, reader, len(affine.factor), by_output=False)


def _pads(operator: onnx.NodeProto) -> bool:
    automatic = attribute(operator, "auto_pad", b"NOTSET") not in {b"NOTSET", b"VALID"}
    return automatic or any(attribute(operator, "pads", ()))


def _weights(place: Place, operator: onnx.NodeProto) -> Array:
    return array(place.constants[operator.input[1]]).astype(np.float64)


def _turned(operator: onnx.NodeProto) -> bool:
    """Whether the weights lie as [inputs, outputs]."""
    return operator.op_type == "MatMul" or (
        operator.op_type == "Gemm" and not attribute(operator, "transB", 0)
    )


def _blocks(operator: onnx.NodeProto, weights: Array) -> Array:
    """Weights as [groups, outputs of each, inputs of each, kernel]."""
    if _turned(operator):
        return weights.T[None, :, :, None]
    groups = attribute(operator, "group", 1)
    blocks = weights.reshape(groups, weights.shape[0] // groups, weights.shape[1], -1)
    return blocks.swapaxes(1, 2) if operator.op_type == "ConvTranspose" else blocks


def _set_weights(place: Place, operator: onnx.NodeProto, blocks: Array) -> None:
    old = place.constants[operator.input[1]]
    if operator.op_type == "ConvTranspose":
        blocks = blocks.swapaxes(1, 2)
    values = blocks[0, :, :, 0].T if _turned(operator) else blocks
    values = values.reshape(tuple(old.dims)).astype(array(old).dtype)
    operator.input[1] = place.add_constant(values, f"{operator.input[1]}_folded")


def _scale_bias(place: Place, operator: onnx.NodeProto, factor: Array, shift: Array) -> None:
    """Multiply the operator's bias and add to it; a MatMul gets a sum behind it."""
    kind = array(place.constants[operator.input[1]]).dtype
    if operator.op_type == "MatMul":
        if shift.any():
            _add_behind(place, operator, shift.astype(kind))
        return
    given = list(operator.input[_BIAS:])
    bias = array(place.constants[given[0]]).astype(np.float64) if given and given[0] else np.zeros(1)
    scaled = (bias * attribute(operator, "beta", 1.0) * factor + shift).astype(kind)
    if not scaled.any() and not any(given):
        return
    drop_attribute(operator, "beta")
    del operator.input[_BIAS:]
    operator.input.append(place.add_constant(scaled, f"{operator.name}_bias"))


def _add_behind(place: Place, operator: onnx.NodeProto, row: Array) -> None:
    """Add a row to a product: to the constant that is added already, if there is one."""
    readers = consumers(place.graph).get(operator.output[0], [])
    alone = len(readers) == 1 and operator.output[0] not in _outputs(place)
    if alone and readers[0].op_type == "Add":
        for index, name in enumerate(readers[0].input):
            if name in place.constants:
                values = array(place.constants[name]) + row
                readers[0].input[index] = place.add_constant(values, f"{name}_folded")
                return
    inner = unused_name(f"{operator.output[0]}_product", place.names)
    constant = place.add_constant(row, f"{operator.name}_bias")
    added = helper.make_node("Add", [inner, constant], [operator.output[0]], f"{operator.name}_shift")
    operator.output[0] = inner
    place.graph.node.insert(list(place.graph.node).index(operator) + 1, added)


def _scale_added(place: Place, operator: onnx.NodeProto, added: onnx.NodeProto, affine: Affine) -> None:
    """Multiply and shift the constant that is added between the operator and the node."""
    index = next(i for i, name in enumerate(added.input) if name in place.constants)
    values = array(place.constants[added.input[index]])
    trailing = (1,) * (len(place.constants[operator.input[1]].dims) - _MATRIX)
    factor, shift = (part.reshape(-1, *trailing) for part in (affine.factor, affine.shift))
    scaled = (values * factor + shift).astype(values.dtype)
    added.input[index] = place.add_constant(scaled, f"{added.input[index]}_folded")


def _last(place: Place, operator: onnx.NodeProto, added: onnx.NodeProto | None) -> onnx.NodeProto:
    """What writes the result now: the sum that was there, the one that a MatMul got, or the operator."""
    if added is not None:
        return added
    readers: Sequence[onnx.NodeProto] = consumers(place.graph).get(operator.output[0], [])
    behind = [node for node in readers if node.op_type == "Add"]
    return behind[0] if operator.op_type == "MatMul" and behind else operator
