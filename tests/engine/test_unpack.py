"""Models in archives: what is theirs comes out, and nothing that an archive should not hold."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from app.domain.errors import Refused
from tests.zips import zipped
from worker.engine.packed import is_packed
from worker.engine.unpack import unpack

LIMIT = 10_000_000
Files = dict[str, bytes]


def model(location: str = "w.bin") -> bytes:
    """A model with one tensor of 16 bytes in another file."""
    weight = numpy_helper.from_array(np.zeros(4, np.float32), "w")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        weight.external_data.add(key=key, value=value)
    shape = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [shape], [out], [weight])
    found: bytes = helper.make_model(graph, ir_version=8).SerializeToString()
    return found


def plain() -> bytes:
    """A model on its own."""
    found = onnx.load_from_string(model())
    found.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros(4, np.float32), "w"))
    serialized: bytes = found.SerializeToString()
    return serialized


def tarred(files: Files, mode: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def unpacked(tmp_path: Path, content: bytes, limit: int = LIMIT) -> tuple[tuple[str, ...], Path]:
    archive, out = tmp_path / "upload", tmp_path / "out"
    archive.write_bytes(content)
    out.mkdir()
    assert is_packed(archive)
    return unpack(archive, out, limit), out


def refusal(tmp_path: Path, content: bytes, limit: int = LIMIT) -> Refused:
    with pytest.raises(Refused) as caught:
        unpacked(tmp_path, content, limit)
    assert not (tmp_path / "evil").exists()
    found = caught.value
    found.__cause__ = found.__context__ = None  # their frames hold the archive open
    del caught  # so does its traceback, which holds this frame and so itself
    return found.with_traceback(None)


WHOLE = {"net/big.onnx": model(), "net/w.bin": bytes(16)}


@pytest.mark.parametrize("kind", ["zip", "w", "w:gz", "w:bz2", "w:xz"])
def test_a_model_and_its_external_data_come_out_and_nothing_else(tmp_path: Path, kind: str) -> None:
    clutter = {"README": b"x", "net/other/input_0.pb": b"y", "__MACOSX/net/._big.onnx": b"z"}
    content = zipped(WHOLE | clutter) if kind == "zip" else tarred(WHOLE | clutter, kind)

    files, out = unpacked(tmp_path, content)

    assert files == ("big.onnx", "w.bin")
    assert (out / "big.onnx").read_bytes() == WHOLE["net/big.onnx"]
    assert sorted(path.name for path in out.iterdir()) == ["big.onnx", "w.bin"]


def test_test_data_beside_the_model_come_out_too(tmp_path: Path) -> None:
    sets = {f"net/test_data_set_{i}/{kind}_0.pb": b"pb" for i in (10, 2) for kind in ("input", "output")}
    elsewhere = {"test_data_set_0/input_0.pb": b"of another", "net/test_data_set_x/input_0.pb": b"no set"}

    files, out = unpacked(tmp_path, zipped(WHOLE | sets | elsewhere))

    assert files == (
        "big.onnx",
        "w.bin",
        "test_data_set_2/input_0.pb",
        "test_data_set_2/output_0.pb",
        "test_data_set_10/input_0.pb",
        "test_data_set_10/output_0.pb",
    )
    assert (out / "test_data_set_10" / "input_0.pb").read_bytes() == b"pb"


def test_test_data_without_room_stay_behind_in_whole_sets(tmp_path: Path) -> None:
    sets = {f"test_data_set_{i}/{kind}_0.pb": bytes(400) for i in (0, 1) for kind in ("input", "output")}
    content = {"m.onnx": plain(), **sets}

    files, _ = unpacked(tmp_path, zipped(content), len(plain()) + 900)

    assert files == ("m.onnx", "test_data_set_0/input_0.pb", "test_data_set_0/output_0.pb")


@pytest.mark.parametrize("digits", [300, 5000])
def test_test_data_of_a_number_without_end_stay_behind(tmp_path: Path, digits: int) -> None:
    files, _ = unpacked(
        tmp_path, zipped({"m.onnx": plain(), f"test_data_set_{'1' * digits}/input_0.pb": b"pb"})
    )

    assert files == ("m.onnx",)


def test_external_data_may_lie_in_a_folder(tmp_path: Path) -> None:
    files, out = unpacked(tmp_path, zipped({"m.onnx": model("data/w.bin"), "data/w.bin": bytes(16)}))

    assert files == ("m.onnx", "data/w.bin")
    assert (out / "data" / "w.bin").read_bytes() == bytes(16)


def test_of_several_models_the_one_called_model_is_meant(tmp_path: Path) -> None:
    files, _ = unpacked(tmp_path, zipped({"decoder.onnx": plain(), "a/model.onnx": plain()}))

    assert files == ("model.onnx",)


def test_several_models_are_refused_by_name(tmp_path: Path) -> None:
    found = refusal(tmp_path, zipped({"encoder.onnx": plain(), "decoder.onnx": plain()}))

    assert found.code == "several_models"
    assert "'decoder.onnx'" in found.detail


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        archive.addfile(member)
    return out.getvalue()


def zip_link() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        member = zipfile.ZipInfo("model.onnx")
        member.external_attr = 0o120777 << 16
        archive.writestr(member, "/etc/passwd")
    return out.getvalue()


HOSTILE = {
    "no model": (zipped({"weights.pt": b"x"}), "not_onnx"),
    "nothing": (zipped({}), "not_onnx"),
    "a broken zip": (zipped(WHOLE)[:-30], "broken_archive"),
    "a broken tar": (tarred(WHOLE, "w:gz")[:-30], "broken_archive"),
    "a gzip of no tar": (b"\x1f\x8b" + bytes(100), "broken_archive"),
    "a path that leads outside": (zipped({"../evil": b"x", "m.onnx": plain()}), "unsafe_archive"),
    "an absolute path": (tarred({"/tmp/evil": b"x"}, "w"), "unsafe_archive"),  # noqa: S108
    "a link": (link("model.onnx", "/etc/passwd"), "unsafe_archive"),
    "a hard link": (link("model.onnx", "/etc/passwd", tarfile.LNKTYPE), "unsafe_archive"),
    "a device": (link("model.onnx", "", tarfile.CHRTYPE), "unsafe_archive"),
    "a link in a zip": (zip_link(), "unsafe_archive"),
    "a bomb": (zipped({"m.onnx": plain(), "w.bin": bytes(50_000_000)}), "archive_too_large"),
    "data that are not there": (zipped({"m.onnx": model()}), "external_data_missing"),
    "data outside": (zipped({"m.onnx": model("../../evil")}), "external_data_unsafe"),
    "data elsewhere": (zipped({"m.onnx": model("/etc/passwd")}), "external_data_unsafe"),
    "data below a file": (zipped({"m.onnx": model("m.onnx/w"), "m.onnx/w": bytes(16)}), "unsafe_archive"),
    "a name as long as a novel": (zipped({"x" * 300 + ".onnx": plain()}), "unsafe_archive"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_no_archive_of_a_model_is_is_refused(tmp_path: Path, case: str) -> None:
    content, code = HOSTILE[case]

    assert refusal(tmp_path, content).code == code


def test_files_above_the_limit_are_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(3000)
    content = zipped({"m.onnx": model(), "w.bin": noise})

    assert refusal(tmp_path, content, limit=2000).code == "archive_too_large"


def test_files_that_are_too_large_together_are_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(3000)
    content = zipped({"m.onnx": model(), "w.bin": noise})

    assert refusal(tmp_path, content, limit=3000 + len(model()) - 1).code == "model_too_large"


def test_no_model_looks_like_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(plain())

    assert not is_packed(path)
