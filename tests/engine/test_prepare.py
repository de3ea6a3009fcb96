from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from app.domain.errors import Refused
from tests.engine.graphs import (
    attention,
    branch_feeds,
    branches,
    convolution,
    dense,
    feeds,
    half,
    normalized,
    residual,
)
from worker.engine import prepare
from worker.engine.load import save_model
from worker.engine.passes.likeness import likeness_db
from worker.engine.passes.scopes import opset
from worker.engine.prepare import prepare_model
from worker.engine.session import open_session

IMAGES = feeds(2)
ROWS = feeds(2, shape=(2, 32))
WORDS = feeds(2, shape=(1, 8, 32))
HALVES = [{"x": feed["x"].astype(np.float16)} for feed in IMAGES]
ALL = [
    (convolution, IMAGES),
    (lambda: convolution(opset=8, ir=3), IMAGES),
    (residual, IMAGES),
    (normalized, IMAGES),
    (dense, ROWS),
    (attention, WORDS),
    (branches, branch_feeds(2)),
    (half, HALVES),
]


def surface(path: Path) -> list[tuple[str, str, object]]:
    session = open_session(path)
    return [(v.name, v.type, v.shape) for v in (*session.get_inputs(), *session.get_outputs())]


@pytest.mark.parametrize(("make", "samples"), ALL)
def test_a_prepared_model_is_the_same_function_with_the_same_surface(
    tmp_path: Path, make: Callable[[], onnx.ModelProto], samples: list[dict[str, np.ndarray]]
) -> None:
    source, out = tmp_path / "source.onnx", tmp_path / "out.onnx"
    save_model(make(), source)

    prepare_model(source, out, samples, {})

    before, after = open_session(source), open_session(out)
    pairs = [before.run(None, feed) for feed in samples], [after.run(None, feed) for feed in samples]
    assert likeness_db(*pairs) >= 80
    assert surface(out) == surface(source)
    assert sorted(tmp_path.iterdir()) == [out, source]


@pytest.mark.parametrize(("make", "samples"), ALL)
def test_preparing_twice_changes_nothing_more(
    tmp_path: Path, make: Callable[[], onnx.ModelProto], samples: list[dict[str, np.ndarray]]
) -> None:
    source, once, twice = (tmp_path / name for name in ("source.onnx", "once.onnx", "twice.onnx"))
    save_model(make(), source)
    prepare_model(source, once, samples, {})

    notes = prepare_model(once, twice, samples, {})

    assert notes == ()
    assert twice.read_bytes() == once.read_bytes()


def test_an_old_model_is_converted(tmp_path: Path) -> None:
    source, out = tmp_path / "source.onnx", tmp_path / "out.onnx"
    save_model(convolution(opset=8, ir=3), source)

    notes = prepare_model(source, out, IMAGES, {})

    prepared = onnx.load_model(out)
    assert (opset(prepared), prepared.ir_version) == (17, 8)
    assert [value.name for value in prepared.graph.input] == ["x"]
    assert any("opset 17" in note for note in notes)


def test_a_pass_that_breaks_the_model_is_undone_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def halve_weights(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
        """Halve the weights."""
        weight = model.graph.initializer[0]
        values = onnx.numpy_helper.to_array(weight) / 2
        weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
        return model, [weight.name]

    def fail(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
        """Fail always."""
        raise KeyError(model.graph.name)

    monkeypatch.setattr(prepare, "PASSES", (halve_weights, fail))
    source, out = tmp_path / "source.onnx", tmp_path / "out.onnx"
    save_model(convolution(), source)

    notes = prepare_model(source, out, IMAGES, {})

    assert "Undone, because outputs match the original by" in notes[0]
    assert notes[0].endswith("halve the weights (w1).")
    assert notes[1] == "Skipped (KeyError): fail always."
    assert onnx.load_model(out).graph.initializer == convolution().graph.initializer


def test_without_data_only_harmless_passes_run(tmp_path: Path) -> None:
    source, out = tmp_path / "source.onnx", tmp_path / "out.onnx"
    save_model(convolution(opset=8, ir=3), source)

    prepare_model(source, out, [], {})

    assert opset(onnx.load_model(out)) == 8


def test_data_that_the_model_cannot_take_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "source.onnx"
    save_model(convolution(), source)

    with pytest.raises(Refused) as refusal:
        prepare_model(source, tmp_path / "out.onnx", feeds(1, shape=(1, 4, 16, 16)), {})

    assert refusal.value.code == "model_fails"


def test_a_dimension_that_the_model_does_not_have_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "source.onnx"
    save_model(convolution(), source)

    with pytest.raises(Refused) as refusal:
        prepare_model(source, tmp_path / "out.onnx", IMAGES, {"sequence": 128})

    assert refusal.value.code == "unknown_dimension"
    assert "batch" in refusal.value.detail


def test_every_tensor_has_a_type_after_preparation(tmp_path: Path) -> None:
    source, out = tmp_path / "source.onnx", tmp_path / "out.onnx"
    save_model(attention(), source)

    prepare_model(source, out, WORDS, {})

    graph = onnx.load_model(out).graph
    typed = {value.name for value in (*graph.value_info, *graph.output)}
    assert {output for node in graph.node for output in node.output} <= typed
