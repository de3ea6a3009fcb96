"""Where BatchNormalization goes, that outputs stay, and what is said of one that stays."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.engine.graphs import FLOAT, build, feeds, normalized, weights
from worker.engine.load import save_model
from worker.engine.passes.batchnorm import batchnorms_left, fold_batchnorm
from worker.engine.passes.scopes import consumers
from worker.engine.prepare import prepare_model
from worker.engine.session import open_session

STATISTICS = ("scale", "shift", "mean", "var")
Array = np.ndarray[Any, Any]


def statistics(channels: int, shift: float | None = None) -> dict[str, Array]:
    rng = np.random.default_rng(3)
    values = {name: rng.uniform(0.5, 2, channels).astype(np.float32) for name in STATISTICS}
    if shift is not None:
        values["shift"] = np.full(channels, shift, np.float32)
        values["mean"] = np.zeros(channels, np.float32)
    return values


def norm(source: str, target: str, name: str = "norm", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node("BatchNormalization", [source, *STATISTICS], [target], name, **attributes)


def outputs(model: onnx.ModelProto, feed: Mapping[str, Array], folder: Path) -> list[Array]:
    save_model(model, folder / "model.onnx")
    found: list[Array] = open_session(folder / "model.onnx").run(None, dict(feed))
    return found


def folded(model: onnx.ModelProto, folder: Path, feed: Mapping[str, Array]) -> list[str]:
    """Operators that are left when the pass has run, which changes no output."""
    before = outputs(model, feed, folder)

    changed, names = fold_batchnorm(model)

    assert names == ["norm"]
    for reference, value in zip(before, outputs(changed, feed, folder), strict=True):
        np.testing.assert_allclose(value, reference, atol=2e-5)
    assert fold_batchnorm(changed)[1] == []
    assert {tensor.name for tensor in changed.graph.initializer} <= set(consumers(changed.graph))
    return [node.op_type for node in changed.graph.node]


def chain(
    nodes: Sequence[onnx.NodeProto], constants: Mapping[str, Array], shape: Sequence[int], out: Sequence[int]
) -> onnx.ModelProto:
    return build(nodes, {"x": shape}, {"y": out}, constants)


IMAGE = feeds(1)[0]
ROWS = {"x": weights(4, 16, seed=5)}


@pytest.mark.parametrize("groups", [1, 2])
def test_it_goes_into_a_transposed_convolution_of_any_groups(tmp_path: Path, groups: int) -> None:
    nodes = [
        helper.make_node("ConvTranspose", ["x", "w", "b"], ["a"], "up", group=groups, strides=[2, 2]),
        norm("a", "y"),
    ]
    constants = {"w": weights(4, 6 // groups, 2, 2), "b": weights(6, 1)[:, 0], **statistics(6)}
    model = chain(nodes, constants, (1, 4, 5, 5), (1, 6, 10, 10))

    assert folded(model, tmp_path, {"x": weights(1, 4, 5, 5)}) == ["ConvTranspose"]


@pytest.mark.parametrize("bias", [(8,), (1, 8), (4, 1), (), None])
def test_it_goes_into_a_gemm_with_factors_and_any_bias(tmp_path: Path, bias: tuple[int, ...] | None) -> None:
    inputs = ["x", "w"] if bias is None else ["x", "w", "c"]
    nodes = [helper.make_node("Gemm", inputs, ["a"], "gemm", alpha=0.5, beta=2.0), norm("a", "y")]
    constants = {"w": weights(16, 8), **statistics(8)}
    if bias is not None:
        constants["c"] = np.asarray(np.random.default_rng(1).normal(size=bias), np.float32)

    assert folded(chain(nodes, constants, (4, 16), (4, 8)), tmp_path, ROWS) == ["Gemm"]


def test_a_product_of_rows_gets_a_sum_behind_it(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"], "product"), norm("a", "y")]
    model = chain(nodes, {"w": weights(16, 8), **statistics(8)}, (4, 16), (4, 8))

    assert folded(model, tmp_path, ROWS) == ["MatMul", "Add"]


@pytest.mark.parametrize("operator", ["MatMul", "Conv"])
def test_a_constant_that_is_added_before_it_is_scaled_too(tmp_path: Path, operator: str) -> None:
    rows = operator == "MatMul"
    nodes = [
        helper.make_node(operator, ["x", "w"], ["p"], "operator"),
        helper.make_node("Add", ["c", "p"], ["a"], "add"),
        norm("a", "y"),
    ]
    weight, row = (weights(16, 8), (8,)) if rows else (weights(8, 3, 1, 1), (8, 1, 1))
    constants = {"w": weight, "c": weights(8, 1).reshape(row), **statistics(8)}
    shapes = ((4, 16), (4, 8)) if rows else ((1, 3, 16, 16), (1, 8, 16, 16))

    assert folded(chain(nodes, constants, *shapes), tmp_path, ROWS if rows else IMAGE) == [operator, "Add"]


def test_a_shared_weight_is_kept_by_the_other_node_that_reads_it(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["a"], "first"),
        norm("a", "r"),
        helper.make_node("Gemm", ["r", "w"], ["y"], "second"),
    ]
    model = chain(nodes, {"w": weights(16, 16), **statistics(16)}, (4, 16), (4, 16))

    assert folded(model, tmp_path, ROWS) == ["Gemm", "Gemm"]
    assert [node.input[1] for node in model.graph.node] == ["w_folded", "w"]


def conv_behind(**attributes: Any) -> list[onnx.NodeProto]:
    """It reads an input, so it can only go into the two convolutions that read its result."""
    return [
        norm("x", "n"),
        helper.make_node("Conv", ["n", "w", "b"], ["a"], "left", group=3, **attributes),
        helper.make_node("Conv", ["n", "v"], ["c"], "right", **attributes),
        helper.make_node("Add", ["a", "c"], ["y"], "add"),
    ]


def images(nodes: Sequence[onnx.NodeProto], shift: float | None, size: int) -> onnx.ModelProto:
    constants = {"w": weights(6, 1, 3, 3), "v": weights(6, 3, 3, 3), "b": weights(6, 1)[:, 0]}
    return chain(nodes, {**constants, **statistics(3, shift)}, (1, 3, 16, 16), (1, 6, size, size))


def test_it_goes_into_all_convolutions_behind_it(tmp_path: Path) -> None:
    assert folded(images(conv_behind(), None, 14), tmp_path, IMAGE) == ["Conv", "Conv", "Add"]


def test_padding_parts_it_from_a_convolution_behind_it(tmp_path: Path) -> None:
    padded = conv_behind(pads=[1, 1, 1, 1])

    assert fold_batchnorm(images(padded, None, 16))[1] == []
    left = batchnorms_left(images(padded, None, 16))
    assert left["norm"].startswith("it follows no operator, and left pads it with zeros")
    assert folded(images(padded, 0.0, 16), tmp_path, IMAGE) == ["Conv", "Conv", "Add"], "nothing is added"


@pytest.mark.parametrize("operator", ["MatMul", "Gemm"])
def test_it_goes_into_a_product_behind_it(tmp_path: Path, operator: str) -> None:
    attributes: dict[str, Any] = {"alpha": 0.5} if operator == "Gemm" else {}
    product = helper.make_node(operator, ["n", "w"], ["y"], "product", **attributes)
    model = chain([norm("x", "n"), product], {"w": weights(16, 8), **statistics(16)}, (4, 16), (4, 8))

    assert folded(model, tmp_path, ROWS) == (["MatMul", "Add"] if operator == "MatMul" else ["Gemm"])


def test_a_transpose_may_lie_between_it_and_the_products_behind_it(tmp_path: Path) -> None:
    """As in transformers that normalize by batch."""
    nodes = [
        norm("x", "n"),
        helper.make_node("Transpose", ["n"], ["t"], "turn", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["t", "w"], ["p"], "query"),
        helper.make_node("Add", ["c", "p"], ["q"], "bias"),
        helper.make_node("MatMul", ["t", "v"], ["k"], "key"),
        helper.make_node("Add", ["q", "k"], ["s"], "add"),
        helper.make_node("Shape", ["t"], ["shape"], "shape"),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"], "zeros"),
        helper.make_node("ReduceSum", ["zeros"], ["none"], "none", keepdims=0),
        helper.make_node("Add", ["s", "none"], ["y"], "again"),
    ]
    constants = {"w": weights(8, 6), "v": weights(8, 6, seed=1), "c": weights(6, 1)[:, 0], **statistics(8)}
    model = chain(nodes, constants, (2, 8, 5), (2, 5, 6))

    left = folded(model, tmp_path, {"x": weights(2, 8, 5)})

    assert left[:6] == ["Transpose", "MatMul", "Add", "MatMul", "Add", "Add"], "one sum takes up the shift"


def test_a_turned_result_that_others_read_keeps_it() -> None:
    nodes = [
        norm("x", "n"),
        helper.make_node("Transpose", ["n"], ["y"], "turn", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["y", "w"], ["p"], "query"),
    ]
    model = chain(nodes, {"w": weights(8, 6), **statistics(8)}, (2, 8, 5), (2, 5, 8))

    assert fold_batchnorm(model)[1] == []
    assert "its result is an output" in batchnorms_left(model)["norm"]


def test_columns_of_more_than_rows_are_no_channels() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"], "product"), norm("a", "y")]
    model = chain(nodes, {"w": weights(8, 8), **statistics(8)}, (2, 8, 8), (2, 8, 8))

    assert fold_batchnorm(model)[1] == []
    assert batchnorms_left(model)["norm"].startswith("its channels are not the columns of product")


def test_a_result_that_others_read_too_keeps_it() -> None:
    model = normalized()
    model.graph.node.append(helper.make_node("Relu", ["a"], ["r"], "relu"))
    model.graph.output.append(helper.make_tensor_value_info("r", FLOAT, [1, 8, 16, 16]))

    assert fold_batchnorm(model)[1] == []
    assert batchnorms_left(model)["norm"] == "others read the result of conv too, and its result is an output"


@pytest.mark.parametrize(
    ("before", "words"), [("Relu", "it follows Relu"), ("Sigmoid", "it follows Sigmoid")]
)
def test_what_is_not_linear_parts_it_from_weights(before: str, words: str) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "conv"),
        helper.make_node(before, ["a"], ["r"], "bend"),
        norm("r", "y"),
    ]
    model = chain(nodes, {"w": weights(8, 3, 1, 1), **statistics(8)}, (1, 3, 16, 16), (1, 8, 16, 16))

    assert batchnorms_left(model)["norm"].startswith(words)


def test_one_that_trains_is_left_with_the_reason() -> None:
    training, older = normalized(), normalized()
    training.graph.node[1].attribute.append(helper.make_attribute("training_mode", 1))
    older.graph.node[1].output.extend(["mean_out", "var_out"])

    for model in (training, older):
        assert fold_batchnorm(model)[1] == []
        assert "as in training; export the model for inference" in batchnorms_left(model)["norm"]


def test_statistics_that_are_computed_are_left_with_the_reason() -> None:
    model = normalized()
    model.graph.node.insert(0, helper.make_node("Neg", ["negative"], ["scale"], "neg"))
    renamed = next(tensor for tensor in model.graph.initializer if tensor.name == "scale")
    renamed.name = "negative"

    assert fold_batchnorm(model)[1] == []
    assert batchnorms_left(model) == {"norm": "its statistics are computed"}


def test_it_is_folded_in_branches_with_constants_from_outside(tmp_path: Path) -> None:
    inner = normalized().graph
    values = [helper.make_tensor_value_info("y", FLOAT, [1, 8, 16, 16])]
    branch = helper.make_graph(inner.node, "then", [], values)
    other = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["z"], "other")], "else", [], values)
    other.output[0].name = "z"
    node = helper.make_node("If", ["yes"], ["out"], "if", then_branch=branch, else_branch=other)
    model = build([node], {"x": [1, 3, 16, 16]}, {"out": [1, 8, 16, 16]}, {})
    model.graph.initializer.extend(inner.initializer)
    model.graph.input.append(helper.make_tensor_value_info("yes", TensorProto.BOOL, []))

    for yes in (True, False):
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        assert folded(copy, tmp_path, {**IMAGE, "yes": np.array(yes)}) == ["If"]
        assert any(tensor.name == "w" for tensor in copy.graph.initializer), "the other branch keeps it"


def test_a_prepared_model_says_which_were_folded_and_which_stay(tmp_path: Path) -> None:
    model = normalized()
    stays = helper.make_node("BatchNormalization", ["r", *STATISTICS], ["last"], "second")
    model.graph.node.extend([helper.make_node("Relu", ["y"], ["r"], "relu"), stays])
    model.graph.output[0].name = "last"
    save_model(model, tmp_path / "source.onnx")

    notes = prepare_model(tmp_path / "source.onnx", tmp_path / "out.onnx", [IMAGE], {})

    done, left = notes
    assert done == "Done: fold BatchNormalization into the operators before or behind it (norm)."
    assert left == ("BatchNormalization is not folded, it follows Relu, and its result is an output: second.")


def test_a_norm_behind_weights_without_values_stays() -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["a"], "conv"), norm("a", "y")]
    constants = {"w": np.zeros((0, 3, 1, 1), np.float32), **statistics(0)}
    model = chain(nodes, constants, [1, 3, 8, 8], [1, 0, 8, 8])

    assert not fold_batchnorm(model)[1]
    assert batchnorms_left(model)["norm"].startswith("the weights of conv hold no values")
