"""Nodes over blocks in place of nodes over float matrices."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from worker.engine.methods.weight_only.blocks import Blocks, Floats, pack
from worker.engine.methods.weight_only.bnb4 import TableBlocks, pack_pairs
from worker.engine.methods.weight_only.choose import Weight
from worker.engine.methods.weight_only.forms import Quantized
from worker.engine.passes.scopes import (
    all_graphs,
    all_nodes,
    array,
    as_initializer,
    attribute,
    names_used,
    replace_nodes,
    unused_name,
)

_DOMAIN = "com.microsoft"
_BIAS = 2
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Stored:
    """A quantized weight in the file: the names of codes, scales and zero points (none if symmetric).

    `operator` multiplies by it, or looks up in it, with these attributes.
    """

    weight: Weight
    names: tuple[str, ...]
    operator: str
    attributes: Mapping[str, Any]


def matrix(model: onnx.ModelProto, weight: Weight) -> Floats:
    """The weight's values [rows, columns], its factor multiplied in."""
    graph = list(all_graphs(model.graph))[weight.owner]
    values = array(next(t for t in graph.initializer if t.name == weight.name))
    rows: Floats = np.ascontiguousarray(values.T if weight.turned else values) * np.float32(weight.factor)
    return rows


def replace_matrix(model: onnx.ModelProto, weight: Weight, values: Floats) -> None:
    """Put other values [rows, columns] in the place of the weight's."""
    graph = list(all_graphs(model.graph))[weight.owner]
    tensor = next(t for t in graph.initializer if t.name == weight.name)
    plain = values / np.float32(weight.factor or 1.0)
    tensor.CopyFrom(as_initializer(plain.T if weight.turned else plain, weight.name))


def store(model: onnx.ModelProto, weight: Weight, quantized: Quantized, names: set[str]) -> Stored:
    """Add a quantized weight to the graph that holds the float one."""
    graph = list(all_graphs(model.graph))[weight.owner]
    if isinstance(quantized, TableBlocks):
        arrays: Arrays = {"codes": pack_pairs(quantized), "scales": quantized.scales}
        table = quantized.table
        operator, attributes = "MatMulBnb4", {"quant_type": table.quant_type, "block_size": table.block_size}
    else:
        arrays = _of_blocks(quantized, weight)
        grid = quantized.grid
        operator = "GatherBlockQuantized" if weight.table else "MatMulNBits"
        attributes = {"bits": grid.bits, "block_size": grid.block_size}
    stored = tuple(unused_name(f"{weight.name}_{part}", names) for part in arrays)
    graph.initializer.extend(as_initializer(a, n) for a, n in zip(arrays.values(), stored, strict=True))
    return Stored(weight, stored, operator, attributes)


def _of_blocks(blocks: Blocks, weight: Weight) -> Arrays:
    bits = blocks.grid.bits
    codes = pack(blocks.codes, bits)
    if weight.table:  # GatherBlockQuantized knows no filling
        codes = pack(blocks.codes.reshape(weight.rows, -1)[:, : weight.columns], bits)
    arrays: Arrays = {"codes": codes, "scales": blocks.scales}
    return arrays if blocks.grid.symmetric else {**arrays, "zeros": pack(blocks.zeros, bits)}


def rewrite(model: onnx.ModelProto, sites: Mapping[str, Stored], names: set[str]) -> None:
    """Let the nodes read the stored weights; float weights that nothing reads any more go.

    1. MatMul becomes MatMulNBits or MatMulBnb4, Gemm one of these and Add, Gather GatherBlockQuantized.
    2. The node that takes another's place keeps its name.

    Args:
        model: changed in place.
        sites: node name to its weight.
        names: of all tensors and nodes; new ones are added.
    """
    for graph in all_graphs(model.graph):
        nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            stored = sites.get(node.name)
            nodes.extend(_rewritten(node, stored, names) if stored else [node])
        replace_nodes(graph, nodes)
    _drop_unread(model)


def _rewritten(node: onnx.NodeProto, stored: Stored, names: set[str]) -> list[onnx.NodeProto]:
    if stored.weight.table:
        return [_lookup(node, stored)]
    bias = node.op_type == "Gemm" and len(node.input) > _BIAS and node.input[_BIAS]
    if not bias:
        return [_product(node, stored, node.output[0])]
    product = unused_name(f"{node.output[0]}_product", names)
    first = _product(node, stored, product)
    beta = attribute(node, "beta", 1.0)
    if beta == 1.0:
        return [first, _add(node, product, bias, names)]
    scaled, factor = (unused_name(f"{node.output[0]}_{part}", names) for part in ("bias", "beta"))
    value = as_initializer(np.array(beta, np.float32), factor)
    filling, scaling = (unused_name(f"{node.name}_{part}", names) for part in ("beta", "scaled"))
    constant = helper.make_node("Constant", [], [factor], filling, value=value)
    times = helper.make_node("Mul", [bias, factor], [scaled], scaling)
    return [first, constant, times, _add(node, product, scaled, names)]


def _add(node: onnx.NodeProto, product: str, bias: str, names: set[str]) -> onnx.NodeProto:
    name = unused_name(f"{node.name}_bias", names)
    return helper.make_node("Add", [product, bias], [node.output[0]], name)


def _product(node: onnx.NodeProto, stored: Stored, output: str) -> onnx.NodeProto:
    return helper.make_node(
        stored.operator,
        [node.input[0], *stored.names],
        [output],
        node.name,
        domain=_DOMAIN,
        K=stored.weight.columns,
        N=stored.weight.rows,
        **stored.attributes,
    )


def _lookup(node: onnx.NodeProto, stored: Stored) -> onnx.NodeProto:
    codes, *others = stored.names
    return helper.make_node(
        stored.operator,
        [codes, node.input[1], *others],
        [node.output[0]],
        node.name,
        domain=_DOMAIN,
        gather_axis=0,
        quantize_axis=1,
        **stored.attributes,
    )


def _drop_unread(model: onnx.ModelProto) -> None:
    read = {name for node in all_nodes(model.graph) for name in names_used(node)}
    for graph in all_graphs(model.graph):
        read |= {value.name for value in graph.output}
        kept = [tensor for tensor in graph.initializer if tensor.name in read]
        if len(kept) < len(graph.initializer):
            del graph.initializer[:]
            graph.initializer.extend(kept)
