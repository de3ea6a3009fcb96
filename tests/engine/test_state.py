"""Stateful models run freely along streams: in evaluation, in calibration, and in what latency is fed."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from app.domain.errors import Refused
from worker.engine.calls import run_call
from worker.engine.ready import read_feeds

STATE = {"next": "state"}


def counter(path: Path, drift: float = 0.0) -> Path:
    """Y = x + state, next = 0.5 * (x + state) + drift: what a step forgets slowly."""
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Add", ["x", "state"], ["y"], "sum"),
        helper.make_node("Mul", ["y", "half"], ["kept"], "keep"),
        helper.make_node("Add", ["kept", "drift"], ["next"], "drift"),
    ]
    constants = [
        helper.make_tensor(n, TensorProto.FLOAT, [1], [v]) for n, v in (("half", 0.5), ("drift", drift))
    ]
    inputs = [info("x", TensorProto.FLOAT, ["batch", 2]), info("state", TensorProto.FLOAT, ["batch", 2])]
    outputs = [info(name, TensorProto.FLOAT, ["batch", 2]) for name in ("y", "next")]
    graph = helper.make_graph(nodes, "counter", inputs, outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def streams(path: Path, count: int = 12, length: int = 5, **more: Any) -> Path:
    """Streams that are interleaved in the file, as recordings of several speakers may be."""
    x = np.random.default_rng(0).normal(size=(count * length, 2)).astype(np.float32)
    np.savez(path, x=x, stream=np.tile(np.arange(count), length), **more)
    return path


def prepare(folder: Path, data: Path, state: dict[str, str] = STATE, **more: Any) -> dict[str, Any]:
    given = {"path": data, "state": state}
    return run_call(
        "prepare", {"model": counter(folder / "m.onnx"), "out": folder, "evaluation": given, **more}, ignore
    )


def ignore(_share: float, _what: str) -> None:
    pass


def build(folder: Path, prepared: dict[str, Any], data: Path, drift: float) -> dict[str, Any]:
    """Measure a candidate whose state drifts."""
    from app.domain.recipe import DynamicInt8  # noqa: PLC0415
    from worker.engine.requests import Build, Data  # noqa: PLC0415
    from worker.engine.stages import evaluate  # noqa: PLC0415

    request = Build(
        original=folder / "m.onnx",
        model=folder / prepared["model"],
        out=folder,
        recipe=DynamicInt8(),
        isa="generic",
        reference=folder / prepared["reference"],
        feeds=folder / prepared["feeds"],
        evaluation=Data(path=data, state=STATE),
    )
    figures, _ = evaluate(counter(folder / "drifting.onnx", drift), request, ignore)
    return {"fidelity": figures.fidelity}


def test_an_error_in_the_state_shows_in_the_outputs_that_follow(tmp_path: Path) -> None:
    data = streams(tmp_path / "data.npz")
    prepared = prepare(tmp_path, data)

    same = build(tmp_path, prepared, data, 0.0)["fidelity"]
    drifting = build(tmp_path, prepared, data, 0.1)["fidelity"]

    assert same.sqnr_db == 200
    # y of a stream's k-th sample is off by 0.1 * (1 + 1/2 + ...), which a state fed from outside would not be
    off = 0.1 * np.cumsum([0, 1, 0.5, 0.25, 0.125])
    assert drifting.sqnr_db == pytest.approx(
        10 * np.log10(energy(data) / (12 * 2 * (off**2).sum())), abs=0.01
    )
    assert 0 < drifting.sqnr_se_db < 3


def energy(data: Path) -> float:
    arrays = np.load(data)
    total = 0.0
    for stream in np.unique(arrays["stream"]):
        state = np.zeros(2)
        for x in arrays["x"][arrays["stream"] == stream]:
            total += float(((x + state) ** 2).sum())
            state = 0.5 * (x + state)
    return total


def test_what_is_fed_back_is_not_compared_by_itself(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, streams(tmp_path / "data.npz"))

    assert any(note.startswith("outputs: next is fed back") for note in prepared["baseline"]["notes"])


def test_latency_gets_the_states_of_a_stream(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, streams(tmp_path / "data.npz"))

    feeds = read_feeds(tmp_path / prepared["feeds"])

    assert len(feeds) == 8
    assert feeds[0]["state"].tolist() == [[0, 0]]
    assert np.allclose(feeds[1]["state"], 0.5 * feeds[0]["x"])
    assert feeds[5]["state"].tolist() == [[0, 0]]  # the second stream


def test_a_stream_begins_with_the_state_that_the_data_gives(tmp_path: Path) -> None:
    given = np.zeros((60, 2), np.float32)
    given[:12] = 7  # the first sample of each stream

    prepared = prepare(tmp_path, streams(tmp_path / "data.npz", state=given))

    assert read_feeds(tmp_path / prepared["feeds"])[0]["state"].tolist() == [[7, 7]]


def test_streams_stay_whole_when_one_dataset_serves_both_uses(tmp_path: Path) -> None:
    data = streams(tmp_path / "data.npz")
    prepared = prepare(tmp_path, data, calibration={"path": data, "state": STATE})

    assert prepared["calibration_samples"] == 2 * 5
    assert prepared["evaluation_samples"] == 10 * 5
    order = np.load(tmp_path / prepared["calibration_order"])
    assert len({index % 12 for index in order.tolist()}) == 2


def test_one_stream_cannot_serve_both_uses(tmp_path: Path) -> None:
    data = streams(tmp_path / "data.npz", count=1)

    with pytest.raises(Refused) as refused:
        prepare(tmp_path, data, calibration={"path": data, "state": STATE})

    assert refused.value.code == "too_few_samples"


@pytest.mark.parametrize(
    ("state", "pointer", "says"),
    [
        ({"next": "stat"}, "/state/next", "no numeric input 'stat'"),
        ({"nxt": "state"}, "/state/nxt", "no numeric output 'nxt'"),
        ({"next": "state", "y": "state"}, "/state/next", "more than one output"),
    ],
)
def test_links_that_lead_nowhere_are_refused(
    tmp_path: Path, state: dict[str, str], pointer: str, says: str
) -> None:
    with pytest.raises(Refused) as refused:
        prepare(tmp_path, streams(tmp_path / "data.npz"), state)

    assert refused.value.code == "invalid_state"
    assert refused.value.errors[0].pointer == pointer
    assert says in refused.value.detail


def test_labels_along_streams_are_drawn_by_the_stream(tmp_path: Path) -> None:
    data = streams(tmp_path / "data.npz", labels=np.arange(60) % 2)
    prepared = prepare(tmp_path, data, question={"output": "y", "metric": "top1"})

    assert prepared["baseline"]["accuracy"]["samples"] == 60
    assert prepared["metric"] == "top1"
