"""Masks that no quantized range can hold."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.engine.graphs import build, feeds, weights
from worker.engine.load import save_model
from worker.engine.passes.likeness import likeness_db
from worker.engine.passes.masks import soften_masks
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
