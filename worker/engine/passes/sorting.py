"""Nodes in an order in which they can run; ONNX Runtime's sort overlooks what subgraphs read around them."""

from graphlib import TopologicalSorter
from heapq import heappop, heappush

import onnx

from worker.engine.passes.scopes import names_used, replace_nodes


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Put each node behind those whose results it or its subgraphs read; else they stay in their order.

    Args:
        graph: it is changed; its subgraphs are not.
    """
    makers = {name: place for place, node in enumerate(graph.node) for name in node.output if name}
    needs = {
        place: {makers[name] for name in names_used(node) if name in makers} - {place}
        for place, node in enumerate(graph.node)
    }
    sorter = TopologicalSorter(needs)
    sorter.prepare()
    ready: list[int] = []
    order: list[int] = []
    while sorter.is_active():
        for place in sorter.get_ready():
            heappush(ready, place)
        order.append(heappop(ready))
        sorter.done(order[-1])
    replace_nodes(graph, [graph.node[place] for place in order])
