"""Nodes that change nothing are taken out: a quantizer would put a pair of its own around them."""

import onnx

from worker.engine.passes.scopes import (
    all_graphs,
    attribute,
    initializers,
    key,
    names_used,
    replace_nodes,
)


def remove_identities(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Connect the readers of Identity and of idle Dropout to what these read.

    1. Dropout is idle unless it trains; one whose mask is read stays.
    2. A node whose output is an output of the graph stays, so that names do not change.
    3. A node whose result or source a subgraph reads stays.
    """
    graph = model.graph
    fixed = {value.name for value in graph.output} | _read_below(graph)
    renamed: dict[str, str] = {}
    removed: dict[tuple[str, ...], str] = {}
    for node in graph.node:
        _rename_inputs(node, renamed)
        if _idle(graph, node) and not fixed & {node.input[0], *node.output}:
            renamed[node.output[0]] = node.input[0]
            removed[key(node)] = node.name
    if removed:
        replace_nodes(graph, [node for node in graph.node if key(node) not in removed])
    return model, list(removed.values())


def _rename_inputs(node: onnx.NodeProto, renamed: dict[str, str]) -> None:
    for index, name in enumerate(node.input):
        if name in renamed:
            node.input[index] = renamed[name]


def _read_below(graph: onnx.GraphProto) -> set[str]:
    below = [scope for scope in all_graphs(graph) if scope is not graph]
    return {name for scope in below for node in scope.node for name in names_used(node)} | {
        output.name for scope in below for output in scope.output
    }


def _idle(graph: onnx.GraphProto, node: onnx.NodeProto) -> bool:
    if node.op_type == "Identity":
        return node.input[0] not in initializers(graph)
    if node.op_type != "Dropout":
        return False
    read = {name for other in graph.node for name in other.input}
    training = len(node.input) > 2 and node.input[2]  # noqa: PLR2004 - its third input is training_mode
    mask = any(name in read for name in node.output[1:])
    return not training and not mask and attribute(node, "is_test", 1) != 0
