"""Measuring a job's candidates on this host: memory, then rounds of paired latency."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from app.domain.errors import Refused
from app.domain.job import Benchmark, JobSpec
from app.domain.note import Note
from app.domain.processor import allowed_cores
from app.domain.report import Latency, Memory, OpenVINO
from worker.engine import rounds
from worker.engine.elsewhere.beside import Beside, openvino_beside
from worker.engine.requests import MeasureMemory, MeasureRound, MemoryUse, Round
from worker.sandbox import ChildLost, Refusal
from worker.work import Work

MEMORY_SHARE = 0.1


@dataclass(frozen=True)
class Measured:
    """What the benchmark knows of one model; a missing figure has its reason in `notes`."""

    latency: Latency | None
    memory: Memory | None
    notes: tuple[Note, ...]
    openvino: OpenVINO | None = None


@dataclass(frozen=True)
class Comparison:
    """The baseline and every candidate (by id) of one benchmark."""

    baseline: Measured
    candidates: Mapping[str, Measured]


def measure(
    work: Work, spec: JobSpec, batch: int, baseline: Path, candidates: Mapping[str, Path], feeds: Path
) -> Comparison:
    """Measure the float model and every candidate, each round in a fresh process."""
    models = (baseline, *candidates.values())
    with ThreadPoolExecutor(allowed_cores()) as pool:  # peaks do not depend on what runs beside
        uses = list(pool.map(lambda model: _memory(work, model, feeds, spec.benchmark.threads), models))

    def run_round(seed: int) -> Round:
        request = MeasureRound(models=models, feeds=feeds, threads=spec.benchmark.threads, seed=seed)
        return work.call("measure_round", request, Round, (work.lease.progress, work.lease.progress))

    def report(share: float, _doing: str) -> None:
        work.lease.progress = MEMORY_SHARE + (1 - MEMORY_SHARE) * share

    limit = spec.gate.speedup_over_float() if spec.gate else None
    taken = rounds.measure(run_round, len(candidates), spec.benchmark.max_seconds, limit, report)
    # As contestant 0 the baseline is measured against itself.
    series = [replace(one, candidates=(one.noise, *one.candidates)) for one in taken]
    measured = [
        _measured(_latency(series, index, spec.benchmark, batch), use, uses[0])
        for index, use in enumerate(uses)
    ]
    shared = Beside(partial(_call, work), baseline, feeds, spec.benchmark, batch)
    elsewhere = {c: openvino_beside(shared, model) for c, model in candidates.items()}
    found = zip(candidates, measured[1:], strict=True)
    return Comparison(measured[0], {c: replace(one, openvino=elsewhere[c]) for c, one in found})


def _call(work: Work, name: str, request: object, answer: type[Any]) -> Any:  # noqa: ANN401 - of that type
    """A call of which a refusal, a crash, a limit or a violent end is a finding."""
    try:
        return work.call(name, request, answer, (1.0, 1.0))
    except Refusal as refusal:
        raise Refused(refusal.problem.code, refusal.problem.detail) from refusal
    except ChildLost as lost:  # most likely for want of memory: the job is not to be tried again for that
        raise Refused("worker_lost", str(lost)) from lost


def _memory(work: Work, model: Path, feeds: Path, threads: int) -> MemoryUse:
    request = MeasureMemory(model=model, feeds=feeds, threads=threads)
    return work.call("measure_memory", request, MemoryUse, (0.0, 0.0))


def _latency(series: list[Round], index: int, asked: Benchmark, batch: int) -> Latency | Note:
    return rounds.summarize(series, index, asked.threads, batch, max_seconds=asked.max_seconds)


def _measured(found: Latency | Note, use: MemoryUse, baseline: MemoryUse) -> Measured:
    memory = Memory(
        use.peak_bytes, use.peak_bytes - use.import_bytes, baseline.peak_bytes - baseline.import_bytes
    )
    if isinstance(found, Note):
        return Measured(None, memory, (found,))
    return Measured(found, memory, ())
