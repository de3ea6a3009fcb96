"""Recipes without calibration reach nodes in branches, whose weights may lie in any graph around them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from app.domain.errors import Refused
from app.domain.recipe import (
    BFloat16,
    DynamicInt8,
    Float16,
    Mixed,
    Override,
    Recipe,
    Selection,
    StaticInt8,
    WeightOnly,
)
from tests.engine.graphs import FLOAT, build, feeds, weights
from tests.engine.quantizing import Case
from worker.engine.kernels import kernels
from worker.engine.passes.copies import merge_copies
from worker.engine.passes.scopes import all_graphs, all_nodes

ALL = DynamicInt8(include=Selection(op_types=("*",)))
Array = np.ndarray[Any, Any]


def choice(
    branch: Callable[[str], Sequence[onnx.NodeProto]],
    constants: dict[str, Array],
    shape: Sequence[int],
    out: Sequence[int],
    kind: int = FLOAT,
) -> onnx.ModelProto:
    """An If whose branches do the same with the constants of the main graph; nodes write `<branch>y`."""
    value = [helper.make_tensor_value_info("y", FLOAT, out)]
    graphs = [helper.make_graph(branch(name), name, [], value) for name in ("then", "else")]
    for graph in graphs:
        graph.output[0].name = f"{graph.name}y"
    node = helper.make_node("If", ["yes"], ["y"], "if", then_branch=graphs[0], else_branch=graphs[1])
    model = build([node], {"x": shape}, {"y": out}, constants)
    model.graph.input[0].type.tensor_type.elem_type = kind
    model.graph.input.append(helper.make_tensor_value_info("yes", TensorProto.BOOL, []))
    return model


def alternating(samples: list[dict[str, Array]]) -> list[dict[str, Array]]:
    return [{**feed, "yes": np.array(index % 2 == 0)} for index, feed in enumerate(samples)]


def product(name: str) -> list[onnx.NodeProto]:
    return [helper.make_node("MatMul", ["x", "w"], [f"{name}y"], f"{name}_product")]


def gemm(name: str) -> list[onnx.NodeProto]:
    return [helper.make_node("Gemm", ["x", "w", "b"], [f"{name}y"], f"{name}_gemm", transB=1)]


def conv(name: str) -> list[onnx.NodeProto]:
    return [helper.make_node("Conv", ["x", "w", "b"], [f"{name}y"], f"{name}_conv")]


def lstm(name: str) -> list[onnx.NodeProto]:
    """Two that share their weights."""
    first, turned, second = f"{name}1", f"{name}2", f"{name}y"
    return [
        helper.make_node("LSTM", ["x", "w", "r"], [first], f"{name}_first", hidden_size=16),
        helper.make_node("Squeeze", [first, "axis"], [turned], f"{name}_squeeze"),
        helper.make_node("LSTM", [turned, "w", "r"], [second], f"{name}_second", hidden_size=16),
    ]


def gather(name: str) -> list[onnx.NodeProto]:
    return [helper.make_node("Gather", ["w", "x"], [f"{name}y"], f"{name}_table")]


IDS = [{"x": np.array([[i, 3, 7, 200]])} for i in range(8)]
CASES = {
    "MatMul": (
        choice(product, {"w": weights(64, 64)}, (4, 64), (4, 64)),
        feeds(shape=(4, 64)),
    ),
    "Gemm": (
        choice(gemm, {"w": weights(64, 64), "b": weights(64, 1)[:, 0]}, (4, 64), (4, 64)),
        feeds(shape=(4, 64)),
    ),
    "Conv": (
        choice(conv, {"w": weights(16, 3, 3, 3), "b": weights(16, 1)[:, 0]}, (1, 3, 16, 16), (1, 16, 14, 14)),
        feeds(),
    ),
    "LSTM": (
        choice(
            lstm,
            {"w": weights(1, 64, 16), "r": weights(1, 64, 16, seed=1), "axis": np.array([1])},
            (5, 1, 16),
            (5, 1, 1, 16),
        ),
        feeds(shape=(5, 1, 16)),
    ),
    "Gather": (choice(gather, {"w": weights(256, 64)}, (1, 4), (1, 4, 64), TensorProto.INT64), IDS),
}


def of(folder: Path, operator: str) -> Case:
    model, samples = CASES[operator]
    return Case(folder, model, alternating(samples))


@pytest.mark.parametrize(
    ("operator", "integer"), [("MatMul", 2), ("Gemm", 2), ("Conv", 2), ("LSTM", 4), ("Gather", 0)]
)
def test_dynamic_recipes_reach_branches_with_weights_from_outside(
    tmp_path: Path, operator: str, integer: int
) -> None:
    case = of(tmp_path, operator)

    case.quantize(ALL)

    assert kernels(case.out).integer == integer
    assert case.likeness() > 25
    stored = [t for g in all_graphs(onnx.load(case.out).graph) for t in g.initializer]
    large = [t for t in stored if np.prod(t.dims) >= 256]
    assert {t.data_type for t in large} <= {TensorProto.INT8, TensorProto.UINT8}
    assert len(large) == (2 if operator == "LSTM" else 1), "branches share what they shared before"


@pytest.mark.parametrize("recipe", [Float16(), BFloat16()])
@pytest.mark.parametrize("operator", CASES)
def test_storage_in_16_bits_reaches_branches(tmp_path: Path, operator: str, recipe: Recipe) -> None:
    case = of(tmp_path, operator)

    case.quantize(recipe)

    assert case.likeness() > 30
    assert not {t.data_type for t in onnx.load(case.out).graph.initializer if np.prod(t.dims) >= 256} & {
        FLOAT
    }


@pytest.mark.parametrize("operator", ["MatMul", "Gemm", "Gather"])
def test_weights_in_blocks_reach_branches(tmp_path: Path, operator: str) -> None:
    case = of(tmp_path, operator)

    case.quantize(WeightOnly(bits=8))

    assert case.likeness() > 35
    used = {node.op_type for node in all_nodes(onnx.load(case.out).graph)}
    assert used & {"MatMulNBits", "GatherBlockQuantized"}


def test_computing_in_float16_says_that_it_does_not_reach_branches(tmp_path: Path) -> None:
    model, samples = CASES["MatMul"]
    inner = onnx.ModelProto()
    inner.CopyFrom(model)
    del inner.graph.initializer[:]
    for entry in inner.graph.node[0].attribute:
        entry.g.initializer.append(numpy_helper.from_array(weights(64, 64), "w"))
    case = Case(tmp_path, inner, alternating(samples))

    with pytest.raises(Refused, match="does not reach into subgraphs; ask for storage"):
        case.quantize(Float16(compute="full"))


def test_equal_constants_of_branches_become_one() -> None:
    model, _ = CASES["MatMul"]
    copies = onnx.ModelProto()
    copies.CopyFrom(model)
    del copies.graph.initializer[:]
    for entry in copies.graph.node[0].attribute:
        name = f"{entry.g.name}_w"
        entry.g.initializer.append(numpy_helper.from_array(weights(64, 64), name))
        entry.g.node[0].input[1] = name

    merged, names = merge_copies(copies)

    assert len(names) == 2
    assert [tensor.name for tensor in merged.graph.initializer] == ["else_w_2"]
    assert {node.input[1] for node in all_nodes(merged.graph) if node.op_type == "MatMul"} == {"else_w_2"}
    assert merge_copies(merged)[1] == []


def beside_a_branch(read: str) -> onnx.ModelProto:
    """Conv, Relu, Conv, and an If whose branches read a tensor of theirs."""
    value = [helper.make_tensor_value_info("out", FLOAT, [1, 8, 16, 16])]
    then, other = (
        helper.make_graph([helper.make_node(op, [read], [f"{op}_out"], op)], op, [], value)
        for op in ("Neg", "Abs")
    )
    for graph in (then, other):
        graph.output[0].name = f"{graph.name}_out"
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        helper.make_node("If", ["yes"], ["chosen"], "if", then_branch=then, else_branch=other),
        helper.make_node("Conv", ["r", "w2"], ["c"], "second"),
        helper.make_node("Add", ["chosen", "c"], ["y"], "add"),
    ]
    constants = {"w1": weights(8, 3, 1, 1), "w2": weights(8, 8, 1, 1, seed=1)}
    model = build(nodes, {"x": [1, 3, 16, 16]}, {"y": [1, 8, 16, 16]}, constants)
    model.graph.input.append(helper.make_tensor_value_info("yes", TensorProto.BOOL, []))
    return model


@pytest.mark.parametrize("read", ["a", "r"])
@pytest.mark.parametrize(
    "recipe",
    [
        StaticInt8(),
        Mixed(overrides=(Override(nodes=("add",)), Override(nodes=("second",), activation="int16"))),
        DynamicInt8(include=Selection(op_types=("Conv",))),
    ],
    ids=["static", "mixed", "dynamic"],
)
def test_what_a_branch_reads_from_quantized_nodes_is_there_when_it_runs(
    tmp_path: Path, recipe: Recipe, read: str
) -> None:
    case = Case(tmp_path, beside_a_branch(read), alternating(feeds()))

    case.quantize(recipe)

    assert case.likeness() > 25
