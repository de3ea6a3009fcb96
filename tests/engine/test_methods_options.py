"""Every field of a static recipe works or is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from app.domain.errors import Refused
from app.domain.recipe import Override, Selection, StaticInt8, Symmetric
from tests.engine.graphs import attention, build, convolution, dense, feeds, residual, weights
from tests.engine.quantizing import Case
from worker.engine.interface import float_view
from worker.engine.kernels import kernels
from worker.engine.passes.likeness import likeness_db
from worker.engine.passes.scopes import initializers
from worker.engine.session import open_session

IMAGES = feeds()
EVERY_OPTION = {
    "default": StaticInt8(),
    "qoperator": StaticInt8(format="qoperator"),
    "int8 activations": StaticInt8(activation="int8"),
    "uint8 weights": StaticInt8(weight="uint8"),
    "uint16 activations": StaticInt8(activation="uint16"),
    "int16 activations": StaticInt8(activation="int16", symmetric=Symmetric(activation=True)),
    "uint16 in the standard domain": StaticInt8(activation="uint16", qdq_domain="onnx"),
    "int4 weights": StaticInt8(weight="int4"),
    "int4 in the standard domain": StaticInt8(weight="int4", qdq_domain="onnx"),
    "com.microsoft": StaticInt8(qdq_domain="com.microsoft"),
    "one scale per tensor": StaticInt8(per_channel=False),
    "asymmetric weights": StaticInt8(symmetric=Symmetric(weight=False)),
    "symmetric activations": StaticInt8(symmetric=Symmetric(activation=True)),
    "reduced range": StaticInt8(reduce_range=True),
    "integer interface": StaticInt8(quantize_io=True),
    "integer interface of operators": StaticInt8(quantize_io=True, format="qoperator"),
    "overrides": StaticInt8(
        overrides=(
            Override(nodes=("*",), weight="int8", per_channel=False),
            Override(nodes=("second",), activation="uint16"),
        )
    ),
}


def model_for(name: str) -> onnx.ModelProto:
    return convolution() if name == "overrides" else residual()


@pytest.mark.parametrize("name", EVERY_OPTION)
def test_every_option_gives_a_model_that_loads_and_stays_close(tmp_path: Path, name: str) -> None:
    case = Case(tmp_path, model_for(name), IMAGES)

    found = case.quantize(EVERY_OPTION[name])

    after = float_view(open_session(case.out))
    before = open_session(case.source)
    runs = [[s.run(None, feed) for feed in case.samples] for s in (before, after)]
    assert likeness_db(*runs) > (12 if "int4" in name else 25)
    assert "auto" not in repr(found.recipe)


def test_operators_on_integers_replace_every_pair_inside(tmp_path: Path) -> None:
    case = Case(tmp_path, residual(), IMAGES)

    case.quantize(StaticInt8(format="qoperator"))

    ops = [node.op_type for node in onnx.load_model(case.out).graph.node]
    assert ops.count("QLinearConv") == 3
    assert ops.count("QLinearAdd") == 1
    assert (ops.count("QuantizeLinear"), ops.count("DequantizeLinear")) == (1, 1)
    assert kernels(case.out).float == 0


@pytest.mark.parametrize(
    ("model", "samples", "op_type"),
    [
        (dense(), feeds(shape=(2, 32)), "QGemm"),
        (attention(), feeds(shape=(1, 8, 32)), "MatMulIntegerToFloat"),
    ],
)
def test_operators_compute_what_the_pairs_compute(
    tmp_path: Path, model: onnx.ModelProto, samples: list[dict[str, np.ndarray[Any, Any]]], op_type: str
) -> None:
    case = Case(tmp_path, model, samples)
    case.quantize(StaticInt8())
    pairs = [open_session(case.out).run(None, feed) for feed in samples]

    case.quantize(StaticInt8(format="qoperator"))

    assert op_type in case.op_types()
    assert likeness_db(pairs, [open_session(case.out).run(None, feed) for feed in samples]) > 40


def joined(operator: str) -> onnx.ModelProto:
    """Two Convs of the same images, what joins their results, and another Conv."""
    axis: dict[str, Any] = {"axis": 1} if operator == "Concat" else {}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "left"),
        helper.make_node("Conv", ["x", "w2"], ["b"], "right"),
        helper.make_node(operator, ["a", "b"], ["j"], "join", **axis),
        helper.make_node("Conv", ["j", "w3"], ["y"], "last"),
    ]
    constants = {"w1": weights(8, 3, 1, 1), "w2": weights(8, 3, 1, 1, seed=1)}
    constants["w3"] = weights(4, 16 if axis else 8, 1, 1, seed=2)
    return build(nodes, {"x": [1, 3, 16, 16]}, {"y": [1, 4, 16, 16]}, constants)


@pytest.mark.parametrize("operator", ["Add", "Mul", "Concat"])
def test_operands_of_unlike_types_stay_in_pairs(tmp_path: Path, operator: str) -> None:
    case = Case(tmp_path, joined(operator), IMAGES)

    case.quantize(StaticInt8(format="qoperator", overrides=(Override(tensors=("b",), activation="int8"),)))

    assert operator in case.op_types()
    assert "QLinearConv" in case.op_types()
    assert case.likeness() > 25


def test_four_bits_raise_the_ir_that_stores_them(tmp_path: Path) -> None:
    case = Case(tmp_path, convolution(), IMAGES)

    case.quantize(StaticInt8(weight="int4"))

    result = onnx.load_model(case.out)
    assert (result.ir_version, result.opset_import[0].version) == (10, 17)
    assert initializers(result.graph)["w2_quantized"].data_type == TensorProto.INT4


def test_the_standard_domain_is_reached_by_converting_the_opset(tmp_path: Path) -> None:
    case = Case(tmp_path, convolution(), IMAGES)

    case.quantize(StaticInt8(activation="uint16", qdq_domain="onnx"))

    result = onnx.load_model(case.out)
    assert {entry.domain: entry.version for entry in result.opset_import} == {"": 21}
    assert result.ir_version == 10


@pytest.mark.parametrize(
    "recipe", [StaticInt8(activation="uint16"), StaticInt8(weight="int4"), StaticInt8(activation="int16")]
)
def test_what_wins_no_time_says_so(tmp_path: Path, recipe: StaticInt8) -> None:
    case = Case(tmp_path, convolution(), IMAGES)

    found = case.quantize(recipe)

    assert kernels(case.out).integer == 0
    assert any("runs in float with Q/DQ: smaller file, no speed" in reason for reason in found.reasons)


REFUSED = {
    "/format 16 bits": StaticInt8(format="qoperator", activation="uint16"),
    "/format 4 bits": StaticInt8(format="qoperator", weight="int4"),
    "/format mixed signs": StaticInt8(format="qoperator", activation="int8", weight="uint8"),
    "/format override": StaticInt8(format="qoperator", overrides=(Override(nodes=("*",), weight="int4"),)),
    "/quantize_bias": StaticInt8(format="qoperator", quantize_bias=False),
    "/symmetric/weight": StaticInt8(per_channel=True, symmetric=Symmetric(weight=False)),
    "/reduce_range": StaticInt8(weight="int4", reduce_range=True),
    "/overrides/0": StaticInt8(overrides=(Override(weight="int4"),)),
    "/overrides/0/range": StaticInt8(overrides=(Override(tensors=("x",), range=(1, 1)),)),
    "/overrides/0/float": StaticInt8(overrides=(Override(tensors=("x",), float=True),)),
    "/overrides/0/activation": StaticInt8(overrides=(Override(tensors=("w1",), activation="uint16"),)),
    "/overrides/0/weight": StaticInt8(overrides=(Override(tensors=("x",), weight="int4"),)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_combined_is_refused_by_field(tmp_path: Path, name: str) -> None:
    case = Case(tmp_path, convolution(), IMAGES)

    with pytest.raises(Refused) as refusal:
        case.quantize(REFUSED[name])

    assert refusal.value.code == "unsupported_option"
    assert [error.pointer for error in refusal.value.errors] == [name.split(" ", maxsplit=1)[0]]
    assert refusal.value.detail.count(";") >= 1, "the next step follows a semicolon"


@pytest.mark.parametrize("override", [Override(nodes=("nobody",)), Override(tensors=("nothing*",))])
def test_an_override_of_nothing_is_refused(tmp_path: Path, override: Override) -> None:
    case = Case(tmp_path, convolution(), IMAGES)

    with pytest.raises(Refused) as refusal:
        case.quantize(StaticInt8(overrides=(override,)))

    assert refusal.value.code == "selection_matches_nothing"


def test_the_last_override_wins(tmp_path: Path) -> None:
    case = Case(tmp_path, convolution(), IMAGES)
    first, last = Override(nodes=("*",), weight="int4"), Override(tensors=("w2",), weight="uint8")

    case.quantize(StaticInt8(overrides=(first, last)))

    kinds = case.weight_types()
    assert (kinds["w1_padded_quantized"] if "w1_padded_quantized" in kinds else kinds["w1_quantized"]) == (
        TensorProto.INT4
    )
    assert kinds["w2_quantized"] == TensorProto.UINT8


def test_an_override_keeps_a_node_in_float(tmp_path: Path) -> None:
    case = Case(tmp_path, residual(), IMAGES)

    found = case.quantize(StaticInt8(overrides=(Override(nodes=("branch",), float=True),)))

    assert case.weight_types()["w2"] == TensorProto.FLOAT
    assert "stays float, an override says so: branch" in found.reasons


def scale_of(case: Case, tensor: str) -> float:
    constants = initializers(onnx.load_model(case.out).graph)
    return float(numpy_helper.to_array(constants[f"{tensor}_scale"]))


def test_an_override_fixes_a_range(tmp_path: Path) -> None:
    case = Case(tmp_path, convolution(), IMAGES)

    case.quantize(StaticInt8(overrides=(Override(tensors=("y",), range=(-1, 1.55)),)))

    assert scale_of(case, "y") == pytest.approx(0.01)


def test_a_range_beyond_the_bounds_of_a_relu_does_not_undo_it(tmp_path: Path) -> None:
    case = Case(tmp_path, convolution(), IMAGES)

    case.quantize(StaticInt8(overrides=(Override(tensors=("r",), range=(-4.0, 4.0)),)))

    assert case.likeness() > 25


def test_a_relu_whose_result_is_joined_with_negative_values_still_clips(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "left"),
        helper.make_node("Relu", ["a"], ["ra"], "relu"),
        helper.make_node("Conv", ["x", "w2"], ["b"], "right"),
        helper.make_node("Concat", ["ra", "b"], ["c"], "join", axis=1),
        helper.make_node("Conv", ["c", "w3"], ["y"], "last"),
    ]
    constants = {
        "w1": weights(8, 3, 1, 1),
        "w2": weights(8, 3, 1, 1, seed=1),
        "w3": weights(4, 16, 1, 1, seed=2),
    }
    shape = [1, 3, 16, 16]
    case = Case(tmp_path, build(nodes, {"x": shape}, {"y": [1, 4, 16, 16]}, constants), IMAGES)

    case.quantize(StaticInt8())

    assert case.likeness() > 25


def test_an_override_of_activations_reaches_what_a_node_reads_and_writes(tmp_path: Path) -> None:
    case = Case(tmp_path, convolution(), IMAGES)

    case.quantize(StaticInt8(overrides=(Override(nodes=("second",), activation="uint16"),)))

    kinds = case.weight_types()
    assert (kinds["r_zero_point"], kinds["y_zero_point"]) == (TensorProto.UINT16, TensorProto.UINT16)
    assert TensorProto.UINT8 in kinds.values()


def test_inputs_and_outputs_become_integers_with_told_scales(tmp_path: Path) -> None:
    case = Case(tmp_path, convolution(), IMAGES)

    found = case.quantize(StaticInt8(quantize_io=True))

    session = open_session(case.out)
    assert [a.type for a in (*session.get_inputs(), *session.get_outputs())] == ["tensor(uint8)"] * 2
    assert any(reason.startswith("x is uint8: value = (integer - ") for reason in found.reasons)
    shown = float_view(session)
    assert [a.type for a in shown.get_inputs()] == ["tensor(float)"]
    assert shown.get_inputs()[0].shape == ["batch", 3, 16, 16]


@pytest.mark.parametrize("quantize_io", [False, True])
def test_integer_inputs_of_an_upload_are_not_scaled_again(tmp_path: Path, quantize_io: bool) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    case = Case(first, convolution(), IMAGES)
    case.quantize(StaticInt8(quantize_io=True, exclude=Selection(nodes=("second",))))
    integers = [{"x": np.random.default_rng(9).integers(0, 255, (1, 3, 16, 16), np.uint8)}]
    again = Case(second, onnx.load_model(case.out), integers)

    again.quantize(StaticInt8(quantize_io=quantize_io))

    before, after = open_session(case.out), float_view(open_session(again.out))
    found = [[session.run(None, feed) for feed in integers] for session in (before, after)]
    assert likeness_db(*found) > 25


def test_an_integer_interface_needs_something_quantized_at_the_border(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Erf", ["x"], ["e"], "first"),
        helper.make_node("Conv", ["e", "w"], ["c"], "conv"),
        helper.make_node("Erf", ["c"], ["y"], "last"),
    ]
    shape = [1, 3, 16, 16]
    model = build(nodes, {"x": shape}, {"y": [1, 8, 16, 16]}, {"w": weights(8, 3, 1, 1)})

    with pytest.raises(Refused) as refusal:
        Case(tmp_path, model, IMAGES).quantize(StaticInt8(quantize_io=True))

    assert [error.pointer for error in refusal.value.errors] == ["/quantize_io"]


def test_an_included_node_is_quantized_with_its_overrides(tmp_path: Path) -> None:
    case = Case(tmp_path, convolution(), IMAGES)
    recipe = StaticInt8(
        include=Selection(nodes=("second",)), overrides=(Override(nodes=("second",), per_channel=False),)
    )

    case.quantize(recipe)

    constants = initializers(onnx.load_model(case.out).graph)
    assert list(constants["w2_scale"].dims) == []
    assert constants["w1"].data_type == TensorProto.FLOAT
