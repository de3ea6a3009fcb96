"""What every 8-bit recipe keeps of the upload."""

import onnx
import pytest

from app.domain.recipe import DynamicInt8, Recipe, StaticInt8
from tests.engine.graphs import dense, feeds
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
