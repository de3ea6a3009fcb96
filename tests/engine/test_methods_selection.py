"""Which nodes a recipe takes: by itself, by name, by operator."""

from collections.abc import Callable

import onnx
import pytest

from app.domain.errors import Refused
from app.domain.recipe import DynamicInt8, Recipe, Selection, StaticInt8
from tests.engine.graphs import attention, convolution, dense, feeds, residual
from tests.engine.quantizing import Start
from worker.engine.kernels import kernels

ROWS = feeds(shape=(2, 32))
WORDS = feeds(shape=(1, 8, 32))


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

    assert refusal.value.code == "selection_matches_nothing"
    assert (selection.nodes or selection.op_types)[0] in refusal.value.detail
