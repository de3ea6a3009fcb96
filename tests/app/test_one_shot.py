"""The one-shot over HTTP: a model, its data and a job in one request."""

import io

import httpx
import pytest

from tests.app.conftest import Service
from tests.app.problems import pointers, problem
from tests.app.uploading import content


def test_the_one_shot_makes_version_dataset_and_job_in_one_request(http: httpx.Client) -> None:
    model, data = content(), content()

    answer = http.post(
        "/v1/quantize",
        files={"data": ("val.npz", data), "model": ("m.onnx", model)},
        data={
            "spec": '{"recipes": [{"method": "static_int8"}], "gate": {"min_speedup": 1.2}}',
            "preprocess": "unit",
            "max_accuracy_drop": "0.01",
            "min_speedup": "1.5",
            "name": "digits",
            "labels": '{"a": "b"}',
        },
    )

    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert job["spec"]["gate"]["min_speedup"] == 1.5
    assert job["spec"]["gate"]["max_accuracy_drop"] == 0.01
    assert job["spec"]["recipes"][0]["method"] == "static_int8"
    assert job["spec"]["labels"] == {"a": "b"}
    version = http.get(f"/v1/versions/{job['spec']['version']}").json()
    assert (version["name"], version["state"]) == ("digits", "inspecting")
    assert http.get(version["links"]["content"]).content == model
    used = {job["spec"][use]["dataset"] for use in ("calibration", "evaluation")}
    assert len(used) == 1
    assert http.get(f"/v1/datasets/{used.pop()}").json()["name"] == "val.npz"


def test_the_fields_of_a_one_shot_may_be_files(http: httpx.Client) -> None:
    spec = io.BytesIO(b'{"recipes": [{"method": "dynamic_int8"}]}')

    answer = http.post("/v1/quantize", files={"model": ("m.onnx", content()), "spec": ("spec.json", spec)})

    assert answer.json()["spec"]["recipes"][0]["method"] == "dynamic_int8"


def test_a_recipe_that_needs_data_is_refused_in_a_one_shot_without(
    service: Service, http: httpx.Client
) -> None:
    before = service.objects()

    answer = http.post(
        "/v1/quantize",
        files={"model": ("m.onnx", content())},
        data={"spec": '{"recipes": [{"method": "static_int8"}]}'},
    )

    errors = problem(answer, 422, "invalid_input")["errors"]
    assert [error["pointer"] for error in errors] == ["/spec/recipes/0"]
    assert service.objects() == before


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"spec": '{"gate": {"max_accuracy_drop": 5}}'}, "/spec/gate/max_accuracy_drop"),
        ({"spec": '{"gate": {"min_speedup": 1.2}}', "max_accuracy_drop": "5"}, "/max_accuracy_drop"),
        ({"against": "job_0"}, "/against"),
        ({"spec": '{"candidates": ["ver_0"]}'}, "/spec/candidates/0"),
        ({"preprocess": "unit"}, "/preprocess"),
        ({"input": "image"}, "/input"),
    ],
)
def test_what_is_wrong_is_said_of_where_the_form_has_it(
    http: httpx.Client, fields: dict[str, str], pointer: str
) -> None:
    answer = http.post("/v1/quantize", files={"model": ("m.onnx", content())}, data=fields)

    assert pointers(answer) == [pointer]


def test_a_one_shot_that_is_not_waited_for_has_no_verdict_yet(http: httpx.Client) -> None:
    answer = http.post("/v1/quantize?status=http", files={"model": ("m.onnx", content())})

    assert problem(answer, 409, "job_not_finished")["retryable"]
    assert http.get(answer.headers["location"]).json()["state"] == "queued"
