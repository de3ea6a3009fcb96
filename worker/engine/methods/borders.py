"""Where nodes of different integer types meet: each of them reads what it reads in its own type.

A kernel takes its operands and gives its result in one type, so a tensor has the type of the node that writes
it. For a reader of another type it is converted; until the quantizer is done, an Identity holds that place.
"""

from collections.abc import Iterator
from dataclasses import replace

import onnx
from onnx import helper

from app.domain.recipe import Calibrated
from worker.engine.calibrate import Statistics
from worker.engine.choices.islands import ARITHMETIC, has_weights
from worker.engine.choices.overrides import Exceptions
from worker.engine.passes.scopes import (
    all_names,
    consumers,
    initializers,
    replace_nodes,
    tensor_types,
    unused_name,
)

MARK = "_read_as_"


def draw_borders(
    graph: onnx.GraphProto, recipe: Calibrated, exceptions: Exceptions, statistics: Statistics
) -> tuple[Exceptions, Statistics]:
    """Give each chosen node of a mixed recipe what it reads in its own type.

    1. A tensor has the type of the node that writes it, else what an override says, else its first reader's.
    2. A reader of another type reads an Identity of it, which has the reader's type and the tensor's range.
    3. Of a constant such a reader gets a copy.

    Args:
        graph: of the prepared model; it is changed.
        recipe: resolved.
        exceptions: with the type of every chosen node.
        statistics: of the graph's activations.

    Returns:
        What is said of single tensors now, and the statistics with the new ones.
    """
    homes = _homes(graph, exceptions)
    names, successors = all_names(graph), dict[tuple[str, str], str]()
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        for place, kind in _readings(graph, node, recipe, exceptions, statistics):
            old = node.input[place]
            if homes.setdefault(old, kind) == kind:
                continue
            if (old, kind) not in successors:
                new = successors[old, kind] = unused_name(f"{old}{MARK}{kind}", names)
                homes[new] = kind
                nodes += _successor(graph, old, new)
            node.input[place] = successors[old, kind]
        nodes.append(node)
    replace_nodes(graph, nodes)
    return _told(exceptions, homes, successors), _ranged(statistics, successors)


def close_borders(graph: onnx.GraphProto) -> None:
    """Take the Identities out of the quantized graph: pairs of both types follow on each other there."""
    readers = consumers(graph)
    marks = [node for node in graph.node if node.op_type == "Identity" and node.doc_string == MARK]
    for mark in marks:
        for node in readers[mark.output[0]]:
            node.input[:] = [mark.input[0] if name == mark.output[0] else name for name in node.input]
    gone = {mark.name for mark in marks}
    replace_nodes(graph, [node for node in graph.node if node.name not in gone])


def _homes(graph: onnx.GraphProto, exceptions: Exceptions) -> dict[str, str]:
    kinds, said = exceptions.kinds, exceptions.activations
    written = {out: kinds[node.name] for node in graph.node if node.name in kinds for out in node.output}
    return {name: entry["activation"] for name, entry in said.items() if "activation" in entry} | written


def _readings(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    recipe: Calibrated,
    exceptions: Exceptions,
    statistics: Statistics,
) -> Iterator[tuple[int, str]]:
    """The places of a chosen node's operands that are quantized, and the type in which it reads each."""
    if node.name not in exceptions.kinds:
        return
    constants = initializers(graph)
    if has_weights(node, constants):
        said = exceptions.weights.get(node.name, {})
        shared = "" if said.get("per_channel", recipe.per_channel) else "_whole"
        yield 1, f"{said.get('weight', recipe.weight)}{shared}"
    for place, name in enumerate(node.input):
        if name in statistics.tensors or (node.op_type in ARITHMETIC and name in constants):
            yield place, exceptions.kinds[node.name]


def _successor(graph: onnx.GraphProto, old: str, new: str) -> list[onnx.NodeProto]:
    constant = initializers(graph).get(old)
    if constant is not None:
        graph.initializer.add().CopyFrom(constant)
        graph.initializer[-1].name = new
        return []
    graph.value_info.append(helper.make_tensor_value_info(new, tensor_types(graph)[old], None))
    return [helper.make_node("Identity", [old], [new], new, doc_string=MARK)]


def _told(
    exceptions: Exceptions, homes: dict[str, str], successors: dict[tuple[str, str], str]
) -> Exceptions:
    for (old, _), new in successors.items():
        exceptions = exceptions.renamed({old: new})
    said = {
        name: {**exceptions.activations.get(name, {}), "activation": kind} for name, kind in homes.items()
    }
    return replace(exceptions, activations=exceptions.activations | said)


def _ranged(statistics: Statistics, successors: dict[tuple[str, str], str]) -> Statistics:
    known = statistics.tensors
    made = {new: known[old] for (old, _), new in successors.items() if old in known}
    return replace(statistics, tensors={**known, **made})
