"""A recipe's overrides, found in a graph and given to ONNX Runtime's quantizer (`TensorQuantOverrides`)."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from glob import escape
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import QuantType

from app.domain.recipe import Calibrated, Mixed, Override
from worker.engine.choices.islands import WEIGHTED, has_weights
from worker.engine.choices.resolve import unsupported
from worker.engine.choices.saturation import can_saturate, full_range
from worker.engine.choices.selection import listed, matches, named
from worker.engine.passes.scopes import array, attribute, initializers

TYPES = {
    "uint8": QuantType.QUInt8,
    "int8": QuantType.QInt8,
    "uint16": QuantType.QUInt16,
    "int16": QuantType.QInt16,
    "int4": QuantType.QInt4,
}
EIGHT_BITS = frozenset({"uint8", "int8"})
Entries = dict[str, list[dict[str, Any]]]


@dataclass
class Exceptions:
    """What overrides say: of weights by their node's name, of activations by tensor.

    `wanted` are the nodes that overrides want quantized, with the path of the last one; `exact` those of them
    that it names without a pattern. `kinds` are the types of activations that a mixed recipe gives to nodes.
    """

    left_float: set[str] = field(default_factory=set)
    weights: dict[str, dict[str, Any]] = field(default_factory=dict)
    activations: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[tuple[str, set[str]]] = field(default_factory=list)  # a field's path, and what it is to reach
    wanted: dict[str, str] = field(default_factory=dict)
    exact: set[str] = field(default_factory=set)
    kinds: dict[str, str] = field(default_factory=dict)

    def renamed(self, names: Mapping[str, str]) -> "Exceptions":
        """What is said of a tensor is said of its successor too."""
        moved = {new: self.activations[old] for old, new in names.items() if old in self.activations}
        asked = [(path, tensors | {names[t] for t in tensors & names.keys()}) for path, tensors in self.asked]
        return replace(self, activations=self.activations | moved, asked=asked)

    def activation_of(self, node: onnx.NodeProto, recipe: Calibrated) -> str:
        """The type in which a node reads its activations."""
        said = self.activations.get(node.input[0], {}).get("activation")
        return str(self.kinds.get(node.name) or said or recipe.activation)


def find_exceptions(graph: onnx.GraphProto, recipe: Calibrated) -> Exceptions:
    """Resolve globs; where several overrides match, the last one wins, field by field.

    An override of nodes reaches their weights, and the activations that they read and write; its `range` the
    activations that they write. `float` is undone by a later override with float false and other choices. In
    a mixed recipe, `activation` is the type of the nodes themselves: what they read is converted to it.

    Raises:
        Refused: `selection_matches_nothing`, naming the glob, or `unsupported_option`.
    """
    found = Exceptions()
    for index, override in enumerate(recipe.overrides):
        _add(found, graph, override, f"overrides.{index}", by_node=isinstance(recipe, Mixed))
    return found


def _add(found: Exceptions, graph: onnx.GraphProto, override: Override, path: str, *, by_node: bool) -> None:
    if not (override.nodes or override.op_types or override.tensors):
        raise unsupported(path, "of nothing", "it names neither nodes nor tensors", "give globs of either")
    if override.range and not override.range[0] < override.range[1]:
        raise unsupported(f"{path}.range", list(override.range), "its ends are not in order", "swap them")
    names = named(graph.node, override.op_types, override.nodes)
    nodes = [node for node in graph.node if node.name in names]
    _want(found, override, names, path)
    if override.float:
        if not nodes:
            raise unsupported(f"{path}.float", True, "only nodes can stay in float", "name nodes")
        return
    tensors = matches(_tensors(graph), override.tensors, "tensor")
    _add_weights(found, graph, override, path, names, tensors)
    if by_node and override.activation:
        found.kinds |= dict.fromkeys(sorted(names), override.activation)
    _add_activations(found, graph, override, path, nodes, tensors, by_node=by_node)


def _want(found: Exceptions, override: Override, names: set[str], path: str) -> None:
    """Float or not is what the last override says."""
    found.left_float -= names
    found.exact -= names
    found.wanted = {name: old for name, old in found.wanted.items() if name not in names}
    if override.float:
        found.left_float |= names
        return
    found.wanted |= dict.fromkeys(sorted(names), path)
    found.exact |= {name for name in names if {name, escape(name)} & set(override.nodes)}


def _add_weights(
    found: Exceptions,
    graph: onnx.GraphProto,
    override: Override,
    path: str,
    named: set[str],
    tensors: set[str],
) -> None:
    constants = initializers(graph)
    weighted = [node for node in graph.node if has_weights(node, constants)]
    reached = {node.name for node in weighted if node.name in named or node.input[1] in tensors}
    for field_name in ("weight", "per_channel"):
        value = getattr(override, field_name)
        if value is not None:
            found.asked.append((f"{path}.{field_name}", reached))
            for name in sorted(reached):
                found.weights.setdefault(name, {})[field_name] = value


def _add_activations(
    found: Exceptions,
    graph: onnx.GraphProto,
    override: Override,
    path: str,
    nodes: Sequence[onnx.NodeProto],
    tensors: set[str],
    *,
    by_node: bool,
) -> None:
    weights = _weights(graph)
    written = tensors.union(*(node.output for node in nodes)) - weights
    touched = written.union(*(node.input for node in nodes)) - weights
    activation = override.activation if override.tensors or not by_node else None
    for field_name, value, reached in (
        ("activation", activation, tensors - weights if by_node else touched),
        ("range", override.range, written),
    ):
        if value is not None:
            found.asked.append((f"{path}.{field_name}", reached))
            for name in sorted(reached):
                found.activations.setdefault(name, {})[field_name] = value


def _weights(graph: onnx.GraphProto) -> set[str]:
    constants = initializers(graph)
    weighted = (node for node in graph.node if node.op_type in WEIGHTED)
    return {name for node in weighted for name in node.input[1:] if name in constants}


def _tensors(graph: onnx.GraphProto) -> Iterable[str]:
    yield from (value.name for value in graph.input)
    yield from (name for node in graph.node for name in node.output)
    yield from initializers(graph)


def entries(
    graph: onnx.GraphProto, chosen: Sequence[str], recipe: Calibrated, exceptions: Exceptions
) -> tuple[Entries, list[str]]:
    """The overrides of every tensor that is not quantized as all others, and reasons.

    Where the recipe reduces ranges, weights keep to 7 bits unless 8 cannot saturate.

    Args:
        graph: the graph as the quantizer will see it.
        chosen: names of the nodes that will be quantized.
        recipe: the resolved recipe.
        exceptions: what the recipe's overrides say.
    """
    made: Entries = {}
    spared = []
    constants = initializers(graph)
    for node in graph.node:
        if node.name not in chosen or not has_weights(node, constants):
            continue
        said = exceptions.weights.get(node.name, {})
        entry = _weight_entry(node, recipe, said)
        if recipe.reduce_range:
            summed = exceptions.activation_of(node, recipe) in EIGHT_BITS
            entry["reduce_range"] = summed and _reduces(node, constants[node.input[1]], entry)
            spared += [] if entry["reduce_range"] else [node.name]
        if said or recipe.reduce_range:
            made[node.input[1]] = [entry]
    used = {name for node in graph.node if node.name in chosen for name in (*node.input, *node.output)}
    used -= _weights(graph)
    said_of = exceptions.activations
    made |= {name: [_activation_entry(said_of[name])] for name in said_of if name in used}
    reasons = [f"full range, for their sums cannot saturate: {listed(spared)}"] if spared else []
    return made, reasons


def _reduces(node: onnx.NodeProto, weights: onnx.TensorProto, entry: Mapping[str, Any]) -> bool:
    if entry["quant_type"] is not QuantType.QInt8:
        return entry["quant_type"] is QuantType.QUInt8
    return can_saturate(node, full_range(array(weights), entry.get("axis")))


def _weight_entry(node: onnx.NodeProto, recipe: Calibrated, said: Mapping[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = {"quant_type": TYPES[said.get("weight", recipe.weight)]}
    if said.get("per_channel", recipe.per_channel):
        entry["axis"] = channel_axis(node)
    elif "weight" not in said:
        entry["symmetric"] = bool(recipe.symmetric.weight)
    return entry


def channel_axis(node: onnx.NodeProto) -> int:
    """The axis of the weights of a Conv, Gemm or MatMul that counts output channels."""
    return 0 if node.op_type == "Conv" or attribute(node, "transB", 0) else 1


def _activation_entry(said: Mapping[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    if "activation" in said:
        entry["quant_type"] = TYPES[said["activation"]]
    if "range" in said:
        entry["rmin"], entry["rmax"] = (np.float32(limit) for limit in said["range"])
    return entry


def refuse_idle(exceptions: Exceptions, chosen: Collection[str], quantized: onnx.GraphProto) -> None:
    """Refuse an override that no quantized weight and no quantized activation follows.

    Raises:
        Refused: `unsupported_option`.
    """
    scaled = set(initializers(quantized))
    for path, names in exceptions.asked:
        of_weights = path.endswith(("weight", "per_channel"))
        if not any(name in chosen if of_weights else f"{name}_scale" in scaled for name in names):
            what = "weights of these are" if of_weights else "tensors of these is"
            which = listed(sorted(names)) or "there are none"
            why = f"none of the {what} quantized on its own: {which}"
            raise unsupported(path, "as asked", why, "name others, or see what stays float")
