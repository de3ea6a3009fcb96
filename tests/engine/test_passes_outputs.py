"""Outputs that no node writes: inputs and constants that a model hands out as they are."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from app.domain.recipe import BFloat16, Correction, DynamicInt8, Float16, Mixed, Recipe, Selection, StaticInt8
from tests.engine.graphs import build, feeds, weights
from tests.engine.quantizing import Samples, Start
from worker.engine.methods import Setting, quantize
from worker.engine.passes.half import widen_half
from worker.engine.passes.likeness import likeness_db
from worker.engine.passes.outputs import separate_outputs
from worker.engine.passes.scopes import all_nodes
from worker.engine.session import open_session

CORRECTIONS: tuple[Correction, ...] = (
    "equalization",
    "smoothquant",
    "weight_clipping",
    "rounding",
    "bias_correction",
)
RECIPES: dict[str, Recipe] = {
    "dynamic": DynamicInt8(include=Selection(op_types=("*",))),
    "static": StaticInt8(),
    "static, qoperator": StaticInt8(format="qoperator"),
    "static, all corrections": StaticInt8(corrections=CORRECTIONS),
    "static, adaround": StaticInt8(corrections=("adaround",)),
    "mixed": Mixed(),
    "float16": Float16(),
    "float16, full": Float16(compute="full"),
    "bfloat16": BFloat16(),
}
SMALLER = {TensorProto.INT8, TensorProto.UINT8, TensorProto.FLOAT16, TensorProto.BFLOAT16}
IMAGES, ROWS = feeds(), feeds(shape=(2, 64))


def images() -> onnx.ModelProto:
    """Two Convs; the input and both weights are outputs too."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "w2"], ["y"], "second"),
    ]
    constants = {"w1": weights(64, 3, 3, 3), "w2": weights(64, 64, 1, 1, seed=1)}
    given: Mapping[str, Sequence[int | str]] = {"x": ["batch", 3, 16, 16]}
    kept = {name: values.shape for name, values in constants.items()}
    return build(nodes, given, {"y": ["batch", 64, 16, 16], **given, **kept}, constants)


def rows() -> onnx.ModelProto:
    """Two products of one weight; the input is an output before and behind the result."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "w"], ["y"], "second"),
    ]
    rows: Sequence[int | str] = ["batch", 64]
    return build(nodes, {"x": rows}, {"x": rows, "y": rows, "w": [64, 64]}, {"w": weights(64, 64)})


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize(("model", "samples"), [(images(), IMAGES), (rows(), ROWS)], ids=["images", "rows"])
def test_what_is_handed_out_stays_and_what_is_computed_is_quantized(
    case: Start, model: onnx.ModelProto, samples: Samples, name: str
) -> None:
    on_its_way = case(model, samples)
    setting = Setting(isa="x86-vnni", statistics=on_its_way.statistics, samples=lambda: iter(samples))

    quantize(on_its_way.prepared, on_its_way.out, RECIPES[name], setting)

    assert SMALLER & {*on_its_way.weight_types().values()}
    before, after = (open_session(path) for path in (on_its_way.source, on_its_way.out))
    names = [value.name for value in before.get_outputs()]
    assert [value.name for value in after.get_outputs()] == names
    for feed in samples[:2]:
        for output, a, b in zip(names, before.run(None, feed), after.run(None, feed), strict=True):
            if output == "y":
                assert likeness_db([[a]], [[b]]) > 15
            else:
                np.testing.assert_array_equal(a, b)


def test_an_input_that_is_handed_out_keeps_its_type_where_others_become_integers(case: Start) -> None:
    on_its_way = case(images(), IMAGES)

    quantized = on_its_way.quantize(StaticInt8(quantize_io=True))

    kinds = {value.name: value.type for value in open_session(on_its_way.out).get_outputs()}
    assert kinds == {"y": "tensor(uint8)", **dict.fromkeys(("x", "w1", "w2"), "tensor(float)")}
    assert "x keeps its type: it is not quantized" in quantized.reasons


def test_what_only_identities_read_is_left_alone() -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"], "copy")]
    model = build(nodes, {"x": [2]}, {"y": [2], "x": [2]}, {})

    assert not separate_outputs(model)[1]


def test_what_a_branch_reads_is_a_copy_too() -> None:
    branches = []
    for name in ("then", "else"):
        product = helper.make_node("MatMul", ["x", "w"], [f"{name}_y"], name)
        result = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, [2, 4])
        branches.append(helper.make_graph([product], name, [], [result]))
    node = helper.make_node("If", ["yes"], ["y"], "if", then_branch=branches[0], else_branch=branches[1])
    model = build([node], {"x": [2, 4]}, {"y": [2, 4], "w": [4, 4], "x": [2, 4]}, {"w": weights(4, 4)})
    model.graph.input.append(helper.make_tensor_value_info("yes", TensorProto.BOOL, []))

    separated, changed = separate_outputs(model)

    assert changed == ["w_2", "x_read"]
    assert [list(node.input) for node in all_nodes(separated.graph)][2:] == [["x_read", "w_2"]] * 2


def test_half_that_is_handed_out_is_not_widened(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "product")]
    shapes = {"x": [2, 4], "y": [2, 4], "w": [4, 4]}
    constants = {"w": weights(4, 4).astype(np.float16)}
    model = build(nodes, {"x": [2, 4]}, shapes, constants, kind=TensorProto.FLOAT16)
    onnx.save(model, tmp_path / "before.onnx")
    feed = {"x": weights(2, 4).astype(np.float16)}

    widened = widen_half(separate_outputs(model)[0])[0]

    onnx.save(widened, tmp_path / "after.onnx")
    before, after = (open_session(tmp_path / f"{n}.onnx").run(None, feed) for n in ("before", "after"))
    assert [a.dtype for a in after] == [np.float16] * 3
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)
    assert widened.graph.node[0].op_type == "Cast"
    assert not widen_half(widened)[1]
