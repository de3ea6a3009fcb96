from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from app.domain.recipe import StaticInt8
from tests.engine.graphs import build, convolution, feeds, weights
from tests.engine.quantizing import Case
from worker.engine.calibrate import Statistics, collect
from worker.engine.load import save_model
from worker.engine.methods import Setting, quantize
from worker.engine.methods.concat import share_ranges
from worker.engine.methods.stem import pad_stems
from worker.engine.passes.likeness import likeness_db
from worker.engine.session import open_session

Array = np.ndarray[Any, Any]


def fire() -> onnx.ModelProto:
    """Two Convs side by side, joined and read by a third."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "left"),
        helper.make_node("Conv", ["x", "w2"], ["b"], "right"),
        helper.make_node("Concat", ["a", "b"], ["c"], "join", axis=1),
        helper.make_node("Conv", ["c", "w3"], ["y"], "last"),
    ]
    constants = {"w1": weights(8, 3, 1, 1), "w2": 9 * weights(8, 3, 1, 1), "w3": weights(4, 16, 1, 1)}
    return build(nodes, {"x": ["n", 3, 16, 16]}, {"y": ["n", 4, 16, 16]}, constants)


def collected(model: onnx.ModelProto, folder: Path) -> Statistics:
    save_model(model, folder / "model.onnx")
    return collect(folder / "model.onnx", feeds())


def test_a_stem_of_three_channels_is_padded_to_four_and_computes_the_same(tmp_path: Path) -> None:
    model = onnx.shape_inference.infer_shapes(convolution())
    statistics = collected(model, tmp_path)
    before = open_session(tmp_path / "model.onnx").run(None, feeds()[0])[0]

    widened, reasons = pad_stems(model, [node.name for node in model.graph.node], statistics)

    save_model(model, tmp_path / "padded.onnx")
    np.testing.assert_array_equal(open_session(tmp_path / "padded.onnx").run(None, feeds()[0])[0], before)
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    assert {t.name: list(t.dims) for t in model.graph.initializer}[conv.input[1]][1] == 4
    assert conv.input[0] in widened.tensors
    assert "padded to 4" in reasons[0]


def test_a_node_may_be_called_what_pads_a_stem(tmp_path: Path) -> None:
    model = convolution()
    model.graph.node[2].name = "first_pad"
    case = Case(tmp_path, model, feeds())

    case.quantize(StaticInt8())

    assert "Pad" in case.op_types()
    assert case.likeness() > 30


def test_a_stem_is_padded_for_vnni_only(tmp_path: Path) -> None:
    statistics = collected(onnx.shape_inference.infer_shapes(convolution()), tmp_path)

    for isa, padded in {"x86-vnni": True, "arm64": False}.items():
        setting = Setting(isa=isa, statistics=statistics)
        quantize(tmp_path / "model.onnx", tmp_path / f"{isa}.onnx", StaticInt8(), setting)

        ops = {node.op_type for node in onnx.load_model(tmp_path / f"{isa}.onnx").graph.node}
        assert ("Pad" in ops) == padded


def test_a_stem_that_reads_a_constant_is_not_padded(tmp_path: Path) -> None:
    model = convolution()
    model.graph.node.append(helper.make_node("Conv", ["k", "w1"], ["z"], "constant", pads=[1, 1, 1, 1]))
    model.graph.initializer.append(numpy_helper.from_array(weights(1, 3, 16, 16), "k"))
    model.graph.output.append(helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [1, 16, 16, 16]))
    model = onnx.shape_inference.infer_shapes(model)
    setting = Setting(isa="x86-vnni", statistics=collected(model, tmp_path))

    quantize(tmp_path / "model.onnx", tmp_path / "out.onnx", StaticInt8(), setting)

    before, after = (open_session(tmp_path / f"{n}.onnx").run(None, feeds()[0]) for n in ("model", "out"))
    assert likeness_db([before], [after]) > 25


def test_what_a_concat_joins_gets_the_range_of_what_it_gives(tmp_path: Path) -> None:
    model = onnx.shape_inference.infer_shapes(fire())
    statistics = collected(model, tmp_path)
    assert statistics.tensors["a"] != statistics.tensors["b"]

    shared = share_ranges(model.graph, ["join"], statistics)

    joined = replace(statistics.tensors["c"], channels=None)
    assert shared.tensors["a"] == shared.tensors["b"] == joined


def test_a_concat_of_something_that_others_read_keeps_its_ranges(tmp_path: Path) -> None:
    model = onnx.shape_inference.infer_shapes(fire())
    statistics = collected(model, tmp_path)
    model.graph.node.append(helper.make_node("Relu", ["a"], ["z"], "other"))

    shared = share_ranges(model.graph, ["join"], statistics)

    assert shared == statistics
