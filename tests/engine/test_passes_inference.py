from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

from tests.engine.graphs import attention, build, weights
from worker.engine.passes import inference
from worker.engine.passes.element_types import element_types
from worker.engine.passes.inference import infer_shapes, record_types, untyped
from worker.engine.passes.likeness import likeness_db
from worker.engine.passes.scopes import tensor_types, unused_name


def opaque() -> onnx.ModelProto:
    """A contrib operator between standard ones: ONNX's own inference knows nothing behind it."""
    nodes = [
        helper.make_node("Gelu", ["x"], ["a"], "gelu", domain="com.microsoft"),
        helper.make_node("Relu", ["a"], ["y"], "relu"),
    ]
    model = build(nodes, {"x": ["n", 4]}, {"y": ["n", 4]}, {})
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def test_symbolic_inference_records_every_tensor() -> None:
    model, modified = infer_shapes(attention())

    assert modified
    assert untyped(model.graph) == []
    scores = next(value for value in model.graph.value_info if value.name == "scores")
    assert [dim.WhichOneof("value") for dim in scores.type.tensor_type.shape.dim] == [None, None, None]


def test_what_is_recorded_holds_for_operands_that_are_broadcast() -> None:
    """Symbolic inference takes both for equal, and the runtime would plan its memory by that."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "product"),
        helper.make_node("Relu", ["z"], ["r"], "relu"),
        helper.make_node("Add", ["a", "r"], ["s"], "sum"),
        helper.make_node("MatMul", ["s", "w"], ["t"], "next"),
        helper.make_node("Transpose", ["t"], ["y"], "turn", perm=[1, 0]),
    ]
    inputs: dict[str, list[int | str]] = {"x": ["batch", 8], "z": ["rows", 8]}
    model, _ = infer_shapes(build(nodes, inputs, {"y": [8, "n"]}, {"w": weights(8, 8)}))
    feed = {"x": weights(3, 8), "z": weights(1, 8)}

    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    assert session.run(None, feed)[0].shape == (8, 3)


def test_where_symbolic_inference_gives_up_the_plain_one_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def incomplete(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(SymbolicShapeInference, "_infer_impl", incomplete)

    model, modified = infer_shapes(attention())

    assert modified
    assert untyped(model.graph) == []


def test_where_no_inference_helps_types_are_recorded_from_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "_symbolic", lambda _: None)
    model, _ = infer_shapes(opaque())
    assert untyped(model.graph) == ["a"]

    recorded, modified = record_types(model, {"x": weights(3, 4)})

    assert modified
    value = next(value for value in recorded.graph.value_info if value.name == "a")
    assert value.type.tensor_type.elem_type == TensorProto.FLOAT
    assert [dim.WhichOneof("value") for dim in value.type.tensor_type.shape.dim] == [None, None]
    assert not record_types(recorded, {"x": weights(3, 4)})[1]


def test_incomplete_inference_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def incomplete(self: Any) -> bool:
        self.run_ = False
        return False

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(SymbolicShapeInference, "_infer_impl", incomplete)

    _, modified = infer_shapes(attention())

    assert modified
    assert list(tmp_path.iterdir()) == []


def test_element_types_are_told_without_any_inference() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"], "shape"),
        helper.make_node("Greater", ["x", "x"], ["more"], "more"),
        helper.make_node("Cast", ["more"], ["cast"], "cast", to=TensorProto.INT32),
        helper.make_node("TopK", ["x", "k"], ["values", "indices"], "top"),
        helper.make_node("Where", ["more", "x", "x"], ["where"], "where"),
        helper.make_node("Unheard", ["where"], ["y"], "new", domain="com.microsoft"),
    ]
    model = build(nodes, {"x": [4]}, {}, {"k": np.array([2])})

    types = element_types(model.graph)

    assert {name: types[name] for name in ("shape", "more", "cast", "values", "indices", "where", "y")} == {
        "shape": TensorProto.INT64,
        "more": TensorProto.BOOL,
        "cast": TensorProto.INT32,
        "values": TensorProto.FLOAT,
        "indices": TensorProto.INT64,
        "where": TensorProto.FLOAT,
        "y": TensorProto.FLOAT,
    }
    assert "shape" not in tensor_types(model.graph)


def test_likeness_is_decibels_of_the_worst_output() -> None:
    exact, noisy = np.ones(100, np.float32), np.full(100, 1.01, np.float32)

    assert likeness_db([[exact, exact]], [[exact, noisy]]) == pytest.approx(40, abs=0.1)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (np.ones(3), np.ones(4)),
        (np.ones(3, np.float32), np.ones(3)),
        (np.array([1, np.nan]), np.array([1, 1.0])),
        (np.array([1, 1.0]), np.array([1, np.nan])),
        (np.array([1, -np.inf]), np.array([1, np.inf])),
        (np.zeros(3), np.ones(3)),
        (np.array(["a"]), np.array(["b"])),
    ],
)
def test_what_cannot_be_compared_is_not_alike(before: np.ndarray, after: np.ndarray) -> None:
    assert likeness_db([[before]], [[after]]) == -np.inf


def test_equal_infinities_are_alike() -> None:
    values = np.array([1, np.nan, -np.inf])

    assert likeness_db([[values]], [[values.copy()]]) == 200


@given(st.sets(st.text(max_size=3)), st.text(max_size=3))
def test_an_unused_name_is_new(taken: set[str], wanted: str) -> None:
    before = set(taken)

    name = unused_name(wanted, taken)

    assert name not in before
    assert name in taken
