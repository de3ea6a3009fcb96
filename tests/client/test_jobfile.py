"""`.fewbits.yaml`: what fits, and how mistakes are named."""

import json
import runpy
from pathlib import Path

import pytest

from fewbits import InvalidInput, jobfile

ROOT = Path(__file__).parents[2]


def written(folder: Path, text: str) -> Path:
    path = folder / ".fewbits.yaml"
    path.write_text(text)
    return path


def test_the_schema_is_that_of_the_api() -> None:
    script = runpy.run_path(str(ROOT / "client" / "schema.py"))

    text = script["as_text"](json.loads(script["DOCUMENT"].read_text()))

    assert [place.read_text() == text for place in script["PLACES"]] == [True, True], "run `make openapi`"


def test_files_are_relative_to_the_job_file_and_ids_stay(tmp_path: Path) -> None:
    path = written(
        tmp_path, "model: nets/a.onnx\ndata: dst_123\ncandidates: [qat.onnx, ver_1]\nreuse: never\n"
    )

    found = jobfile.load(path)

    assert (found.model, found.data) == (str(tmp_path / "nets" / "a.onnx"), "dst_123")
    assert found.spec == {"candidates": [str(tmp_path / "qat.onnx"), "ver_1"], "reuse": "never"}


def test_everything_may_be_left_out(tmp_path: Path) -> None:
    assert jobfile.load(written(tmp_path, "")) == jobfile.JobFile()


def test_json_is_as_good(tmp_path: Path) -> None:
    path = written(tmp_path, '{"gate": {"min_speedup": 1.5}}')

    assert jobfile.load(path).spec == {"gate": {"min_speedup": 1.5}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("modle: a.onnx", "1: there is no field 'modle'; did you mean 'model'?"),
        (
            "model: a.onnx\ngate:\n  min_sped: 1",
            "3: gate: there is no field 'min_sped'; did you mean 'min_speedup'?",
        ),
        (
            "gate:\n  min_speedup: fast",
            "2: gate.min_speedup: must be a number or null, not 'fast'",
        ),
        (
            "recipes:\n- method: static_int8\n- method: static_int4",
            '3: recipes[1].method: must be "bfloat16" or "dynamic_int8" or "float16"',
        ),
        (
            "recipes:\n- method: static_int8\n  ranges: {method: percentile, percentile: 10}",
            "3: recipes[0].ranges.percentile: 10 is less than or equal to the minimum of 50",
        ),
        ("recipes:\n- method: static_int8\n  bits: 4", "3: recipes[0]: there is no field 'bits'"),
        ("preprocess: imagnet", '1: preprocess: must be "imagenet" or "unit" or "signed"'),
        ("preprocess: {scale: big}", "1: preprocess.scale: must be a number, not 'big'"),
        ("deadline_s: 0", "1: deadline_s: 0 is less than the minimum of 1"),
        ("- model", "1: must be a mapping, not ['model']"),
    ],
)
def test_a_mistake_is_named_by_line_and_field(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path, text)

    with pytest.raises(InvalidInput) as refused:
        jobfile.load(path)

    assert str(refused.value).startswith(f"{path}:{said}")


def test_every_mistake_is_named_in_order_up_to_five(tmp_path: Path) -> None:
    path = written(tmp_path, "\n".join(f"wrong_{i}: {i}" for i in range(2)) + "\ndeadline_s: soon\nreuse: no")

    with pytest.raises(InvalidInput) as refused:
        jobfile.load(path)

    assert [line.split(":")[1] for line in str(refused.value).splitlines()] == ["1", "3", "4"]
    assert "wrong_1" in str(refused.value)


def test_what_is_no_yaml_says_where(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="line 2"):
        jobfile.load(written(tmp_path, "gate: {\nmodel: ]"))
