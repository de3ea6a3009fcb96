"""`.fewbits.yaml`: what fits, and how mistakes are named."""

import json
import runpy
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

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


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(jobfile.schema())


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
        ("- model", "1: must be a mapping, not a list"),
        (
            "gate:\n  min_speedup: 1\n  min_speedup: 2",
            "3: gate: 'min_speedup' is there twice; first in line 2",
        ),
        ("labels: {a: b}\ncandidates: [x]\nlabels: {}", "3: 'labels' is there twice; first in line 1"),
        ("gate: {min_speedup: .nan}", "1: gate.min_speedup: must be a number or null, not nan"),
        (
            "gate: {max_accuracy_drop: 1e-2}",
            "1: gate.max_accuracy_drop: must be a number or null, not '1e-2'; write 0.01",
        ),
        ("evaluation: {samples: -1}", "1: evaluation.samples: -1 is less than the minimum of 1"),
        ("reuse: no", '1: reuse: must be "allow" or "never", not false'),
        ("labels: null", "1: labels: must be a mapping, not null"),
        ("recipes: [{}]", "1: recipes[0]: the field 'method' is missing"),
        ("model: ''", "1: model: '' should be non-empty"),
        ("<<: {modle: a.onnx}", "1: there is no field 'modle'; did you mean 'model'?"),
        ("labels: &a {b: *a}", "1: labels.b: must be text, not a mapping"),
    ],
)
def test_a_mistake_is_named_by_line_and_field(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path, text)

    with pytest.raises(InvalidInput) as refused:
        jobfile.load(path)

    assert str(refused.value).startswith(f"{path}:{said}")


def test_every_mistake_is_named_by_its_own_line_up_to_five(tmp_path: Path) -> None:
    path = written(tmp_path, "\n".join(f"wrong_{i}: {i}" for i in range(4)) + "\ndeadline_s: soon\nreuse: no")

    with pytest.raises(InvalidInput) as refused:
        jobfile.load(path)

    *lines, last = str(refused.value).splitlines()
    assert [line.split(":")[1] for line in lines] == ["1", "2", "3", "4", "5"]
    assert last == "and 1 more"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gate: {\nmodel: ]", ":2: this is no YAML"),
        ("a: 1\n---\nb: 2", ":2: this is no YAML"),
        ("model: !!python/name:os.system x", ":1: this is no YAML"),
        ("model: a\x00", " is no YAML"),
    ],
)
def test_what_is_no_yaml_says_where(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        jobfile.load(written(tmp_path, text))

    assert str(refused.value).startswith(f"{tmp_path / '.fewbits.yaml'}{said}")
