from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.external_data_helper import set_external_data

from app.domain.errors import Refused
from tests.engine.graphs import convolution, feeds
from worker.engine import load
from worker.engine.load import load_model, model_bytes, save_model
from worker.engine.session import open_session


def saved_outside(folder: Path, location: str) -> Path:
    """A model whose first weight lies in another file, which is not written."""
    model = convolution()
    set_external_data(model.graph.initializer[0], location)
    model.graph.initializer[0].ClearField("raw_data")
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def big(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model over the limit, saved."""
    monkeypatch.setattr(load, "INLINE_LIMIT", 100)
    path = tmp_path / "big.onnx"
    save_model(convolution(), path)
    return path


def test_a_model_over_the_limit_is_written_with_its_data_beside_it(big: Path) -> None:
    assert big.with_name("big.onnx.data").stat().st_size > big.stat().st_size / 2
    assert model_bytes(big) == sum(file.stat().st_size for file in big.parent.iterdir())
    assert load_model(big).graph.initializer[0].raw_data == convolution().graph.initializer[0].raw_data
    assert open_session(big).run(None, feeds(1)[0])


def test_writing_a_big_model_twice_leaves_no_old_data_behind(big: Path) -> None:
    once = model_bytes(big)

    save_model(convolution(), big)

    assert model_bytes(big) == once


@pytest.mark.parametrize(
    "location", ["../secret", "/etc/passwd", "a/../../b", "..\\secret", "C:/secret", "", "a\0b", "a" * 300]
)
def test_external_data_outside_the_upload_is_refused(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "upload"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"secret")

    with pytest.raises(Refused) as refusal:
        load_model(saved_outside(folder, location))

    assert refusal.value.code == "external_data_unsafe"


def test_a_link_out_of_the_upload_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "upload"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "weights").symlink_to(tmp_path / "secret")

    with pytest.raises(Refused) as refusal:
        load_model(saved_outside(folder, "weights"))

    assert refusal.value.code == "external_data_unsafe"


def test_external_data_that_was_not_uploaded_is_named(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refusal:
        load_model(saved_outside(tmp_path, "weights.bin"))

    assert refusal.value.code == "external_data_missing"
    assert "weights.bin" in refusal.value.detail
    assert "w1" in refusal.value.detail


def test_external_data_that_ends_too_early_is_refused_with_both_sizes(tmp_path: Path) -> None:
    path = saved_outside(tmp_path, "weights.bin")
    model = onnx.load_model(path, load_external_data=False)
    model.graph.initializer[0].raw_data = b""
    set_external_data(model.graph.initializer[0], "weights.bin", offset=8, length=1728)
    model.graph.initializer[0].ClearField("raw_data")
    path.write_bytes(model.SerializeToString())
    (tmp_path / "weights.bin").write_bytes(bytes(100))

    with pytest.raises(Refused) as refusal:
        load_model(path)

    assert refusal.value.code == "external_data_missing"
    assert "1736" in refusal.value.detail
    assert "100" in refusal.value.detail


def test_what_the_runtime_cannot_load_is_refused_without_naming_this_host(tmp_path: Path) -> None:
    model = convolution()
    model.opset_import[0].version = 999
    path = tmp_path / "future.onnx"
    path.write_bytes(model.SerializeToString())

    with pytest.raises(Refused) as refusal:
        open_session(path)

    assert refusal.value.code == "model_not_loadable"
    assert "opset" in refusal.value.detail.lower()
    assert str(tmp_path) not in refusal.value.detail


def test_writing_what_the_checker_refuses_is_refused(tmp_path: Path) -> None:
    model = convolution()
    model.graph.node[1].input[0] = "nowhere"

    with pytest.raises(Refused) as refusal:
        save_model(model, tmp_path / "model.onnx")

    assert refusal.value.code == "invalid_model"
    assert "nowhere" in refusal.value.detail


def test_the_graph_that_the_runtime_made_is_saved_where_asked(tmp_path: Path) -> None:
    save_model(convolution(), tmp_path / "model.onnx")
    optimized = tmp_path / "optimized.onnx"

    open_session(tmp_path / "model.onnx", optimized_path=optimized)

    names = {node.op_type for node in onnx.load_model(optimized).graph.node}
    assert names != {node.op_type for node in convolution().graph.node}


def test_without_optimization_the_outputs_stay_the_same(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    save_model(convolution(), path)
    feed = feeds(1)[0]

    plain = open_session(path, optimize=False).run(None, feed)[0]

    np.testing.assert_allclose(plain, open_session(path, threads=2).run(None, feed)[0], atol=1e-5)
