"""Static recipes: what runs in integer kernels, with which types, and what stays float."""

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from app.domain.errors import Refused
from app.domain.recipe import StaticInt8
from app.domain.target import RULES
from tests.engine.graphs import build, convolution, feeds, half, residual, silu, weights
from tests.engine.quantizing import Case, Samples, Start
from worker.engine.calibrate import Statistics
from worker.engine.kernels import kernels
from worker.engine.methods import Setting, quantize


def test_a_residual_add_runs_in_an_integer_kernel(case: Start) -> None:
    residual_case = case(residual(), feeds())

    residual_case.quantize(StaticInt8())

    found = kernels(residual_case.out)
    assert (found.integer, found.float) == (4, 0)
    assert residual_case.likeness() > 30


def test_int8_activations_would_break_the_residual_block_on_x86(case: Start) -> None:
    residual_case = case(residual(), feeds())

    residual_case.quantize(StaticInt8(activation="int8"))

    assert kernels(residual_case.out).float > 0


def test_silu_concat_and_pooling_leave_no_float_island(case: Start) -> None:
    silu_case = case(silu(), feeds())

    silu_case.quantize(StaticInt8())

    assert kernels(silu_case.out).float == 0
    assert silu_case.likeness() > 30


@pytest.mark.parametrize("isa", sorted(RULES))
def test_auto_becomes_what_the_target_runs_best(case: Start, isa: str) -> None:
    convolution_case = case(convolution(), feeds())

    found = convolution_case.quantize(StaticInt8(), isa)

    rules, recipe = RULES[isa], found.recipe
    assert isinstance(recipe, StaticInt8)
    assert (recipe.activation, recipe.weight) == (rules.activation, rules.weight)
    assert (recipe.reduce_range, recipe.per_channel) == (rules.reduce_range, True)
    assert f"activation {rules.activation}: {rules.reason}" in found.reasons
    assert convolution_case.likeness() > 25


def test_what_was_asked_is_not_resolved(case: Start) -> None:
    asked = StaticInt8(activation="uint8", weight="uint8", per_channel=False, reduce_range=True)

    found = case(convolution(), feeds()).quantize(asked)

    kept = ("activation", "weight", "per_channel", "reduce_range")
    assert [getattr(found.recipe, name) for name in kept] == [getattr(asked, name) for name in kept]
    assert not any(reason.startswith(("activation", "weight", "per_channel")) for reason in found.reasons)


def test_reduced_weights_keep_to_seven_bits(case: Start) -> None:
    convolution_case = case(convolution(), feeds())

    convolution_case.quantize(StaticInt8(), "x86-avx2")

    tensors = onnx.load_model(convolution_case.out).graph.initializer
    stored = next(numpy_helper.to_array(t) for t in tensors if t.name == "w1_quantized")
    assert np.abs(stored.astype(int)).max() == 64


def test_weights_have_one_scale_per_channel(case: Start) -> None:
    convolution_case = case(convolution(), feeds())

    convolution_case.quantize(StaticInt8())

    tensors = {t.name: t for t in onnx.load_model(convolution_case.out).graph.initializer}
    assert list(tensors["w1_scale"].dims) == [16]
    assert list(tensors["x_padded_scale"].dims) == []


def test_without_data_a_static_recipe_is_refused(case: Start) -> None:
    convolution_case = case(convolution(), feeds())

    with pytest.raises(Refused) as refusal:
        quantize(convolution_case.prepared, convolution_case.out, StaticInt8(), Setting(isa="x86-vnni"))

    assert refusal.value.code == "no_calibration_data"


def test_a_model_without_integer_kernels_has_nothing_to_quantize(case: Start) -> None:
    shape = [1, 3, 16, 16]
    model = build([helper.make_node("Erf", ["x"], ["y"], "erf")], {"x": shape}, {"y": shape}, {})

    with pytest.raises(Refused) as refusal:
        case(model, feeds()).quantize(StaticInt8())

    assert refusal.value.code == "nothing_to_quantize"
    assert "Erf has no integer kernel: erf" in refusal.value.detail


def test_arithmetic_behind_the_last_weights_stays_float(case: Start) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node("Sigmoid", ["c"], ["s"], "sigmoid"),
        helper.make_node("Concat", ["c", "s"], ["y"], "join", axis=1),
    ]
    images = {"x": [1, 3, 16, 16]}
    tail_case = case(build(nodes, images, {"y": [1, 16, 16, 16]}, {"w": weights(8, 3, 1, 1)}), feeds())

    found = tail_case.quantize(StaticInt8())

    assert kernels(tail_case.out).integer == 1
    assert "stays float, only float nodes read it: sigmoid, join" in found.reasons


def test_tensors_without_a_finite_range_stay_float(case: Start) -> None:
    convolution_case = case(convolution(), feeds())
    known = dict(convolution_case.statistics.tensors)
    del known["y"]
    convolution_case.statistics = Statistics(8, known)

    found = convolution_case.quantize(StaticInt8())

    assert "stays float, a tensor has no finite range in calibration: second" in found.reasons
    assert convolution_case.weight_types()["w2"] == onnx.TensorProto.FLOAT


def test_a_half_precision_model_is_quantized(case: Start) -> None:
    halves: Samples = [{"x": feed["x"].astype(np.float16)} for feed in feeds()]
    half_case = case(half(), halves)

    half_case.quantize(StaticInt8())

    assert kernels(half_case.out).integer == 1
    assert half_case.likeness() > 30


@given(seed=st.integers(0, 2**16), channels=st.integers(1, 24), spread=st.floats(0.01, 100))
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_convolution_stays_recognisable(tmp_path: Path, seed: int, channels: int, spread: float) -> None:
    model = convolution(channels=channels)
    values = weights(channels, 3, 3, 3, seed=seed) * np.float32(spread)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "w1"))
    convolution_case = Case(tmp_path, model, feeds(4))

    convolution_case.quantize(StaticInt8())

    assert convolution_case.likeness() > 20


def gelu(last: str) -> onnx.ModelProto:
    """Conv, then x/2 · (1 + erf x) as exporters write it, then another Conv."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c"], "conv"),
        helper.make_node("Mul", ["c", "half"], ["h"], "halved"),
        helper.make_node("Erf", ["c"], ["e"], "erf"),
        helper.make_node(last, ["h", "e"], ["g"], "product"),
        helper.make_node("Conv", ["g", "w2"], ["y"], "second"),
    ]
    constants = {
        "w1": weights(8, 3, 1, 1),
        "half": np.float32(0.5).reshape(1),
        "w2": weights(4, 8, 1, 1, seed=1),
    }
    shape = [1, 3, 16, 16]
    return build(nodes, {"x": shape}, {"y": [1, 4, 16, 16]}, constants)


@pytest.mark.parametrize("last", ["Add", "Mul"])
def test_arithmetic_with_a_float_operand_stays_float_and_what_leads_to_it_too(case: Start, last: str) -> None:
    activated = case(gelu(last), feeds())

    found = activated.quantize(StaticInt8())

    assert kernels(activated.out).integer == 2
    assert "stays float, only float nodes read it: halved" in found.reasons
    assert "stays float, one of its inputs is float: product" in found.reasons


def bounded(lowest: float, highest: float, *, opset: int = 17) -> onnx.ModelProto:
    """Conv, a Clip, Conv; a Clip has its bounds as attributes before opset 11."""
    model = convolution(opset=opset)
    clip = helper.make_node("Clip", ["a", "lowest", "highest"], ["r"], "clip")
    if opset < 11:
        clip = helper.make_node("Clip", ["a"], ["r"], "clip", min=float(lowest), max=float(highest))
    else:
        bounds = {"lowest": np.float32(lowest), "highest": np.float32(highest)}
        model.graph.initializer.extend(
            numpy_helper.from_array(np.array(value), name) for name, value in bounds.items()
        )
    model.graph.node[1].CopyFrom(clip)
    return model


@pytest.mark.parametrize(("lowest", "highest", "opset"), [(0.3, 6, 17), (-6, -0.3, 17), (0.3, 6, 10)])
@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_a_clip_whose_bounds_leave_out_0_stays(
    case: Start, lowest: float, highest: float, opset: int, form: Literal["qdq", "qoperator"]
) -> None:
    bounded_case = case(bounded(lowest, highest, opset=opset), feeds())

    found = bounded_case.quantize(StaticInt8(format=form))

    assert "stays float, its bounds leave out 0, which integers always hold: clip" in found.reasons
    assert kernels(bounded_case.out).integer == 2
    assert bounded_case.likeness() > 30


@pytest.mark.parametrize(("lowest", "highest"), [(0, 6), (-1, 0), (-0.5, 0.5)])
def test_any_other_clip_becomes_the_range_of_its_result(case: Start, lowest: float, highest: float) -> None:
    bounded_case = case(bounded(lowest, highest), feeds())

    bounded_case.quantize(StaticInt8())

    assert "Clip" not in bounded_case.op_types()
    assert bounded_case.likeness() > 30


def test_a_clip_whose_bounds_are_computed_stays(case: Start) -> None:
    model = bounded(0, 6)
    model.graph.node.insert(0, helper.make_node("ReduceMax", ["x"], ["most"], "most", keepdims=0))
    model.graph.node[2].input[2] = "most"
    bounded_case = case(model, feeds())

    found = bounded_case.quantize(StaticInt8())

    assert "stays float, its bounds are computed: clip" in found.reasons
    assert bounded_case.likeness() > 30
