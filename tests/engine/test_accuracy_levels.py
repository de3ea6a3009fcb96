from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from app.domain.errors import Refused
from app.domain.recipe import LevelOverride, WeightOnly
from tests.engine.few_bits import Case, Feeds, product, rows
from tests.engine.graphs import Array, branch_feeds, branches, build, weights
from worker.engine.passes.scopes import all_nodes, attribute

BLOCK = 32


def two_products() -> onnx.ModelProto:
    """The sum of a product of `x` and one of `z`, whose first channel of each block counts for nothing."""
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"], "calm"),
        helper.make_node("MatMul", ["z", "w2"], ["b"], "loud[0]"),
        helper.make_node("Add", ["a", "b"], ["y"], "sum"),
    ]
    deaf = weights(64, 16, seed=1)
    deaf[::BLOCK] = 0
    made: Mapping[str, Array] = {"w1": weights(64, 16), "w2": deaf}
    return build(nodes, {"x": ["batch", 64], "z": ["batch", 64]}, {"y": ["batch", 16]}, dict(made))


def feeds(outlier: float) -> Feeds:
    """int8 steps follow a block's largest value, so an outlier drowns the rest of its block."""
    rng = np.random.default_rng(4)
    found = []
    for _ in range(8):
        x, z = (rng.normal(size=(4, 64)).astype(np.float32) for _ in range(2))
        z[:, ::BLOCK] *= outlier
        found.append({"x": x, "z": z})
    return found


def levels(case: Case) -> dict[str, int]:
    nodes = all_nodes(onnx.load_model(case.out).graph)
    return {n.name: attribute(n, "accuracy_level", 0) for n in nodes if n.op_type == "MatMulNBits"}


RECIPE = WeightOnly(bits=4, algorithm="rtn", block_size=32)


def test_products_run_in_int8_where_the_outputs_hardly_move(tmp_path: Path) -> None:
    case = Case(tmp_path, two_products(), feeds(outlier=1))

    quantized = case.quantize(RECIPE, with_samples=True)

    assert levels(case) == {"calm": 4, "loud[0]": 4}
    (why,) = [reason for reason in quantized.reasons if reason.startswith("accuracy_level")]
    assert why.startswith("accuracy_level 4: outputs with int8 products match those with float products by ")
    assert "on 8 calibration samples" in why


def test_a_node_that_int8_spoils_runs_in_float(tmp_path: Path) -> None:
    case = Case(tmp_path, two_products(), feeds(outlier=1000))

    quantized = case.quantize(RECIPE, with_samples=True)

    assert levels(case) == {"calm": 4, "loud[0]": 0}
    assert any(reason.startswith("accuracy_level 4, but 0 for loud[0]: ") for reason in quantized.reasons)
    chosen = case.likeness()
    case.resolved(WeightOnly(bits=4, algorithm="rtn", block_size=32, accuracy_level=4))
    assert chosen > case.likeness() + 6


def test_the_resolved_recipe_alone_gives_the_same_bytes(tmp_path: Path) -> None:
    case = Case(tmp_path, two_products(), feeds(outlier=1000))
    resolved = case.resolved(RECIPE)
    written = case.out.read_bytes()

    case.quantize(resolved)

    assert resolved.accuracy_level == 4
    assert resolved.overrides == (LevelOverride(nodes=("loud[[]0]",), accuracy_level=0),)
    assert case.out.read_bytes() == written


def test_all_products_run_in_float_where_none_bears_int8(tmp_path: Path) -> None:
    samples = feeds(outlier=1000)
    for feed in samples:
        feed["x"] = feed["z"]
    model = two_products()
    model.graph.initializer[0].CopyFrom(model.graph.initializer[1])
    model.graph.initializer[0].name = "w1"
    case = Case(tmp_path, model, samples)

    resolved = case.resolved(RECIPE)

    assert set(levels(case).values()) == {0}
    assert resolved.accuracy_level in {0, 4}


def test_levels_that_are_asked_for_are_kept(tmp_path: Path) -> None:
    case = Case(tmp_path, two_products(), feeds(outlier=1000))
    asked = (
        LevelOverride(nodes=("loud*",), accuracy_level=1),
        LevelOverride(nodes=("calm",), accuracy_level=0),
    )

    for level in ("auto", 4):
        case.resolved(WeightOnly(algorithm="rtn", accuracy_level=level, overrides=asked))

        assert levels(case) == {"calm": 0, "loud[0]": 1}


def test_an_override_that_matches_no_product_is_refused(tmp_path: Path) -> None:
    wrong = (LevelOverride(nodes=("sum",), accuracy_level=0),)

    with pytest.raises(Refused, match="no node in blocks of integers matches 'sum'") as refusal:
        Case(tmp_path, two_products(), feeds(1)).quantize(WeightOnly(overrides=wrong))

    assert refusal.value.code == "selection_matches_nothing"


def test_products_in_subgraphs_have_levels_too(tmp_path: Path) -> None:
    case = Case(tmp_path, branches(), branch_feeds())

    case.resolved(WeightOnly(bits=8, block_size=16))
    found = levels(case)
    name = next(iter(found))
    case.resolved(
        WeightOnly(bits=8, block_size=16, overrides=(LevelOverride(nodes=(name,), accuracy_level=1),))
    )

    assert set(found.values()) == {4}
    assert levels(case)[name] == 1


def test_without_samples_nothing_is_measured(tmp_path: Path) -> None:
    case = Case(tmp_path, product(64), rows(64))

    quantized = case.quantize(WeightOnly())

    assert levels(case) == {"product": 4}
    assert any("not measured without samples" in reason for reason in quantized.reasons)
