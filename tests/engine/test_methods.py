from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from app.domain.errors import Refused
from app.domain.recipe import DynamicInt8, Recipe, Selection, StaticInt8
from app.domain.target import RULES
from tests.engine.graphs import (
    attention,
    branch_feeds,
    branches,
    build,
    convolution,
    dense,
    feeds,
    half,
    residual,
    weights,
)
from tests.engine.quantizing import Case, Samples
from worker.engine.calibrate import Statistics
from worker.engine.kernels import kernels
from worker.engine.methods import Setting, quantize

ROWS = feeds(shape=(2, 32))
WORDS = feeds(shape=(1, 8, 32))


@pytest.fixture
def case(tmp_path: Path) -> Callable[[onnx.ModelProto, Samples], Case]:
    return lambda model, samples: Case(tmp_path, model, samples)


Start = Callable[[onnx.ModelProto, Samples], Case]


def silu() -> onnx.ModelProto:
    """Conv, SiLU, Concat, pooling, Conv: what modern detectors are made of."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "stem", pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["a"], ["s"], "sigmoid"),
        helper.make_node("Mul", ["a", "s"], ["m"], "silu"),
        helper.make_node("Conv", ["m", "w2"], ["c"], "side"),
        helper.make_node("Concat", ["m", "c"], ["j"], "join", axis=1),
        helper.make_node("MaxPool", ["j"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p", "w3"], ["y"], "head"),
    ]
    constants = {
        "w1": weights(16, 3, 3, 3),
        "w2": weights(16, 16, 1, 1, seed=1),
        "w3": weights(8, 32, 1, 1, seed=2),
    }
    return build(nodes, {"x": [1, 3, 16, 16]}, {"y": [1, 8, 8, 8]}, constants)


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

    assert refusal.value.refusal == "no_calibration_data"


def test_in_a_transformer_only_weighted_products_are_quantized(case: Start) -> None:
    attention_case = case(attention(), WORDS)

    found = attention_case.quantize(StaticInt8())

    assert kernels(attention_case.out).integer == 3
    assert any("multiplies two activations" in reason and "scores" in reason for reason in found.reasons)
    assert attention_case.likeness() > 25


def test_asking_by_name_overrides_the_caution_in_transformers(case: Start) -> None:
    attention_case = case(attention(), WORDS)

    attention_case.quantize(StaticInt8(include=Selection(op_types=("MatMul",))))

    assert kernels(attention_case.out).integer > 3


def test_excluded_nodes_stay_float(case: Start) -> None:
    residual_case = case(residual(), feeds())

    found = residual_case.quantize(StaticInt8(exclude=Selection(nodes=("br*",))))

    assert residual_case.weight_types()["w2"] == onnx.TensorProto.FLOAT
    assert residual_case.weight_types()["w1_quantized"] == onnx.TensorProto.INT8
    assert "stays float, excluded: branch" in found.reasons


def test_to_include_a_convolution_is_to_include_its_relu(case: Start) -> None:
    convolution_case = case(convolution(), feeds())

    convolution_case.quantize(StaticInt8(include=Selection(nodes=("first",))))

    assert "Relu" not in convolution_case.op_types()
    assert convolution_case.weight_types()["w2"] == onnx.TensorProto.FLOAT


@pytest.mark.parametrize(
    "recipe",
    [
        lambda selection: StaticInt8(include=selection),
        lambda selection: StaticInt8(exclude=selection),
        lambda selection: DynamicInt8(include=selection),
        lambda selection: DynamicInt8(exclude=selection),
    ],
    ids=["static include", "static exclude", "dynamic include", "dynamic exclude"],
)
@pytest.mark.parametrize("selection", [Selection(nodes=("nowhere*",)), Selection(op_types=("Quux",))])
def test_a_glob_that_matches_nothing_is_refused_by_name(
    case: Start, recipe: Callable[[Selection], Recipe], selection: Selection
) -> None:
    with pytest.raises(Refused) as refusal:
        case(dense(), ROWS).quantize(recipe(selection))

    assert refusal.value.refusal == "selection_matches_nothing"
    assert (selection.nodes or selection.op_types)[0] in refusal.value.detail


def test_a_model_without_integer_kernels_has_nothing_to_quantize(case: Start) -> None:
    shape = [1, 3, 16, 16]
    model = build([helper.make_node("Erf", ["x"], ["y"], "erf")], {"x": shape}, {"y": shape}, {})

    with pytest.raises(Refused) as refusal:
        case(model, feeds()).quantize(StaticInt8())

    assert refusal.value.refusal == "nothing_to_quantize"
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
    assert "stays float, behind the last weighted node: sigmoid, join" in found.reasons


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


def test_dynamic_products_are_quantized_without_data(case: Start) -> None:
    dense_case = case(dense(), ROWS)

    quantize(dense_case.prepared, dense_case.out, DynamicInt8(), Setting(isa="x86-vnni"))

    assert kernels(dense_case.out).integer == 2
    assert dense_case.likeness() > 30
    assert dense_case.out.stat().st_size < dense_case.source.stat().st_size / 2


def test_a_shared_transposed_weight_is_transposed_once(case: Start) -> None:
    shared_case = case(dense(shared=True), ROWS)

    shared_case.quantize(DynamicInt8())

    assert kernels(shared_case.out).integer == 2
    assert shared_case.likeness() > 30


def test_dynamic_convolutions_stay_float_unless_asked_for(case: Start) -> None:
    convolution_case = case(convolution(), feeds())

    with pytest.raises(Refused) as refusal:
        convolution_case.quantize(DynamicInt8())

    assert refusal.value.refusal == "nothing_to_quantize"
    assert "include" in refusal.value.detail


def test_dynamic_convolutions_are_quantized_when_asked_for(case: Start) -> None:
    convolution_case = case(convolution(), feeds())

    found = convolution_case.quantize(DynamicInt8(include=Selection(op_types=("Conv",))))

    assert kernels(convolution_case.out).integer == 2
    assert convolution_case.likeness() > 30
    assert isinstance(found.recipe, DynamicInt8)
    assert (found.recipe.weight, found.recipe.per_channel) == ("uint8", False)


def test_dynamic_quantization_reaches_into_branches(case: Start) -> None:
    branches_case = case(branches(), branch_feeds())

    branches_case.quantize(DynamicInt8())

    assert kernels(branches_case.out).integer == 2
    assert branches_case.likeness() > 30


def test_an_excluded_gemm_keeps_its_weights(case: Start) -> None:
    dense_case = case(dense(), ROWS)

    dense_case.quantize(DynamicInt8(exclude=Selection(nodes=("first",))))

    assert kernels(dense_case.out).integer == 1
    assert dense_case.likeness() > 30


def test_an_lstm_is_quantized(case: Start) -> None:
    nodes = [helper.make_node("LSTM", ["x", "w", "r"], ["y"], "lstm", hidden_size=16)]
    constants = {"w": weights(1, 64, 8), "r": weights(1, 64, 16, seed=1)}
    model = build(nodes, {"x": [5, 1, 8]}, {"y": [5, 1, 1, 16]}, constants)
    lstm_case = case(model, feeds(shape=(5, 1, 8)))

    lstm_case.quantize(DynamicInt8())

    assert lstm_case.op_types() == {"DynamicQuantizeLSTM"}
    assert lstm_case.likeness() > 25
    assert {o.domain for o in onnx.load_model(lstm_case.out).opset_import} == {"", "com.microsoft"}


def test_an_opset_without_dynamic_quantization_says_so(case: Start) -> None:
    old = build(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
        {"x": [2, 32]},
        {"y": [2, 32]},
        {"w": weights(32, 32)},
        opset=9,
        ir=4,
    )
    old_case = case(old, ROWS)

    with pytest.raises(Refused) as refusal:
        quantize(old_case.source, old_case.out, DynamicInt8(), Setting(isa="x86-vnni"))

    assert "opset 9 has no DynamicQuantizeLinear" in refusal.value.detail


@given(seed=st.integers(0, 2**16), channels=st.integers(1, 24), spread=st.floats(0.01, 100))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_convolution_stays_recognisable(tmp_path: Path, seed: int, channels: int, spread: float) -> None:
    model = convolution(channels=channels)
    values = weights(channels, 3, 3, 3, seed=seed) * np.float32(spread)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "w1"))
    convolution_case = Case(tmp_path, model, feeds(4))

    convolution_case.quantize(StaticInt8())

    assert convolution_case.likeness() > 20
