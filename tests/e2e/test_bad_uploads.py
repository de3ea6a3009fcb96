"""Uploads that cannot be used end as rejected, with a code that says why, and leave no bytes behind."""

import hashlib
import io
import json
from typing import Any

import httpx
import numpy as np
import onnx
import onnx.parser
import pytest

from tests.e2e.conftest import Service

LFS = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n".encode()
WAIT = {"Prefer": "wait=600"}


def parsed(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(text)


def serialized(model: onnx.ModelProto) -> bytes:
    return bytes(model.SerializeToString())


def without_opset(model: bytes) -> bytes:
    found = onnx.load_from_string(model)
    del found.opset_import[:]
    return serialized(found)


def custom_operator() -> bytes:
    text = """
    <ir_version: 8, opset_import: ["": 17, "acme": 1]>
    custom (float[2] x) => (float[2] y) { y = acme.Magic(x) }
    """
    return serialized(parsed(text))


def outside() -> bytes:
    """A model whose weights are said to lie in a file of the host."""
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    spy (float[4] x) => (float[4] y) <float[4] w = {1.0, 2.0, 3.0, 4.0}> { y = Add(x, w) }
    """
    found = parsed(text)
    (weight,) = found.graph.initializer
    weight.ClearField("raw_data")
    weight.ClearField("float_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "../../../etc/passwd"), ("offset", "0"), ("length", "16")):
        weight.external_data.add(key=key, value=value)
    return serialized(found)


def models(digits: bytes) -> dict[str, tuple[bytes, str]]:
    return {
        "no model at all": (b"The quick brown fox jumps over the lazy dog.", "not_onnx"),
        "a broken zip archive": (b"PK\x03\x04" + bytes(100), "broken_archive"),
        "a truncated model": (digits[: len(digits) // 2], "truncated_model"),
        "an LFS pointer": (LFS, "lfs_pointer"),
        "a model without opset": (without_opset(digits), "no_opset"),
        "a custom operator": (custom_operator(), "unsupported_domain"),
        "weights outside the upload": (outside(), "external_data_unsafe"),
    }


CASES = sorted(models(b""))


@pytest.mark.parametrize("case", CASES)
def test_a_model_that_cannot_be_used_is_rejected_and_its_bytes_go(
    service: Service, http: httpx.Client, digits_model: bytes, case: str
) -> None:
    content, code = models(digits_model)[case]
    before = service.objects()

    answer = http.post("/v1/models", files={"file": ("model.onnx", content)}, headers=WAIT)

    found = answer.json()
    assert (answer.status_code, found["code"]) == (422, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert str(service.home) not in found["detail"]
    version = found["detail"].split()[0]
    shown = http.get(f"/v1/versions/{version}").json()
    assert (shown["state"], shown["files"], shown["error"]["code"]) == ("rejected", [], code)
    assert service.objects() == before
    assert http.head(f"/v1/blobs/{hashlib.sha256(content).hexdigest()}").status_code == 404


def test_an_empty_model_is_refused_at_once(service: Service, http: httpx.Client) -> None:
    before = service.objects()

    answer = http.post("/v1/models", files={"file": ("model.onnx", b"")})

    assert (answer.status_code, answer.json()["code"]) == (422, "empty_file")
    assert service.objects() == before


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def pickled() -> bytes:
    return npz(image=np.array([{"an": "object"}], dtype=object))


DATASETS: dict[str, tuple[bytes, str]] = {
    "no dataset at all": (b"The quick brown fox.", "unknown_data_format"),
    "a pickle": (pickled(), "pickled_array"),
    "arrays of unequal length": (
        npz(image=np.zeros((3, 1, 32, 32), np.uint8), labels=np.zeros(2, np.int64)),
        "unequal_lengths",
    ),
    "half an archive": (npz(image=np.zeros((9, 1, 32, 32), np.uint8))[:5000], "broken_archive"),
}


@pytest.mark.parametrize("case", DATASETS)
def test_a_dataset_that_cannot_be_read_is_rejected_and_its_bytes_go(
    service: Service, http: httpx.Client, case: str
) -> None:
    content, code = DATASETS[case]
    before = service.objects()

    answer = http.post("/v1/datasets", files={"file": ("data.npz", content)}, headers=WAIT)

    found = answer.json()
    assert (answer.status_code, found["code"]) == (422, code), answer.text
    shown = http.get(f"/v1/datasets/{found['detail'].split()[0]}").json()
    assert (shown["state"], shown["sha256"]) == ("rejected", None)
    assert service.objects() == before


def quantize(http: httpx.Client, model: bytes, data: bytes, **spec: object) -> dict[str, Any]:
    """The problem of a one-shot that fails."""
    answer = http.post(
        "/v1/quantize",
        files={"model": ("digits.onnx", model), "data": ("data.npz", data)},
        data={"spec": json.dumps(spec), "preprocess": "unit"},
        headers={"Prefer": "wait=600"},
    )
    job: dict[str, Any] = answer.json()
    assert job["state"] == "failed", job
    problem: dict[str, Any] = job["error"]
    return problem


def test_a_dataset_that_does_not_fit_says_which_input_what_it_expected_and_what_it_found(
    http: httpx.Client, digits_model: bytes
) -> None:
    wrong = npz(image=np.zeros((40, 3, 16, 16), np.uint8), labels=np.zeros(40, np.int64))

    problem = quantize(http, digits_model, wrong)

    assert problem["code"] == "dataset_mismatch"
    (error,) = problem["errors"]
    assert error["pointer"] == "/inputs/image"
    for word in ("image", "expected", "32", "found", "16"):
        assert word in error["detail"]


def test_labels_out_of_range_fail_the_job(http: httpx.Client, digits_model: bytes) -> None:
    labels = np.arange(40, dtype=np.int64)
    wrong = npz(
        image=np.random.default_rng(1).integers(0, 255, (40, 1, 32, 32)).astype(np.uint8), labels=labels
    )

    problem = quantize(http, digits_model, wrong, evaluation={"metric": "top1"})

    assert problem["code"] == "labels_out_of_range"
    assert "10" in problem["detail"]


def test_a_rejected_upload_fails_the_job_that_came_with_it(
    service: Service, http: httpx.Client, digits_data: bytes
) -> None:
    before = service.objects()

    problem = quantize(http, LFS, digits_data)

    assert problem["code"] == "lfs_pointer"
    assert "git lfs pull" in problem["detail"]
    assert len(service.objects() - before) <= 1  # the data may stay


def test_a_model_without_anything_to_quantize_gives_no_candidate(http: httpx.Client) -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    plain (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }
    """
    answer = http.post(
        "/v1/quantize",
        files={"model": ("plain.onnx", serialized(parsed(text)))},
        headers={"Prefer": "wait=600"},
    )

    job = answer.json()
    assert (job["state"], job["error"]["code"]) == ("failed", "no_candidate")
    candidates = http.get(job["links"]["candidates"]).json()["items"]
    assert {c["error"]["code"] for c in candidates} == {"nothing_to_quantize"}
