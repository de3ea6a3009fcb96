"""Equalization and SmoothQuant move sizes between tensors; the float model computes what it did."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from app.domain.recipe import Correction, StaticInt8
from tests.engine import graphs
from tests.engine.quantizing import Case
from worker.engine.corrections import CORRECTIONS
from worker.engine.corrections.subject import Subject
from worker.engine.load import parse
from worker.engine.methods import Setting
from worker.engine.methods.static_choices import resolve_static
from worker.engine.session import open_session

SPREAD = (10 ** np.random.default_rng(3).uniform(-1.5, 1.5, size=16)).astype(np.float32)
IMAGE, WORDS = (1, 3, 16, 16), (1, 12, 32)


def chain(between: str, *bounds: float, group: int = 16) -> onnx.ModelProto:
    """Conv, Conv of so many groups, Conv, with this operator between; the first channels differ in size."""
    names = [f"bound{index}" for index in range(len(bounds))]
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], "first", pads=[1, 1, 1, 1]),
        helper.make_node(between, ["a", *names], ["ar"], "act1"),
        helper.make_node("Conv", ["ar", "w2", "b2"], ["b"], "middle", pads=[1, 1, 1, 1], group=group),
        helper.make_node("Relu", ["b"], ["br"], "act2"),
        helper.make_node("Conv", ["br", "w3"], ["y"], "last"),
    ]
    constants = {
        "w1": graphs.weights(16, 3, 3, 3) * SPREAD[:, None, None, None],
        "b1": graphs.weights(16, 1, seed=4)[:, 0] * SPREAD,
        "w2": graphs.weights(16, 16 // group, 3, 3, seed=1),
        "b2": graphs.weights(16, 1, seed=5)[:, 0] * SPREAD,
        "w3": graphs.weights(8, 16, 1, 1, seed=2) / SPREAD[None, :, None, None],
        **{name: np.array(bound, np.float32) for name, bound in zip(names, bounds, strict=True)},
    }
    return graphs.build(nodes, {"x": IMAGE}, {"y": [1, 8, 16, 16]}, constants)


def residual() -> onnx.ModelProto:
    """A branch of two convolutions beside a shortcut: what lies inside the branch may move, its ends not."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "stem", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["r"], "stem_relu"),
        helper.make_node("Conv", ["r", "w2"], ["b"], "inner", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["b"], ["s"], "inner_relu"),
        helper.make_node("Conv", ["s", "w3"], ["c"], "outer", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["r", "c"], ["t"], "add"),
        helper.make_node("Conv", ["t", "w4"], ["y"], "head"),
    ]
    constants = {
        "w1": graphs.weights(16, 3, 3, 3) * SPREAD[:, None, None, None],
        "w2": graphs.weights(16, 16, 3, 3, seed=1) * SPREAD[:, None, None, None],
        "w3": graphs.weights(16, 16, 3, 3, seed=2),
        "w4": graphs.weights(4, 16, 1, 1, seed=3),
    }
    return graphs.build(nodes, {"x": IMAGE}, {"y": [1, 4, 16, 16]}, constants)


def shared() -> onnx.ModelProto:
    """Three products; the first and the last have the same weight, which can follow neither scale."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "first"),
        helper.make_node("Add", ["a", "b1"], ["ab"], "bias"),
        helper.make_node("Relu", ["ab"], ["ar"], "act1"),
        helper.make_node("MatMul", ["ar", "v"], ["c"], "middle"),
        helper.make_node("Relu", ["c"], ["cr"], "act2"),
        helper.make_node("MatMul", ["cr", "u"], ["d"], "next"),
        helper.make_node("Relu", ["d"], ["dr"], "act3"),
        helper.make_node("MatMul", ["dr", "w"], ["y"], "last"),
    ]
    constants = {
        "w": graphs.weights(32, 32),
        "b1": graphs.weights(32, 1, seed=1)[:, 0],
        "v": graphs.weights(32, 32, seed=2) * np.tile(SPREAD, 2),
        "u": graphs.weights(32, 32, seed=3),
    }
    return graphs.build(nodes, {"x": WORDS}, {"y": WORDS}, constants)


def norms(*, whole: bool = True, kept: bool = False) -> onnx.ModelProto:
    """Products behind a LayerNormalization with outliers, whole or with gain and shift as Mul and Add.

    With `kept` a residual Add reads the normalized tensor too, as behind each block of a transformer.
    """
    gain = np.ones(32, np.float32)
    gain[[5, 20]] = 40.0
    norm = [helper.make_node("LayerNormalization", ["x", "gain", "shift"], ["n"], "norm")]
    if not whole:
        norm = [
            helper.make_node("Mul", ["x", "gain"], ["scaled"], "scale"),
            helper.make_node("Add", ["scaled", "shift"], ["n"], "move"),
        ]
    nodes = [
        *norm,
        helper.make_node("MatMul", ["n", "wq"], ["q"], "query"),
        helper.make_node("MatMul", ["n", "wk"], ["k"], "key"),
        helper.make_node("Mul", ["q", "k"], ["m"], "mix"),
        helper.make_node("Add", ["m", "n" if kept else "q"], ["y"], "sum"),
    ]
    calm = np.ones((32, 1), np.float32)
    calm[[5, 20]] = 0.05
    constants: dict[str, graphs.Array] = {
        "gain": gain,
        "shift": graphs.weights(32, 1, seed=4)[:, 0],
        "wq": graphs.weights(32, 32, seed=1) * calm,
        "wk": graphs.weights(32, 32, seed=2) * calm,
    }
    return graphs.build(nodes, {"x": WORDS}, {"y": WORDS}, constants)


def corrected(
    folder: Path, model: onnx.ModelProto, name: Correction, *, per_channel: bool = True
) -> tuple[Case, set[str]]:
    """Correct a float model, store it, and tell which constants changed."""
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    case = Case(folder, model, graphs.feeds(8, shape=shape))
    found = parse(case.prepared)
    before = {tensor.name: numpy_helper.to_array(tensor) for tensor in found.graph.initializer}
    recipe, _ = resolve_static(found, StaticInt8(per_channel=per_channel), "x86-vnni")
    subject = Subject(
        model=found,
        nodes=[node.name for node in found.graph.node if node.op_type in {"Conv", "MatMul", "Relu", "Clip"}],
        recipe=recipe,
        setting=Setting(isa="x86-vnni", statistics=case.statistics, samples=lambda: case.samples),
        statistics=case.statistics,
    )
    CORRECTIONS[name](subject)
    onnx.save_model(found, case.out)
    after = {tensor.name: numpy_helper.to_array(tensor) for tensor in found.graph.initializer}
    return case, {name for name, value in before.items() if not np.array_equal(value, after[name])}


def largest_difference(case: Case) -> float:
    """Between the outputs before and after, as a share of the largest output, on data not seen before."""
    unseen = graphs.feeds(40, shape=case.samples[0]["x"].shape)[20:]
    before, after = open_session(case.source), open_session(case.out)
    pairs = [(before.run(None, feed)[0], after.run(None, feed)[0]) for feed in unseen]
    return max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs)


@pytest.mark.parametrize("per_channel", [False, True], ids=["per tensor", "per channel"])
@pytest.mark.parametrize(
    ("model", "moved", "stay"),
    [
        (chain("Relu"), {"w1", "b1", "w2"}, set()),
        (chain("Relu", group=1), {"w1", "b1", "w2"}, set()),
        (chain("LeakyRelu"), {"w1", "b1", "w2"}, set()),
        (chain("Clip", 0.0, 6.0), {"w2", "w3"}, {"w1", "b1"}),
        (chain("Clip", -1.0, 1.0), {"w2", "w3"}, {"w1", "b1"}),
        (residual(), {"w2", "w3"}, {"w1", "w4"}),
        (shared(), {"v", "u"}, {"w", "b1"}),
    ],
    ids=["depthwise", "dense", "LeakyRelu", "ReLU6", "Clip", "residual", "shared weight"],
)
def test_equalization_keeps_the_float_model(
    tmp_path: Path, model: onnx.ModelProto, moved: set[str], stay: set[str], per_channel: bool
) -> None:
    case, changed = corrected(tmp_path, model, "equalization", per_channel=per_channel)

    assert moved <= changed
    assert not stay & changed
    assert largest_difference(case) < 1e-4


@pytest.mark.parametrize(
    ("model", "moved", "stay"),
    [
        (norms(), {"gain", "shift", "wq", "wk"}, set()),
        (norms(whole=False), {"gain", "shift", "wq", "wk"}, set()),
        (norms(kept=True), {"wq", "wk"}, {"gain", "shift"}),
    ],
    ids=["LayerNormalization", "Mul and Add", "residual"],
)
def test_smoothquant_keeps_the_float_model(
    tmp_path: Path, model: onnx.ModelProto, moved: set[str], stay: set[str]
) -> None:
    case, changed = corrected(tmp_path, model, "smoothquant")

    assert moved <= changed
    assert not stay & changed
    assert largest_difference(case) < 1e-4


def test_smoothquant_leaves_a_weight_that_two_products_share(tmp_path: Path) -> None:
    model = norms()
    next(node for node in model.graph.node if node.name == "key").input[1] = "wq"

    _, changed = corrected(tmp_path, model, "smoothquant")

    assert not {"wq", "gain", "shift"} & changed


def test_smoothquant_leaves_what_no_normalization_wrote(tmp_path: Path) -> None:
    """Outliers that come and go between samples say nothing about the next one."""
    _, changed = corrected(tmp_path, shared(), "smoothquant")

    assert not changed
