"""A candidate in OpenVINO beside ONNX Runtime: whether it loads, how close it stays, how quick it is.

Each run is a call in a process of its own, so that a model that brings OpenVINO down ends nothing else.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from app.domain.errors import Refused
from app.domain.job import Benchmark
from app.domain.note import Note
from app.domain.report import OpenVINO
from worker.engine import rounds
from worker.engine.elsewhere.openvino import release
from worker.engine.requests import MeasureRound, Round, RunOpenVINO

NOT_INSTALLED = "not checked: OpenVINO is not installed on this worker"
# What a process came up against, or who ended it: nothing of it is the model's doing.
LIMITS = frozenset({"time_limit", "memory_limit", "output_limit", "worker_lost"})
Call = Callable[[str, Any, type[Any]], Any]  # a call's name, its request, the type of its answer


@dataclass(frozen=True)
class Beside:
    """What a job's candidates have in common."""

    call: Call
    baseline: Path  # the float model
    feeds: Path
    benchmark: Benchmark
    batch: int


def openvino_beside(shared: Beside, candidate: Path) -> OpenVINO:
    """Run a candidate in OpenVINO, and time it there against ONNX Runtime in paired rounds."""
    if release() is None:
        return OpenVINO("not_checked", reason=NOT_INSTALLED)
    request = RunOpenVINO(baseline=shared.baseline, candidate=candidate, feeds=shared.feeds)
    try:
        found: OpenVINO = shared.call("run_openvino", request, OpenVINO)
    except Refused as refused:
        return of_refusal(refused)
    return _timed(shared, candidate, found) if found.loads == "yes" else found


def of_refusal(refused: Refused) -> OpenVINO:
    """What a call that came to nothing says: a crash is the model's doing, a limit of the process is not."""
    if refused.code in LIMITS:
        return OpenVINO("not_checked", release(), reason=f"not checked: {refused}")
    return OpenVINO("no", release(), reason=str(refused))


def _timed(shared: Beside, candidate: Path, found: OpenVINO) -> OpenVINO:
    asked = shared.benchmark

    def run_round(seed: int) -> Round:
        request = MeasureRound(
            models=(candidate,), openvino=True, feeds=shared.feeds, threads=asked.threads, seed=seed
        )
        answer: Round = shared.call("measure_round", request, Round)
        return answer

    try:
        taken = rounds.measure(run_round, 1, asked.max_seconds, None, lambda _share, _doing: None)
    except Refused as refused:
        return replace(found, reason=f"latency: {refused}")
    latency = rounds.summarize(taken, 0, asked.threads, shared.batch, max_seconds=asked.max_seconds)
    if isinstance(latency, Note):
        return replace(found, reason=str(latency))
    return replace(found, latency=latency)
