"""Each artifact's snippet loads and runs it, in a process of its own."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from pydantic import TypeAdapter

from app.domain.recipe import Float16, Recipe, StaticInt8, WeightOnly
from app.domain.report import Example, ExampleInput, Requires
from app.domain.snippet import snippet
from tests.engine.graphs import attention, branch_feeds, branches, build, convolution, feeds, weights
from tests.engine.quantizing import Case, Samples
from worker.engine.elsewhere.example import example
from worker.engine.load import save_model
from worker.engine.requirements import requires
from worker.engine.session import open_session

HOSTILE = "x'\"\n```\nimport os; os._exit(7) #\u202e\\"


def code_for(model: Path, feed: dict[str, Any]) -> str:
    found = example(model, open_session(model), feed)
    assert found
    return snippet(model.name, found, requires(model))


def printed(code: str, folder: Path) -> str:
    """What the code prints where its model lies."""
    command = [sys.executable, "-I", "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


ROWS = [{"x": np.ones((1, 8, 32), np.float32)}]


@pytest.mark.parametrize(
    ("model", "samples", "recipe", "needs"),
    [
        (convolution(), feeds(), StaticInt8(), "np.float32),  # (batch, 3, 16, 16)"),
        (convolution(), feeds(), StaticInt8(quantize_io=True), "n stands for (n - "),
        (convolution(), feeds(), Float16(), "np.full((1, 3, 16, 16), 0, np.float32)"),
        (attention(), ROWS, WeightOnly(bits=4), "operators of com.microsoft"),
        (branches(), branch_feeds(), Float16(), "np.full((), 1, np.bool_)"),
    ],
    ids=["static", "integer inputs", "float16 with float inputs", "few bits", "several inputs"],
)
def test_the_snippet_runs_the_artifact(
    tmp_path: Path, model: onnx.ModelProto, samples: Samples, recipe: Recipe, needs: str
) -> None:
    case = Case(tmp_path, model, samples)
    case.quantize(recipe)

    code = code_for(case.out, samples[0])

    assert needs in code
    assert len(code.splitlines()) < 15
    assert f'"onnxruntime>={requires(case.out).onnxruntime}"' in code
    assert printed(code, tmp_path).startswith(("y float32 (", "y uint8 (1, 8"))


def test_external_data_is_told_and_the_snippet_runs_where_it_lies_beside(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    beside: dict[str, Any] = {
        "save_as_external_data": True,
        "location": "model.onnx.data",
        "size_threshold": 0,
    }
    onnx.save_model(convolution(), path, **beside)

    code = code_for(path, feeds()[0])

    assert "# Its weights must lie beside it: 'model.onnx.data'" in code
    assert printed(code, tmp_path) == "y float32 (1, 8, 16, 16)\n"


def test_single_numbers_keep_the_value_that_the_model_was_fed(tmp_path: Path) -> None:
    node = helper.make_node("Reshape", ["x", "shape"], ["y"], "reshape")
    model = build([node], {"x": [4, 4]}, {"y": ["n"]}, {})
    model.graph.input.append(helper.make_tensor_value_info("shape", TensorProto.INT64, [1]))
    save_model(model, tmp_path / "model.onnx")

    code = code_for(
        tmp_path / "model.onnx", {"x": np.ones((4, 4), np.float32), "shape": np.array([16], np.int64)}
    )

    assert "'shape': np.full((1,), 16, np.int64)" in code
    assert printed(code, tmp_path) == "y float32 (16,)\n"


def test_the_largest_integer_is_kept_to_the_last_digit(tmp_path: Path) -> None:
    node = helper.make_node("Slice", ["x", "start", "end"], ["y"], "slice")
    model = build([node], {"x": [4]}, {"y": ["n"]}, {"start": np.array([0], np.int64)})
    model.graph.input.append(helper.make_tensor_value_info("end", TensorProto.INT64, [1]))
    path = tmp_path / "model.onnx"
    save_model(model, path)
    to_the_end = {"x": np.ones(4, np.float32), "end": np.array([2**63 - 1])}

    found = example(path, open_session(path), to_the_end)
    as_json = TypeAdapter(Example).dump_json(found) if found else b""
    code = snippet(path.name, TypeAdapter(Example).validate_json(as_json), requires(path))

    assert printed(code, tmp_path) == "y float32 (4,)\n"


def reshaped(size: int) -> onnx.ModelProto:
    """A matrix [size, size] in a shape that is an input too; zeros in it are sizes."""
    node = helper.make_node("Reshape", ["x", "shape"], ["y"], "reshape", allowzero=1)
    model = build([node], {"x": [size, size]}, {"y": ["n", "m"]}, {})
    model.graph.input.append(helper.make_tensor_value_info("shape", TensorProto.INT64, [2]))
    return model


def test_where_zeros_do_not_run_ones_are_given(tmp_path: Path) -> None:
    save_model(reshaped(1), tmp_path / "model.onnx")
    fed: dict[str, Any] = {"x": np.ones((1, 1), np.float32), "shape": np.array([1, 1], np.int64)}

    assert "np.full((2,), 1, np.int64)" in code_for(tmp_path / "model.onnx", fed)


def test_a_model_that_no_filled_input_runs_on_has_no_example(tmp_path: Path) -> None:
    save_model(reshaped(4), tmp_path / "model.onnx")
    fed: dict[str, Any] = {"x": np.ones((4, 4), np.float32), "shape": np.array([2, 8], np.int64)}

    assert example(tmp_path / "model.onnx", open_session(tmp_path / "model.onnx"), fed) is None


def test_names_from_uploads_stay_names(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", [HOSTILE, "w"], ["y"], "product")
    model = build([node], {HOSTILE: [HOSTILE, 4]}, {"y": [HOSTILE, 4]}, {"w": weights(4, 4)})
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())

    code = code_for(path, {HOSTILE: np.ones((2, 4), np.float32)})

    assert code.isascii()
    assert not any(line.startswith("```") for line in code.splitlines())
    assert {type(part).__name__ for part in ast.parse(code).body} == {"Import", "Assign", "For"}
    assert printed(code, tmp_path) == "y float32 (2, 4)\n"


def test_hostile_file_names_stay_names_too() -> None:
    one = ExampleInput("x", "float32", (1,), (1,), 0)

    code = snippet(HOSTILE, Example((one,), (HOSTILE,)), Requires(8, {"": 17}, "1.12"))

    assert {part.value for part in ast.walk(ast.parse(code)) if isinstance(part, ast.Constant)} >= {HOSTILE}
