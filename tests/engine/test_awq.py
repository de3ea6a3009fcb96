from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from app.domain.recipe import WeightOnly
from tests.engine.few_bits import Case, Feeds, product
from tests.engine.graphs import Array, attention, build, dense, weights
from worker.engine.evaluate.layers import layers

LOUD = (3, 40, 77, 120)


def outliers(width: int = 128, count: int = 16) -> Feeds:
    """Rows that are independent, with four channels thirty times as large as the others."""
    rng = np.random.default_rng(5)
    sizes = np.ones(width)
    sizes[[channel for channel in LOUD if channel < width]] = 30
    return [{"x": (rng.normal(size=(8, width)) * sizes).astype(np.float32)} for _ in range(count)]


def normalized(writer: str, width: int = 128, *, residual: bool = False) -> onnx.ModelProto:
    """Two products of one normalized tensor whose gain makes four channels loud."""
    gain = np.ones(width, np.float32)
    gain[list(LOUD)] = 30
    parts: dict[str, list[onnx.NodeProto]] = {
        "LayerNormalization": [helper.make_node("LayerNormalization", ["x", "gain", "bias"], ["h"], "norm")],
        "Mul and Add": [
            helper.make_node("Mul", ["x", "gain"], ["gained"], "gaining"),
            helper.make_node("Add", ["gained", "bias"], ["h"], "biasing"),
        ],
        "Mul": [helper.make_node("Mul", ["x", "gain"], ["h"], "gaining")],
    }
    nodes = [
        *parts[writer],
        helper.make_node("MatMul", ["h", "w1"], ["a"], "first"),
        helper.make_node("MatMul", ["h", "w2"], ["b"], "second"),
        helper.make_node("Add", ["a", "b"], ["c"], "sum"),
        helper.make_node("Add", ["c", "h"], ["y"], "residual")
        if residual
        else helper.make_node("Relu", ["c"], ["y"], "relu"),
    ]
    made: dict[str, Array] = {"gain": gain, "w1": weights(width, width), "w2": weights(width, width, seed=1)}
    if writer != "Mul":
        made["bias"] = weights(width, 1, seed=2)[:, 0]
    return build(nodes, {"x": ["batch", width]}, {"y": ["batch", width]}, made)


def quiet(width: int = 128) -> Feeds:
    rng = np.random.default_rng(9)
    return [{"x": rng.normal(size=(8, width)).astype(np.float32)} for _ in range(16)]


def likeness(case: Case, algorithm: Any, **fields: Any) -> float:
    case.resolved(WeightOnly(algorithm=algorithm, accuracy_level=0, **fields))
    return case.likeness()


@pytest.mark.parametrize("fields", [{"bits": 2}, {"bits": 4}, {"number_format": "nf4"}], ids=str)
def test_awq_beats_rounding_to_nearest_by_far_where_channels_are_loud(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    case = Case(tmp_path, product(128), outliers())

    assert likeness(case, "awq", **fields) > likeness(case, "rtn", **fields) + 6


@pytest.mark.parametrize("writer", ["LayerNormalization", "Mul and Add", "Mul"])
def test_scales_go_into_what_wrote_the_tensor(tmp_path: Path, writer: str) -> None:
    case = Case(tmp_path, normalized(writer), quiet())
    plain = likeness(case, "rtn", bits=4)

    quantized = case.quantize(WeightOnly(algorithm="awq", bits=4, accuracy_level=0), with_samples=True)

    assert "awq scaled what writes h" in quantized.reasons
    before = len(case_nodes(normalized(writer), "Mul"))
    assert len(case.nodes("Mul")) == before
    assert case.likeness() > plain + 6


def case_nodes(model: onnx.ModelProto, op_type: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == op_type]


def test_a_mul_divides_where_others_read_the_tensor_too(tmp_path: Path) -> None:
    case = Case(tmp_path, normalized("LayerNormalization", residual=True), quiet())

    quantized = case.quantize(WeightOnly(algorithm="awq", bits=4, accuracy_level=0), with_samples=True)

    assert "awq added a Mul behind h" in quantized.reasons
    (mul,) = case.nodes("Mul")
    readers = [node.name for node in case.nodes("MatMulNBits") if node.input[0] == mul.output[0]]
    assert readers == ["first", "second"]
    found = case.likeness()
    assert found > likeness(case, "rtn", bits=4) + 6


def test_products_of_one_tensor_share_one_mul(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    sizes = np.where(np.arange(32) % 8 == 3, 30, 1)
    words = [{"x": (rng.normal(size=(1, 8, 32)) * sizes).astype(np.float32)} for _ in range(8)]
    case = Case(tmp_path, attention(), words)

    case.resolved(WeightOnly(algorithm="awq", bits=4, block_size=16))

    (mul,) = case.nodes("Mul")
    assert [node.input[0] for node in case.nodes("MatMulNBits")] == [mul.output[0]] * 3


def test_channels_of_one_size_are_not_scaled(tmp_path: Path) -> None:
    case = Case(tmp_path, product(128), quiet())

    quantized = case.quantize(WeightOnly(algorithm="awq", bits=4), with_samples=True)

    assert not case.nodes("Mul")
    assert "awq scales nothing, for it would win too little, behind x" in quantized.reasons


def test_channels_that_calibration_never_saw_stay_finite(tmp_path: Path) -> None:
    samples = outliers()
    for feed in samples:
        feed["x"][:, 5] = 0
    case = Case(tmp_path, product(128), samples)
    case.resolved(WeightOnly(algorithm="awq", bits=4, accuracy_level=0))
    for feed in case.samples:
        feed["x"][:, 5] = 1

    assert case.likeness() > 15


def test_a_weight_that_meets_two_tensors_is_quantized_alone(tmp_path: Path) -> None:
    case = Case(tmp_path, dense(shared=True), [{"x": feed["x"][:, :32]} for feed in outliers()])

    quantized = case.quantize(WeightOnly(algorithm="awq", bits=4), with_samples=True)

    why = "quantized by hqq, what it is multiplied with is in a subgraph, or differs between nodes"
    assert any(reason.startswith(why) for reason in quantized.reasons)
    assert case.likeness() > 12


def test_layers_are_compared_behind_what_was_scaled(tmp_path: Path) -> None:
    """The float normalization's output is not what the products read: nodes are compared from before it."""
    case = Case(tmp_path, normalized("Mul and Add"), quiet())
    case.resolved(WeightOnly(algorithm="awq", bits=4, accuracy_level=0))

    found = layers(case.prepared, case.out, case.samples)

    assert found is not None
    products = [layer for layer in found.layers if layer.op_type == "MatMul"]
    assert len(products) == 2
    for layer in products:
        assert layer.local_sqnr_db is not None
        assert layer.local_sqnr_db > 20
