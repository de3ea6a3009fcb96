"""Masks that no quantized range can hold."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from app.domain.recipe import DynamicInt8, Float16, Recipe, StaticInt8, WeightOnly
from tests.engine.graphs import build, feeds, weights
from tests.engine.quantizing import Start
from worker.engine.load import save_model
from worker.engine.passes.likeness import likeness_db
from worker.engine.passes.masks import restore_masks, soften_masks
from worker.engine.prepare import prepare_model
from worker.engine.session import open_session

LOWEST = float(np.finfo(np.float32).min)


def masked(value: float, *, shown: bool = False) -> onnx.ModelProto:
    """Scores whose last column is masked by a sum, then a Softmax; with `shown` the scores are an output."""
    mask = np.zeros((1, 8), np.float32)
    mask[0, -1] = value
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["scores"], "scores"),
        helper.make_node("Unsqueeze", ["mask", "axes"], ["wide"], "unsqueeze"),
        helper.make_node("Add", ["scores", "wide"], ["masked"], "add"),
        helper.make_node("Softmax", ["masked"], ["y"], "softmax", axis=-1),
    ]
    outputs = {"y": [1, 4, 8], **({"masked": [1, 4, 8]} if shown else {})}
    constants = {"w": weights(16, 8), "mask": mask, "axes": np.array([0])}
    return build(nodes, {"x": [1, 4, 16]}, outputs, constants)


def lowest(model: onnx.ModelProto) -> float:
    tensor = next(t for t in model.graph.initializer if t.name in {"mask", "wide"})
    return float(numpy_helper.to_array(tensor).min())


@pytest.mark.parametrize("value", [LOWEST, -np.inf, -1e31])
def test_a_mask_before_a_softmax_is_raised(value: float) -> None:
    model, modified = soften_masks(masked(value))

    assert modified
    assert lowest(model) == -1e4
    assert not soften_masks(model)[1]


def test_a_mask_that_an_output_shows_stays() -> None:
    assert not soften_masks(masked(LOWEST, shown=True))[1]


def test_numbers_that_may_have_been_learned_stay() -> None:
    assert not soften_masks(masked(-1e5))[1]


def test_a_mask_that_a_small_factor_would_undo_stays() -> None:
    model = masked(LOWEST)
    model.graph.node[-1].input[0] = "shrunk"
    model.graph.node.insert(3, helper.make_node("Mul", ["masked", "small"], ["shrunk"], "mul"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.001, np.float32), "small"))

    assert not soften_masks(model)[1]


def test_infinities_stay_where_rows_that_are_masked_as_a_whole_are_looked_for() -> None:
    model = masked(-np.inf)
    model.graph.node[-1].output[0] = "shares"
    model.graph.node.append(helper.make_node("IsNaN", ["shares"], ["none"], "isnan"))
    model.graph.node.append(helper.make_node("Where", ["none", "zero", "shares"], ["y"], "where"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.float32), "zero"))

    assert not soften_masks(model)[1]


def test_masks_of_several_values_stay() -> None:
    model = masked(LOWEST)
    mask = next(t for t in model.graph.initializer if t.name == "mask")
    mask.CopyFrom(
        numpy_helper.from_array(np.array([[0, 0, 0, 0, 0, 0, -np.inf, LOWEST]], np.float32), "mask")
    )

    assert not soften_masks(model)[1]


def test_a_raised_mask_is_restored_to_the_bit() -> None:
    model, _ = soften_masks(masked(LOWEST))

    restore_masks(model)

    assert lowest(model) == LOWEST
    assert not model.metadata_props


@pytest.mark.parametrize(
    "recipe", [DynamicInt8(), WeightOnly(bits=8), Float16(), Float16(compute="full"), StaticInt8()]
)
def test_what_leaves_sums_float_keeps_rows_that_are_masked_as_a_whole(case: Start, recipe: Recipe) -> None:
    """For the sum with the lowest float is the lowest float, whatever was added."""
    samples = [{**feed, "keep": np.ones((1, 1, 32), np.float32)} for feed in feeds(shape=(1, 4, 64))]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["scores"], "scores"),
        helper.make_node("Sub", ["one", "keep"], ["drop"], "drop"),
        helper.make_node("Mul", ["drop", "lowest"], ["mask"], "mask"),
        helper.make_node("Add", ["scores", "mask"], ["masked"], "add"),
        helper.make_node("Softmax", ["masked"], ["y"], "softmax", axis=-1),
    ]
    constants = {"w": weights(64, 32), "one": np.array(1, np.float32), "lowest": np.array(LOWEST, np.float32)}
    shapes = {"x": [1, 4, 64], "keep": [1, 1, 32]}
    started = case(build(nodes, shapes, {"y": [1, 4, 32]}, constants), samples)

    started.quantize(recipe)

    assert started.likeness() > 25
    whole = {**samples[0], "keep": np.zeros((1, 1, 32), np.float32)}
    (shares,) = open_session(started.out).run(None, whole)
    even = np.allclose(shares, 1 / 32, atol=1e-3)
    assert even is not (isinstance(recipe, StaticInt8) or recipe == Float16(compute="full"))
    assert not onnx.load_model(started.out).metadata_props


def test_a_mask_that_another_operator_reads_stays() -> None:
    model = masked(LOWEST)
    model.graph.node[-1].op_type = "LogSoftmax"

    assert not soften_masks(model)[1]


def test_the_prepared_model_has_the_same_outputs_and_a_note(tmp_path: Path) -> None:
    source, out = tmp_path / "source.onnx", tmp_path / "out.onnx"
    save_model(masked(LOWEST), source)
    samples = feeds(4, shape=(1, 4, 16))

    notes = prepare_model(source, out, samples, {})

    assert lowest(onnx.load(out)) == -1e4
    assert any(note.startswith("Done: raise mask values") for note in notes)
    before, after = ([open_session(path).run(None, feed) for feed in samples] for path in (source, out))
    assert likeness_db(before, after) > 100


def test_an_upload_does_not_say_what_its_masks_were(tmp_path: Path) -> None:
    model = masked(-1e4)
    model.metadata_props.add(key="fewbits.masks", value="no JSON")
    save_model(model, tmp_path / "model.onnx")

    prepare_model(tmp_path / "model.onnx", tmp_path / "out.onnx", feeds(1, shape=(1, 4, 16)), {})

    assert not onnx.load_model(tmp_path / "out.onnx").metadata_props
