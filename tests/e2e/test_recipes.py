"""Recipes beyond int8, and a model that was quantized elsewhere, in one job over HTTP."""

from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Service
from tests.waiting import in_time

RECIPES = [
    {"method": "weight_only", "bits": 4},
    {"method": "float16"},
    {"method": "bfloat16"},
    {"method": "weight_only", "number_format": "nf4", "algorithm": "awq"},
    {
        "method": "mixed",
        "float": True,
        "ranges": {"method": "minmax"},
        "overrides": [
            {"op_types": ["Conv"]},
            {"nodes": ["full.second"], "activation": "int16"},
            {"nodes": ["head*"], "float": True},
        ],
    },
]


def upload(http: httpx.Client, noun: str, name: str, content: bytes) -> str:
    form = {"name": name} | ({"preprocess": "unit"} if noun == "datasets" else {})
    answer = http.post(f"/v1/{noun}", files={"file": (name, content)}, data=form)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


@pytest.fixture(scope="module")
def candidates(service: Service, digits_model: bytes, digits_data: bytes) -> list[dict[str, Any]]:
    """Of a job that has ended; its imported model is the float one, sent again."""
    http = service.http
    version = upload(http, "models", "digits.onnx", digits_model)
    imported = upload(http, "models", "elsewhere.onnx", digits_model)
    dataset = upload(http, "datasets", "digits.npz", digits_data)
    spec = {
        "version": version,
        "evaluation": {"dataset": dataset},
        "recipes": RECIPES,
        "candidates": [imported],
        "benchmark": {"max_seconds": 1},
    }
    job = http.post("/v1/jobs", json=spec).json()

    def ended() -> bool:
        return http.get(f"/v1/jobs/{job['id']}").json()["state"] in {"succeeded", "failed"}

    in_time(ended, seconds=600)
    found: list[dict[str, Any]] = http.get(f"/v1/jobs/{job['id']}/candidates").json()["items"]
    return [{**candidate, "imported": imported} for candidate in found]


def test_every_recipe_and_the_imported_model_are_measured(candidates: list[dict[str, Any]]) -> None:
    assert [(c["state"], c["error"]) for c in candidates] == [("measured", None)] * 6
    methods = [c["recipe"]["method"] for c in candidates]
    assert methods == ["weight_only", "float16", "bfloat16", "weight_only", "mixed", "imported"]


def test_calibration_samples_reach_the_build(candidates: list[dict[str, Any]]) -> None:
    assert candidates[0]["recipe"]["algorithm"] == "gptq"
    assert candidates[0]["fidelity"]["sqnr_db"] > 15


def test_accuracy_levels_are_settled_in_the_build(candidates: list[dict[str, Any]]) -> None:
    assert candidates[0]["recipe"]["accuracy_level"] in {0, 4}
    assert any("calibration samples, of" in note for note in candidates[0]["notes"])


def test_normal_floats_are_built_and_measured(candidates: list[dict[str, Any]]) -> None:
    assert candidates[3]["name"] == "nf4 weights, awq"
    assert candidates[3]["fidelity"]["sqnr_db"] > 15
    assert candidates[3]["requires"]["onnxruntime"] == "1.16"


def test_a_mixed_candidate_tells_what_each_node_got(
    service: Service, candidates: list[dict[str, Any]]
) -> None:
    mixed = candidates[4]

    got = {
        name: (override["activation"], override["weight"], override["float"])
        for override in mixed["recipe"]["overrides"][3:]
        for name in override["nodes"]
    }
    assert got["stem.conv"] == ("uint8", "int8", False)
    assert got["full.second"] == ("int16", "int8", False)
    assert got["head.conv"] == got["classifier"] == (None, None, True)
    assert mixed["kernels"]["integer"] == 7
    assert mixed["fidelity"]["sqnr_db"] > 20
    assert mixed["requires"]["onnxruntime"] == "1.17"
    assert "int16 activations, int8 weights: full.second" in mixed["notes"]
    layers = service.http.get(f"/v1/candidates/{mixed['id']}/layers").json()["layers"]
    assert {layer["node"] for layer in layers} >= {"stem.conv", "full.second", "separable.project"}


def test_16_bits_stay_close(candidates: list[dict[str, Any]]) -> None:
    assert candidates[1]["fidelity"]["sqnr_db"] > 40
    assert candidates[2]["fidelity"]["sqnr_db"] > 30


def test_the_imported_model_is_the_upload_itself(
    service: Service, candidates: list[dict[str, Any]], digits_model: bytes
) -> None:
    assert candidates[5]["recipe"] == {"method": "imported", "version": candidates[5]["imported"]}
    assert candidates[5]["fidelity"]["sqnr_db"] == 200
    content = service.http.get(f"/v1/candidates/{candidates[5]['id']}/content", follow_redirects=True)
    assert content.content == digits_model
