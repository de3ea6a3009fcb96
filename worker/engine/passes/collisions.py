"""Names that would meet those which ONNX Runtime's quantizers and its float16 converter make.

They name what they add after a tensor or a node, `h_scale` for h, and do not look whether that is taken: the
upload's constant `h_scale` became the scale of h.
"""

import re
from collections.abc import Iterator

import onnx
from onnx import helper

from worker.engine.passes.scopes import all_graphs, all_nodes, replace_nodes, tensor_names, unused_name

_TO_NODES = (
    "quant|output_quantized|QuantizeLinear|DequantizeLinear|bias_add|ReduceM|Abs_Max|(?:input|output)_cast"
)
_NODE = re.compile(f"_(?:{_TO_NODES})")
_TENSOR = re.compile(f"_(?:{_TO_NODES}|scale|zero_point|convert|bias_reshape)")
_CASTS = re.compile("graph_(?:input|output)_cast")


def separate_names(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Give another name to what is called as a quantizer would call something of its own.

    1. Such a tensor or node is renamed in all scopes.
    2. An input or output of the model keeps its name; the tensor that it is named after gets another.
    3. Where both are inputs or outputs, nodes read and write the latter by an Identity.
    """
    graph = model.graph
    interface = {value.name for value in (*graph.input, *graph.output)}
    tensors, nodes = tensor_names(graph), {node.name for node in all_nodes(graph)}
    operands, taken = _operands(graph), tensors | nodes
    owners = operands | nodes
    behind = {owner for name in interface for owner in _named_after(name, _TENSOR, operands)}
    meeting = {name for name in tensors if _meets(name, _TENSOR, owners)}
    renamed = {name: _other(name, taken) for name in sorted((meeting | behind) - interface)}
    of_nodes = {name: _other(name, taken) for name in sorted(nodes) if _meets(name, _NODE, owners)}
    _rename(model, renamed, of_nodes)
    both = sorted(behind & interface)
    for name in both:
        _put_identity(graph, name, _other(name, taken))
    return model, sorted({*renamed, *of_nodes, *both})


def _operands(graph: onnx.GraphProto) -> set[str]:
    """Tensors after which something can be named: all but what only an Identity touches."""
    nodes = [node for node in all_nodes(graph) if node.op_type != "Identity"]
    return {name for node in nodes for name in (*node.input, *node.output) if name}


def _named_after(name: str, added: re.Pattern[str], owners: set[str]) -> list[str]:
    starts = (name[: match.start()] for match in added.finditer(name))
    return [owner for owner in starts if owner in owners]


def _meets(name: str, added: re.Pattern[str], owners: set[str]) -> bool:
    return bool(_CASTS.match(name) or _named_after(name, added, owners))


def _other(name: str, taken: set[str]) -> str:
    """A name like it that nothing is added to with an underscore."""
    return unused_name(name.replace("_", "."), taken)


def _rename(model: onnx.ModelProto, tensors: dict[str, str], nodes: dict[str, str]) -> None:
    for scope in all_graphs(model.graph):
        for held in _tensors(scope):
            held.name = tensors.get(held.name, held.name)
        for note in scope.quantization_annotation:
            note.tensor_name = tensors.get(note.tensor_name, note.tensor_name)
        for node in scope.node:
            node.name = nodes.get(node.name, node.name)
            _replace(node, tensors)


def _tensors(scope: onnx.GraphProto) -> Iterator[onnx.TensorProto | onnx.ValueInfoProto]:
    yield from scope.initializer
    yield from (tensor.values for tensor in scope.sparse_initializer)
    yield from (*scope.value_info, *scope.input, *scope.output)


def _replace(node: onnx.NodeProto, names: dict[str, str]) -> None:
    for held in (node.input, node.output):
        held[:] = [names.get(name, name) for name in held]


def _put_identity(graph: onnx.GraphProto, name: str, inner: str) -> None:
    """Have all nodes read and write `inner` in place of an input or output of the model."""
    written = any(name in node.output for node in graph.node)
    for node in all_nodes(graph):
        _replace(node, {name: inner})
    ends = (inner, name) if written else (name, inner)
    copy = helper.make_node("Identity", [ends[0]], [ends[1]], inner)
    replace_nodes(graph, [*graph.node, copy] if written else [copy, *graph.node])
