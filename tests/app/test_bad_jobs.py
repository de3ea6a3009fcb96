"""Jobs that make no sense are refused over HTTP, each with the place where it is wrong."""

import httpx
import pytest

from tests.app.conftest import Service
from tests.app.problems import pointers

JOBS: dict[str, tuple[str, str]] = {
    "an unknown field": ('{"version": "ver_1", "versoin": 1}', "/versoin"),
    "no version": ("{}", "/version"),
    "an unknown field of a recipe": (
        '{"version": "ver_1", "recipes": [{"method": "dynamic_int8"}, {"method": "static_int8", "bits": 4}]}',
        "/recipes/1/bits",
    ),
    "an unknown method": ('{"version": "ver_1", "recipes": [{"method": "magic"}]}', "/recipes/0"),
    "no method": ('{"version": "ver_1", "recipes": [{}]}', "/recipes/0"),
    "a recipe that is none": ('{"version": "ver_1", "recipes": ["static_int8"]}', "/recipes/0"),
    "a wrong type": ('{"version": "ver_1", "deadline_s": "soon"}', "/deadline_s"),
    "a limit out of range": ('{"version": "ver_1", "gate": {"min_speedup": -1}}', "/gate/min_speedup"),
    "a deep wrong value": (
        '{"version": "ver_1", "recipes": [{"method": "static_int8", "ranges": {"method": "vibes"}}]}',
        "/recipes/0/ranges/method",
    ),
    "no JSON": ('{"version": ', ""),
    "not even an object": ("[]", ""),
    "nothing": ("", ""),
    "null": ("null", ""),
    "a bare word": ("nonsense", ""),
}


@pytest.mark.parametrize("case", JOBS)
def test_a_bad_job_is_refused_where_it_is_wrong(http: httpx.Client, case: str) -> None:
    text, pointer = JOBS[case]

    answer = http.post("/v1/jobs", content=text, headers={"Content-Type": "application/json"})

    assert pointers(answer) == [pointer]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_limits_that_are_no_numbers_are_refused(http: httpx.Client, number: str) -> None:
    text = f'{{"version": "ver_1", "gate": {{"min_sqnr_db": {number}}}}}'

    answer = http.post("/v1/jobs", content=text, headers={"Content-Type": "application/json"})

    assert "/gate/min_sqnr_db" in pointers(answer)


SPECS: dict[str, tuple[dict[str, str], str]] = {
    "no JSON": ({"spec": "{"}, "/spec"),
    "no object": ({"spec": "[]"}, "/spec"),
    "an unknown field": ({"spec": '{"recipe": []}'}, "/spec/recipe"),
    "an unknown field of a recipe": (
        {"spec": '{"recipes": [{"method": "dynamic_int8", "bits": 4}]}'},
        "/spec/recipes/0/bits",
    ),
    "a version of its own": ({"spec": '{"version": "ver_1"}'}, "/spec/version"),
    "a limit that is no number": ({"min_speedup": "fast"}, "/min_speedup"),
    "a limit that is not a number": ({"min_sqnr_db": "nan"}, "/min_sqnr_db"),
    "a limit out of range": ({"max_accuracy_drop": "7"}, "/max_accuracy_drop"),
    "a gate that is none": ({"spec": '{"gate": 5}', "min_speedup": "1.2"}, "/spec/gate"),
    "a gate that is a list": ({"spec": '{"gate": ["x"]}', "min_speedup": "1.2"}, "/spec/gate"),
    "a wrong choice": ({"on_inconclusive": "shrug"}, "/on_inconclusive"),
    "a preset that is none": ({"preprocess": "imagenette"}, "/preprocess"),
    "an unknown part": ({"min_speed": "1.2"}, "/min_speed"),
}


@pytest.mark.parametrize("case", SPECS)
def test_a_bad_one_shot_is_refused_where_it_is_wrong_and_leaves_nothing(
    service: Service, http: httpx.Client, case: str
) -> None:
    fields, pointer = SPECS[case]
    files = {"model": ("m.onnx", b"model"), "data": ("d.npz", b"data")}
    before = service.objects()

    answer = http.post("/v1/quantize", data=fields, files=files)

    assert pointers(answer) == [pointer]
    assert service.objects() == before
    assert http.get("/v1/models").json()["items"] == []


def test_deeply_nested_json_is_refused(http: httpx.Client) -> None:
    text = '{"version": ' + "[" * 100_000 + "]" * 100_000 + "}"

    answer = http.post("/v1/jobs", content=text, headers={"Content-Type": "application/json"})

    assert answer.status_code in {400, 422}
    assert answer.headers["content-type"] == "application/problem+json"
