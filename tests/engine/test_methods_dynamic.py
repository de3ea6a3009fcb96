"""Dynamic recipes: products, convolutions that were asked for, branches and LSTMs, without data."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from app.domain.errors import Refused
from app.domain.recipe import DynamicInt8, Selection
from tests.engine.graphs import branch_feeds, branches, build, convolution, dense, feeds, weights
from tests.engine.quantizing import Start
from worker.engine.evaluate.layers import layers
from worker.engine.kernels import kernels
from worker.engine.methods import Setting, quantize

ROWS = feeds(shape=(2, 32))


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

    assert refusal.value.code == "nothing_to_quantize"
    assert "include" in refusal.value.detail


def test_dynamic_convolutions_are_quantized_when_asked_for(case: Start) -> None:
    convolution_case = case(convolution(), feeds())

    found = convolution_case.quantize(DynamicInt8(include=Selection(op_types=("Conv",))))

    assert kernels(convolution_case.out).integer == 2
    assert convolution_case.likeness() > 30
    assert isinstance(found.recipe, DynamicInt8)
    assert (found.recipe.weight, found.recipe.per_channel) == ("uint8", True)


@pytest.mark.parametrize("reduce_range", [False, True])
def test_dynamic_convolutions_of_unlike_channels_keep_the_bits_of_the_small_ones(
    case: Start, reduce_range: bool
) -> None:
    model = convolution()
    wide = weights(16, 3, 3, 3)
    wide[0] *= 100
    tensor = next(t for t in model.graph.initializer if t.name == "w1")
    tensor.CopyFrom(numpy_helper.from_array(wide, "w1"))
    other = next(t for t in model.graph.initializer if t.name == "w2")
    narrow = numpy_helper.to_array(other).copy()
    narrow[:, 0] = 0
    other.CopyFrom(numpy_helper.from_array(narrow, "w2"))
    unlike = case(model, feeds())
    asked = DynamicInt8(include=Selection(nodes=("first",)), reduce_range=reduce_range)

    unlike.quantize(replace(asked, per_channel=False))
    whole = unlike.likeness()
    unlike.quantize(asked)

    assert unlike.likeness() > whole + 20
    found = layers(unlike.prepared, unlike.out, unlike.samples)
    assert found is not None
    assert found.layers[0].weight_sqnr_db is not None
    assert found.layers[0].weight_sqnr_db > (30 if reduce_range else 36)


def test_two_dynamic_convolutions_may_share_their_weights(case: Start) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "first"),
        helper.make_node("Conv", ["a", "w"], ["y"], "second"),
    ]
    shape = [1, 3, 16, 16]
    shared = case(build(nodes, {"x": shape}, {"y": shape}, {"w": weights(3, 3, 1, 1)}), feeds())

    shared.quantize(DynamicInt8(include=Selection(op_types=("Conv",))))

    assert kernels(shared.out).integer == 2
    assert shared.likeness() > 30


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


def test_the_attention_of_the_standard_is_not_taken_for_the_one_with_weights(case: Start) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["q"], "product"),
        helper.make_node("Attention", ["q", "keys", "values"], ["y"], "attention"),
    ]
    keys = {"keys": weights(1, 2, 6, 16), "values": weights(1, 2, 6, 16, seed=1)}
    shape = [1, 2, 4, 16]
    model = build(nodes, {"x": shape}, {"y": shape}, {"w": weights(16, 16), **keys}, opset=23, ir=11)
    started = case(model, feeds(shape=shape))

    started.quantize(DynamicInt8())

    assert {"Attention", "MatMulInteger"} <= started.op_types()
    assert started.likeness() > 30


@pytest.mark.parametrize("operator", ["MatMul", "Gemm"])
def test_weights_without_values_stay_float(case: Start, operator: str) -> None:
    nodes = [
        helper.make_node(operator, ["x", "empty"], ["a"], "nothing"),
        helper.make_node("Concat", ["x", "a"], ["b"], "join", axis=1),
        helper.make_node(operator, ["b", "w"], ["y"], "product"),
    ]
    constants = {"empty": np.zeros((32, 0), np.float32), "w": weights(32, 16)}
    empty_case = case(build(nodes, {"x": ["n", 32]}, {"y": ["n", 16]}, constants), ROWS)

    found = empty_case.quantize(DynamicInt8())

    assert empty_case.likeness() > 30
    assert "stays float, its weights hold no values: nothing" in found.reasons
