import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from app.domain.note import Note
from app.domain.processor import isa
from app.domain.recipe import DynamicInt8, Recipe, Selection, StaticInt8
from app.domain.report import FloatNodes, Kernels, Latency, Requires, causes_of_slowness
from tests.engine.graphs import attention, branches, build, convolution, feeds, weights
from tests.engine.quantizing import Case
from worker.engine.__main__ import read_recipe
from worker.engine.kernels import kernels
from worker.engine.load import save_model
from worker.engine.requirements import RELEASES, requires


def stored(folder: Path, model: onnx.ModelProto) -> Path:
    path = folder / "model.onnx"
    save_model(model, path)
    return path


def test_a_float_model_has_float_kernels_only(tmp_path: Path) -> None:
    found = kernels(stored(tmp_path, convolution()))

    assert found.integer == 0
    assert found.float >= 2


def test_moves_of_data_and_shape_arithmetic_do_not_count(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"], "shape"),
        helper.make_node("Add", ["shape", "shape"], ["twice"], "twice"),
        helper.make_node("Sub", ["twice", "shape"], ["again"], "again"),
        helper.make_node("Reshape", ["x", "again"], ["r"], "reshape"),
        helper.make_node("Erf", ["r"], ["y"], "erf"),
    ]
    model = build(nodes, {"x": ["a", "b"]}, {"y": ["a", "b"]}, {})

    found = kernels(stored(tmp_path, model))

    assert (found.integer, found.float) == (0, 1)


def test_kernels_in_branches_count(tmp_path: Path) -> None:
    assert kernels(stored(tmp_path, branches())).float == 2


def test_requirements_are_what_the_file_says(tmp_path: Path) -> None:
    model = convolution()
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))

    assert requires(stored(tmp_path, model)) == Requires(8, {"": 17, "com.microsoft": 1}, "1.12")


@pytest.mark.parametrize(
    ("opset", "ir", "release"),
    [(8, 3, "0.1"), (9, 3, "0.3"), (11, 6, "1.0"), (13, 7, "1.6"), (13, 8, "1.9"), (21, 10, "1.18")],
)
def test_the_release_is_the_first_that_has_both_opset_and_ir(
    tmp_path: Path, opset: int, ir: int, release: str
) -> None:
    assert requires(stored(tmp_path, convolution(opset=opset, ir=ir))).onnxruntime == release


def test_later_releases_never_know_less() -> None:
    pairs = list(pairwise(RELEASES))

    assert all(old[1] <= new[1] and old[2] <= new[2] for old, new in pairs)


def mended(hindrance: str) -> list[Recipe]:
    """The recipes that a hindrance names, as they are read."""
    found, text = [], hindrance
    while "{" in text:
        text = text[text.index("{") :]
        _, end = json.JSONDecoder().raw_decode(text)
        found.append(read_recipe(text[:end]))
        text = text[end:]
    return found


def quantized(folder: Path, model: onnx.ModelProto, recipe: Recipe, *shape: int) -> Kernels:
    case = Case(folder, model, feeds(shape=shape))
    case.quantize(recipe)
    return kernels(case.out)


def test_nodes_left_float_are_told_by_operator_and_reason(tmp_path: Path) -> None:
    found = quantized(tmp_path, attention(), DynamicInt8(), 1, 8, 32)

    assert sum(group.count for group in found.left_float) == found.float
    softmax = next(group for group in found.left_float if group.op_type == "Softmax")
    assert softmax == FloatNodes("Softmax", "it was not quantized", 1, softmax.nodes)


def test_dynamic_convolutions_name_what_makes_them_slow(tmp_path: Path) -> None:
    recipe = DynamicInt8(include=Selection(op_types=("Conv",)))

    found = quantized(tmp_path, convolution(), recipe, 1, 3, 16, 16)

    (only,) = found.hindrances
    assert only.startswith("2 Conv run as ConvInteger, which is several times slower than float Conv")
    assert mended(only) == [StaticInt8(), DynamicInt8()]
    scaling = next(group for group in found.left_float if group.op_type == "Mul")
    assert (scaling.reason, scaling.count) == ("it scales what an integer kernel sums", 4)


def test_dynamic_convolutions_in_branches_are_not_sent_to_static_recipes(tmp_path: Path) -> None:
    inner = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["z"], "conv")],
        "inner",
        [],
        [helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [1, 8, 14, 14])],
    )
    node = helper.make_node("If", ["yes"], ["y"], "if", then_branch=inner, else_branch=inner)
    model = build([node], {"x": [1, 3, 16, 16]}, {"y": [1, 8, 14, 14]}, {"w": weights(8, 3, 3, 3)})
    model.graph.input.append(helper.make_tensor_value_info("yes", onnx.TensorProto.BOOL, []))
    case = Case(tmp_path, model, [{**feed, "yes": np.array(True)} for feed in feeds()])

    case.quantize(DynamicInt8(include=Selection(op_types=("Conv",))))

    (only,) = kernels(case.out).hindrances
    assert mended(only) == [DynamicInt8()]
    assert "static recipes do not reach subgraphs" in only


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (StaticInt8(activation="uint16"), "16-bit activations"),
        (StaticInt8(weight="int4"), "4-bit weights"),
    ],
)
def test_pairs_that_do_not_fuse_name_the_types(tmp_path: Path, recipe: StaticInt8, words: str) -> None:
    found = quantized(tmp_path, convolution(), recipe, 1, 3, 16, 16)

    assert found.left_float[0].reason == "its pairs did not fuse"
    (only,) = found.hindrances
    assert words in only
    (mend,) = mended(only)
    better = quantized(tmp_path, convolution(), mend, 1, 3, 16, 16)
    assert (better.integer, better.float) == (2, 0), "what is said to mend it does"


def test_fused_pairs_have_no_hindrance_but_their_size(tmp_path: Path) -> None:
    found = quantized(tmp_path, convolution(), StaticInt8(), 1, 3, 16, 16)

    (only,) = found.hindrances
    assert only.startswith("what can run in integer kernels does, and it is too small")


@pytest.mark.skipif(not isa().startswith("x86"), reason="what is fast is asked of this host")
@pytest.mark.parametrize("fields", [{"activation": "int8", "format": "qoperator"}, {"weight": "uint8"}])
def test_types_without_a_fast_kernel_are_named(tmp_path: Path, fields: dict[str, str]) -> None:
    found = quantized(tmp_path, convolution(), StaticInt8(**fields), 1, 3, 16, 16)  # type: ignore[arg-type]

    (only,) = found.hindrances
    assert only.startswith("2 integer kernels multiply")
    assert mended(only) == [StaticInt8(activation="uint8", weight="int8")]


def without_pair_behind(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """What tools that round only the inputs of a Conv write: its result goes on in float."""
    nodes = [helper.make_node("Neg", [f"{name}_float"], ["shown"], "neg")]
    conv = next(node for node in model.graph.node if node.name == name)
    conv.output[0] = f"{name}_float"
    kept = [node for node in model.graph.node if not {"y_QuantizeLinear", "y_DequantizeLinear"} & {node.name}]
    del model.graph.node[:]
    model.graph.node.extend([*kept, *nodes])
    model.graph.output[0].name = "shown"
    return model


def test_results_that_are_not_rounded_are_named(tmp_path: Path) -> None:
    case = Case(tmp_path, convolution(), feeds())
    case.quantize(StaticInt8())
    save_model(without_pair_behind(onnx.load(case.out), "second"), case.out)

    first, *_ = kernels(case.out).hindrances

    assert "for their results are not rounded" in first
    assert mended(first) == [StaticInt8()]


def test_weights_that_came_rounded_are_not_sent_to_the_recipe_that_left_them(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["codes", "scale"], ["w1"], "widen"),
        helper.make_node("Conv", ["x", "w1"], ["a"], "first"),
        helper.make_node("Conv", ["a", "w2"], ["y"], "second"),
    ]
    constants: dict[str, np.ndarray] = {
        "codes": np.random.default_rng(0).integers(-127, 127, (8, 4, 3, 3)).astype(np.int8),
        "scale": np.array(0.002, np.float32),
        "w2": weights(8, 8, 1, 1),
    }
    model = build(nodes, {"x": [1, 4, 8, 8]}, {"y": [1, 8, 6, 6]}, constants)

    found = quantized(tmp_path, model, StaticInt8(), 1, 4, 8, 8)

    assert found.integer == 1
    assert (
        "for only one operand is rounded (first): upload the model with float weights" in found.hindrances[0]
    )
    assert mended(found.hindrances[0]) == []


def test_a_sum_with_a_float_operand_is_not_said_to_have_no_kernel(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "first"),
        helper.make_node("Conv", ["a", "w2"], ["b"], "second"),
        helper.make_node("Erf", ["a"], ["e"], "erf"),
        helper.make_node("Add", ["b", "e"], ["s"], "sum"),
        helper.make_node("Conv", ["s", "w3"], ["y"], "third"),
    ]
    constants = {"w1": weights(8, 4, 3, 3), "w2": weights(8, 8, 1, 1), "w3": weights(8, 8, 1, 1, seed=1)}
    model = build(nodes, {"x": [1, 4, 8, 8]}, {"y": [1, 8, 6, 6]}, constants)

    reasons = {
        group.op_type: group.reason
        for group in quantized(tmp_path, model, StaticInt8(), 1, 4, 8, 8).left_float
    }

    assert reasons["Add"] == "one of its inputs is float"
    assert reasons["Erf"] == "no integer kernel: its inputs are dequantized"


def test_transposed_convolutions_have_no_integer_kernel(tmp_path: Path) -> None:
    nodes = [helper.make_node("ConvTranspose", ["x", "w"], ["y"], "up", strides=[2, 2])]
    model = build(nodes, {"x": [1, 4, 8, 8]}, {"y": [1, 8, 16, 16]}, {"w": weights(4, 8, 2, 2)})

    (only,) = kernels(stored(tmp_path, model)).left_float

    assert only.reason == "it has no integer kernel"


def test_float_nodes_between_integer_kernels_are_named(tmp_path: Path) -> None:
    nodes, constants, last = [], {}, "x"
    for index in range(4):
        here = f"a{index}", f"b{index}"
        nodes.append(helper.make_node("Conv", [last, f"w{index}"], [here[0]], f"conv{index}"))
        nodes.append(helper.make_node("HardSigmoid", [here[0]], [here[1]], f"bend{index}"))
        constants[f"w{index}"] = weights(16, 3 if not index else 16, 1, 1, seed=index)
        last = here[1]
    model = build(nodes, {"x": [1, 3, 16, 16]}, {last: [1, 16, 16, 16]}, constants)

    (only,) = quantized(tmp_path, model, StaticInt8(), 1, 3, 16, 16).hindrances

    assert "around 4 HardSigmoid in float" in only
    (mend,) = mended(only)
    assert isinstance(mend, StaticInt8)
    assert mend.exclude.nodes == ("conv0", "conv1", "conv2", "conv3")


def test_a_slower_candidate_gets_its_causes_and_a_faster_one_none() -> None:
    kernels_of = Kernels(0, 3, hindrances=("no node runs in an integer kernel",))
    slow = Latency(2.0, 2.1, 1.0, 0.5, (0.4, 0.6), (1, 1), 9, (0.5,), 1, 1, 1, 1)
    even = replace(slow, speedup=1.0, ci=(0.9, 1.1))

    assert causes_of_slowness(kernels_of, slow) == (Note("slower", "no node runs in an integer kernel"),)
    assert causes_of_slowness(kernels_of, even) == ()
    assert causes_of_slowness(kernels_of, None) == ()


def test_a_transformer_has_float_softmax(tmp_path: Path) -> None:
    assert kernels(stored(tmp_path, attention())).float >= 4
