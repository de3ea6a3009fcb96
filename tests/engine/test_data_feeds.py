"""Made-up inputs for models without data."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from app.domain.errors import Refused
from tests.engine.graphs import build
from worker.engine.data.feeds import synthetic_feeds
from worker.engine.evaluate.run import run
from worker.engine.ready import Feed, read_feeds, write_feeds
from worker.engine.session import open_session

ROWS = 11


def embedding() -> onnx.ModelProto:
    """Ids through Cast into a table of 11 rows, times a mask."""
    table = numpy_helper.from_array(np.ones((ROWS, 4), np.float32), "table")
    nodes = [
        helper.make_node("Cast", ["ids"], ["wide"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "wide"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["float_mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["float_mask", "last"], ["column"]),
        helper.make_node("Mul", ["rows", "column"], ["y"]),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT32, ["batch", "sequence"])
        for name in ("ids", "attention_mask")
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "sequence", 4])
    last = numpy_helper.from_array(np.array([2], np.int64), "last")
    graph = helper.make_graph(nodes, "g", inputs, [output], [table, last])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def made(path: Path, model: onnx.ModelProto, shapes: dict[str, int], batch: int = 1) -> list[Feed]:
    onnx.save(model, path)
    session = open_session(path)
    return synthetic_feeds(path, session, shapes, batch, lambda feed: run(session, ["y"], feed))[0]


def test_ids_stay_below_the_vocabulary_and_masks_are_ones(tmp_path: Path) -> None:
    feeds = made(tmp_path / "m.onnx", embedding(), {"sequence": 16}, batch=2)

    ids = np.concatenate([feed["ids"].ravel() for feed in feeds])
    assert feeds[0]["ids"].shape == (2, 16)
    assert feeds[0]["ids"].dtype == np.int32
    assert ids.min() >= 0
    assert ROWS / 2 < ids.max() < ROWS
    assert all((feed["attention_mask"] == 1).all() for feed in feeds)


def test_a_fixed_batch_is_kept_and_another_one_refused(tmp_path: Path) -> None:
    twice = helper.make_node("Add", ["x", "x"], ["y"])
    model = build([twice], {"x": [3, 4]}, {"y": [3, 4]}, {})
    onnx.save(model, tmp_path / "m.onnx")
    session = open_session(tmp_path / "m.onnx")

    def attempt(feed: Feed) -> object:
        return run(session, ["y"], feed)

    feeds, batch = synthetic_feeds(tmp_path / "m.onnx", session, {}, 1, attempt)
    assert (feeds[0]["x"].shape[0], batch) == (3, 3)
    with pytest.raises(Refused, match="takes 3 samples at a time, not 8") as refused:
        synthetic_feeds(tmp_path / "m.onnx", session, {}, 8, attempt)
    assert refused.value.code == "fixed_batch"


def test_a_free_dimension_without_a_size_is_1(tmp_path: Path) -> None:
    assert made(tmp_path / "m.onnx", embedding(), {})[0]["ids"].shape == (1, 1)


def convolution(kernel: int) -> onnx.ModelProto:
    weight = np.ones((1, 1, kernel, kernel), np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    sides: list[int | str] = ["batch", 1, "height", "width"]
    return build([node], {"x": sides}, {"y": ["batch", 1, "h", "w"]}, {"w": weight})


def test_larger_sizes_are_tried_when_the_model_does_not_run(tmp_path: Path) -> None:
    assert made(tmp_path / "m.onnx", convolution(5), {})[0]["x"].shape == (1, 1, 64, 64)


def test_a_model_that_runs_on_nothing_made_up_asks_for_shapes(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="height, width") as refused:
        made(tmp_path / "m.onnx", convolution(300), {})

    assert refused.value.code == "shapes_needed"


def test_made_up_inputs_are_always_the_same(tmp_path: Path) -> None:
    one, other = (made(tmp_path / "m.onnx", convolution(5), {"height": 9, "width": 9}) for _ in range(2))

    assert all(np.array_equal(a["x"], b["x"]) for a, b in zip(one, other, strict=True))
    assert not np.array_equal(one[0]["x"], one[1]["x"])


def test_feeds_come_back_in_order_and_whatever_the_inputs_are_called(tmp_path: Path) -> None:
    feeds = [{"a/b:0": np.full((1, 2), i), "c": np.array(i)} for i in range(12)]

    write_feeds(tmp_path / "feeds.npz", feeds)
    back = read_feeds(tmp_path / "feeds.npz")

    assert [int(feed["c"]) for feed in back] == list(range(12))
    assert back[3]["a/b:0"].tolist() == [[3, 3]]
