"""Which files become a version, and under which names."""

from pathlib import Path

import pytest

from fewbits import InvalidInput
from fewbits.uploads import named_files


def files(folder: Path, *names: str) -> list[Path]:
    """These files, with something in each."""
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    return paths


def test_a_folder_is_all_its_files_but_hidden_ones(tmp_path: Path) -> None:
    files(tmp_path, "net/model.onnx", "net/weights/0.bin", "net/.env", "net/.git/config", "other.onnx")

    assert set(named_files([tmp_path / "net"])) == {"model.onnx", "weights/0.bin"}


@pytest.mark.parametrize("name", ["model.onnx.data", "model.onnx_data", "model.data"])
def test_external_data_beside_a_model_come_along(tmp_path: Path, name: str) -> None:
    model, data, _ = files(tmp_path, "model.onnx", name, "another.data")

    assert named_files([model]) == {"model.onnx": model, name: data}


def test_what_cannot_become_a_version_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    files(tmp_path, "several/b.onnx", "several/a.onnx")
    twice = files(tmp_path, "a/model.onnx", "b/model.onnx")

    for given, said in (
        ([tmp_path / "empty"], "holds no .onnx file"),
        ([tmp_path / "several"], r"several .onnx files \(a.onnx, b.onnx\); name one"),
        ([tmp_path / "nothing.onnx"], "There is no file"),
        (twice, "two have one name"),
    ):
        with pytest.raises(InvalidInput, match=said):
            named_files(given)
