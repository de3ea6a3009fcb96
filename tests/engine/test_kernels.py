from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import onnx
import pytest
from onnx import helper

from app.domain.note import Note
from app.domain.recipe import DynamicInt8, Recipe, Selection, StaticInt8
from app.domain.report import FloatNodes, Kernels, Latency, Requires, causes_of_slowness
from tests.engine.graphs import attention, branches, build, convolution, feeds
from tests.engine.quantizing import Case
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

    first, *_ = quantized(tmp_path, convolution(), recipe, 1, 3, 16, 16).hindrances

    assert first.startswith("2 Conv run as ConvInteger")
    assert "static_int8" in first


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
    assert words in found.hindrances[0]


def test_fused_pairs_have_no_hindrance_but_their_size(tmp_path: Path) -> None:
    found = quantized(tmp_path, convolution(), StaticInt8(), 1, 3, 16, 16)

    assert [hindrance.split(":")[0] for hindrance in found.hindrances] == ["products are too small"]


def test_a_slower_candidate_gets_its_causes_and_a_faster_one_none() -> None:
    kernels_of = Kernels(0, 3, hindrances=("no node runs in an integer kernel",))
    slow = Latency(2.0, 2.1, 1.0, 0.5, (0.4, 0.6), (1, 1), 9, (0.5,), 1, 1, 1, 1)
    even = replace(slow, speedup=1.0, ci=(0.9, 1.1))

    assert causes_of_slowness(kernels_of, slow) == (Note("slower", "no node runs in an integer kernel"),)
    assert causes_of_slowness(kernels_of, even) == ()
    assert causes_of_slowness(kernels_of, None) == ()


def test_a_transformer_has_float_softmax(tmp_path: Path) -> None:
    assert kernels(stored(tmp_path, attention())).float >= 4
