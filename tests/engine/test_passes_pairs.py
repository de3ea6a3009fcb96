"""Uploads that are quantized in part: their own QuantizeLinear and DequantizeLinear."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from app.domain.errors import Refused
from app.domain.recipe import Mixed, Recipe, StaticInt8
from tests.engine.graphs import Array, build, feeds, weights
from tests.engine.quantizing import Start
from worker.engine.choices.islands import RangedGraph, islands
from worker.engine.corrections.activations import activations
from worker.engine.interface import float_view
from worker.engine.passes.likeness import likeness_db
from worker.engine.passes.pairs import name_zero_points
from worker.engine.passes.scopes import array, initializers
from worker.engine.session import open_session

IMAGES, ROWS = feeds(shape=(1, 4, 8, 8)), feeds(shape=(2, 16))
SCALE = {"s": np.array(0.03, np.float32)}
RECIPES: Sequence[Recipe] = (
    StaticInt8(),
    StaticInt8(format="qoperator"),
    StaticInt8(quantize_io=True),
    Mixed(),
)


def rounded(constants: Mapping[str, Array], *inputs: str, opset: int = 17, kind: int = 0) -> onnx.ModelProto:
    """Two Convs, before which the upload rounds its input by these inputs of Q and DQ."""
    quantize = helper.make_node("QuantizeLinear", ["x", *inputs], ["q"], "round")
    if kind:
        quantize.attribute.append(helper.make_attribute("output_dtype", kind))
    nodes = [
        quantize,
        helper.make_node("DequantizeLinear", ["q", *inputs], ["d"], "restore"),
        helper.make_node("Conv", ["d", "w1"], ["a"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "w2"], ["y"], "second"),
    ]
    known = {"w1": weights(8, 4, 3, 3), "w2": weights(8, 8, 1, 1), **constants}
    return build(nodes, {"x": ["n", 4, 8, 8]}, {"y": ["n", 8, 8, 8]}, known, opset=opset)


def by_channel() -> onnx.ModelProto:
    model = rounded({"s": np.full(4, 0.03, np.float32), "z": np.full(4, 128, np.uint8)}, "s", "z")
    for node in model.graph.node[:2]:
        node.attribute.append(helper.make_attribute("axis", 1))
    return model


def at_run_time() -> onnx.ModelProto:
    model = rounded({}, "s", "z")
    model.graph.node[0].CopyFrom(helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], "round"))
    return model


UPLOADS = {
    "no zero point": rounded(SCALE, "s"),
    "an empty zero point": rounded(SCALE, "s", ""),
    "another type": rounded(SCALE, "s", opset=21, kind=TensorProto.INT8),
    "scales of channels": by_channel(),
    "scales of run time": at_run_time(),
}


@pytest.mark.parametrize("recipe", RECIPES, ids=["static", "qoperator", "quantize_io", "mixed"])
@pytest.mark.parametrize("name", UPLOADS)
def test_what_is_quantized_in_part_is_quantized_further(case: Start, name: str, recipe: Recipe) -> None:
    on_its_way = case(UPLOADS[name], IMAGES)

    on_its_way.quantize(recipe)

    assert TensorProto.INT8 in on_its_way.weight_types().values()
    before, after = open_session(on_its_way.source), float_view(open_session(on_its_way.out))
    found = [[session.run(None, feed) for feed in IMAGES] for session in (before, after)]
    assert likeness_db(*found) > 25


def test_a_pair_without_a_zero_point_gets_one_for_both() -> None:
    kinds = {"no zero point": np.uint8, "an empty zero point": np.uint8, "another type": np.int8}
    for name, kind in kinds.items():
        model = onnx.ModelProto()
        model.CopyFrom(UPLOADS[name])

        named, changed = name_zero_points(model)

        assert changed == ["round", "restore"]
        zero_points = {node.input[2] for node in named.graph.node[:2]}
        values = array(initializers(named.graph)[zero_points.pop()])
        assert values.dtype == kind
        assert values.tolist() == 0
        assert not zero_points
        assert not name_zero_points(named)[1]


def test_a_float_node_reads_what_the_upload_rounds(case: Start) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "round"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], "restore"),
        helper.make_node("MatMul", ["d", "w"], ["a"], "first"),
        helper.make_node("QuantizeLinear", ["a", "s", "z"], ["aq"], "round_again"),
        helper.make_node("DequantizeLinear", ["aq", "s", "z"], ["ad"], "restore_again"),
        helper.make_node("Erf", ["d"], ["e"], "erf"),
        helper.make_node("Add", ["ad", "e"], ["y"], "add"),
    ]
    clipping: dict[str, Array] = {"s": np.array(0.004, np.float32), "z": np.array(128, np.uint8)}
    model = build(nodes, {"x": ["n", 16]}, {"y": ["n", 16]}, {"w": weights(16, 16), **clipping})
    on_its_way = case(model, ROWS)

    on_its_way.quantize(StaticInt8())

    assert on_its_way.likeness() > 25


def by_rows_of_weights() -> onnx.ModelProto:
    """A product with weights of the upload's own bytes, which have a scale for each row."""
    codes = np.random.default_rng(5).integers(-127, 127, (16, 16), np.int8)
    nodes = [
        helper.make_node("DequantizeLinear", ["codes", "s", "z"], ["wide"], "restore", axis=0),
        helper.make_node("MatMul", ["x", "w1"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "wide"], ["b"], "second"),
        helper.make_node("MatMul", ["b", "w3"], ["y"], "third"),
    ]
    constants = {
        "codes": codes,
        "s": np.linspace(0.0005, 0.02, 16, dtype=np.float32),
        "z": np.zeros(16, np.int8),
        "w1": weights(16, 16),
        "w3": weights(16, 16, seed=3),
    }
    return build(nodes, {"x": ["n", 16]}, {"y": ["n", 16]}, constants)


def test_a_product_stays_whose_weights_the_upload_scales_by_row() -> None:
    graph = onnx.shape_inference.infer_shapes(by_rows_of_weights()).graph

    found = islands(RangedGraph.of(graph, set("xarby")), lambda _: None, grow=True)

    assert found.nodes == ["first", "relu", "third"]
    assert "restore gives it has not one constant scale" in found.reasons["second"]


def test_a_run_on_samples_that_fails_is_refused() -> None:
    node = helper.make_node("Reshape", ["x", "shape"], ["y"], "reshape")
    model = build([node], {"x": ["n"]}, {"y": [3]}, {"shape": np.array([3])})

    with pytest.raises(Refused, match="fails on the calibration samples"):
        list(activations(model, ["y"], lambda: iter([{"x": np.zeros(2, np.float32)}])))
