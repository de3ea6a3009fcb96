"""Outputs that came with the data are held against what the float model gives."""

import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from worker.engine.data.bind import inputs_of
from worker.engine.data.source import open_source
from worker.engine.evaluate.given import given_outputs
from worker.engine.requests import Data
from worker.engine.session import open_session


def doubling(path: Path) -> Path:
    info = helper.make_tensor_value_info
    node = helper.make_node("Add", ["x", "x"], ["y"])
    shape: list[str | int | None] = ["batch", 3]
    graph = helper.make_graph(
        [node], "double", [info("x", TensorProto.FLOAT, shape)], [info("y", TensorProto.FLOAT, shape)]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize(
    ("factor", "shape", "says"),
    [
        (2.0, (1, 3), "comes within 200 dB of them"),
        (2.2, (1, 3), "below 60 dB"),
        (2.0, (3,), "the shape [3] in the data"),
    ],
)
def test_the_note_says_how_close_they_are(
    tmp_path: Path, factor: float, shape: tuple[int, ...], says: str
) -> None:
    x = np.array([[1, 2, 3]], np.float32)
    with zipfile.ZipFile(tmp_path / "data", "w") as archive:
        for name, values in (("input", x), ("output", (x * factor).astype(np.float32).reshape(shape))):
            archive.writestr(
                f"test_data_set_0/{name}_0.pb", numpy_helper.from_array(values).SerializeToString()
            )
    session = open_session(doubling(tmp_path / "model.onnx"))
    source = open_source(Data(path=tmp_path / "data"), inputs_of(session), [0])

    (note,) = given_outputs(session, source)

    assert says in str(note)
