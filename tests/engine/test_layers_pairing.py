"""Layers of candidates whose tensors are not those of the float model: rescaled ones, and imported ones."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from app.domain.note import Note
from app.domain.recipe import Correction, DynamicInt8, Imported, StaticInt8
from app.domain.report import Layers
from tests.engine import graphs
from tests.engine.graphs import build, feeds, weights
from tests.engine.quantizing import Case
from worker.engine.evaluate.layers import layers_of
from worker.engine.methods import Setting, quantize

IMPORTED = Imported(version="ver_1")


def uneven() -> onnx.ModelProto:
    """Two convolutions; between them channels of very unlike sizes, as equalization likes to find them."""
    model = graphs.convolution()
    first = next(tensor for tensor in model.graph.initializer if tensor.name == "w1")
    sizes = np.geomspace(0.02, 5, 16).astype(np.float32).reshape(-1, 1, 1, 1)
    first.CopyFrom(onnx.numpy_helper.from_array(weights(16, 3, 3, 3) * sizes, "w1"))
    return model


def measured(
    case: Case, corrections: Sequence[Correction], isa: str = "x86-vnni", **fields: object
) -> tuple[Layers | None, tuple[Note, ...]]:
    setting = Setting(isa=isa, statistics=case.statistics, samples=lambda: case.samples)
    asked = StaticInt8(corrections=tuple(corrections), **fields)  # type: ignore[arg-type]
    recipe = quantize(case.prepared, case.out, asked, setting).recipe
    return layers_of(case.prepared, case.out, recipe, setting, case.samples)


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_an_equalized_candidate_is_held_against_the_equalized_float_model(
    tmp_path: Path, per_channel: bool, form: str
) -> None:
    case = Case(tmp_path, uneven(), feeds())

    found, notes = measured(case, ["equalization"], per_channel=per_channel, format=form)

    assert notes == ()
    assert found is not None
    assert {layer.node for layer in found.layers} >= {"first", "second"}
    assert all((layer.local_sqnr_db or 0) > 25 for layer in found.layers)
    assert all(layer.weight_sqnr_db is None or layer.weight_sqnr_db > 30 for layer in found.layers)
    worst = min(layer.cumulative_sqnr_db or 0 for layer in found.layers)
    assert worst == pytest.approx(case.likeness(), abs=3)


@pytest.mark.parametrize("corrections", [("smoothquant",), ("equalization", "smoothquant", "rounding")])
def test_a_smoothed_candidate_is_held_against_the_smoothed_float_model(
    tmp_path: Path, corrections: Sequence[Correction]
) -> None:
    case = Case(tmp_path, graphs.outliers(), feeds(16, shape=(1, 12, 64)))

    found, notes = measured(case, corrections)

    assert notes == ()
    assert found is not None
    assert {layer.node for layer in found.layers} == {"query", "key"}
    assert all((layer.local_sqnr_db or 0) > 30 for layer in found.layers)


def lstm() -> onnx.ModelProto:
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r"], ["all", "last"], "lstm", hidden_size=16),
        helper.make_node("Squeeze", ["last"], ["y"], "squeeze"),
    ]
    constants = {"w": weights(1, 64, 8), "r": weights(1, 64, 16, seed=1)}
    return build(nodes, {"x": [5, 1, 8]}, {"all": [5, 1, 1, 16], "y": [16]}, constants)


def test_a_node_with_several_results_is_measured_by_its_first(tmp_path: Path) -> None:
    case = Case(tmp_path, lstm(), feeds(shape=(5, 1, 8)))
    recipe = case.quantize(DynamicInt8()).recipe

    found, notes = layers_of(case.prepared, case.out, recipe, Setting(isa="x86-vnni"), case.samples)

    assert notes == ()
    assert found is not None
    (only,) = found.layers
    assert only.node == "lstm"
    assert only.impact_db == pytest.approx(case.likeness(), abs=0.1), "it is all that is quantized"


def quantized(case: Case, form: str = "qdq") -> None:
    case.quantize(StaticInt8(corrections=(), format=form))  # type: ignore[arg-type]


def test_an_imported_model_is_paired_by_what_its_nodes_write(tmp_path: Path) -> None:
    case = Case(tmp_path, graphs.residual(), feeds())
    quantized(case)

    found, notes = layers_of(case.prepared, case.out, IMPORTED, Setting(isa="generic"), case.samples)

    assert found is not None
    assert {layer.node for layer in found.layers} >= {"stem", "branch", "head"}
    assert all((layer.local_sqnr_db or 0) > 25 for layer in found.layers)
    assert str(notes[0]).startswith(f"layers: {len(found.layers)} nodes were paired by what they write")


def renamed(model: onnx.ModelProto) -> None:
    """What other tools do: every tensor gets another name."""
    kept = {value.name for value in (*model.graph.input, *model.graph.output)}
    for node in model.graph.node:
        node.input[:] = [name if name in kept or not name else f"t/{name}" for name in node.input]
        node.output[:] = [name if name in kept or not name else f"t/{name}" for name in node.output]
    for tensor in model.graph.initializer:
        tensor.name = f"t/{tensor.name}"


def nothing(_: onnx.ModelProto) -> None:
    """QLinear operators hide what lies between by themselves."""


@pytest.mark.parametrize(("form", "change"), [("qdq", renamed), ("qoperator", nothing)])
def test_an_imported_model_that_cannot_be_paired_says_so(
    tmp_path: Path, form: str, change: Callable[[onnx.ModelProto], None]
) -> None:
    case = Case(tmp_path, graphs.residual(), feeds())
    quantized(case, form)
    model = onnx.load(case.out)
    change(model)
    onnx.save(model, case.out)

    found, notes = layers_of(case.prepared, case.out, IMPORTED, Setting(isa="generic"), case.samples)

    assert found is None
    assert [str(note) for note in notes] == [
        "layers: no quantized node of the main graph writes a tensor that the float model has too"
    ]


def test_an_imported_model_of_an_older_opset_is_measured_too(tmp_path: Path) -> None:
    case = Case(tmp_path, graphs.residual(), feeds())
    quantized(case)
    older = onnx.version_converter.convert_version(onnx.load(case.out), 15)
    onnx.save(older, case.out)

    found, _ = layers_of(case.prepared, case.out, IMPORTED, Setting(isa="generic"), case.samples)

    assert found is not None
    assert found.layers
