"""What makes a quantized model slow, as the runtime runs it, and the recipe that mends it."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import onnx

from app.domain.target import RULES
from worker.engine.float_nodes import NAMED, name_of, unfused, writers_of
from worker.engine.passes.scopes import attribute

_TYPES = onnx.TensorProto
_WIDE = frozenset({_TYPES.INT16, _TYPES.UINT16})
_NIBBLES = frozenset({_TYPES.INT4, _TYPES.UINT4})
_NAMES: Mapping[int, str] = {_TYPES.INT8: "int8", _TYPES.UINT8: "uint8"}
_PAIRS = frozenset({"QuantizeLinear", "DequantizeLinear"})
_ANEW = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeMatMul"})
# where integer kernels have their activations and their weights
_OPERANDS = {"QLinearConv": (0, 3), "QLinearMatMul": (0, 3), "QGemm": (0, 3), "MatMulIntegerToFloat": (0, 1)}
_FAST_LEVEL = 4  # MatMulNBits' accuracy_level of int8 kernels
Nodes = Sequence[onnx.NodeProto]


@dataclass(frozen=True)
class Ran:
    """A graph as the runtime runs it.

    Attributes:
        nodes: of the graph and of its subgraphs.
        types: the element type of each tensor.
        integer: how many nodes are integer kernels.
        inner: what nodes in subgraphs write.
        isa: of this host, a key of `RULES`.
    """

    nodes: Nodes
    types: Mapping[str, int]
    integer: int
    inner: AbstractSet[str]
    isa: str

    def is_inner(self, node: onnx.NodeProto) -> bool:
        """Whether a node lies in a subgraph, which static recipes do not reach."""
        return bool(self.inner & set(node.output))


def hindrances(ran: Ran) -> Iterator[str]:
    """What slows a quantized graph down and the recipe that mends it, the gravest first.

    Where nothing can be blamed, all that can be said is that integer kernels win less than rounding costs.
    """
    causes = [
        *_integer_convolutions(ran),
        *_unfused(ran),
        *_slow_types(ran),
        *_blocks(ran.nodes),
        *_anew(ran),
        *_conversions(ran),
    ]
    yield from causes or [_nothing_else(ran)]


def _recipe(method: str, **fields: object) -> str:
    return json.dumps({"method": method, **fields})


def _static(ran: Ran, **fields: object) -> str:
    rules = RULES[ran.isa]
    return _recipe("static_int8", activation=rules.activation, weight=rules.weight, **fields)


def _named(nodes: Nodes) -> str:
    more = f" and {len(nodes) - NAMED} more" if len(nodes) > NAMED else ""
    return ", ".join(map(name_of, nodes[:NAMED])) + more


def _integer_convolutions(ran: Ran) -> Iterator[str]:
    found = [node for node in ran.nodes if node.op_type == "ConvInteger"]
    if not found:
        return
    without = f"leave Conv out: {_recipe('dynamic_int8')}"
    inner = any(ran.is_inner(node) for node in found)
    static = f"give calibration data and use {_recipe('static_int8')}, or {without}"
    mend = f"{without} (static recipes do not reach subgraphs)" if inner else static
    yield f"{len(found)} Conv run as ConvInteger, which is several times slower than float Conv: {mend}"


def _unfused(ran: Ran) -> Iterator[str]:
    groups: dict[tuple[str, str], list[onnx.NodeProto]] = {}
    writers = writers_of(ran.nodes)
    quantized = {name for node in ran.nodes if node.op_type == "QuantizeLinear" for name in node.input[:1]}
    for node in unfused(ran.nodes):
        groups.setdefault(_why_unfused(node, ran, writers, quantized), []).append(node)
    for (why, mend), nodes in sorted(groups.items(), key=lambda item: -len(item[1])):
        yield f"{len(nodes)} products compute in float on dequantized values, {why} ({_named(nodes)}): {mend}"


def _why_unfused(
    node: onnx.NodeProto, ran: Ran, writers: Mapping[str, onnx.NodeProto], quantized: AbstractSet[str]
) -> tuple[str, str]:
    """Why no integer kernel took the place of a product, and what mends it."""
    makers = [writers.get(name) for name in node.input[:2]]
    read = [ran.types.get(m.input[0]) if m and m.op_type == "DequantizeLinear" else None for m in makers]
    if _WIDE & set(read):
        return "for 16-bit activations have no integer kernel on a CPU", f"use {_static(ran)}"
    if _NIBBLES & set(read):
        return "for 4-bit weights have no integer kernel here", f"use {_static(ran)}"
    if None in read:
        return "for only one operand is rounded", _round_both(node, ran, writers)
    if read[0] == _TYPES.INT8 and RULES[ran.isa].activation == "uint8":
        return f"for int8 activations fuse less often than uint8 on {ran.isa}", f"use {_static(ran)}"
    if "Conv" in node.op_type and node.output[0] not in quantized:
        return "for their results are not rounded", f"use {_recipe('static_int8')}, which rounds results too"
    return "for their pairs did not fuse", f"use {_static(ran)}, or exclude them"


def _round_both(node: onnx.NodeProto, ran: Ran, writers: Mapping[str, onnx.NodeProto]) -> str:
    """How the other operand is rounded too: static recipes, which ran already here, round constants only."""
    weights = writers.get(node.input[1])
    if ran.integer and weights is not None and weights.op_type == "DequantizeLinear":
        return "upload the model with float weights, for recipes leave those alone that are rounded already"
    if ran.integer and weights is not None:
        return "no recipe rounds the other, for what computes it stays float"
    return f"use {_recipe('static_int8')}, which rounds both"


def _slow_types(ran: Ran) -> Iterator[str]:
    """Types for which this CPU has no fast kernel."""
    if ran.isa == "generic":
        return
    rules = RULES[ran.isa]
    groups: dict[tuple[str, str], list[onnx.NodeProto]] = {}
    for node in ran.nodes:
        types = [ran.types.get(node.input[i]) for i in _OPERANDS.get(node.op_type, ())]
        names = tuple(_NAMES[kind] for kind in types if kind is not None and kind in _NAMES)
        if len(names) == 2 and names != (rules.activation, rules.weight):  # noqa: PLR2004
            groups.setdefault((names[0], names[1]), []).append(node)
    for (activation, weight), nodes in groups.items():
        slow = f"{len(nodes)} integer kernels multiply {activation} by {weight} ({_named(nodes)})"
        fast = f"{ran.isa} multiplies {rules.activation} by {rules.weight} faster"
        yield f"{slow}, where {fast}: use {_static(ran)}"


def _blocks(nodes: Nodes) -> Iterator[str]:
    tables = sum(node.op_type == "MatMulBnb4" for node in nodes)
    if tables:
        yield f"{tables} MatMulBnb4 widen their weights at each run: use number_format int"
    blocks = [node for node in nodes if node.op_type == "MatMulNBits"]
    widened = [node for node in blocks if attribute(node, "accuracy_level", 0) < _FAST_LEVEL]
    if widened:
        yield f"{len(widened)} MatMulNBits widen their weights at each run: use accuracy_level 4"
    elif blocks:
        yield (
            f"{len(blocks)} MatMulNBits win where few rows are multiplied at a time: for many rows use "
            f"{_recipe('dynamic_int8')} or {_recipe('static_int8')}"
        )


def _anew(ran: Ran) -> Iterator[str]:
    found = [node for node in ran.nodes if node.op_type in _ANEW]
    if not found or any(node.op_type == "ConvInteger" for node in ran.nodes):
        return
    what = f"activations are quantized anew at each run by {len(found)} nodes ({_named(found)})"
    if any(ran.is_inner(node) for node in found):
        mend = f"{_recipe('float16')} keeps the float model's speed; static recipes do not reach subgraphs"
    else:
        mend = f"{_recipe('static_int8')} takes their ranges from calibration"
    yield f"{what}: {mend}"


def _conversions(ran: Ran) -> Iterator[str]:
    """Values that go back and forth between integer kernels and float nodes."""
    counts = Counter(node.op_type for node in ran.nodes)
    pairs = sum(counts[kind] for kind in _PAIRS)
    if pairs <= ran.integer or not ran.integer or any(True for _ in unfused(ran.nodes)):
        return
    writers = writers_of(ran.nodes)
    between, beside = list[onnx.NodeProto](), dict[str, None]()
    for node in ran.nodes:
        restored = [w for name in node.input if (w := writers.get(name)) and w.op_type == "DequantizeLinear"]
        if restored and node.op_type not in _PAIRS:
            between.append(node)
            makers = (_kernel(pair.input[0], writers) for pair in restored)
            beside |= {name_of(maker): None for maker in makers if maker}
    if not between:
        return
    operators = Counter(node.op_type for node in between)
    named = ", ".join(f"{count} {kind}" for kind, count in operators.most_common(NAMED))
    excluded = _recipe("static_int8", exclude={"nodes": list(beside)[:NAMED]})
    yield (
        f"{pairs} QuantizeLinear and DequantizeLinear run beside {ran.integer} integer kernels, "
        f"around {named} in float: leave the nodes before these float too, as {excluded}"
    )


def _kernel(tensor: str, writers: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """The integer kernel that makes a tensor, turned around or not."""
    maker = writers.get(tensor)
    while maker is not None and maker.op_type == "Transpose":
        maker = writers.get(maker.input[0])
    found = maker is not None and maker.op_type.startswith("Q") and maker.op_type not in _PAIRS
    return maker if found else None


def _nothing_else(ran: Ran) -> str:
    if ran.integer:
        return (
            "what can run in integer kernels does, and it is too small: rounding costs more than they save; "
            f"{_recipe('float16')} halves the size at the float model's speed"
        )
    return "no node runs in an integer kernel, so there is nothing to win: only the size is smaller"
