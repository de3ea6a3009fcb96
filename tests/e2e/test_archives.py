"""Archives of models through the whole service: unpacked in the sandbox, kept file by file."""

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from examples.digits import data as digits
from tests.zips import zipped

WAIT = {"Prefer": "wait=600"}


def post(http: httpx.Client, content: bytes) -> httpx.Response:
    return http.post("/v1/models", files={"file": ("digits.zip", content)}, headers=WAIT)


def test_a_model_in_an_archive_is_ready_like_any_other(http: httpx.Client, digits_model: bytes) -> None:
    sent = zipped({"digits/digits.onnx": digits_model, "digits/README": b"read me"})

    first, again = post(http, sent).json(), post(http, sent).json()

    for version in (first, again):
        assert (version["state"], version["name"]) == ("ready", "digits")
        assert [file["path"] for file in version["files"]] == ["digits.onnx"]
        assert http.get(version["links"]["content"]).content == digits_model
    assert first["examination"]["op_types"]["Conv"] >= 1


def tensor(values: NDArray[np.float32]) -> bytes:
    found: bytes = numpy_helper.from_array(values).SerializeToString()
    return found


def test_test_data_in_the_archive_serve_a_job_without_data(http: httpx.Client, digits_model: bytes) -> None:
    images = digits.held_out().image[:3].astype(np.float32) / 255
    sets = {f"digits/test_data_set_{i}/input_0.pb": tensor(image[None]) for i, image in enumerate(images)}
    version = post(http, zipped({"digits/digits.onnx": digits_model, **sets})).json()
    assert [file["path"] for file in version["files"]] == ["digits.onnx", *(name[7:] for name in sets)]

    spec = {
        "version": version["id"],
        "recipes": [{"method": "dynamic_int8", "include": {"op_types": ["Conv"]}}],
        "benchmark": {"max_seconds": 1},
        "gate": {"min_sqnr_db": 10},
    }
    job = http.post("/v1/jobs", json=spec, headers=WAIT).json()
    (candidate,) = http.get(f"/v1/jobs/{job['id']}/candidates").json()["items"]

    assert (job["state"], job["conclusion"]) == ("succeeded", "pass")
    assert candidate["fidelity"]["samples"] == 3
    assert candidate["accuracy"] is None
    for notes in (candidate["notes"], job["baseline"]["notes"]):
        assert any("came with the model (test_data_set_*): 3 samples" in note for note in notes)
        assert not any("synthetic" in note for note in notes)
    refused = http.post("/v1/jobs", json={"version": version["id"], "recipes": [{"method": "static_int8"}]})
    assert refused.status_code == 422, "it calibrates nothing"


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({"weights.pt": b"no model"}, "not_onnx"),
        ({"../m.onnx": b"outside"}, "unsafe_archive"),
        ({"m.onnx": bytes(50_000_000)}, "archive_too_large"),
        ({"a.onnx": b"one", "b.onnx": b"two"}, "several_models"),
    ],
)
def test_an_archive_without_a_usable_model_is_rejected(
    http: httpx.Client, files: dict[str, bytes], code: str
) -> None:
    answer = post(http, zipped(files))

    assert (answer.status_code, answer.json()["code"]) == (422, code)
