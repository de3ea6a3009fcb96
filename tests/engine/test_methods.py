"""What every 8-bit recipe keeps of the upload."""

import numpy as np
import onnx
import pytest
from onnx import helper

from app.domain.recipe import DynamicInt8, Mixed, Recipe, Selection, StaticInt8, WeightOnly
from tests.engine.graphs import build, dense, feeds, weights
from tests.engine.quantizing import Start

ROWS = feeds(shape=(2, 32))


@pytest.mark.parametrize("recipe", [StaticInt8(), DynamicInt8()])
def test_the_surface_stays_as_uploaded(case: Start, recipe: Recipe) -> None:
    dense_case = case(dense(), ROWS)

    dense_case.quantize(recipe)

    before, after = onnx.load_model(dense_case.source).graph, onnx.load_model(dense_case.out).graph
    assert list(after.input) == list(before.input)
    assert list(after.output) == list(before.output)


@pytest.mark.parametrize("recipe", [StaticInt8(), DynamicInt8()])
def test_same_input_gives_the_same_bytes(case: Start, recipe: Recipe) -> None:
    dense_case = case(dense(), ROWS)
    dense_case.quantize(recipe)
    first = dense_case.out.read_bytes()

    dense_case.quantize(recipe)

    assert dense_case.out.read_bytes() == first


@pytest.mark.parametrize("recipe", [StaticInt8(), DynamicInt8()])
def test_ir_and_opset_stay_and_only_used_domains_are_imported(case: Start, recipe: Recipe) -> None:
    dense_case = case(dense(), ROWS)

    dense_case.quantize(recipe)

    result = onnx.load_model(dense_case.out)
    assert (result.ir_version, {o.domain: o.version for o in result.opset_import}) == (8, {"": 17})
    assert [entry.key for entry in result.metadata_props] == []


def test_metadata_of_the_upload_is_kept(case: Start) -> None:
    model = dense()
    model.metadata_props.add(key="labels", value="cat,dog")
    dense_case = case(model, ROWS)

    dense_case.quantize(StaticInt8())

    assert [(e.key, e.value) for e in onnx.load_model(dense_case.out).metadata_props] == [
        ("labels", "cat,dog")
    ]


def scaled(factor: str) -> onnx.ModelProto:
    """H @ w2 + h * a constant, where a quantizer calls h's scale h_scale."""
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["p"], "first"),
        helper.make_node("Relu", ["p"], ["h"], "relu"),
        helper.make_node("MatMul", ["h", "w2"], ["q"], "second"),
        helper.make_node("Mul", ["h", factor], ["s"], "scaled"),
        helper.make_node("Add", ["q", "s"], ["y"], "sum"),
    ]
    constants = {"w1": weights(32, 32), "w2": weights(32, 32, seed=1), factor: np.array(3.0, np.float32)}
    return build(nodes, {"x": ["batch", 32]}, {"y": ["batch", 32]}, constants)


@pytest.mark.parametrize("recipe", [StaticInt8(), StaticInt8(format="qoperator"), DynamicInt8(), Mixed()])
@pytest.mark.parametrize("name", ["h_scale", "h_zero_point", "h_quantized", "x_scale_quantized"])
def test_a_constant_keeps_its_values_whatever_it_is_called(case: Start, recipe: Recipe, name: str) -> None:
    named_case = case(scaled(name), ROWS)

    named_case.quantize(recipe)

    assert named_case.likeness() > 30


LEFT = Selection(nodes=("second",))


@pytest.mark.parametrize("again", [StaticInt8(), StaticInt8(format="qoperator"), DynamicInt8()])
@pytest.mark.parametrize("first", [StaticInt8(exclude=LEFT), DynamicInt8(exclude=LEFT)])
def test_what_a_recipe_has_left_float_is_quantized_by_another(
    case: Start, first: Recipe, again: Recipe
) -> None:
    once = case(scaled("h_scale"), ROWS)
    once.quantize(first)
    twice = case(onnx.load_model(once.out), ROWS)

    twice.quantize(again)

    assert twice.likeness() > 30


@pytest.mark.parametrize("recipe", [DynamicInt8(), WeightOnly(bits=8)])
def test_weights_that_are_not_finite_stay_float(case: Start, recipe: Recipe) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "broken"], ["a"], "broken_product"),
        helper.make_node("IsNaN", ["a"], ["none"], "missing"),
        helper.make_node("Where", ["none", "zero", "a"], ["b"], "known"),
        helper.make_node("MatMul", ["b", "w"], ["y"], "product"),
    ]
    broken = weights(32, 32)
    broken[0, 0] = np.nan
    constants = {"broken": broken, "zero": np.array(0, np.float32), "w": weights(32, 8)}
    started = case(build(nodes, {"x": ["batch", 32]}, {"y": ["batch", 8]}, constants), ROWS)

    found = started.quantize(recipe)

    assert "stays float, its weights are not finite: broken_product" in found.reasons
    assert started.likeness() > 30
