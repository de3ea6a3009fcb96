from itertools import pairwise
from pathlib import Path

import onnx
import pytest
from onnx import helper

from app.domain.report import Requires
from tests.engine.graphs import attention, branches, build, convolution
from worker.engine.kernels import kernels
from worker.engine.requirements import RELEASES, requires
from worker.engine.load import save_model


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


def test_a_transformer_has_float_softmax(tmp_path: Path) -> None:
    assert kernels(stored(tmp_path, attention())).float >= 4
