from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from app.domain.recipe import StaticInt8
from tests.engine.graphs import build, feeds, weights
from worker.engine.calibrate import collect
from worker.engine.kernels import kernels
from worker.engine.load import save_model
from worker.engine.methods import Setting, quantize
from worker.engine.passes.likeness import likeness_db
from worker.engine.session import open_session

SHAPE: list[int | str] = ["n", 3, 16, 16]


def products(operator: str) -> onnx.ModelProto:
    """Two products, of which the second one's result is read by a Softmax."""
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"], "flatten"),
        helper.make_node(operator, ["flat", "w1"], ["a"], "first"),
        helper.make_node(operator, ["a", "w2"], ["b"], "second"),
        helper.make_node("Softmax", ["b"], ["y"], "softmax"),
    ]
    constants = {"w1": weights(768, 32), "w2": weights(32, 8)}
    return build(nodes, {"x": SHAPE}, {"y": ["n", 8]}, constants)


def quantized(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    save_model(onnx.shape_inference.infer_shapes(model), folder / "model.onnx")
    statistics = collect(folder / "model.onnx", feeds())
    quantize(
        folder / "model.onnx",
        folder / "out.onnx",
        StaticInt8(),
        Setting(isa="x86-vnni", statistics=statistics),
    )
    return onnx.load_model(folder / "out.onnx")


def rounded(model: onnx.ModelProto) -> set[str]:
    """Operators whose results are quantized."""
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    return {
        makers.get(node.input[0], "an input") for node in model.graph.node if node.op_type == "QuantizeLinear"
    }


@pytest.mark.parametrize("operator", ["MatMul", "Gemm"])
def test_a_product_that_only_float_nodes_read_is_not_rounded(tmp_path: Path, operator: str) -> None:
    found = quantized(products(operator), tmp_path)

    softmax = next(node for node in found.graph.node if node.op_type == "Softmax")
    assert {node.output[0]: node.op_type for node in found.graph.node}[softmax.input[0]] == operator
    assert operator in rounded(found)  # the first product is read by an integer kernel
    assert kernels(tmp_path / "out.onnx").integer >= 2


def test_a_product_that_is_the_output_keeps_its_name(tmp_path: Path) -> None:
    model = products("Gemm")
    del model.graph.node[3:]
    model.graph.node[2].output[0] = "y"

    found = quantized(model, tmp_path)

    assert found.graph.node[-1].op_type == "Gemm"
    assert found.graph.node[-1].output[0] == "y"
    assert kernels(tmp_path / "out.onnx").integer >= 2


@pytest.mark.parametrize("operator", ["MatMul", "Gemm"])
@pytest.mark.parametrize("bounds", [[], ["lowest", "highest"]])
def test_what_bounds_a_product_is_not_lost_before_float_nodes(
    tmp_path: Path, operator: str, bounds: list[str]
) -> None:
    model = products(operator)
    del model.graph.node[3:]
    model.graph.node.append(helper.make_node("Clip" if bounds else "Relu", ["b", *bounds], ["y"], "bound"))
    limits = {"lowest": np.float32(-0.1), "highest": np.float32(0.1)}
    model.graph.initializer.extend(numpy_helper.from_array(np.array(limits[name]), name) for name in bounds)

    quantized(model, tmp_path)

    before, after = (
        [open_session(tmp_path / name).run(None, feed) for feed in feeds()]
        for name in ("model.onnx", "out.onnx")
    )
    assert likeness_db(before, after) > 20


def test_a_float_node_reads_what_a_float_node_writes(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Erf", ["x"], ["e"], "erf"),
        helper.make_node("Conv", ["e", "w"], ["c"], "conv"),
        helper.make_node("Erf", ["c"], ["f"], "after"),
        helper.make_node("Add", ["e", "f"], ["y"], "residual"),
    ]
    model = build(nodes, {"x": SHAPE}, {"y": SHAPE}, {"w": weights(3, 3, 1, 1)})

    found = quantized(model, tmp_path)

    residual = next(node for node in found.graph.node if node.name == "residual")
    assert list(residual.input) == ["e", "f"]
