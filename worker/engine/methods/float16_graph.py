"""A graph that computes in float16, by the converter that comes with ONNX Runtime."""

from collections.abc import Iterator

import numpy as np
import onnx
from onnxruntime.transformers.float16 import (
    ALWAYS_FLOAT_INPUTS,
    DEFAULT_OP_BLOCK_LIST,
    convert_float_to_float16,
)

from app.domain.errors import Refused
from app.domain.recipe import Float16
from worker.engine.choices.selection import matching, refuse_nothing, stays_float
from worker.engine.passes.outputs import direct_outputs
from worker.engine.passes.pairs import among_integers
from worker.engine.passes.scopes import (
    STANDARD,
    array,
    attribute,
    initializers,
    is_standard,
    key,
    opset,
    producers,
    replace_nodes,
    subgraphs,
    tensor_names,
    tensor_types,
    unused_name,
)
from worker.engine.passes.sorting import sort_nodes

_SIZED = frozenset({"BitCast"})  # its result has the bits of its input, so that must not be narrowed
_MATRIX = 2
_SINGLE = "tensor(float)"
_T = onnx.TensorProto
_NO_TENSORS = ("seq(", "optional(")
_LARGEST = float(np.finfo(np.float16).max)
_NOTE = "float16: half the bytes; a CPU widens to float32 around most kernels, so it is no faster"


def compute_in_half(model: onnx.ModelProto, recipe: Float16) -> tuple[onnx.ModelProto, list[str]]:
    """Write the graph in float16, with Casts at its inputs and outputs and around what has no float16 form.

    Args:
        model: the prepared model; it is changed.
        recipe: which nodes.

    Returns:
        The model, and the reasons.

    Raises:
        Refused: `unsupported_option`, `nothing_to_quantize` or `selection_matches_nothing`.
    """
    if any(True for node in model.graph.node for _ in subgraphs(node)):
        raise Refused("unsupported_option", "compute full does not reach into subgraphs; ask for storage.")
    if not any(tensor.data_type == onnx.TensorProto.FLOAT for tensor in _constants(model.graph)):
        raise Refused("nothing_to_quantize", "float16 halves float constants, and this model has none.")
    left = dict(_hindered(model, recipe))
    nodes = [node.name for node in model.graph.node]
    refuse_nothing([name for name in nodes if name not in left], "float16", left)
    version = opset(model)
    if any(_passes_sequences(node, version) for node in model.graph.node):
        raise Refused("unsupported_option", "compute full does not reach through sequences; ask for storage.")
    _keep_apart(model.graph)
    _set_aside(model.graph)
    try:
        converted = convert_float_to_float16(
            model, keep_io_types=True, disable_shape_infer=True, node_block_list=sorted(left)
        )
    except Exception as error:  # its failures are those of Python and protobuf, of no common base
        what = f"{type(error).__name__}: {error}".strip().rstrip(":. ")
        raise Refused("unsupported_option", f"This graph cannot be written in float16 ({what}).") from error
    _drop_repeated(converted.graph)
    _drop_round_trips(converted.graph)
    sort_nodes(converted.graph)
    return converted, [_NOTE, *stays_float(left)]


def _set_aside(graph: onnx.GraphProto) -> None:
    """Undeclare, until `tidy`, outputs that no node writes: a Cast would write them a second time."""
    direct = direct_outputs(graph)
    kept = [value for value in graph.output if value.name not in direct]
    del graph.output[:]
    graph.output.extend(kept)


def _keep_apart(graph: onnx.GraphProto) -> None:
    """A copy of their own for operands that stay float32: a Cast would hide what a shared constant holds."""
    constants, names = initializers(graph), tensor_names(graph)
    for node in graph.node:
        for index in ALWAYS_FLOAT_INPUTS.get(node.op_type, ()):
            if len(node.input) > index and node.input[index] in constants:
                shared = constants[node.input[index]]
                node.input[index] = unused_name(shared.name, names)
                graph.initializer.add().CopyFrom(shared)
                graph.initializer[-1].name = node.input[index]


def _drop_repeated(graph: onnx.GraphProto) -> None:
    """The converter writes a Cast for each reader of a tensor, all with one output."""
    replace_nodes(graph, {key(node): node for node in graph.node}.values())


def _drop_round_trips(graph: onnx.GraphProto) -> None:
    """Between two nodes that stay float32 the converter rounds to float16 and back: pairs would not fuse."""
    makers, types = producers(graph), tensor_types(graph)
    outputs, before = {value.name for value in graph.output}, dict[str, str]()
    for node in graph.node:
        maker = makers.get(node.input[0]) if _casts(node, _T.FLOAT) else None
        if maker is not None and _casts(maker, _T.FLOAT16) and types.get(maker.input[0]) == _T.FLOAT:
            before[node.output[0]] = maker.input[0]
    for node in graph.node:
        made = before.get(node.output[0]) if node.output else None
        node.input[:] = [made] if made else [before.get(name, name) for name in node.input]
    read = outputs.union(*(node.input for node in graph.node))
    casts = {key(n) for n in graph.node if n.op_type == "Cast" and n.output[0] not in read}
    replace_nodes(graph, [node for node in graph.node if key(node) not in casts])


def _casts(node: onnx.NodeProto, kind: int) -> bool:
    return is_standard(node, "Cast") and attribute(node, "to", 0) == kind


def _hindered(model: onnx.ModelProto, recipe: Float16) -> Iterator[tuple[str, str]]:
    included, excluded = matching(model.graph, recipe.include), matching(model.graph, recipe.exclude)
    asked = bool(recipe.include.op_types or recipe.include.nodes)
    constants, version = initializers(model.graph), opset(model)
    beyond = {name for name, tensor in constants.items() if _is_beyond(tensor)}
    multiplied = {name for node in model.graph.node if is_standard(node, "MatMul") for name in node.input}
    integers = among_integers(model.graph)
    for node in model.graph.node:
        if node.name in excluded:
            yield node.name, "excluded"
        elif asked and node.name not in included:
            yield node.name, "not included"
        elif beyond & set(node.input):
            yield node.name, f"a constant is beyond {_LARGEST:g}, the largest float16"
        elif node.name in integers:
            yield node.name, "it makes or scales integers"
        elif not _has_half(node, version):
            yield node.name, f"{node.op_type} has no float16 form"
        elif _moves_batch(node) and node.output[0] in multiplied:
            yield node.name, "ONNX Runtime crashes on a batch that is moved in float16 before a MatMul"


def _moves_batch(node: onnx.NodeProto) -> bool:
    """Whether a Transpose of more than a matrix moves the first dimension."""
    if not is_standard(node, "Transpose"):
        return False
    order = attribute(node, "perm", None)
    return order is None or (len(order) > _MATRIX and order[0] != 0)


def _constants(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from initializers(graph).values()
    for node in graph.node:
        yield from (entry.t for entry in node.attribute if entry.type == onnx.AttributeProto.TENSOR)


def _is_beyond(tensor: onnx.TensorProto) -> bool:
    if tensor.data_type != onnx.TensorProto.FLOAT:
        return False
    values = array(tensor)
    return bool((abs(values[np.isfinite(values)]) > _LARGEST).any())


def _has_half(node: onnx.NodeProto, version: int) -> bool:
    """Whether the operator takes float16 wherever it takes float32."""
    if node.op_type in _SIZED or node.op_type in DEFAULT_OP_BLOCK_LIST or _has_single(node, version):
        return False
    allowed = _types(node, version)
    return bool(allowed) and all("tensor(float16)" in types for types in allowed if _SINGLE in types)


def _has_single(node: onnx.NodeProto, version: int) -> bool:
    """Whether an operand is float32 whatever the others are, and the converter does not know it."""
    schema = _schema(node, version)
    operands = (*schema.inputs, *schema.outputs) if schema else ()
    return node.op_type not in ALWAYS_FLOAT_INPUTS and any(o.type_str == _SINGLE for o in operands)


def _passes_sequences(node: onnx.NodeProto, version: int) -> bool:
    """Whether an operand can be nothing but a sequence or an optional, around which no Cast can go."""
    return any(all(kind.startswith(_NO_TENSORS) for kind in kinds) for kinds in _types(node, version))


def _types(node: onnx.NodeProto, version: int) -> list[set[str]]:
    """What each type variable of a standard operator allows; nothing where the operator is not known."""
    schema = _schema(node, version)
    return [set(constraint.allowed_type_strs) for constraint in schema.type_constraints] if schema else []


def _schema(node: onnx.NodeProto, version: int) -> onnx.defs.OpSchema | None:
    if node.domain not in STANDARD:
        return None
    try:
        return onnx.defs.get_schema(node.op_type, version, "")
    except onnx.defs.SchemaError:
        return None
