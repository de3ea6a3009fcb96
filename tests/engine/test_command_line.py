"""`python -m worker.engine`: JSON on standard output, progress on standard error, exit codes 0, 1 and 2."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

from app.domain.errors import Refused
from app.domain.recipe import StaticInt8
from tests.engine.digits import classifier, save_digits
from worker.engine.__main__ import main, read_preprocess, read_recipe
from worker.engine.calibrate import load_statistics
from worker.engine.elsewhere.openvino import release

ROOT = Path(__file__).parents[2]
STATIC = '{"method": "static_int8"}'
HALF = '{"method": "float16"}'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    onnx.save(classifier(), tmp_path / "model.onnx")
    save_digits(tmp_path / "digits", 300)
    return tmp_path


def run(folder: Path, *words: str, given: str = "") -> tuple[int, Any, str]:
    command = [sys.executable, "-m", "worker.engine", *words]
    done = subprocess.run(
        command,
        cwd=folder,
        env={"PYTHONPATH": str(ROOT)},
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    code = main(words)
    return code, json.loads(capsys.readouterr().out)


def test_examine_prints_what_is_in_a_model(folder: Path) -> None:
    code, answer, _ = run(folder, "examine", "model.onnx")

    assert code == 0
    assert answer["inputs"][0]["name"] == "x"


def test_calibrate_quantize_and_compare_work_on_each_others_files(folder: Path) -> None:
    calibrated, counted, heard = run(
        folder, "calibrate", "model.onnx", "s.npz", "--data", "digits", "--samples", "40"
    )
    quantized, made, _ = run(
        folder, "quantize", "model.onnx", "q.onnx", "--recipe", STATIC, "--calibration", "s.npz"
    )
    compared, both, _ = run(
        folder,
        "compare",
        "model.onnx",
        "q.onnx",
        "--data",
        "digits",
        "--metric",
        "top1",
        "--max-seconds",
        "1",
    )

    assert (calibrated, quantized, compared) == (0, 0, 0)
    assert "100% calibrating" in heard
    assert counted["samples"] == 40
    assert counted["tensors"] == len(load_statistics(folder / "s.npz").tensors) > 1
    assert counted["seconds"] > 0
    assert made["recipe"]["activation"] in {"uint8", "int8"}
    assert "model = 'q.onnx'" in made["snippet"]
    figures = both["candidates"][0]["figures"]
    assert figures["accuracy"]["samples"] == 300
    assert figures["size"]["ratio"] == made["size"]["ratio"] < 1
    assert figures["latency"] or any("latency" in note for note in figures["notes"])
    assert figures["memory"]["peak_bytes"] > figures["memory"]["model_bytes"] > 0
    elsewhere = figures["runs_elsewhere"]
    assert elsewhere["tensorrt"] == made["runs_elsewhere"]["tensorrt"]
    assert elsewhere["openvino"]["loads"] == ("not_checked" if release() is None else "yes")


def test_quantize_takes_data_and_a_preset_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["quantize", str(folder / "model.onnx"), str(folder / "q.onnx"), "--recipe", STATIC]

    code, answer = said(
        capsys, *words, "--data", str(folder / "digits"), "--preprocess", "unit", "--target", "arm64"
    )

    assert code == 0
    assert answer["recipe"]["activation"] == "int8"
    assert (folder / "q.onnx").stat().st_size == answer["size"]["bytes"]


def test_what_is_refused_once_it_was_written_is_not_left_behind(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(model: Path, feeds: Path) -> None:  # noqa: ARG001
        raise Refused("model_not_loadable", f"ONNX Runtime cannot load {model.name}.")

    monkeypatch.setattr("worker.engine.__main__._how_to_run", refuse)

    code, problem = said(
        capsys, "quantize", f"{folder}/model.onnx", f"{folder}/q.onnx", "--recipe", '{"method": "float16"}'
    )

    assert (code, problem["code"]) == (2, "model_not_loadable")
    assert not (folder / "q.onnx").exists()


def test_weights_beside_a_model_are_not_written_over(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, beside = onnx.load_model(folder / "model.onnx"), folder / "q.onnx.data"
    onnx.save_model(
        model, folder / "m.onnx", save_as_external_data=True, location=beside.name, size_threshold=0
    )
    before = beside.read_bytes()

    words = ("quantize", f"{folder}/m.onnx", f"{folder}/q.onnx", "--recipe", '{"method": "float16"}')
    code, problem = said(capsys, *words)

    assert (code, problem["code"]) == (2, "output_is_input")
    assert beside.read_bytes() == before


def test_a_refusal_is_a_problem_on_standard_output_and_exit_code_2(folder: Path) -> None:
    (folder / "broken.onnx").write_bytes(b"<html>")

    code, problem, _ = run(folder, "examine", "broken.onnx")

    assert code == 2
    assert problem["code"] == "not_onnx"
    assert problem["detail"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["examine", "absent.onnx"], "file_not_found"),
        (["examine"], "invalid_arguments"),
        (["dance"], "invalid_arguments"),
        (["calibrate", "MODEL", "out.npz"], "no_calibration_data"),
        (["calibrate", "MODEL", "no/such/folder/out.npz"], "folder_not_found"),
        (["quantize", "MODEL", "q.onnx", "--recipe", STATIC, "--target", "z80"], "invalid_arguments"),
        (
            ["quantize", "MODEL", "q.onnx", "--recipe", STATIC, "--preprocess", "imagenot"],
            "invalid_preprocess",
        ),
        (["quantize", "MODEL", "q.onnx", "--recipe", "{}"], "invalid_recipe"),
        (["quantize", "MODEL", "MODEL", "--recipe", HALF], "output_is_input"),
        (
            ["quantize", "MODEL", "q", "--recipe", '{"method": "float16"}', "--layers", "MODEL"],
            "output_is_input",
        ),
        (["quantize", "MODEL", "q.onnx", "--recipe", STATIC], "no_calibration_data"),
    ],
)
def test_wrong_words_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: str
) -> None:
    exit_code, problem = said(capsys, *(word.replace("MODEL", str(folder / "model.onnx")) for word in words))

    assert exit_code == 2
    assert problem["code"] == code


def test_a_crash_is_exit_code_1_with_its_trace_on_standard_error(folder: Path) -> None:
    code, answer, trace = run(folder, "call", "examine_model", given='{"nonsense": 1}')

    assert code == 1
    assert answer is None
    assert "Traceback" in trace


@pytest.mark.parametrize(
    ("text", "pointers"),
    [
        (
            '{"method": "static_int8", "ranges": {"method": "guess"}, "colour": 1}',
            {"/ranges/method", "/colour"},
        ),
        ('{"method": "static_int8", "exclude": {"nodes": [1]}}', {"/exclude/nodes/0"}),
        ('{"method": "alchemy"}', {""}),
        ("not json", {""}),
    ],
)
def test_each_wrong_field_of_a_recipe_has_its_pointer(text: str, pointers: set[str]) -> None:
    with pytest.raises(Refused) as refused:
        read_recipe(text)

    assert refused.value.code == "invalid_recipe"
    assert {error.pointer for error in refused.value.errors} == pointers


def test_a_recipe_is_told_by_its_method() -> None:
    assert read_recipe('{"method": "static_int8", "per_channel": true}') == StaticInt8(per_channel=True)


def test_preprocessing_is_a_preset_or_json() -> None:
    assert read_preprocess("imagenet").crop == 224
    assert read_preprocess('{"mean": [1, 2, 3], "color": "BGR"}').mean == (1, 2, 3)
