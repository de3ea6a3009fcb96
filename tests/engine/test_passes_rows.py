"""Products of three axes become products of matrices, where that adds their biases for free."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from app.domain.recipe import StaticInt8
from tests.engine.encoders import CHANNELS, DYNAMIC, HEADS, encoder
from tests.engine.graphs import branches, build, feeds, weights
from tests.engine.quantizing import Start
from tests.engine.test_passes_rewrites import applied, op_types, run
from worker.engine.load import save_model
from worker.engine.passes.inference import infer_shapes
from worker.engine.passes.matrices import multiply_matrices
from worker.engine.passes.scopes import initializers, producers, tensor_ranks
from worker.engine.passes.shapes import known_sizes, share_shapes
from worker.engine.prepare import prepare_model

FEED = feeds(1, shape=(2, 5, CHANNELS))[0]
BLOCKS = 2
PER_BLOCK = 4  # Reshape nodes: three to split heads, one to join them


def shared(**options: Any) -> onnx.ModelProto:
    """An encoder that reads its sizes from one tensor."""
    return share_shapes(encoder(BLOCKS, **options))[0]


def test_equal_shapes_are_read_from_one_tensor(tmp_path: Path) -> None:
    model = applied(share_shapes, encoder(BLOCKS), tmp_path, FEED)

    assert {node.input[0] for node in model.graph.node if node.op_type == "Shape"} == {"x"}


def test_a_shape_that_nobody_knows_is_read_where_it_was() -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["a"], "reshape"),
        helper.make_node("Shape", ["a"], ["y"], "shape_of"),
    ]
    model = build(nodes, {"x": DYNAMIC, "shape": ["axes"]}, {"y": ["axes"]}, {}, kind=onnx.TensorProto.INT64)
    model.graph.value_info.append(helper.make_tensor_value_info("a", onnx.TensorProto.INT64, DYNAMIC))

    assert not share_shapes(model)[1], "what is recorded may be wrong"


def test_an_encoder_is_entered_and_left_by_one_reshape(tmp_path: Path) -> None:
    flat = infer_shapes(applied(multiply_matrices, shared(), tmp_path, FEED))[0]

    assert Counter(op_types(flat))["Reshape"] == PER_BLOCK * BLOCKS + 2
    ranks, constants = tensor_ranks(flat.graph), initializers(flat.graph)
    weighted = [n for n in flat.graph.node if n.op_type == "MatMul" and n.input[1] in constants]
    assert len(weighted) == 6 * BLOCKS
    assert {ranks[node.output[0]] for node in weighted} == {2}


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 2), (4, 1)])
def test_batch_and_length_stay_free(tmp_path: Path, size: tuple[int, int]) -> None:
    feed = {"x": weights(*size, CHANNELS)}
    before = run(encoder(BLOCKS), feed, tmp_path)

    flat, _ = multiply_matrices(shared())

    np.testing.assert_allclose(run(flat, feed, tmp_path)[0], before[0], atol=1e-5)


def test_a_shape_that_copies_sizes_gets_them_as_numbers(tmp_path: Path) -> None:
    shape = np.array([0, 0, HEADS, CHANNELS // HEADS])

    flat = applied(multiply_matrices, shared(size=(2, 5, CHANNELS), shape=shape), tmp_path, FEED)

    constants, written = initializers(flat.graph), producers(flat.graph)
    split = numpy_helper.to_array(constants[written["b0_query_heads_split"].input[1]])
    assert split.tolist() == [2, 5, HEADS, CHANNELS // HEADS]
    assert Counter(op_types(flat))["Reshape"] == PER_BLOCK * BLOCKS + 2


def test_where_sizes_are_copied_and_dynamic_three_axes_come_back(tmp_path: Path) -> None:
    shape = np.array([0, 0, HEADS, CHANNELS // HEADS])

    flat = applied(multiply_matrices, shared(shape=shape), tmp_path, FEED)

    assert producers(flat.graph)["b0_query"].op_type == "Reshape"


def test_an_output_keeps_its_axes(tmp_path: Path) -> None:
    model = shared()
    model.graph.output.append(
        helper.make_tensor_value_info("b0_end", onnx.TensorProto.FLOAT, ["batch", "sequence", CHANNELS])
    )

    flat = applied(multiply_matrices, model, tmp_path, FEED)

    assert producers(flat.graph)["b0_end"].op_type == "Reshape"


def dense(*steps: onnx.NodeProto, rank: int = 1) -> onnx.ModelProto:
    """Two products with a bias of so many axes, and more steps from s1 to t."""
    nodes, last = [], "x"
    for number in range(2):
        nodes.append(helper.make_node("MatMul", [last, "w"], [f"p{number}"], f"product{number}"))
        nodes.append(helper.make_node("Add", [f"p{number}", "b"], [f"s{number}"], f"sum{number}"))
        last = f"s{number}"
    turn = helper.make_node("Transpose", ["t" if steps else last], ["y"], "turn", perm=[1, 0, 2])
    bias = weights(CHANNELS, 1).reshape([1] * (rank - 1) + [CHANNELS])
    constants = {"w": weights(CHANNELS, CHANNELS), "b": bias}
    outputs: dict[str, Sequence[int | str]] = {"y": ["sequence", "batch", CHANNELS]}
    return infer_shapes(build([*nodes, *steps, turn], {"x": DYNAMIC}, outputs, constants))[0]


@pytest.mark.parametrize("rank", [1, 3])
def test_what_costs_as_much_as_it_wins_stays(rank: int) -> None:
    assert not multiply_matrices(dense(rank=rank))[1]


def test_a_normalization_in_parts_stays_one_of_rows(tmp_path: Path) -> None:
    """It subtracts the mean of each row, and a third product pays for the way back."""
    steps = [
        helper.make_node("ReduceMean", ["s1"], ["mean"], "mean", axes=[2]),
        helper.make_node("Sub", ["s1", "mean"], ["centred"], "centred"),
        helper.make_node("MatMul", ["centred", "w"], ["p2"], "product2"),
        helper.make_node("Add", ["p2", "b"], ["t"], "sum2"),
    ]

    flat = applied(multiply_matrices, dense(*steps), tmp_path, FEED)

    assert Counter(op_types(flat))["Reshape"] == 2
    mean = next(node for node in flat.graph.node if node.op_type == "ReduceMean")
    assert mean.attribute[0].ints == [-1]


def test_what_may_be_broadcast_has_no_known_rows(tmp_path: Path) -> None:
    """Samples of one size look as if all were of that size."""
    nodes, last = [helper.make_node("Add", ["x", "z"], ["both"], "both")], "both"
    for number in range(3):
        nodes.append(helper.make_node("MatMul", [last, "w"], [f"p{number}"], f"product{number}"))
        nodes.append(helper.make_node("Add", [f"p{number}", "b"], [f"s{number}"], f"sum{number}"))
        last = f"s{number}"
    nodes.append(helper.make_node("Add", [last, "x"], ["t"], "residual"))
    nodes.append(helper.make_node("Transpose", ["t"], ["y"], "turn", perm=[1, 0, 2]))
    inputs: dict[str, Sequence[int | str]] = {"x": DYNAMIC, "z": ["n", "m", CHANNELS]}
    constants = {"w": weights(CHANNELS, CHANNELS), "b": weights(CHANNELS, 1)[:, 0]}
    model = infer_shapes(build(nodes, inputs, {"y": ["rows", "columns", CHANNELS]}, constants))[0]
    feed = {"x": weights(1, 5, CHANNELS), "z": weights(3, 5, CHANNELS)}

    flat = applied(multiply_matrices, model, tmp_path, feed)

    assert producers(flat.graph)["t"].op_type == "Add"


@pytest.mark.parametrize("part", ["constant node", "input"])
def test_where_a_computed_shape_may_copy_sizes_three_axes_come_back(tmp_path: Path, part: str) -> None:
    """The sample has one token, so that a copied size and the right one look alike."""
    model = shared()
    split = producers(model.graph)["b0_heads"]
    if part == "input":
        model.graph.input.append(helper.make_tensor_value_info("part", onnx.TensorProto.INT64, [1]))
    else:
        model.graph.node.insert(0, helper.make_node("Constant", [], ["part"], "part", value_ints=[0]))
    producers(model.graph)["b0_heads"].input[:] = ["part", *split.input[1:]]
    more = {"part": np.array([0])} if part == "input" else {}

    flat = applied(multiply_matrices, model, tmp_path, {"x": weights(1, 1, CHANNELS), **more})

    longer = {"x": weights(1, 5, CHANNELS), **more}
    np.testing.assert_allclose(
        run(flat, longer, tmp_path)[0], run(encoder(BLOCKS), {"x": longer["x"]}, tmp_path)[0], atol=1e-5
    )


def test_no_tokens_give_no_tokens(tmp_path: Path) -> None:
    flat = applied(multiply_matrices, shared(), tmp_path, FEED)

    assert run(flat, {"x": np.zeros((2, 0, CHANNELS), np.float32)}, tmp_path)[0].shape == (2, CHANNELS, 0)


def test_names_that_are_taken_are_left_alone(tmp_path: Path) -> None:
    model = shared()
    model.graph.node[0].name = "x_rows_reshape"

    flat = applied(multiply_matrices, model, tmp_path, FEED)

    names = [node.name for node in flat.graph.node]
    assert len(set(names)) == len(names)


def test_a_prepared_encoder_is_prepared(tmp_path: Path) -> None:
    once, twice = tmp_path / "once.onnx", tmp_path / "twice.onnx"
    save_model(encoder(BLOCKS), tmp_path / "source.onnx")
    prepare_model(tmp_path / "source.onnx", once, [FEED], {})

    assert prepare_model(once, twice, [FEED], {}) == ()


def test_sizes_of_two_inputs_differ_whatever_they_are_called() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["y"], "one"),
        helper.make_node("Shape", ["z"], ["w"], "other"),
    ]
    outputs: dict[str, Sequence[int | str]] = {"y": [3], "w": [3]}

    assert not share_shapes(build(nodes, {"x": DYNAMIC, "z": DYNAMIC}, outputs, {}))[1]


def test_a_function_of_the_same_name_is_another_operator() -> None:
    model = encoder(BLOCKS)
    for node in model.graph.node:
        node.domain = "ours" if node.op_type == "Shape" else ""

    assert not share_shapes(model)[1]


def test_what_branches_say_of_their_sizes_is_not_believed() -> None:
    model = branches()
    then = next(entry.g for entry in model.graph.node[0].attribute if entry.name == "then_branch")
    size = then.output[0].type.tensor_type.shape.dim[0]
    size.dim_param = "wrong"

    assert "wrong" not in known_sizes(model).get(model.graph.node[0].output[0], ())


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("Einsum", ["x", "x"], ["a"], "einsum", equation="bsc,bsc->bsc"),
        helper.make_node("MaxPool", ["x"], ["a"], "pool", kernel_shape=[2], ceil_mode=1),
        helper.make_node("Cast", ["x"], ["a"], "cast", to=onnx.TensorProto.UINT8),
    ],
    ids=lambda node: node.op_type,
)
def test_where_inference_is_wrong_no_size_is_known(node: onnx.NodeProto) -> None:
    model = build([node], {"x": DYNAMIC}, {"a": DYNAMIC}, {})

    assert "a" not in known_sizes(model)


def test_the_integer_kernels_of_an_encoder_add_their_biases(case: Start) -> None:
    samples = [{"x": weights(1, 5, CHANNELS, seed=seed)} for seed in range(8)]
    made = case(encoder(BLOCKS), samples)

    found = made.quantize(StaticInt8())

    types = Counter(node.op_type for node in onnx.load_model(made.out).graph.node)
    assert types["Gemm"] == 6 * BLOCKS
    assert types["Add"] == 2 * BLOCKS, "only the residual sums are left"
    assert made.likeness() > 25, found
