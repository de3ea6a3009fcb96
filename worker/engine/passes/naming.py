"""Every node gets a name of its own: recipes, reports and ONNX Runtime's quantizer tell nodes by name."""

from collections import Counter

import onnx

from worker.engine.passes.scopes import all_graphs, all_nodes, unused_name


def name_nodes(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Name what has no name of its own, in every scope.

    1. A node without a name gets `<operator>_<number>`.
    2. Of nodes that share a name, the first keeps it.
    3. A graph without a name gets `graph`: the checker asks for one.
    """
    named = list[str]()
    taken: set[str] = {node.name for node in all_nodes(model.graph) if node.name}
    seen: Counter[str] = Counter()
    for node in all_nodes(model.graph):
        seen[node.name] += 1
        if not node.name or seen[node.name] > 1:
            node.name = unused_name(node.name or f"{node.op_type}_0", taken)
            named.append(node.name)
    for graph in all_graphs(model.graph):
        if not graph.name:
            graph.name = "graph"
            named.append(graph.name)
    return model, named
