"""Choices by hand: what a mixed recipe quantizes, in which types, and whether each node got its own."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from glob import escape

import onnx

from app.domain.recipe import Calibrated, Mixed, Override
from worker.engine.choices.islands import ABSORBED, MOVERS, WEIGHTED, Islands, has_weights
from worker.engine.choices.overrides import Exceptions
from worker.engine.choices.resolve import unsupported
from worker.engine.choices.selection import by_reason, listed, matching
from worker.engine.examine import family
from worker.engine.methods.static_choices import without_kernel
from worker.engine.passes.scopes import initializers, producers

_FOLLOWING = ABSORBED | MOVERS | {"MaxPool", "AveragePool"}
Wish = Callable[[onnx.NodeProto], str | None]
Got = tuple[str, str | None]  # types of activations and of weights


def wish_by_hand(graph: onnx.GraphProto, recipe: Mixed, exceptions: Exceptions) -> Wish:
    """Why a node is not to be quantized, by what the recipe says of it; None where it is.

    Raises:
        Refused: `selection_matches_nothing`.
    """
    included, excluded = matching(graph, recipe.include), matching(graph, recipe.exclude)
    asked = bool(recipe.include.op_types or recipe.include.nodes)
    cautious = family(graph) == "transformer"
    constants = initializers(graph)

    def unwanted(node: onnx.NodeProto) -> str | None:
        if node.name in exceptions.left_float:
            return "an override says so"
        if node.name in excluded:
            return "excluded"
        named = node.name in exceptions.wanted or node.op_type in ABSORBED
        return None if named else unnamed(node)

    def unnamed(node: onnx.NodeProto) -> str | None:
        if recipe.float:
            return "no override names it"
        if asked:
            return None if node.name in included else "not included"
        alone = cautious and not has_weights(node, constants)
        return "in a transformer only weighted products are quantized" if alone else None

    return unwanted


def stays_apart(graph: onnx.GraphProto, unwanted: Wish, recipe: Mixed, exceptions: Exceptions) -> Wish:
    """Why a MatMul and the Add of its bias do not become one node; None where they may.

    An Add that is named, or that gets another type than its product, has a choice of its own.
    """
    named = matching(graph, recipe.exclude) | exceptions.left_float | exceptions.exact
    makers, kinds = producers(graph), exceptions.kinds

    def apart(node: onnx.NodeProto) -> str | None:
        if node.op_type != "Add":
            return unwanted(node)
        around = {kinds.get(makers[name].name, recipe.activation) for name in node.input if name in makers}
        other = kinds.get(node.name, recipe.activation) not in around and node.name in kinds
        return "it has a choice of its own" if node.name in named or other else None

    return apart


def kinds_of(graph: onnx.GraphProto, found: Islands, recipe: Mixed, exceptions: Exceptions) -> dict[str, str]:
    """The type of activations of each chosen node; what only moves or clips values leaves them in their type.

    Raises:
        Refused: `unsupported_option`, where such a node was asked for by name in another type, or a tensor in
            another type than the node that writes it.
    """
    chosen, makers = set(found.nodes), producers(graph)
    kinds: dict[str, str] = {}
    for node in graph.node:
        if node.name not in chosen:
            continue
        maker = makers.get(node.input[0])
        kind = exceptions.kinds.get(node.name, recipe.activation)
        if node.op_type in _FOLLOWING and maker is not None:
            own, kind = kind, kinds[maker.name]
            if own != kind and node.name in exceptions.exact:
                why = f"{node.name} passes on what {maker.name} writes in {kind}"
                raise unsupported(exceptions.wanted[node.name], f"of {own}", why, "ask for the same of both")
        kinds[node.name] = kind
    _refuse_other_homes(graph, kinds, exceptions)
    return kinds


def _refuse_other_homes(graph: onnx.GraphProto, kinds: Mapping[str, str], exceptions: Exceptions) -> None:
    makers = producers(graph)
    for path, names in exceptions.asked:
        for name in sorted(names) if path.endswith("activation") else ():
            kind, maker = exceptions.activations[name]["activation"], makers.get(name)
            if maker is not None and kinds.get(maker.name, kind) != kind:
                why = f"{maker.name} writes {name} in {kinds[maker.name]}"
                raise unsupported(path, kind, why, f"ask for {kind} of {maker.name}")


def refuse_unkept(graph: onnx.GraphProto, found: Islands, exceptions: Exceptions) -> None:
    """Refuse an override that names a node that stays float, or that no quantized node follows.

    Raises:
        Refused: `unsupported_option`, with the reason that keeps it in float.
    """
    chosen, present = set(found.nodes), {node.name for node in graph.node}
    for path in dict.fromkeys(exceptions.wanted.values()):
        names = [name for name, last in exceptions.wanted.items() if last == path and name in present]
        left = [name for name in names if name not in chosen]
        strict = [name for name in left if name in exceptions.exact]
        if strict or (left and len(left) == len(names)):
            reasons = {name: found.reasons.get(name, "it computes no floats") for name in strict or left}
            why = ", ".join(f"{why} ({listed(nodes)})" for why, nodes in by_reason(reasons).items())
            raise unsupported(path, "of nodes that cannot be quantized", why, "leave them in float")


def types_in(graph: onnx.GraphProto, chosen: Collection[str], exceptions: Exceptions) -> dict[str, Got]:
    """Read from a quantized graph in which types the chosen nodes compute.

    A Relu or Clip that is no more was taken up by the kernel before it, and has its type.

    Args:
        graph: with pairs of QuantizeLinear and DequantizeLinear.
        chosen: names of the nodes that were to be quantized.
        exceptions: with the type of every chosen node.

    Raises:
        Refused: `unsupported_option`, where a node that an override wants has not got its types.
    """
    constants, makers = initializers(graph), producers(graph)
    known = {node.name: node for node in graph.node}
    found: dict[str, Got] = {}
    for name in chosen:
        kind = exceptions.kinds[name]
        got = _types(known[name], makers, constants) if name in known else (kind, None)
        weight = exceptions.weights.get(name, {}).get("weight")
        as_asked = got[0] == kind and (weight is None or got[1] in {weight, None})
        if name in exceptions.wanted and not as_asked:
            detail = f"the quantizer gives {name} {got[0] or 'float'} activations"
            raise unsupported(exceptions.wanted[name], f"of {name}", detail, "leave it in float")
        if got[0]:
            found[name] = got
    return found


def _types(
    node: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto], constants: Mapping[str, onnx.TensorProto]
) -> Got:
    pairs = [makers.get(name) for name in node.input]
    kinds = [
        onnx.TensorProto.DataType.Name(constants[pair.input[2]].data_type).lower()
        if pair is not None and pair.op_type == "DequantizeLinear"
        else ""
        for pair in pairs
    ]
    weight = pairs[1] if node.op_type in WEIGHTED else None
    stored = weight is not None and weight.input[0] in constants
    return kinds[0], kinds[1] if stored else None


def spelled_out(recipe: Calibrated, types: Mapping[str, Got], left: Collection[str]) -> Calibrated:
    """The recipe with an override more for each kind of node: all of its nodes by name, and what they got.

    Args:
        recipe: resolved.
        types: of the quantized nodes.
        left: names of the nodes that stay float.
    """
    groups: dict[Got, list[str]] = {}
    for name, got in types.items():
        groups.setdefault(got, []).append(escape(name))
    made = [
        Override(nodes=tuple(names), activation=activation, weight=weight)  # type: ignore[arg-type]
        for (activation, weight), names in groups.items()
    ]
    made += [Override(nodes=tuple(map(escape, left)), float=True)] if left else []
    return replace(recipe, overrides=(*recipe.overrides, *made))


def told(types: Mapping[str, Got]) -> Iterator[str]:
    """A sentence for each kind of node, and what no integer kernel runs."""
    groups = by_reason({name: _words(got) for name, got in types.items()})
    yield from (f"{words}: {listed(names)}" for words, names in groups.items())
    for activation, weight in dict.fromkeys(types.values()):
        slow = without_kernel(activation, weight) if weight else None
        if slow:
            yield slow


def _words(got: Got) -> str:
    activation, weight = got
    return f"{activation} activations" + (f", {weight} weights" if weight else "")
