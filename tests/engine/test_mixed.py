"""Mixed recipes: each node gets in the file what was asked for by hand, or the recipe is refused."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from app.domain.errors import Refused
from app.domain.recipe import Mixed, Override, StaticInt8
from tests.engine.graphs import attention, build, convolution, dense, feeds, residual, silu, weights
from tests.engine.quantizing import Case, Samples
from worker.engine.evaluate.layers import layers_of
from worker.engine.kernels import kernels
from worker.engine.methods import Setting, quantize
from worker.engine.passes.scopes import initializers, producers

ROWS = feeds(shape=(1, 8, 32))
INT16 = Override(nodes=("branch",), activation="int16")
NAMES: Mapping[int, str] = {
    TensorProto.UINT8: "uint8",
    TensorProto.INT8: "int8",
    TensorProto.INT16: "int16",
}


def types(case: Case) -> Mapping[str, tuple[str, ...]]:
    """For each node of the result the types of what it reads; float where no DequantizeLinear writes it."""
    graph = onnx.load_model(case.out).graph
    constants, makers = initializers(graph), producers(graph)

    def kind(name: str) -> str:
        maker = makers.get(name)
        if maker is None or maker.op_type != "DequantizeLinear":
            return "float"
        return NAMES.get(constants[maker.input[2]].data_type, "?")

    kept = [n for n in graph.node if not n.op_type.endswith("Linear")]
    return {n.name: tuple(kind(name) for name in n.input[:2]) for n in kept}


def written(case: Case, tensor: str) -> str:
    """The type in which the result first stores a tensor."""
    graph = onnx.load_model(case.out).graph
    first = next(n for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0].startswith(tensor))
    return NAMES[initializers(graph)[first.input[2]].data_type]


def test_each_choice_is_in_the_file(tmp_path: Path) -> None:
    case = Case(tmp_path, residual(), feeds())
    recipe = Mixed(overrides=(INT16, Override(nodes=("head",), weight="uint8"), Override(nodes=("add*",))))

    found = case.quantize(recipe)

    got = types(case)
    assert got["stem"] == ("uint8", "int8")
    assert got["branch"] == ("int16", "int8")
    assert got["add"] == ("uint8", "uint8")
    assert got["head"] == ("uint8", "uint8")
    assert (written(case, "r"), written(case, "c"), written(case, "t")) == ("uint8", "int16", "uint8")
    assert case.likeness() > 30
    assert "int16 activations, int8 weights: branch" in found.reasons
    assert any(
        reason.startswith("activation int16: the CPU has no integer kernels") for reason in found.reasons
    )


def test_neighbours_of_a_16_bit_node_keep_their_integer_kernels(tmp_path: Path) -> None:
    case = Case(tmp_path, residual(), feeds())

    case.quantize(Mixed(overrides=(INT16, Override(nodes=("add",)))))

    ran = kernels(case.out)
    assert ran.integer == 3  # two Conv and the Add; the third Conv has 16 bits
    assert [(left.op_type, left.nodes) for left in ran.left_float if left.op_type == "Conv"] == [
        ("Conv", ("branch",))
    ]


def test_what_no_override_names_stays_float_where_the_recipe_says_so(tmp_path: Path) -> None:
    case = Case(tmp_path, residual(), feeds())

    found = case.quantize(Mixed(float=True, overrides=(Override(op_types=("Conv",)),)))

    got = types(case)
    assert {name: kinds for name, kinds in got.items() if name in {"stem", "branch", "head"}} == {
        "stem": ("uint8", "int8"),
        "branch": ("uint8", "int8"),
        "head": ("uint8", "int8"),
    }
    assert "stays float, no override names it: add" in found.reasons
    assert not any(n.input[0] == "s" for n in onnx.load_model(case.out).graph.node if "Linear" in n.op_type)


def test_the_last_override_wins(tmp_path: Path) -> None:
    case = Case(tmp_path, residual(), feeds())
    first = Override(nodes=("*",), activation="int16")
    recipe = Mixed(
        overrides=(
            first,
            Override(nodes=("head", "branch"), float=True),
            Override(nodes=("branch",), activation="uint8"),
        )
    )

    case.quantize(recipe)

    got = types(case)
    assert (got["stem"][0], got["branch"][0], got["head"][1]) == ("int16", "uint8", "float")


def test_a_named_sum_is_quantized_beside_float_nodes(tmp_path: Path) -> None:
    case = Case(tmp_path, attention(), ROWS)

    case.quantize(Mixed(overrides=(Override(nodes=("query",), activation="int16"), Override(nodes=("add",)))))

    got = types(case)
    assert (got["query"], got["key"]) == (("int16", "int8"), ("uint8", "int8"))
    assert got["add"] == ("uint8", "uint8")
    assert got["softmax"] == ("float",)


def test_a_shared_weight_has_as_many_types_as_were_asked_for(tmp_path: Path) -> None:
    case = Case(tmp_path, dense(shared=True), feeds(shape=(2, 32)))

    case.quantize(Mixed(overrides=(Override(nodes=("second",), weight="uint8", per_channel=False),)))

    got = types(case)
    assert (got["first"][1], got["second"][1]) == ("int8", "uint8")
    assert case.likeness() > 30


def test_a_constant_that_is_added_has_the_type_of_the_sum(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "first"),
        helper.make_node("Add", ["a", "shift"], ["s"], "sum"),
        helper.make_node("Conv", ["s", "w2"], ["c"], "second"),
        helper.make_node("Add", ["c", "shift"], ["y"], "last"),
    ]
    constants = {"w1": weights(8, 3, 1, 1), "shift": weights(8, 1, 1), "w2": weights(8, 8, 1, 1, seed=1)}
    shape = [1, 8, 16, 16]
    case = Case(tmp_path, build(nodes, {"x": [1, 3, 16, 16]}, {"y": shape}, constants), feeds())

    case.quantize(Mixed(overrides=(Override(nodes=("sum",), activation="int16"), Override(nodes=("last",)))))

    got = types(case)
    assert (got["sum"], got["last"]) == (("int16", "int16"), ("uint8", "uint8"))
    assert case.likeness() > 30


def test_data_that_is_moved_keeps_its_type_until_it_is_read(tmp_path: Path) -> None:
    case = Case(tmp_path, silu(), feeds())

    case.quantize(Mixed(overrides=(Override(nodes=("side", "head"), activation="int8"),)))

    got = types(case)
    assert (got["side"][0], got["join"], got["pool"]) == ("int8", ("uint8", "uint8"), ("uint8",))
    assert got["head"][0] == "int8"
    assert case.likeness() > 25


RECIPES: Mapping[str, tuple[onnx.ModelProto, Samples, Mixed]] = {
    "images": (residual(), feeds(), Mixed(overrides=(INT16, Override(nodes=("head",), float=True)))),
    "rows": (
        attention(),
        ROWS,
        Mixed(float=True, overrides=(Override(op_types=("MatMul",), weight="int8"),)),
    ),
    "branches": (silu(), feeds(), Mixed(activation="int8", overrides=(Override(nodes=("*",)),))),
}


@pytest.mark.parametrize("kind", RECIPES)
def test_the_resolved_recipe_names_every_node_and_gives_the_same_bytes(tmp_path: Path, kind: str) -> None:
    model, samples, recipe = RECIPES[kind]
    case = Case(tmp_path, model, samples)

    found = case.quantize(recipe)
    before = case.out.read_bytes()
    spelled = found.recipe
    assert isinstance(spelled, Mixed)
    again = case.quantize(replace(spelled, overrides=spelled.overrides[len(recipe.overrides) :]))

    assert case.out.read_bytes() == before
    assert isinstance(again.recipe, Mixed)
    named = {name for override in spelled.overrides[len(recipe.overrides) :] for name in override.nodes}
    assert {node.name for node in model.graph.node} <= named | {"turn"}


def test_on_8_bits_alone_a_mixed_recipe_is_a_static_one(tmp_path: Path) -> None:
    case = Case(tmp_path, silu(), feeds())

    case.quantize(StaticInt8())
    static = case.out.read_bytes()
    case.quantize(Mixed())

    assert case.out.read_bytes() == static


def test_weights_keep_to_7_bits_only_where_sums_have_16(tmp_path: Path) -> None:
    case = Case(tmp_path, residual(), [{"x": 50 * feed["x"]} for feed in feeds()])

    found = case.quantize(Mixed(overrides=(INT16,)), isa="x86-avx2")

    constants = initializers(onnx.load_model(case.out).graph)
    stored = {"stem": "w1_quantized", "branch": "w2_quantized", "head": "w3_quantized"}
    largest = {node: max(map(abs, _values(constants[name]))) for node, name in stored.items()}
    assert largest == {"stem": 64, "branch": 127, "head": 64}
    assert "full range, for their sums cannot saturate: branch" in found.reasons
    assert isinstance(found.recipe, Mixed)
    assert found.recipe.reduce_range is True


def _values(tensor: onnx.TensorProto) -> Sequence[int]:
    return [int(value) for value in onnx.numpy_helper.to_array(tensor).reshape(-1)]


def test_a_16_bit_default_does_not_hide_that_8_bit_nodes_saturate(tmp_path: Path) -> None:
    case = Case(tmp_path, convolution(), feeds())

    found = case.quantize(
        Mixed(activation="int16", overrides=(Override(nodes=("second",), activation="uint8"),)), "x86-avx2"
    )

    assert isinstance(found.recipe, Mixed)
    assert found.recipe.reduce_range is True
    assert types(case)["first"][0] == "int16"


@pytest.mark.parametrize(
    "corrections", [("bias_correction",), ("equalization", "rounding"), ("weight_clipping",)]
)
def test_corrections_and_layers_work_beside_other_types(tmp_path: Path, corrections: Any) -> None:
    case = Case(tmp_path, residual(), feeds())
    setting = Setting(isa="x86-vnni", statistics=case.statistics, samples=lambda: case.samples)

    found = quantize(case.prepared, case.out, Mixed(corrections=corrections, overrides=(INT16,)), setting)

    assert types(case)["branch"][0] == "int16"
    assert case.likeness() > 30
    layers, notes = layers_of(case.prepared, case.out, found.recipe, setting, case.samples)
    assert layers is not None, notes
    assert {"stem", "branch"} <= {layer.node for layer in layers.layers}


def test_operators_take_mixed_8_bit_types(tmp_path: Path) -> None:
    case = Case(tmp_path, residual(), feeds())

    case.quantize(Mixed(format="qoperator", overrides=(Override(nodes=("head",), float=True),)))

    ops = [node.op_type for node in onnx.load_model(case.out).graph.node]
    assert (ops.count("QLinearConv"), ops.count("Conv")) == (2, 1)


def test_automatic_ranges_are_tried_and_leave_the_choices_as_they_are(tmp_path: Path) -> None:
    case = Case(tmp_path, residual(), feeds())
    setting = Setting(isa="x86-vnni", statistics=case.statistics, samples=lambda: case.samples)

    found = quantize(
        case.prepared, case.out, Mixed(overrides=(Override(nodes=("head",), weight="int4"),)), setting
    )

    assert any(reason.startswith("ranges ") for reason in found.reasons)
    assert not any("lose most by themselves" in reason for reason in found.reasons)
    assert "uint8 activations, int4 weights: head" in found.reasons


def refusal(case: Case, *overrides: Override, **fields: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        case.quantize(Mixed(overrides=overrides, **fields))
    return caught.value


@pytest.fixture
def attended(tmp_path: Path) -> Case:
    return Case(tmp_path, attention(), ROWS)


def test_a_name_without_a_node_is_refused_with_those_like_it(attended: Case) -> None:
    error = refusal(attended, Override(nodes=("querry",), activation="int16"))

    assert error.code == "selection_matches_nothing"
    assert error.detail == "No node name in this model matches 'querry'; it has: query."


def test_an_operator_that_the_model_does_not_have_is_refused_with_those_that_it_has(attended: Case) -> None:
    error = refusal(attended, Override(op_types=("Conv*",)))

    assert error.code == "selection_matches_nothing"
    assert error.detail.endswith("it has: MatMul, Transpose, Softmax, Add.")


@pytest.mark.parametrize(
    ("override", "why"),
    [
        (Override(nodes=("softmax",), activation="int16"), "Softmax has no integer kernel (softmax)"),
        (Override(op_types=("Softmax",)), "Softmax has no integer kernel (softmax)"),
        (Override(nodes=("turn",), activation="int8"), "its inputs are float (turn)"),
    ],
)
def test_a_node_that_cannot_be_quantized_is_refused_with_the_reason(
    attended: Case, override: Override, why: str
) -> None:
    error = refusal(attended, Override(nodes=("key",), float=True), override)

    assert (error.code, [e.pointer for e in error.errors]) == ("unsupported_option", ["/overrides/1"])
    assert why in error.detail


def test_of_a_pattern_the_nodes_that_can_are_quantized_and_the_others_told(attended: Case) -> None:
    found = attended.quantize(Mixed(float=True, overrides=(Override(nodes=("[!q]*",)),)))

    assert types(attended)["query"] == ("float", "float")
    assert types(attended)["turn"] == ("uint8",)
    assert types(attended)["mix"] == ("uint8", "uint8")
    assert "stays float, Softmax has no integer kernel: softmax" in found.reasons


def test_a_relu_cannot_have_another_type_than_its_kernel(tmp_path: Path) -> None:
    error = refusal(Case(tmp_path, residual(), feeds()), Override(nodes=("stem_relu",), activation="int16"))

    assert "stem_relu passes on what stem writes in uint8" in error.detail


def test_a_tensor_cannot_have_another_type_than_the_node_that_writes_it(tmp_path: Path) -> None:
    case = Case(tmp_path, residual(), feeds())

    error = refusal(case, Override(tensors=("c",), activation="int16"))

    assert [e.pointer for e in error.errors] == ["/overrides/0/activation"]
    assert "branch writes c in uint8" in error.detail
    assert error.detail.endswith("ask for int16 of branch.")


def test_weights_of_nodes_that_have_none_are_refused(tmp_path: Path) -> None:
    error = refusal(Case(tmp_path, residual(), feeds()), Override(nodes=("add",), weight="int8"))

    assert [e.pointer for e in error.errors] == ["/overrides/0/weight"]
    assert "there are none" in error.detail


@pytest.mark.parametrize("types", [{"activation": "uint16"}, {"weight": "int4"}])
def test_operators_refuse_types_that_they_have_no_form_for(tmp_path: Path, types: Any) -> None:
    error = refusal(
        Case(tmp_path, residual(), feeds()), Override(nodes=("head",), **types), format="qoperator"
    )

    assert (error.code, [e.pointer for e in error.errors]) == ("unsupported_option", ["/format"])


def test_all_in_float_is_nothing_to_quantize(attended: Case) -> None:
    assert refusal(attended, float=True).code == "nothing_to_quantize"
