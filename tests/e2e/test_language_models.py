"""A language model that keeps a cache, judged and gated on perplexity by a job over HTTP."""

import io
import json
from typing import Any

import onnx
import pytest

from examples.language import decoder
from tests.e2e.conftest import Service
from tests.engine.language import WORDS, archive, said, written
from tests.waiting import in_time

SIZE = decoder.Size(vocabulary=WORDS, width=32, layers=1, heads=2, hidden=32, context=64)
WINDOWS = {"text": {"max_length": 32, "stride": 16}}


@pytest.fixture(scope="module")
def job(service: Service, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One that has ended; a fifth of the text calibrates."""
    http = service.http
    text = archive(tmp_path_factory.mktemp("text") / "text.zip", {"a.txt": written(said(2000))})
    version = upload(service, "models", cached_model(), {"name": "decoder"})
    dataset = upload(
        service, "datasets", text.read_bytes(), {"name": "text", "preprocess": json.dumps(WINDOWS)}
    )
    spec = {
        "version": version,
        "calibration": {"dataset": dataset},
        "evaluation": {"dataset": dataset},
        "state": {"present.*": "past_key_values.*"},
        "recipes": [{"method": "weight_only", "bits": 8}],
        "benchmark": {"max_seconds": 1},
        "gate": {"max_relative_drop": 0.02},
    }
    answer = http.post("/v1/jobs", json=spec)
    assert answer.status_code == 202, answer.text
    where = f"/v1/jobs/{answer.json()['id']}"
    in_time(lambda: http.get(where).json()["state"] in {"succeeded", "failed"}, seconds=600)
    found: dict[str, Any] = http.get(where).json()
    return found


def upload(service: Service, noun: str, content: bytes, form: dict[str, str]) -> str:
    answer = service.http.post(f"/v1/{noun}", files={"file": (noun, content)}, data=form)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def cached_model() -> bytes:
    out = io.BytesIO()
    onnx.save(decoder.to_onnx(decoder.random_weights(SIZE), SIZE, cached=True), out)
    return out.getvalue()


def test_a_candidate_passes_a_limit_on_perplexity(job: dict[str, Any]) -> None:
    accuracy = job["baseline"]["accuracy"]

    assert (job["state"], job["conclusion"]) == ("succeeded", "pass"), job
    assert accuracy["metric"] == "perplexity"
    assert 1 < accuracy["value"] < 10 * WORDS


def test_its_verdict_and_report_speak_of_perplexity(service: Service, job: dict[str, Any]) -> None:
    check = service.http.get(f"/v1/jobs/{job['id']}/verdict").json()["checks"][0]
    report = service.http.get(f"/v1/jobs/{job['id']}/report?format=md").text

    assert check["name"] == "max_relative_drop"
    assert check["conclusion"] == "pass"
    assert check["bound"] < 0.02
    assert "perplexity" in report


def test_its_layers_and_its_dataset_are_described(service: Service, job: dict[str, Any]) -> None:
    layers = service.http.get(f"/v1/candidates/{job['best']}/layers").json()
    dataset = service.http.get(f"/v1/datasets/{job['spec']['evaluation']['dataset']}").json()

    assert layers["layers"]
    assert dataset["summary"]["format"] == "running_text"
