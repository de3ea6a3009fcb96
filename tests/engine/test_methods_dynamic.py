"""Dynamic recipes: products, convolutions that were asked for, branches and LSTMs, without data."""

import onnx
import pytest
from onnx import helper

from app.domain.errors import Refused
from app.domain.recipe import DynamicInt8, Selection
from tests.engine.graphs import branch_feeds, branches, build, convolution, dense, feeds, weights
from tests.engine.quantizing import Start
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
