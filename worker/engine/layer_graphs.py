"""Graphs that hold a float model against its quantized form, node by node, in one run."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from worker.engine.passes.scopes import (
    all_names,
    initializers,
    names_used,
    producers,
    real_inputs,
    subgraphs,
)
from worker.engine.ready import Feed
from worker.engine.session import open_bytes

OTHER = "candidate/"  # what the candidate's tensors are called beside the float model's
_COPY, _SUM = "copy/", "sum/"
_QUANTIZED = (
    "QuantizeLinear",
    "DequantizeLinear",
    "Dynamic",
    "QLinear",
    "QGemm",
    "ConvInteger",
    "MatMulInteger",
    "MatMulBnb4",
    "MatMulNBits",
    "GatherBlockQuantized",
)
_ABSORBED = frozenset({"Relu", "Clip"})
_PRODUCTS = ("Conv", "MatMul", "Gemm", "QLinearConv", "QLinearMatMul", "QGemm", "DynamicQuantizeMatMul")
_HALVES = frozenset({onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16})


@dataclass(frozen=True)
class Layer:
    """A float node, and the candidate's nodes that do its work, from the float model's tensors on.

    Where quantizing absorbed a Relu, `output` is what the Relu writes, and `theirs` the clipped tensor.
    """

    node: onnx.NodeProto
    quantized: Sequence[onnx.NodeProto]
    output: str
    theirs: str


@dataclass(frozen=True)
class Sums:
    """Names of three scalars: Σ float², Σ (float - local)², Σ (float - cumulative)²."""

    signal: str
    local: str
    cumulative: str

    @property
    def names(self) -> tuple[str, str, str]:
        """In this order."""
        return self.signal, self.local, self.cumulative


def find_layers(base: onnx.GraphProto, candidate: onnx.GraphProto) -> list[Layer]:
    """The float nodes that a candidate computes otherwise, in the order of the graph.

    Where a candidate has no tensors of a float node's name, its nodes would stand for several of them: more
    than one product is no layer.
    """
    writers, constants = producers(candidate), initializers(candidate)
    places = {node.output[0]: place for place, node in enumerate(candidate.node) if node.output}
    kept = {value.name for value in candidate.input} | {n for node in base.node for n in node.output}
    named, theirs = {n.name: n for n in base.node}, {n.name for n in candidate.node}
    found = []
    for node in base.node:
        writer = writers.get(node.output[0]) if node.output and node.output[0] else None
        if writer is None:
            continue
        absorbed = node.op_type in _ABSORBED and node.name not in theirs
        same = _clipped(node.output[0], writers) if absorbed else node.output[0]
        nodes = sorted(_behind(same, writers, kept - {node.output[0]}), key=lambda n: places[n.output[0]])
        products = sum(n.op_type.startswith(_PRODUCTS) for n in nodes)
        simple = products <= 1 and not any(True for n in nodes for _ in subgraphs(n))
        if simple and any(_quantizes(n, constants) for n in nodes):
            origin = named.get(writer.name, node)  # what absorbed this node, or took up its bias
            found.append(Layer(origin, nodes, node.output[0], same))
    return found


def _clipped(tensor: str, writers: Mapping[str, onnx.NodeProto]) -> str:
    """What quantizing clips to the bounds of a Relu that is no more."""
    name = f"{tensor}_DequantizeLinear_Output"
    return name if name in writers else tensor


def _behind(output: str, writers: Mapping[str, onnx.NodeProto], kept: set[str]) -> list[onnx.NodeProto]:
    """The nodes that make a tensor of tensors that the float model has too."""
    found: dict[str, onnx.NodeProto] = {}
    waiting = [output]
    while waiting:
        name = waiting.pop()
        node = writers.get(name)
        if node is None or name in kept or node.output[0] in found:
            continue
        found[node.output[0]] = node
        waiting.extend(names_used(node))
    return list(found.values())


def _quantizes(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    if node.op_type == "Cast":
        source = constants.get(node.input[0])
        return source is not None and source.data_type in _HALVES
    return node.op_type.startswith(_QUANTIZED)


def merged(
    base: onnx.ModelProto, candidate: onnx.ModelProto, layers: Sequence[Layer]
) -> tuple[onnx.ModelProto, list[Sums]]:
    """Float model, candidate, and each layer on float inputs, side by side; the outputs are sums of squares.

    Args:
        base: the float model.
        candidate: with the same inputs and operator sets.
        layers: as `find_layers` gives them; float32 tensors.

    Returns:
        The model, with three scalars for each layer.
    """
    local = [_local(layer, i, initializers(candidate.graph)) for i, layer in enumerate(layers)]
    beside = onnx.compose.add_prefix_graph(candidate.graph, OTHER, rename_inputs=False)
    kinds = ("signal", "local", "cumulative")
    sums = [Sums(*(f"{_SUM}{i}/{kind}" for kind in kinds)) for i in range(len(layers))]
    model = _surroundings(base, candidate)
    graph = model.graph
    graph.node.extend((*base.graph.node, *beside.node))
    graph.initializer.extend((*base.graph.initializer, *beside.initializer))
    for index, (layer, nodes, three) in enumerate(zip(layers, local, sums, strict=True)):
        graph.node.extend(nodes)
        graph.node.extend(_reductions(layer, index, three))
        graph.output.extend(helper.make_tensor_value_info(name, 1, []) for name in three.names)
    return model, sums


def alone(base: onnx.ModelProto, candidate: onnx.ModelProto, layer: Layer) -> onnx.ModelProto:
    """The float model with one node quantized."""
    constants = initializers(candidate.graph)
    nodes = _local(layer, 0, constants)
    replaced = next(node for node in base.graph.node if layer.output in node.output)
    others = {_copied(0, name): name for name in replaced.output if name != layer.output}
    outputs = others | {_copied(0, layer.theirs): layer.output}  # unclipped, only copies have it
    for node in nodes:
        node.output[:] = [outputs.get(name, name) for name in node.output]
    model = _surroundings(base, candidate)
    for node in base.graph.node:
        model.graph.node.extend(nodes if layer.output in node.output else [node])
    model.graph.initializer.extend(base.graph.initializer)
    read = {name for node in nodes for name in node.input}
    for name in sorted(read & {OTHER + name for name in constants}):
        model.graph.initializer.add().CopyFrom(constants[name.removeprefix(OTHER)])
        model.graph.initializer[-1].name = name
    model.graph.output.extend(base.graph.output)
    return model


def _local(layer: Layer, number: int, constants: Iterable[str]) -> list[onnx.NodeProto]:
    """Copies of a layer's nodes that write tensors of their own."""
    named = {name: OTHER + name for name in constants}
    named |= {name: _copied(number, name) for node in layer.quantized for name in node.output if name}
    copies = []
    for node in layer.quantized:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = _copied(number, node.name or node.output[0])
        copy.input[:] = [named.get(name, name) for name in node.input]
        copy.output[:] = [named.get(name, name) for name in node.output]
        copies.append(copy)
    return copies


def _copied(number: int, name: str) -> str:
    return f"{_COPY}{number}/{name}"


def sums(
    base: onnx.ModelProto, candidate: onnx.ModelProto, layers: Sequence[Layer], feeds: Iterable[Feed]
) -> npt.NDArray[np.float64]:
    """The three sums of each layer over all feeds, [layers, 3]; arguments as of `merged`."""
    model, names = merged(base, candidate, layers)
    session = open_bytes(model.SerializeToString())
    wanted = [name for three in names for name in three.names]
    total = np.zeros(len(wanted))
    for feed in feeds:
        total += np.asarray(session.run(wanted, dict(feed)), np.float64)
    return total.reshape(-1, 3)


def _reductions(layer: Layer, index: int, sums: Sums) -> list[onnx.NodeProto]:
    ours = layer.output
    nodes = [helper.make_node("ReduceSumSquare", [ours], [sums.signal], keepdims=0)]
    for other, name in ((_copied(index, layer.theirs), sums.local), (OTHER + layer.theirs, sums.cumulative)):
        nodes.append(helper.make_node("Sub", [ours, other], [f"{name}/difference"]))
        nodes.append(helper.make_node("ReduceSumSquare", [f"{name}/difference"], [name], keepdims=0))
    return nodes


def _surroundings(base: onnx.ModelProto, candidate: onnx.ModelProto) -> onnx.ModelProto:
    model = helper.make_model(
        helper.make_graph([], "layers", real_inputs(base.graph), []),
        opset_imports=list(candidate.opset_import),
        ir_version=max(base.ir_version, candidate.ir_version),
    )
    known = {entry.domain for entry in model.opset_import}
    model.opset_import.extend(entry for entry in base.opset_import if entry.domain not in known)
    return model


def comparable(base: onnx.ModelProto, candidate: onnx.ModelProto) -> bool:
    """Whether both can be put side by side: no functions, no names that begin like ours."""
    taken = any(name.startswith((OTHER, _COPY, _SUM)) for name in all_names(base.graph))
    return not (base.functions or candidate.functions or taken)
