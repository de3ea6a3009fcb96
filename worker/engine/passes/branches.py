"""An If whose condition is a constant has one branch that counts: that one takes its place."""

from collections.abc import Iterator, Mapping

import onnx
from onnx import helper

from worker.engine.passes.scopes import (
    all_graphs,
    array,
    attribute,
    drop_unused,
    initializers,
    replace_nodes,
    subgraphs,
    tensor_names,
    unused_name,
)

Constants = Mapping[str, onnx.TensorProto]


def inline_branches(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Put the branch that an If with a constant condition takes in the place of the If.

    1. The condition is an initializer of the If's graph or of an outer one. What lies in a branch cannot be
       calibrated; what is inlined can.
    2. The branch's tensors get names that begin with the If's: the other branch may have the same ones.
    3. Branches in branches are inlined too, from the outside in.
    """
    inlined = list(_inline(model.graph, {}, tensor_names(model.graph)))
    if inlined:
        drop_unused(model.graph)
    return model, inlined


def _inline(graph: onnx.GraphProto, outer: Constants, names: set[str]) -> Iterator[str]:
    constants = {**outer, **initializers(graph)}
    found = True
    while found:
        found = False
        nodes = list[onnx.NodeProto]()
        for node in graph.node:
            if node.op_type != "If" or node.input[0] not in constants:
                nodes.append(node)
                continue
            yield node.name
            found = True
            nodes += _taken(graph, node, constants, names)
            constants |= initializers(graph)
        if found:
            replace_nodes(graph, nodes)
    for node in graph.node:
        for below in subgraphs(node):
            yield from _inline(below, constants, names)


def _taken(
    graph: onnx.GraphProto, node: onnx.NodeProto, constants: Constants, names: set[str]
) -> list[onnx.NodeProto]:
    """The nodes of the branch that counts; its constants and types move to the graph."""
    yes = bool(array(constants[node.input[0]]).reshape(-1)[0])
    branch = onnx.GraphProto()
    branch.CopyFrom(attribute(node, "then_branch" if yes else "else_branch", None))
    _rename(branch, {name: unused_name(f"{node.name}/{name}", names) for name in _written(branch)})
    graph.initializer.extend(branch.initializer)
    graph.value_info.extend(branch.value_info)
    ends = [
        helper.make_node("Identity", [value.name], [name], f"{node.name}_{name}")
        for value, name in zip(branch.output, node.output, strict=True)
        if name
    ]
    return [*branch.node, *ends]


def _written(branch: onnx.GraphProto) -> list[str]:
    """What the branch itself defines; everything else it sees from outside."""
    constants = (tensor.name for tensor in branch.initializer)
    return [*constants, *(name for node in branch.node for name in node.output if name)]


def _rename(branch: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for scope in all_graphs(branch):
        for node in scope.node:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]
        for value in (*scope.value_info, *scope.output, *scope.initializer):
            value.name = names.get(value.name, value.name)
