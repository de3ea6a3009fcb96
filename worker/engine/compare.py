"""Models side by side, from the command line: losses here, latency and memory in fresh processes."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from app.domain.errors import Problem, Refused
from app.domain.job import Benchmark, Evaluation
from app.domain.note import Note
from app.domain.report import Figures, Latency, Memory, RunsElsewhere, causes_of_slowness
from worker.engine.elsewhere.beside import Beside, openvino_beside
from worker.engine.evaluate.progress import Progress, within
from worker.engine.requests import Data, MemoryUse, Prepare, Round
from worker.engine.rounds import measure, summarize
from worker.engine.stages import evaluate, prepare

REFUSED = 2
SHOWN_OF_CRASH = 500


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Candidates against a float model, on the same data."""

    model: Path
    candidates: tuple[Path, ...]
    data: Data | None = None
    question: Evaluation = field(default_factory=Evaluation)
    threads: int = 1
    max_seconds: float = 60  # for each candidate's latency


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One model's figures."""

    model: Path
    figures: Figures


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The float model, and the candidates in the order given."""

    baseline: Compared
    candidates: tuple[Compared, ...]


@dataclass(frozen=True, kw_only=True)
class Against:
    """What each candidate is held against."""

    original: Path
    reference: Path | None
    feeds: Path
    evaluation: Data | None


def compare(request: Compare, progress: Progress) -> Comparison:
    """Evaluate the candidates here, then time them in rounds of fresh processes.

    Raises:
        Refused: a model does not run, or the data does not fit.
    """
    with tempfile.TemporaryDirectory(prefix="compare-") as folder:
        asked = Prepare(
            model=request.model, out=Path(folder), evaluation=request.data, question=request.question
        )
        prepared = prepare(asked, within(progress, 0.0, 0.3))
        against = Against(
            original=request.model,
            reference=asked.out / prepared.reference if prepared.reference else None,
            feeds=asked.out / prepared.feeds,
            evaluation=request.data,
        )
        figures = [evaluate(path, against, within(progress, 0.3, 0.5))[0] for path in request.candidates]
        rounds = _rounds(request, against.feeds, within(progress, 0.5, 0.9))
        figures = [
            _with_latency(
                f, summarize(rounds, i, request.threads, prepared.batch, max_seconds=request.max_seconds)
            )
            for i, f in enumerate(figures)
        ]
        paired = zip(figures, request.candidates, strict=True)
        figures = [_with_openvino(request, f, path, against.feeds, prepared.batch) for f, path in paired]
        return _with_memory(request, against.feeds, [prepared.baseline, *figures])


def _with_openvino(request: Compare, figures: Figures, candidate: Path, feeds: Path, batch: int) -> Figures:
    benchmark = Benchmark(threads=request.threads, max_seconds=request.max_seconds)
    found = openvino_beside(Beside(ask, request.model, feeds, benchmark, batch), candidate)
    return replace(figures, runs_elsewhere=replace(figures.runs_elsewhere or RunsElsewhere(), openvino=found))


def ask(name: str, request: object, answer: type[Any]) -> Any:  # noqa: ANN401 - of that type
    """One call in a fresh process, of which a crash is a finding too.

    Raises:
        Refused: with the call's own problem, or `engine_crashed`.
    """
    arguments = TypeAdapter(type(request)).dump_python(request, mode="json")
    try:
        return TypeAdapter(answer).validate_python(call(name, arguments))
    except RuntimeError as error:
        raise Refused("engine_crashed", str(error)) from error


def call(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """One call in a fresh process.

    Raises:
        Refused: as the call did.
        RuntimeError: the process crashed.
    """
    command = [sys.executable, "-m", "worker.engine", "call", name]
    given = json.dumps(arguments)
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode == REFUSED:
        problem = Problem.from_json(json.loads(done.stdout))
        raise Refused(problem.code, problem.detail, errors=problem.errors)
    if done.returncode:
        raise RuntimeError(f"{name} ended with {done.returncode}: {done.stderr[-SHOWN_OF_CRASH:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _rounds(request: Compare, feeds: Path, progress: Progress) -> list[Round]:
    models = [str(path) for path in (request.model, *request.candidates)]
    adapter = TypeAdapter(Round)

    def run_round(seed: int) -> Round:
        arguments = {"models": models, "feeds": str(feeds), "threads": request.threads, "seed": seed}
        return adapter.validate_python(call("measure_round", arguments))

    return measure(run_round, len(request.candidates), request.max_seconds, None, progress)


def _with_latency(figures: Figures, latency: Latency | Note) -> Figures:
    if isinstance(latency, Note):
        return replace(figures, notes=(*figures.notes, latency))
    causes = causes_of_slowness(figures.kernels, latency)
    return replace(figures, latency=latency, notes=(*figures.notes, *causes))


def _with_memory(request: Compare, feeds: Path, every: Sequence[Figures]) -> Comparison:
    models = (request.model, *request.candidates)
    uses = [_memory(path, feeds, request.threads) for path in models]
    own = [use.peak_bytes - use.import_bytes for use in uses]
    baseline, *candidates = (
        Compared(model=path, figures=replace(one, memory=Memory(use.peak_bytes, mine, own[0])))
        for path, one, use, mine in zip(models, every, uses, own, strict=True)
    )
    return Comparison(baseline=baseline, candidates=tuple(candidates))


def _memory(model: Path, feeds: Path, threads: int) -> MemoryUse:
    arguments = {"model": str(model), "feeds": str(feeds), "threads": threads}
    return MemoryUse(**call("measure_memory", arguments))
