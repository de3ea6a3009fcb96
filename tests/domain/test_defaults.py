from dataclasses import replace

import pytest

from app.domain.defaults import recipes
from app.domain.recipe import DynamicInt8, Float16, StaticInt8, WeightOnly
from tests.factories import EXAMINATION


def chosen(family: str, **fields: object) -> list[str]:
    found = recipes(replace(EXAMINATION, family=family, **fields), has_data=True)  # type: ignore[arg-type]
    return [recipe.method for recipe in found]


def test_convolutional_models_get_static_recipes_and_float16() -> None:
    found = recipes(replace(EXAMINATION, family="convolutional"), has_data=True)
    assert [type(recipe) for recipe in found] == [StaticInt8, StaticInt8, Float16]
    assert found[0] == StaticInt8()
    assert isinstance(found[1], StaticInt8)
    assert (found[1].ranges.method, found[1].corrections) == ("mse", ("equalization",))


def test_transformers_get_dynamic_static_and_weights_of_8_and_4_bits() -> None:
    found = recipes(replace(EXAMINATION, family="transformer"), has_data=True)
    assert found[0] == DynamicInt8()
    assert found[1] == StaticInt8()
    assert [recipe.bits for recipe in found[2:] if isinstance(recipe, WeightOnly)] == [8, 4]


def test_recurrent_models_and_control_flow_get_no_static_recipe() -> None:
    assert chosen("recurrent") == ["dynamic_int8", "weight_only"]
    assert chosen("dense", op_types={"If": 2, "Conv": 3}) == ["dynamic_int8", "weight_only"]


@pytest.mark.parametrize("family", ["dense", "other"])
def test_what_is_left_gets_dynamic_and_static(family: str) -> None:
    assert chosen(family) == ["dynamic_int8", "static_int8"]


@pytest.mark.parametrize("family", ["convolutional", "transformer", "recurrent", "dense", "other"])
def test_without_data_no_recipe_needs_any(family: str) -> None:
    found = recipes(replace(EXAMINATION, family=family), has_data=False)
    assert [type(recipe) for recipe in found] == [DynamicInt8, WeightOnly, Float16]
    assert not any(isinstance(recipe, StaticInt8) for recipe in found)


def test_without_data_convolutions_are_quantized_all_the_same() -> None:
    examined = replace(EXAMINATION, family="convolutional", op_types={"Conv": 3, "Relu": 2, "Gemm": 1})

    dynamic = recipes(examined, has_data=False)[0]

    assert isinstance(dynamic, DynamicInt8)
    assert dynamic.include.op_types == ("Conv", "Gemm")
    assert recipes(replace(examined, family="transformer"), has_data=False)[0] == DynamicInt8()
