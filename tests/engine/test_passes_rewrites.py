"""Each pass: what it makes of a small graph, that outputs stay, and that a second run does nothing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.engine.graphs import (
    branch_feeds,
    branches,
    build,
    convolution,
    dense,
    feeds,
    half,
    normalized,
    weights,
)
from worker.engine.load import save_model
from worker.engine.passes import PASSES, Pass
from worker.engine.passes.batchnorm import fold_batchnorm
from worker.engine.passes.collisions import separate_names
from worker.engine.passes.constants import constants_to_initializers, fold_constants
from worker.engine.passes.domains import drop_unused_domains
from worker.engine.passes.functions import inline_functions
from worker.engine.passes.gemm_bias import make_bias_rows
from worker.engine.passes.half import widen_half
from worker.engine.passes.identities import remove_identities
from worker.engine.passes.inputs import separate_constants_from_inputs
from worker.engine.passes.legacy import rewrite_legacy
from worker.engine.passes.naming import name_nodes
from worker.engine.passes.opset import CannotConvert, convert_opset
from worker.engine.passes.scopes import all_nodes, opset
from worker.engine.passes.sharing import separate_shared_weights
from worker.engine.passes.sparse import fill_sparse_constants
from worker.engine.session import open_session

IMAGE = feeds(1)[0]


def run(model: onnx.ModelProto, feed: dict[str, np.ndarray], folder: Path) -> list[Any]:
    path = folder / "model.onnx"
    save_model(model, path)
    outputs: list[Any] = open_session(path).run(None, feed)
    return outputs


def applied(
    step: Pass, model: onnx.ModelProto, folder: Path, feed: dict[str, np.ndarray] = IMAGE
) -> onnx.ModelProto:
    """Apply a pass, and hold it to what every pass promises."""
    before = run(model, feed, folder)

    changed, modified = step(model)

    assert modified
    for reference, value in zip(before, run(changed, feed, folder), strict=True):
        assert value.dtype == reference.dtype
        np.testing.assert_allclose(value, reference, atol=1e-3 if value.dtype == np.float16 else 1e-5)
    assert not step(changed)[1]
    return changed


def op_types(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def pointwise(
    *nodes: onnx.NodeProto, constants: dict[str, np.ndarray] | None = None, version: int = 17, ir: int = 8
) -> onnx.ModelProto:
    """Nodes from x to y that keep the shape."""
    shape: Sequence[int] = (1, 3, 16, 16)
    return build(nodes, {"x": shape}, {"y": shape}, constants or {}, opset=version, ir=ir)


@pytest.mark.parametrize("step", dict.fromkeys(PASSES), ids=lambda step: step.__name__)
def test_a_pass_leaves_a_clean_model_alone(step: Pass) -> None:
    model = convolution()
    if step.__name__ == "infer_shapes":
        model, _ = step(model)
    before = model.SerializeToString(deterministic=True)

    changed, modified = step(model)

    assert not modified
    assert changed.SerializeToString(deterministic=True) == before


def test_nodes_get_names_of_their_own_also_in_branches(tmp_path: Path) -> None:
    model = branches()
    for node in all_nodes(model.graph):
        node.name = ""
    model.graph.node[0].name = "MatMul_0"

    named = applied(name_nodes, model, tmp_path, branch_feeds(1)[0])

    names = [node.name for node in all_nodes(named.graph)]
    assert all(names)
    assert len(set(names)) == len(names)
    assert names[0] == "MatMul_0"


def gemm(bias: np.ndarray, beta: float, rows: int = 3) -> onnx.ModelProto:
    """A Gemm from 16 to 8 with this bias."""
    node = helper.make_node("Gemm", ["x", "w", "c"], ["y"], "gemm", beta=beta)
    return build([node], {"x": [rows, 16]}, {"y": [rows, 8]}, {"w": weights(16, 8), "c": bias})


@pytest.mark.parametrize("shape", [(8,), (1, 8), (1,), (), (1, 1)])
@pytest.mark.parametrize("beta", [2.0, 0.0])
def test_a_bias_and_its_factor_become_a_row(shape: tuple[int, ...], beta: float, tmp_path: Path) -> None:
    model = gemm(np.asarray(weights(8, 2).reshape(-1)[: int(np.prod(shape))].reshape(shape)), beta)

    changed = applied(make_bias_rows, model, tmp_path, feeds(1, shape=(3, 16))[0])

    node = changed.graph.node[0]
    row = next(t for t in changed.graph.initializer if t.name == node.input[2])
    assert list(row.dims) == [8]
    assert not [entry for entry in node.attribute if entry.name == "beta"]


def test_a_bias_that_differs_between_rows_only_takes_its_factor(tmp_path: Path) -> None:
    model = gemm(weights(3, 8, seed=4), 0.5)

    changed = applied(make_bias_rows, model, tmp_path, feeds(1, shape=(3, 16))[0])

    assert [list(t.dims) for t in changed.graph.initializer if t.name == "c_row"] == [[3, 8]]
    assert not make_bias_rows(gemm(weights(3, 8, seed=4), 1.0))[1]


def test_of_nodes_with_one_name_the_first_keeps_it() -> None:
    model = convolution()
    for node in model.graph.node:
        node.name = "same"

    named, _ = name_nodes(model)

    assert [node.name for node in named.graph.node] == ["same", "same_2", "same_3"]


def called_matmul() -> onnx.ModelProto:
    """A function that has an operator's name and computes something else."""
    nodes = [
        helper.make_node("MatMul", ["a", "b"], ["product"]),
        helper.make_node("Abs", ["product"], ["size"]),
    ]
    imports = [helper.make_opsetid("", 17)]
    function = helper.make_function("mine", "MatMul", ["a", "b"], ["size"], nodes, imports)
    call = helper.make_node("MatMul", ["x", "w"], ["y"], "call", domain="mine")
    model = build([call], {"x": [3, 16]}, {"y": [3, 8]}, {"w": weights(16, 8)})
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.metadata_props.add(key="labels", value="cat,dog")
    return model


def test_a_function_gives_way_to_its_nodes(tmp_path: Path) -> None:
    changed = applied(inline_functions, called_matmul(), tmp_path, feeds(1, shape=(3, 16))[0])

    assert op_types(changed) == ["MatMul", "Abs"]
    assert changed.metadata_props[0].value == "cat,dog"


@pytest.mark.parametrize("places", [[1, 5], [[0, 1], [1, 1]]])
def test_sparse_constants_become_dense(places: list[Any], tmp_path: Path) -> None:
    values = numpy_helper.from_array(np.array([2.0, 3.0], np.float32), "w")
    indices = numpy_helper.from_array(np.array(places, np.int64), "places")
    model = build(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")], {"x": [1, 3]}, {"y": [1, 4]}, {}
    )
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [3, 4]))

    changed = applied(fill_sparse_constants, model, tmp_path, feeds(1, shape=(1, 3))[0])

    assert np.count_nonzero(numpy_helper.to_array(changed.graph.initializer[0])) == 2


def named(*names: str) -> onnx.ModelProto:
    """A Relu and a Mul of tensors with these names: input, result, constant, output."""
    x, h, scale, y = names
    shape: Sequence[int] = (1, 3, 16, 16)
    nodes = [helper.make_node("Relu", [x], [h], "relu"), helper.make_node("Mul", [h, scale], [y], "mul")]
    return build(nodes, {x: shape}, {y: shape}, {scale: np.array(0.5, np.float32)})


def test_what_is_called_as_a_quantizer_calls_its_own_gets_another_name(tmp_path: Path) -> None:
    changed = applied(separate_names, named("x", "h", "h_scale", "y"), tmp_path)

    assert list(changed.graph.node[1].input) == ["h", "h.scale"]
    assert [tensor.name for tensor in changed.graph.initializer] == ["h.scale"]
    assert not separate_names(named("x", "h", "scale_of_h", "y"))[1]


def test_an_output_keeps_its_name_and_what_it_is_named_after_gets_another(tmp_path: Path) -> None:
    changed = applied(separate_names, named("x", "h", "c", "h_quantized"), tmp_path)

    assert [value.name for value in changed.graph.output] == ["h_quantized"]
    assert changed.graph.node[0].output == ["h_2"]


def test_between_an_input_and_an_output_stands_an_identity(tmp_path: Path) -> None:
    changed = applied(separate_names, named("x", "h", "c", "x_scale"), tmp_path)

    assert op_types(changed) == ["Identity", "Relu", "Mul"]
    assert changed.graph.node[0].input == ["x"]
    assert changed.graph.node[1].input == changed.graph.node[0].output


def test_constants_leave_the_inputs_and_the_ir_version_follows(tmp_path: Path) -> None:
    model = applied(separate_constants_from_inputs, convolution(opset=8, ir=3), tmp_path)

    assert [value.name for value in model.graph.input] == ["x"]
    assert model.ir_version == 4


def test_an_old_operator_set_is_converted_with_its_surroundings(tmp_path: Path) -> None:
    model = convolution(opset=9, ir=4)
    model.producer_name = "exporter"
    model.metadata_props.add(key="labels", value="cat,dog")

    converted = applied(convert_opset, model, tmp_path)

    assert (opset(converted), converted.ir_version, converted.producer_name) == (17, 8, "exporter")
    assert converted.metadata_props[0].value == "cat,dog"
    assert converted.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_a_model_that_cannot_be_converted_says_why() -> None:
    model = pointwise(helper.make_node("Affine", ["x"], ["y"], "affine"), version=7, ir=3)

    with pytest.raises(CannotConvert, match="Affine"):
        convert_opset(model)


def test_hardmax_is_not_converted_for_it_came_to_mean_another_thing() -> None:
    """Also in a branch that no sample takes, where nothing could prove it."""
    model = branches()
    model.opset_import[0].version = 11
    branch = model.graph.node[0].attribute[0].g
    branch.node[1].output[0] = "before"
    branch.node.append(helper.make_node("Hardmax", ["before"], [branch.output[0].name], "hardmax"))

    with pytest.raises(CannotConvert, match="Hardmax"):
        convert_opset(model)


def test_a_newer_ir_version_is_never_lowered(tmp_path: Path) -> None:
    converted = applied(convert_opset, convolution(opset=11, ir=10), tmp_path)

    assert converted.ir_version == 10


def test_constant_nodes_become_initializers_in_their_own_scope(tmp_path: Path) -> None:
    model = applied(constants_to_initializers, branches(), tmp_path, branch_feeds(1)[0])

    assert "Constant" not in {node.op_type for node in all_nodes(model.graph)}
    inner = [entry.g for entry in model.graph.node[0].attribute]
    assert sorted(tensor.name for graph in inner for tensor in graph.initializer) == ["else_w", "then_w"]


def test_numbers_of_constant_nodes_become_initializers(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Constant", [], ["factor"], "factor", value_float=2.0),
        helper.make_node("Constant", [], ["row"], "row", value_floats=[0.5] * 16),
        helper.make_node("Constant", [], ["axis"], "axis", value_int=0),
        helper.make_node("Constant", [], ["axes"], "axes", value_ints=[0]),
        helper.make_node("Mul", ["x", "factor"], ["twice"], "twice"),
        helper.make_node("Add", ["twice", "row"], ["sum"], "sum"),
        helper.make_node("CumSum", ["sum", "axis"], ["running"], "running"),
        helper.make_node("Unsqueeze", ["running", "axes"], ["wide"], "wide"),
        helper.make_node("Squeeze", ["wide", "axes"], ["y"], "narrow"),
    ]

    model = applied(constants_to_initializers, pointwise(*nodes), tmp_path)

    assert "Constant" not in op_types(model)
    shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    assert shapes == {"factor": [], "row": [16], "axis": [], "axes": [1]}


def test_a_constant_that_is_an_output_stays_a_node() -> None:
    value = numpy_helper.from_array(weights(1, 3, 16, 16))
    model = pointwise(helper.make_node("Constant", [], ["y"], "constant", value=value))

    assert not constants_to_initializers(model)[1]


def test_what_depends_on_constants_alone_is_computed(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"], "turn"),
        helper.make_node("Mul", ["t", "s"], ["scaled"], "scale"),
        helper.make_node("MatMul", ["x", "scaled"], ["y"], "product"),
    ]
    constants = {"w": weights(16, 16), "s": np.array(3, np.float32)}

    model = applied(fold_constants, pointwise(*nodes, constants=constants), tmp_path)

    assert op_types(model) == ["MatMul"]
    assert [tensor.name for tensor in model.graph.initializer] == ["scaled"]
    np.testing.assert_allclose(
        numpy_helper.to_array(model.graph.initializer[0]), constants["w"].T * 3, rtol=1e-6
    )


def test_constants_are_folded_in_branches_with_weights_from_outside(tmp_path: Path) -> None:
    model = branches()
    model, _ = constants_to_initializers(model)
    then = next(entry.g for entry in model.graph.node[0].attribute if entry.name == "then_branch")
    model.graph.initializer.append(numpy_helper.from_array(weights(16, 16, seed=9), "outer"))
    then.node.insert(0, helper.make_node("Add", ["then_w", "outer"], ["sum"], "sum"))
    then.node[1].input[1] = "sum"

    folded = applied(fold_constants, model, tmp_path, branch_feeds(1)[0])

    assert [node.op_type for node in all_nodes(folded.graph)] == ["If", "MatMul", "MatMul"]


def test_random_nodes_are_not_computed_once() -> None:
    noise = helper.make_node("RandomNormalLike", ["w"], ["n"], "noise")
    add = helper.make_node("Add", ["x", "n"], ["y"], "add")

    assert not fold_constants(pointwise(noise, add, constants={"w": weights(16, 16)}))[1]


def test_a_short_recipe_for_a_huge_constant_is_not_followed() -> None:
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"], "zeros"),
        helper.make_node("ReduceSum", ["zeros"], ["sum"], "sum", keepdims=0),
        helper.make_node("Expand", ["w", "shape"], ["huge"], "huge"),
        helper.make_node("Gather", ["huge", "x"], ["y"], "pick"),
    ]
    constants = {"shape": np.array([20_000_000], np.int64), "w": weights(1, 1)[0]}
    model = build(nodes, {"x": [1]}, {"y": [1]}, constants, kind=TensorProto.INT64)

    assert not fold_constants(model)[1]


def test_identities_and_idle_dropout_are_bridged(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Identity", ["x"], ["a"], "same"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Dropout", ["b"], ["c", "mask"], "dropout"),
        helper.make_node("Neg", ["c"], ["y"], "neg"),
    ]

    model = applied(remove_identities, pointwise(*nodes), tmp_path)

    assert [list(node.input) for node in model.graph.node] == [["x"], ["b"]]


def test_an_identity_that_writes_an_output_stays() -> None:
    assert not remove_identities(pointwise(helper.make_node("Identity", ["x"], ["y"], "same")))[1]


def test_a_dropout_that_trains_stays() -> None:
    dropout = helper.make_node("Dropout", ["x", "ratio", "training"], ["a"], "dropout")
    constants = {"ratio": np.array(0.5, np.float32), "training": np.array(True)}
    model = pointwise(dropout, helper.make_node("Neg", ["a"], ["y"], "neg"), constants=constants)

    assert not remove_identities(model)[1]


def test_batchnorm_is_folded_into_the_convolution(tmp_path: Path) -> None:
    model = applied(fold_batchnorm, normalized(), tmp_path)

    assert op_types(model) == ["Conv"]
    assert len(model.graph.node[0].input) == 3


@pytest.mark.parametrize("transposed", [False, True])
def test_batchnorm_is_folded_into_a_gemm(tmp_path: Path, transposed: bool) -> None:
    model = dense(transposed=transposed)
    model.graph.node[1].CopyFrom(
        helper.make_node("BatchNormalization", ["a", "scale", "shift", "mean", "var"], ["r"], "norm")
    )
    for seed, name in enumerate(("scale", "shift", "mean", "var")):
        values = np.abs(weights(32, 1, seed=seed)[:, 0]) + 1
        model.graph.initializer.append(numpy_helper.from_array(values, name))

    folded = applied(fold_batchnorm, model, tmp_path, {"x": weights(2, 32)})

    assert op_types(folded) == ["Gemm", "Gemm"]
    assert folded.graph.node[1].input[2] == "b", "the other Gemm keeps the bias that both shared"


def test_batchnorm_behind_a_shared_result_stays() -> None:
    model = normalized()
    model.graph.output.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, [1, 8, 16, 16]))

    assert not fold_batchnorm(model)[1]


def test_a_weight_in_two_roles_becomes_two(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["a"], "turned", transB=1),
        helper.make_node("Gemm", ["a", "w"], ["b"], "straight"),
        helper.make_node("Gemm", ["b", "w"], ["y"], "turned_again", transB=1),
    ]
    model = build(nodes, {"x": [2, 16]}, {"y": [2, 16]}, {"w": weights(16, 16)})

    separated = applied(separate_shared_weights, model, tmp_path, {"x": weights(2, 16)})

    assert [node.input[1] for node in separated.graph.node] == ["w", "w_2", "w"]


def test_a_weight_in_one_role_stays_shared() -> None:
    assert not separate_shared_weights(dense(shared=True))[1]


def test_half_precision_is_widened_behind_an_unchanged_surface(tmp_path: Path) -> None:
    feed = {"x": IMAGE["x"].astype(np.float16)}

    model = applied(widen_half, half(), tmp_path, feed)

    assert op_types(model) == ["Cast", "Conv", "Relu", "Cast"]
    assert {tensor.data_type for tensor in model.graph.initializer} == {TensorProto.FLOAT}


def test_operators_of_2018_are_rewritten(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ImageScaler", ["x"], ["a"], "scaler", scale=0.5, bias=[0.1, 0.2, 0.3]),
        helper.make_node("Affine", ["a"], ["b"], "affine", alpha=2.0, beta=-1.0),
        helper.make_node("Crop", ["b"], ["y"], "crop", border=[1, 2, 3, 4]),
    ]
    model = build(nodes, {"x": [1, 3, 16, 16]}, {"y": [1, 3, 10, 12]}, {}, opset=7, ir=4)

    rewritten = applied(rewrite_legacy, model, tmp_path)

    assert op_types(rewritten) == ["Mul", "Add", "Mul", "Add", "Slice"]


def test_unused_and_doubled_domains_go(tmp_path: Path) -> None:
    model = convolution()
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 2))

    cleaned = applied(drop_unused_domains, model, tmp_path)

    assert [(entry.domain, entry.version) for entry in cleaned.opset_import] == [("", 17)]
