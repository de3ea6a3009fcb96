"""float16 in full of what is quantized already: scales and what integer kernels take up stay float32."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from app.domain.recipe import DynamicInt8, Float16, Recipe, Selection, StaticInt8, WeightOnly
from tests.engine.graphs import Array, build, dense, feeds, residual, weights
from tests.engine.quantizing import Case
from worker.engine.kernels import kernels

EXCLUDED = Selection(nodes=("[bf]*",))  # of images the branch, of rows the first
FULL = Float16(compute="full")
RECIPES: dict[str, Recipe] = {
    "static": StaticInt8(exclude=EXCLUDED),
    "static in the standard domain": StaticInt8(exclude=EXCLUDED, activation="uint16", qdq_domain="onnx"),
    "qoperator": StaticInt8(exclude=EXCLUDED, format="qoperator"),
    "dynamic": DynamicInt8(exclude=EXCLUDED, include=Selection(op_types=("*",))),
    "weight_only": WeightOnly(bits=4, exclude=EXCLUDED),
}


def rows() -> onnx.ModelProto:
    """Products of larger sums than float16 holds as integers."""
    model = dense(transposed=False)
    model.graph.node.append(helper.make_node("MatMul", ["h", "w3"], ["y"], "third"))
    model.graph.node[2].output[0] = "h"
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights(32, 32, seed=4), "w3"))
    return model


@pytest.mark.parametrize(
    ("kind", "name"),
    [*(("rows", name) for name in RECIPES), *(("images", name) for name in RECIPES if name != "weight_only")],
)
def test_what_is_quantized_already_keeps_its_kernels(tmp_path: Path, kind: str, name: str) -> None:
    model, samples = (residual(), feeds()) if kind == "images" else (rows(), feeds(shape=(2, 32)))
    first, second = (tmp_path / part for part in ("first", "second"))
    first.mkdir()
    second.mkdir()
    quantized = Case(first, model, samples)
    quantized.quantize(RECIPES[name])
    again = Case(second, onnx.load_model(quantized.out), samples)

    again.quantize(FULL)

    assert again.likeness() > 35
    assert TensorProto.FLOAT16 in again.weight_types().values()
    assert kernels(again.out).integer == kernels(quantized.out).integer


def test_between_nodes_that_stay_float32_nothing_is_rounded(tmp_path: Path) -> None:
    case = Case(tmp_path, residual(), feeds())

    case.quantize(Float16(compute="full", exclude=Selection(nodes=("stem*",))))

    ops = [node.op_type for node in onnx.load_model(case.out).graph.node]
    assert ops == ["Conv", "Relu", "Cast", "Conv", "Add", "Relu", "Conv", "Cast"]
    assert case.likeness() > 50


def test_scales_stay_float32_where_the_operators_would_take_float16(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "round"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], "restore"),
        helper.make_node("Relu", ["d"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "w"], ["y"], "product"),
    ]
    scale: dict[str, Array] = {"s": np.array(1e-6, np.float32), "z": np.array(0, np.uint8)}
    model = build(nodes, {"x": ["n", 32]}, {"y": ["n", 32]}, {**scale, "w": weights(32, 32)}, opset=21)
    samples = [{"x": np.abs(feed["x"]) * np.float32(1e-5)} for feed in feeds(shape=(2, 32))]
    case = Case(tmp_path, model, samples)

    case.quantize(FULL)

    assert case.weight_types()["s"] == TensorProto.FLOAT
    assert case.likeness() > 30
