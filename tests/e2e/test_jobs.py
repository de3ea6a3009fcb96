"""Whole jobs through the public interface alone: a model in, a verdict and a better model out."""

import json
import os
import signal
import socket
from importlib.util import find_spec
from typing import Any

import httpx
import numpy as np
import onnxruntime
import pytest

from examples.digits import data as digits
from tests.e2e.conftest import Service
from tests.waiting import in_time

SPEC = {
    "reuse": "never",  # the service has seen the digits before
    "recipes": [{"method": "dynamic_int8"}, {"method": "static_int8"}],
    "benchmark": {"max_seconds": 3},
    "gate": {"max_accuracy_drop": 0.05, "max_size_ratio": 0.6},
}
JOB_ENDS = {"job.succeeded", "job.failed", "job.canceled", "job.expired"}


@pytest.fixture(scope="module")
def job(service: Service, digits_model: bytes, digits_data: bytes) -> dict[str, Any]:
    """A job that has ended, by the one-shot."""
    answer = service.http.post(
        "/v1/quantize",
        files={"model": ("digits.onnx", digits_model), "data": ("digits.npz", digits_data)},
        data={"spec": json.dumps(SPEC), "preprocess": "unit"},
        headers={"Prefer": "wait=600"},
    )
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.fixture(scope="module")
def candidates(service: Service, job: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service.http.get(job["links"]["candidates"]).json()["items"]
    return found


def test_the_job_succeeds_and_the_gate_passes(http: httpx.Client, job: dict[str, Any]) -> None:
    assert (job["state"], job["error"], job["progress"]) == ("succeeded", None, 1.0)
    assert job["conclusion"] == "pass"
    verdict = http.get(job["links"]["verdict"], params={"status": "http"})
    assert (verdict.status_code, verdict.json()["blocking"]) == (200, False)
    assert verdict.json()["best"] == job["best"]


def test_every_candidate_is_measured_in_full(candidates: list[dict[str, Any]]) -> None:
    assert [c["recipe"]["method"] for c in candidates] == ["dynamic_int8", "static_int8"]
    for c in candidates:
        assert (c["state"], c["error"]) == ("measured", None)
        assert c["accuracy"]["samples"] > 500
        assert c["fidelity"]["sqnr_db"] > 10
        assert c["memory"]["model_bytes"] > 0
        assert c["kernels"]["integer"] > 0
        assert c["latency"] is not None or any("latency" in note for note in c["notes"])
        assert "auto" not in json.dumps(c["recipe"])
        others = {name: said["loads"] for name, said in c["runs_elsewhere"].items()}
        assert others == {"tensorrt": "no", "openvino": "yes" if find_spec("openvino") else "not_checked"}


def test_the_downloaded_model_is_as_good_as_the_report_says(
    http: httpx.Client, candidates: list[dict[str, Any]]
) -> None:
    candidate = candidates[1]
    model = http.get(candidate["links"]["content"]).content
    assert len(model) == candidate["size"]["bytes"]

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    samples = digits.held_out()
    name = session.get_inputs()[0].name
    images = (samples.image / np.float32(255)).astype(np.float32)
    right = [
        int(np.argmax(session.run(None, {name: image[np.newaxis]})[0])) == label
        for image, label in zip(images, samples.labels, strict=True)
    ]

    assert np.mean(right) == pytest.approx(candidate["accuracy"]["value"], abs=0.03)
    assert np.mean(right) > 0.9


def test_the_timeline_shows_each_step_once(http: httpx.Client, job: dict[str, Any]) -> None:
    steps = http.get(job["links"]["steps"]).json()["items"]

    assert sorted(s["kind"] for s in steps) == ["benchmark", "build", "build", "prepare", "report"]
    assert {(s["state"], s["attempt"], s["losses"]) for s in steps} == {("done", 1, 0)}


def test_the_report_is_one_markdown_page(http: httpx.Client, job: dict[str, Any]) -> None:
    text = http.get(job["links"]["report"], params={"format": "md"}).text

    assert "Gate passed" in text
    assert "static int8" in text


def test_a_gate_that_nothing_can_pass_stops_the_pipeline(http: httpx.Client, digits_model: bytes) -> None:
    answer = http.post(
        "/v1/quantize?status=http",
        files={"model": ("digits.onnx", digits_model)},
        data={"max_size_ratio": "0.01", "spec": json.dumps({"benchmark": {"max_seconds": 1}})},
        headers={"Prefer": "wait=600"},
    )

    assert (answer.status_code, answer.json()["conclusion"]) == (422, "fail")


def running(http: httpx.Client, job: str, kind: str) -> list[str]:
    """The workers that have a step of this kind right now."""
    steps = http.get(f"/v1/jobs/{job}/steps").json()["items"]
    return [s["worker"] for s in steps if s["kind"] == kind and s["state"] == "running"]


def kill_worker_at(http: httpx.Client, job: str, kind: str) -> None:
    """SIGKILL the worker that runs a step of this kind, as soon as there is one."""
    workers: list[str] = []

    def look() -> bool:
        workers.extend(running(http, job, kind))
        return bool(workers)

    assert in_time(look)
    host, _, pid = workers[0].rpartition(":")
    assert host == socket.gethostname()
    os.kill(int(pid), signal.SIGKILL)


def test_a_job_ends_once_though_its_workers_are_killed(
    service: Service, http: httpx.Client, digits_model: bytes, digits_data: bytes
) -> None:
    """In a build and in the benchmark; each costs one lease, and neither is done twice."""
    sent = http.post(
        "/v1/quantize",
        files={"model": ("digits.onnx", digits_model), "data": ("digits.npz", digits_data)},
        data={"spec": json.dumps(SPEC | {"recipes": [{"method": "static_int8"}]}), "preprocess": "unit"},
    ).json()

    kill_worker_at(http, sent["id"], "build")
    kill_worker_at(http, sent["id"], "benchmark")
    ended = http.get(sent["links"]["self"], headers={"Prefer": "wait=600"}).json()

    assert (ended["state"], ended["conclusion"], ended["error"]) == ("succeeded", "pass", None)
    steps = {s["kind"]: s for s in http.get(ended["links"]["steps"]).json()["items"]}
    assert {kind: s["state"] for kind, s in steps.items()} == dict.fromkeys(steps, "done")
    assert [(steps[k]["losses"], steps[k]["attempt"]) for k in ("build", "benchmark")] == [(1, 2), (1, 2)]
    (candidate,) = http.get(ended["links"]["candidates"]).json()["items"]
    assert candidate["state"] == "measured"
    made = http.get(ended["links"]["artifacts"]).json()["items"]
    assert len([a for a in made if a["kind"] == "candidate"]) == 1
    assert list((service.home / "work").glob("*")) == []


def test_a_canceled_job_frees_its_worker(http: httpx.Client, digits_model: bytes, digits_data: bytes) -> None:
    slow = SPEC | {"benchmark": {"max_seconds": 600}, "gate": {"min_speedup": 1.0}}
    sent = http.post(
        "/v1/quantize",
        files={"model": ("digits.onnx", digits_model), "data": ("digits.npz", digits_data)},
        data={"spec": json.dumps(slow), "preprocess": "unit"},
    ).json()
    assert in_time(lambda: running(http, sent["id"], "benchmark"))

    canceled = http.post(f"/v1/jobs/{sent['id']}/cancel").json()

    assert canceled["state"] == "canceled"
    assert {c["state"] for c in http.get(sent["links"]["candidates"]).json()["items"]} == {"canceled"}
    after = http.post(
        "/v1/models", files={"file": ("digits.onnx", digits_model)}, headers={"Prefer": "wait=600"}
    )
    assert after.json()["state"] == "ready"  # the benchmark held the host alone
