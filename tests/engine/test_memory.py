"""Peak memory of a fresh process."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.engine.graphs import build, weights
from worker.engine.compare import call
from worker.engine.ready import write_feeds

MIB = 2**20


def model(megabytes: int) -> onnx.ModelProto:
    rows = megabytes * MIB // 4 // 1024
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return build([node], {"x": [1, rows]}, {"y": [1, 1024]}, {"w": weights(rows, 1024)})


def used(folder: Path, megabytes: int) -> tuple[int, int]:
    onnx.save(model(megabytes), folder / "model.onnx")
    write_feeds(folder / "feeds.npz", [{"x": np.ones((1, megabytes * MIB // 4096), np.float32)}])
    files = {"model": str(folder / "model.onnx"), "feeds": str(folder / "feeds.npz")}
    use = call("measure_memory", files)
    return use["import_bytes"], use["peak_bytes"] - use["import_bytes"]


def test_a_larger_model_uses_more_memory_and_the_import_does_not(tmp_path: Path) -> None:
    small_import, small = used(tmp_path, 2)
    large_import, large = used(tmp_path, 66)

    assert large - small > 60 * MIB
    assert abs(large_import - small_import) < 8 * MIB


def test_the_parents_peak_is_not_inherited(tmp_path: Path) -> None:
    ballast = np.ones(400 * MIB, np.uint8)

    imported, _ = used(tmp_path, 2)

    assert imported < ballast.nbytes / 2


def test_a_model_that_cannot_be_loaded_is_refused_as_the_child_says(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    write_feeds(tmp_path / "feeds.npz", [{"x": np.ones(1)}])
    files = {"model": str(tmp_path / "model.onnx"), "feeds": str(tmp_path / "feeds.npz")}

    with pytest.raises(Exception, match=r"model\.onnx") as refused:
        call("measure_memory", files)

    assert refused.type.__name__ == "Refused"
