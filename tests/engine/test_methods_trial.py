"""Ranges, and nodes that stay float, are settled by trying them on calibration samples."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from app.domain.recipe import Ranges, Selection, StaticInt8
from tests.engine.graphs import Array, build, feeds, weights
from tests.engine.quantizing import Case, Samples
from worker.engine.methods import Quantized, Setting, quantize


def outliers(seed: int) -> Samples:
    """Images of which a few values are ten times as large as the others."""
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(8, 1, 3, 16, 16)) * np.where(rng.random((8, 1, 3, 16, 16)) < 0.003, 10, 1)
    return [{"x": image.astype(np.float32)} for image in images]


def convolutions() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "w2"], ["y"], "second"),
    ]
    constants = {"w1": weights(8, 3, 3, 3), "w2": weights(4, 8, 1, 1, seed=2)}
    return build(nodes, {"x": [1, 3, 16, 16]}, {"y": [1, 4, 14, 14]}, constants)


def drowned() -> onnx.ModelProto:
    """One product reads a channel that drowns the others and does not count; another reads none."""
    gains = np.ones(16, np.float32)
    gains[0] = 5000
    after = weights(16, 8, seed=2)
    after[0] = 0
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"], "first"),
        helper.make_node("Mul", ["a", "gains"], ["loud"], "gain"),
        helper.make_node("MatMul", ["loud", "w2"], ["y"], "drowned[0]"),
        helper.make_node("MatMul", ["a", "w3"], ["z"], "third"),
    ]
    constants: dict[str, Array] = {"w1": weights(16, 16), "gains": gains, "w2": after, "w3": weights(16, 8)}
    return build(nodes, {"x": ["n", 16]}, {"y": ["n", 8], "z": ["n", 8]}, constants)


def uneven() -> onnx.ModelProto:
    """A normalization makes two channels forty times as large as the others; a product evens them."""
    gain, after = np.ones(64, np.float32), weights(64, 8, seed=1)
    gain[[5, 40]] = 40
    after[[5, 40]] /= 40
    nodes = [
        helper.make_node("LayerNormalization", ["x", "gain", "shift"], ["n"], "norm"),
        helper.make_node("MatMul", ["n", "w"], ["y"], "product"),
    ]
    constants: dict[str, Array] = {"gain": gain, "shift": np.zeros(64, np.float32), "w": after}
    return build(nodes, {"x": [4, 64]}, {"y": [4, 8]}, constants)


def tried(case: Case, recipe: StaticInt8) -> Quantized:
    setting = Setting(isa="x86-vnni", statistics=case.statistics, samples=lambda: case.samples)
    return quantize(case.prepared, case.out, recipe, setting)


@pytest.mark.parametrize("samples", [outliers(0), feeds()], ids=["outliers", "normal"])
def test_automatic_ranges_are_the_closest_of_those_tried(tmp_path: Path, samples: Samples) -> None:
    case = Case(tmp_path, convolutions(), samples)
    kinds = [Ranges(method="mse"), Ranges(method="mse", clipping=4.0), Ranges(method="minmax")]
    closeness = []
    for kind in kinds:
        tried(case, StaticInt8(ranges=kind))
        closeness.append(case.likeness())

    found = tried(case, StaticInt8())

    assert isinstance(found.recipe, StaticInt8)
    assert found.recipe.ranges == kinds[int(np.argmax(closeness))]
    assert case.likeness() == pytest.approx(max(closeness))
    reason = next(reason for reason in found.reasons if reason.startswith("ranges "))
    assert all(f"{db:.1f}" in reason for db in closeness)


def test_a_node_that_spoils_the_result_stays_float(tmp_path: Path) -> None:
    case = Case(tmp_path, drowned(), feeds(shape=(2, 16)))

    found = tried(case, StaticInt8(corrections=("bias_correction",)))

    assert case.likeness() > 25
    assert any(r.startswith("left float") and r.endswith(": drowned[0]") for r in found.reasons)
    readers = {node.name: node for node in onnx.load_model(case.out).graph.node}
    assert readers["drowned[0]"].input[1] == "w2"
    assert readers["third"].input[1] != "w3"


def test_outliers_are_smoothed_where_no_ranges_come_close_enough(tmp_path: Path) -> None:
    case = Case(tmp_path, uneven(), feeds(shape=(4, 64)))

    found = tried(case, StaticInt8())

    assert case.likeness() > 25
    assert isinstance(found.recipe, StaticInt8)
    assert found.recipe.corrections == ("smoothquant", "bias_correction")
    assert any(reason.startswith("corrections smoothquant: ") for reason in found.reasons)
    assert not any(reason.startswith("left float") for reason in found.reasons)


def test_nothing_is_smoothed_where_ranges_come_close_enough(tmp_path: Path) -> None:
    case = Case(tmp_path, convolutions(), feeds())

    found = tried(case, StaticInt8())

    assert isinstance(found.recipe, StaticInt8)
    assert found.recipe.corrections == ("bias_correction",)


def test_the_resolved_recipe_alone_gives_the_same_bytes(tmp_path: Path) -> None:
    case = Case(tmp_path, drowned(), feeds(shape=(2, 16)))
    found = tried(case, StaticInt8())
    first = case.out.read_bytes()

    assert isinstance(found.recipe, StaticInt8)
    again = tried(case, found.recipe)

    assert case.out.read_bytes() == first
    assert again.recipe == found.recipe


def test_nodes_that_were_asked_for_are_quantized_whatever_they_lose(tmp_path: Path) -> None:
    case = Case(tmp_path, drowned(), feeds(shape=(2, 16)))

    found = tried(case, StaticInt8(include=Selection(nodes=("*",)), corrections=()))

    assert case.likeness() < 10
    assert not any(reason.startswith("left float") for reason in found.reasons)
