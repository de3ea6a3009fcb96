"""Models that take all memory, all time, or the process down end as clear failures (rows 13 to 15)."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.hostile import inputs
from tests.hostile.conftest import BUILD_SECONDS, Service, descendants
from tests.waiting import in_time

pytestmark = pytest.mark.long
DYNAMIC = {"recipes": [{"method": "dynamic_int8"}], "benchmark": {"max_seconds": 1}}


def failed(http: httpx.Client, text: str) -> dict[str, Any]:
    """A job on this model that has failed, after one attempt of the step that ran it."""
    sent = {"file": ("bomb.onnx", inputs.written(text))}
    version = http.post("/v1/models", files=sent, headers={"Prefer": "wait=600"}).json()
    answer = http.post("/v1/jobs", json={"version": version["id"], **DYNAMIC})
    assert answer.status_code == 202, answer.text
    here = answer.headers["location"]
    assert in_time(lambda: http.get(here).json()["state"] not in {"queued", "running"})
    job: dict[str, Any] = http.get(here).json()
    assert job["state"] == "failed", job
    steps = http.get(f"{here}/steps").json()["items"]
    assert [step["attempt"] for step in steps if step["kind"] == "prepare"] == [1]
    return job


@pytest.mark.parametrize("name", ["GIANT", "GIANT_OF_DOUBLES", "GROWING"])
def test_a_model_that_asks_for_all_memory_fails_its_job(http: httpx.Client, name: str) -> None:
    assert failed(http, getattr(inputs, name))["error"]["code"] == "memory_limit"


def test_a_model_that_never_ends_fails_its_job(http: httpx.Client) -> None:
    error = failed(http, inputs.ENDLESS)["error"]

    assert (error["code"], error["retryable"]) == ("time_limit", False)
    assert f"{BUILD_SECONDS} s" in error["detail"] or "CPU time" in error["detail"]


def child_of(service: Service) -> int | None:
    """A sandboxed child that is at work."""
    for pid in descendants(service.supervisor):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if b"worker.child" in words:
            return pid
    return None


def test_a_model_whose_process_crashes_is_rejected_and_not_tried_again(
    service: Service, http: httpx.Client, work_of_neighbour: Callable[[], bool]
) -> None:
    """We know no model that crashes this ONNX Runtime: the signal comes from outside, while it works."""
    assert in_time(work_of_neighbour)  # else the child might be the neighbour's
    answer = http.post("/v1/models", files={"file": ("laughs.onnx", inputs.laughs())})
    here = answer.headers["location"]
    assert in_time(lambda: child_of(service))

    os.kill(child_of(service) or 0, signal.SIGSEGV)

    assert in_time(lambda: http.get(here).json()["state"] == "rejected")
    error = http.get(here).json()["error"]
    assert (error["code"], error["retryable"]) == ("engine_crashed", False)
    assert "SIGSEGV" in error["detail"]
