"""A product and the row that is added to it run in one integer kernel."""

from typing import Literal

import numpy as np
import onnx
import pytest
from onnx import helper

from app.domain.recipe import DynamicInt8, Selection, StaticInt8, WeightOnly
from tests.engine.graphs import build, dense, feeds, weights
from tests.engine.quantizing import Start
from worker.engine.kernels import kernels


def perceptron(*, rank: int = 2) -> onnx.ModelProto:
    """MatMul, Add, Relu, MatMul, Add, as TensorFlow writes dense layers."""
    every: list[int | str] = ["n", 4]
    lead = every[: rank - 1]
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["p"], "first"),
        helper.make_node("Add", ["b1", "p"], ["a"], "first_bias"),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "w2"], ["q"], "second"),
        helper.make_node("Add", ["q", "b2"], ["y"], "second_bias"),
    ]
    constants = {
        "w1": weights(16, 32),
        "b1": weights(32, 1, seed=1)[:, 0],
        "w2": weights(32, 8, seed=2),
        "b2": weights(8, 1, seed=3)[:, 0],
    }
    return build(nodes, {"x": [*lead, 16]}, {"y": [*lead, 8]}, constants)


def test_a_product_of_matrices_and_its_bias_are_one_kernel(case: Start) -> None:
    dense = case(perceptron(), feeds(shape=(2, 16)))

    dense.quantize(StaticInt8())

    assert {"Gemm"} == dense.op_types() - {"QuantizeLinear", "DequantizeLinear"}
    assert (kernels(dense.out).integer, kernels(dense.out).float) == (2, 0)
    assert dense.likeness() > 30


def test_the_kernel_goes_by_the_name_of_the_product(case: Start) -> None:
    dense = case(perceptron(), feeds(shape=(2, 16)))

    dense.quantize(StaticInt8(include=Selection(op_types=("MatMul",)), exclude=Selection(nodes=("second",))))

    names = {node.name: node.op_type for node in onnx.load_model(dense.out).graph.node}
    assert (names["first"], names["second"], names["second_bias"]) == ("Gemm", "MatMul", "Add")


def test_an_excluded_bias_is_added_in_float(case: Start) -> None:
    dense = case(perceptron(), feeds(shape=(2, 16)))

    found = dense.quantize(StaticInt8(exclude=Selection(nodes=("second_bias",))))

    names = {node.name: node.op_type for node in onnx.load_model(dense.out).graph.node}
    assert (names["first"], names["second"], names["second_bias"]) == ("Gemm", "MatMul", "Add")
    assert "stays float, excluded: second_bias" in found.reasons


@pytest.mark.parametrize("read_twice", [True, False])
def test_only_a_product_of_matrices_that_the_sum_alone_reads_is_joined(
    case: Start, *, read_twice: bool
) -> None:
    model = perceptron(rank=2 if read_twice else 3)
    if read_twice:
        model.graph.output.append(helper.make_tensor_value_info("q", onnx.TensorProto.FLOAT, ["n", 8]))
    dense = case(model, feeds(shape=(2, 16) if read_twice else (2, 4, 16)))

    dense.quantize(StaticInt8())

    names = {node.name: node.op_type for node in onnx.load_model(dense.out).graph.node}
    assert names["second"] == "MatMul"
    assert dense.likeness() > 30


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize(("shape", "beta"), [((32,), 2.0), ((32,), 0.5), ((1, 32), 1.0), ((1,), 1.0)])
def test_a_kernel_adds_every_form_of_a_bias(
    case: Start, form: Literal["qdq", "qoperator"], shape: tuple[int, ...], beta: float
) -> None:
    bias = np.linspace(0.5, 1.5, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    node = helper.make_node("Gemm", ["x", "w", "c"], ["y"], "gemm", beta=beta)
    model = build([node], {"x": ["n", 64]}, {"y": ["n", 32]}, {"w": weights(64, 32), "c": bias})
    product = case(model, feeds(shape=(2, 64)))

    product.quantize(StaticInt8(format=form))

    assert kernels(product.out).integer == 1
    assert product.likeness() > 28


@pytest.mark.parametrize("recipe", [DynamicInt8(), WeightOnly(bits=8)], ids=lambda recipe: recipe.method)
def test_a_node_may_be_called_what_adds_a_bias(case: Start, recipe: DynamicInt8 | WeightOnly) -> None:
    model = dense()
    model.graph.node[1].name = "first_bias"
    dense_case = case(model, feeds(shape=(4, 32)))

    dense_case.quantize(recipe)

    names = [node.name for node in onnx.load_model(dense_case.out).graph.node if node.name]
    assert len(names) == len(set(names))
    assert dense_case.likeness() > 30
