"""What each quantized node costs."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from app.domain.recipe import DynamicInt8, Float16, Recipe, Selection, StaticInt8, WeightOnly
from app.domain.report import LayerError
from tests.engine.graphs import attention, build, convolution, dense, feeds, residual, silu, weights
from tests.engine.quantizing import Case
from worker.engine.calibrate import save_statistics
from worker.engine.evaluate.layers import layers, layers_of
from worker.engine.layer_graphs import alone, find_layers
from worker.engine.methods import Setting
from worker.engine.passes.likeness import likeness_db
from worker.engine.session import open_bytes, open_session

ROOT = Path(__file__).parents[2]
NO_CORRECTIONS = StaticInt8(corrections=())
PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from dataclasses import asdict
from app.domain.recipe import StaticInt8
from worker.engine.calibrate import load_statistics
from worker.engine.evaluate.layers import layers_of
from worker.engine.methods import Setting, quantize
folder = Path(sys.argv[1])
setting = Setting(isa="x86-vnni", statistics=load_statistics(folder / "statistics"))
made = quantize(folder / "prepared.onnx", folder / "other.onnx", StaticInt8(corrections=()), setting)
feeds = [{"x": x} for x in np.load(folder / "x.npy")]
print(layers_of(folder / "prepared.onnx", folder / "other.onnx", made.recipe, setting, feeds))
"""


@pytest.mark.parametrize(
    "recipe",
    [
        NO_CORRECTIONS,
        StaticInt8(corrections=(), activation="int8"),
        DynamicInt8(include=Selection(op_types=("Conv",))),
    ],
    ids=["static", "static, signed", "dynamic"],
)
@pytest.mark.parametrize("model", [residual, convolution, silu], ids=lambda model: model.__name__)
def test_each_node_can_be_quantized_alone(
    tmp_path: Path, model: Callable[[], onnx.ModelProto], recipe: Recipe
) -> None:
    case = Case(tmp_path, model(), feeds())
    case.quantize(recipe)
    before, after = onnx.load_model(case.prepared), onnx.load_model(case.out)

    found = find_layers(before.graph, after.graph)

    assert found
    reference = [open_session(case.prepared).run(None, feed) for feed in case.samples]
    for layer in found:
        session = open_bytes(alone(before, after, layer).SerializeToString())
        assert 15 < likeness_db(reference, [session.run(None, feed) for feed in case.samples]) < 100, (
            layer.node
        )


def test_what_keeps_layers_from_being_measured_is_told(tmp_path: Path) -> None:
    case = Case(tmp_path, residual(), feeds())
    found = case.quantize(NO_CORRECTIONS)
    wrong = [{"x": np.zeros((1, 3, 8, 9), np.float64)}]

    layered, notes = layers_of(case.prepared, case.out, found.recipe, Setting(isa="x86-vnni"), wrong)

    assert layered is None
    assert str(notes[0]).startswith("layers: could not be measured: Unexpected input data type")


def measured(case: Case, recipe: Recipe) -> dict[str, LayerError]:
    case.quantize(recipe)
    found = layers(case.prepared, case.out, case.samples)
    assert found is not None
    assert found.inputs == len(case.samples)
    return {layer.node: layer for layer in found.layers}


def test_a_static_model_tells_of_each_node(tmp_path: Path) -> None:
    found = measured(Case(tmp_path, residual(), feeds()), NO_CORRECTIONS)

    stem = found["stem"]
    assert {layer.op_type for layer in found.values()} >= {"Conv", "Add"}
    assert stem.weight_sqnr_db is not None
    assert 35 < stem.weight_sqnr_db < 60
    assert stem.local_sqnr_db is not None
    assert 30 < stem.local_sqnr_db < 60
    assert found["add"].weight_sqnr_db is None


@pytest.mark.parametrize("names", [("signal", "local"), ("0/signal", "0/r")])
def test_names_of_the_models_tensors_are_no_matter(tmp_path: Path, names: tuple[str, str]) -> None:
    model = convolution()
    new = dict(zip(("a", "r"), names, strict=True))
    for node in model.graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]

    assert measured(Case(tmp_path, model, feeds()), NO_CORRECTIONS).keys() >= {"first", "second"}


def test_errors_of_earlier_nodes_add_up(tmp_path: Path) -> None:
    found = measured(Case(tmp_path, dense(), feeds(shape=(4, 32))), WeightOnly(bits=4, algorithm="rtn"))

    first, last = (found[name] for name in ("first", "second"))
    assert first.local_sqnr_db == pytest.approx(first.cumulative_sqnr_db, abs=0.01)
    assert last.cumulative_sqnr_db is not None
    assert last.local_sqnr_db is not None
    assert last.cumulative_sqnr_db < last.local_sqnr_db - 1


@pytest.mark.parametrize(
    ("recipe", "least", "most"),
    [
        (DynamicInt8(), 35, 60),
        (WeightOnly(bits=8), 35, 60),
        (WeightOnly(bits=4, algorithm="rtn"), 15, 30),
        (WeightOnly(bits=2, algorithm="rtn"), 3, 14),
        (Float16(), 60, 90),
    ],
)
def test_stored_weights_are_as_close_as_their_bits_allow(
    tmp_path: Path, recipe: Recipe, least: float, most: float
) -> None:
    found = measured(Case(tmp_path, dense(), feeds(shape=(4, 32))), recipe)

    errors = [layer.weight_sqnr_db for layer in found.values()]
    assert len(errors) == 2
    assert all(error is not None and least < error < most for error in errors)


def test_weights_are_told_from_what_has_their_name_in_front(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["w_in", "w", "w_b"], ["a"], "first"),
        helper.make_node("Conv", ["a", "w2"], ["y"], "second"),
    ]
    constants = {"w": weights(8, 4, 3, 3), "w_b": weights(8, 1)[:, 0], "w2": weights(8, 8, 1, 1)}
    model = build(nodes, {"w_in": [1, 4, 8, 8]}, {"y": [1, 8, 6, 6]}, constants)
    found = measured(Case(tmp_path, model, feeds(name="w_in", shape=(1, 4, 8, 8))), NO_CORRECTIONS)

    assert all(35 < (layer.weight_sqnr_db or 0) < 60 for layer in found.values())


def test_weights_that_nodes_share_are_found_in_their_copies(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "first"),
        helper.make_node("Conv", ["x", "w"], ["b"], "second", pads=[1, 1, 1, 1], strides=[2, 2]),
    ]
    outputs = {"a": [1, 8, 14, 14], "b": [1, 8, 8, 8]}
    model = build(nodes, {"x": [1, 3, 16, 16]}, outputs, {"w": weights(8, 3, 3, 3)})
    case = Case(tmp_path, model, feeds())

    found = measured(case, NO_CORRECTIONS)

    assert any(name.startswith("w_padded") for name in case.weight_types())
    assert all(35 < (layer.weight_sqnr_db or 0) < 60 for layer in found.values())


def test_turned_weights_are_compared_with_turned_ones(tmp_path: Path) -> None:
    found = measured(Case(tmp_path, dense(transposed=False), feeds(shape=(4, 32))), WeightOnly(bits=8))

    assert all((layer.weight_sqnr_db or 0) > 35 for layer in found.values())


def test_the_worst_node_is_tried_alone_and_comes_first(tmp_path: Path) -> None:
    case = Case(tmp_path, residual(), feeds())
    case.quantize(NO_CORRECTIONS)

    found = layers(case.prepared, case.out, case.samples)

    assert found is not None
    first, *others = found.layers
    assert first.impact_db is not None
    assert first.local_sqnr_db == min(layer.local_sqnr_db or 0 for layer in found.layers)
    assert all(layer.impact_db is None for layer in others)


def test_one_node_quantized_alone_has_the_impact_of_the_model_with_that_node(tmp_path: Path) -> None:
    case = Case(tmp_path, attention(), feeds(shape=(1, 8, 32)))
    case.quantize(DynamicInt8(include=Selection(nodes=("query",))))

    found = layers(case.prepared, case.out, case.samples)

    assert found is not None
    assert [layer.node for layer in found.layers] == ["query"]
    assert found.layers[0].impact_db == pytest.approx(case.likeness(), abs=0.01)


def test_a_relu_that_quantizing_absorbs_belongs_to_its_convolution(tmp_path: Path) -> None:
    found = measured(Case(tmp_path, convolution(), feeds()), NO_CORRECTIONS)

    assert all(layer.op_type != "Relu" for layer in found.values())
    assert (found["first"].local_sqnr_db or 0) > 25


@pytest.mark.parametrize("options", [{"format": "qoperator"}, {"quantize_io": True}])
def test_operators_that_hide_tensors_are_looked_at_as_pairs(tmp_path: Path, options: dict[str, str]) -> None:
    case = Case(tmp_path, residual(), feeds())
    recipe = case.quantize(StaticInt8(corrections=(), **options)).recipe  # type: ignore[arg-type]
    setting = Setting(isa="x86-vnni", statistics=case.statistics)

    found, notes = layers_of(case.prepared, case.out, recipe, setting, case.samples)

    assert notes == ()
    assert found is not None
    assert all((layer.local_sqnr_db or 0) > 25 for layer in found.layers)


def test_a_broken_candidate_costs_a_note(tmp_path: Path) -> None:
    case = Case(tmp_path, residual(), feeds())
    recipe = case.quantize(StaticInt8(corrections=(), format="qdq")).recipe
    model = onnx.load(case.out)
    model.graph.node[0].op_type = "Nothing"
    onnx.save(model, case.out)

    found, notes = layers_of(case.prepared, case.out, recipe, Setting(isa="generic"), case.samples)

    assert found is None
    assert str(notes[0]).startswith("layers: could not be measured")


def test_figures_are_finite_or_missing(tmp_path: Path) -> None:
    case = Case(tmp_path, residual(), [{"x": np.zeros((1, 3, 16, 16), np.float32)}])
    case.quantize(Float16(include=Selection(op_types=("Conv",))))

    found = layers(case.prepared, case.out, case.samples)

    assert found is not None
    json.dumps(asdict(found), allow_nan=False)


def test_two_processes_measure_the_same(tmp_path: Path) -> None:
    case = Case(tmp_path, residual(), feeds())
    save_statistics(case.statistics, tmp_path / "statistics")
    np.save(tmp_path / "x.npy", np.stack([feed["x"] for feed in case.samples]))

    answers = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path)],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]

    assert answers[0] == answers[1]
    assert "LayerError" in answers[0]
