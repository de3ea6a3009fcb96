from pathlib import Path

import numpy as np
import onnx
import pytest

from app.domain.errors import Refused
from app.domain.recipe import DynamicInt8, Imported, StaticInt8, WeightOnly
from tests.engine.graphs import attention, build, dense, feeds, half
from worker.engine.calibrate import collect
from worker.engine.load import save_model
from worker.engine.methods import Setting, quantize
from worker.engine.methods.imported import bring_in
from worker.engine.prepare import prepare_model
from worker.engine.requests import Build
from worker.engine.stages import build as build_candidate

ROWS = feeds(shape=(2, 32))


@pytest.fixture
def original(tmp_path: Path) -> Path:
    save_model(dense(), tmp_path / "float.onnx")
    return tmp_path / "float.onnx"


def quantized(original: Path, recipe: StaticInt8 | DynamicInt8 | WeightOnly) -> Path:
    """The model as another tool might have quantized it."""
    prepared, out = original.with_name("prepared.onnx"), original.with_name("imported.onnx")
    prepare_model(original, prepared, ROWS[:2], {})
    quantize(prepared, out, recipe, Setting(isa="x86-vnni", statistics=collect(prepared, ROWS)))
    return out


@pytest.mark.parametrize(
    ("recipe", "described"),
    [
        (StaticInt8(), "QDQ with "),
        (DynamicInt8(), "quantized operators"),
        (WeightOnly(algorithm="hqq"), "2 nodes with weights in blocks"),
    ],
)
def test_an_imported_model_keeps_its_bytes_and_is_described(
    original: Path, recipe: StaticInt8 | DynamicInt8 | WeightOnly, described: str
) -> None:
    imported, out = quantized(original, recipe), original.with_name("out.onnx")

    notes = bring_in(imported, original, out)

    assert out.read_bytes() == imported.read_bytes()
    assert described in notes[0]


def test_external_data_is_written_into_the_one_file(original: Path) -> None:
    imported, out = original.with_name("imported.onnx"), original.with_name("out.onnx")
    onnx.save_model(dense(), imported, save_as_external_data=True, location="weights.bin", size_threshold=0)

    notes = bring_in(imported, original, out)

    assert notes[1] == "imported: its external data was written into the model's file"
    first = out.read_bytes()
    bring_in(imported, original, out)
    assert out.read_bytes() == first
    weight = onnx.load_model(out, load_external_data=False).graph.initializer[0]
    assert np.array_equal(
        onnx.numpy_helper.to_array(weight), onnx.numpy_helper.to_array(dense().graph.initializer[0])
    )


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (attention(), "the input 'x' has the shape"),
        (half(), "the input 'x' is tensor(float16), not tensor(float)"),
        (
            build([onnx.helper.make_node("Relu", ["z"], ["y"], "r")], {"z": [1]}, {"y": [1]}, {}),
            "no input 'x'",
        ),
    ],
)
def test_another_interface_is_refused(original: Path, other: onnx.ModelProto, said: str) -> None:
    imported = original.with_name("imported.onnx")
    save_model(other, imported)

    with pytest.raises(Refused) as refusal:
        bring_in(imported, original, original.with_name("out.onnx"))

    assert refusal.value.code == "interface_mismatch"
    assert said in refusal.value.detail
    assert refusal.value.errors[0].pointer.startswith("/inputs")


def test_a_build_measures_an_imported_model_by_the_same_rules(original: Path, tmp_path: Path) -> None:
    imported = quantized(original, StaticInt8())
    (tmp_path / "out").mkdir()
    request = Build(
        original=original,
        model=original,
        out=tmp_path / "out",
        recipe=Imported(version="ver_1"),
        isa="x86-vnni",
        imported=imported,
    )

    built = build_candidate(request, lambda _share, _what: None)

    assert built.recipe == Imported(version="ver_1")
    assert built.figures.size is not None
    assert built.figures.size.bytes == imported.stat().st_size
    assert built.reasons[0].startswith("imported: QDQ")


def test_there_is_nothing_to_quantize_in_an_imported_model(original: Path) -> None:
    with pytest.raises(Refused, match="name it among a job's candidates"):
        quantize(original, original.with_name("out.onnx"), Imported(version="ver_1"), Setting(isa="generic"))
