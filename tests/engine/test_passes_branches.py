"""Branches that are always taken leave their If, so that static recipes reach them."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from app.domain.errors import Refused
from app.domain.recipe import StaticInt8
from tests.engine.graphs import branch_feeds, branches, feeds
from tests.engine.quantizing import Case
from worker.engine.passes.branches import inline_branches
from worker.engine.passes.scopes import all_nodes
from worker.engine.session import open_session

ROWS = feeds(shape=(2, 16))


def settled(*, yes: bool) -> onnx.ModelProto:
    """`branches`, its condition a constant."""
    model = branches()
    del model.graph.input[1]
    model.graph.initializer.append(numpy_helper.from_array(np.array([yes]), "yes"))
    return model


def nested() -> onnx.ModelProto:
    """The same once more around it; the inner If reads the outer graph's condition."""
    model = settled(yes=True)
    outer = onnx.GraphProto(name="outer", node=model.graph.node, output=model.graph.output)
    outer.output[0].name = "y"
    node = helper.make_node("If", ["yes"], ["z"], "around", then_branch=outer, else_branch=outer)
    del model.graph.node[:]
    model.graph.node.append(node)
    model.graph.output[0].name = "z"
    return model


def results(model: onnx.ModelProto, folder: Path) -> list[np.ndarray]:
    onnx.save(model, folder / "model.onnx")
    session = open_session(folder / "model.onnx")
    return [session.run(None, feed)[0] for feed in ROWS]


@pytest.mark.parametrize("model", [settled(yes=True), settled(yes=False), nested()], ids=str)
def test_the_branch_that_counts_takes_the_place_of_its_if(tmp_path: Path, model: onnx.ModelProto) -> None:
    before = results(model, tmp_path)

    changed, names = inline_branches(model)

    assert names
    assert "If" not in {node.op_type for node in all_nodes(changed.graph)}
    np.testing.assert_array_equal(results(changed, tmp_path), before)
    assert inline_branches(changed)[1] == []
    assert [tensor.name for tensor in changed.graph.initializer if tensor.name == "yes"] == []


def test_a_condition_that_is_computed_keeps_its_if() -> None:
    assert inline_branches(branches())[1] == []


def test_a_static_recipe_reaches_a_branch_that_is_always_taken(tmp_path: Path) -> None:
    case = Case(tmp_path, settled(yes=True), ROWS)

    case.quantize(StaticInt8())

    assert {"QuantizeLinear", "DequantizeLinear"} <= case.op_types()
    assert case.likeness() > 25


def test_what_stays_in_a_branch_is_named_with_its_if(tmp_path: Path) -> None:
    case = Case(tmp_path, branches(), branch_feeds())

    with pytest.raises(Refused, match=r"inside a subgraph \(If if\).*else_product, then_product") as refusal:
        case.quantize(StaticInt8())

    assert refusal.value.code == "nothing_to_quantize"
