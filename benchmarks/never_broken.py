"""Every recipe on every model: a valid file that stays close to float, or a refusal with its code.

    .venv/bin/python benchmarks/never_broken.py onnx-backend-half.tar.gz models/

Each recipe's result must pass the ONNX checker, load in ONNX Runtime, keep the interface (names, order,
types, dynamic dimensions) and stay within the recipe's decibels of the uploaded model
(`evaluate.faithful`), on the test data beside the model, else on seeded normal data. Models run in worker
processes; one that dies is a crash, one that is silent for `--seconds` is a hang. With `--out` a run that was
broken off goes on where it ended.

Limits (exit 1 when missed): no crash, no hang, no wrong file; of the models that have a Conv, MatMul or Gemm
with constant weights, at least 60 % are quantized to 8 bits or fewer. The table counts them for each recipe
too: a dynamic recipe leaves a Conv alone, and a weight-only one takes none.
"""

import argparse
import json
import multiprocessing
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from benchmarks.never_broken_model import (
    CRASHED,
    HUNG,
    QUANTIZED,
    RECIPES,
    REFUSED,
    SIXTEEN_BITS,
    WRONG,
    Outcome,
    name_of,
    outcomes_on,
)

LEAST_SHARE = 0.6


def main() -> int:
    """Run all, print the table, and say whether the limits hold."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="never-broken-") as folder:
        models = [m for source in arguments.sources for m in _models(source, Path(folder))]
        models = models[:: arguments.every][: arguments.limit]
        chosen = [name for name in RECIPES if any(part in name for part in arguments.recipe or [""])]
        start = time.perf_counter()
        outcomes = _earlier(arguments.out)
        todo = list(_open(models, chosen, outcomes))
        for outcome in _all(todo, arguments):
            outcomes.append(outcome)
            _tell(outcome)
            if arguments.out:
                with arguments.out.open("a") as file:
                    file.write(json.dumps(vars(outcome)) + "\n")
        print(f"{len(models)} models, {len(chosen)} recipes, {time.perf_counter() - start:.0f} s\n")
    return report(outcomes)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", type=Path, nargs="+", help="a folder of models, or a tar of one")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--limit", type=int, help="only so many models")
    parser.add_argument("--every", type=int, default=1, help="only each n-th model")
    parser.add_argument("--inputs", type=int, default=4, help="made up for a model that has none beside it")
    parser.add_argument("--recipe", action="append", help="only recipes whose name holds this; repeatable")
    parser.add_argument("--seconds", type=float, default=600, help="after so long without a word: a hang")
    parser.add_argument(
        "--out", type=Path, help="append each outcome as a line of JSON; what is there is kept"
    )
    return parser.parse_args()


def _models(source: Path, folder: Path) -> list[Path]:
    if source.is_file():
        with tarfile.open(source) as archive:
            archive.extractall(folder, filter="data")
        source = folder
    return sorted(source.rglob("*.onnx"), key=lambda path: ("light" in path.name, path))


def _earlier(out: Path | None) -> list[Outcome]:
    """What an earlier run found."""
    lines = out.read_text().splitlines() if out and out.exists() else []
    return [Outcome(**json.loads(line)) for line in lines]


def _open(
    models: Sequence[Path], recipes: Sequence[str], outcomes: Sequence[Outcome]
) -> Iterator[tuple[Path, list[str]]]:
    """Each model with the recipes that have no outcome yet."""
    done = {(outcome.model, outcome.recipe) for outcome in outcomes}
    for model in models:
        left = [recipe for recipe in recipes if (name_of(model), recipe) not in done]
        if left:
            yield model, left


@dataclass
class Worker:
    """A process that quantizes models one after the other, and what it is at."""

    process: Any
    pipe: Connection
    model: Path = Path()
    left: list[str] = field(default_factory=list)
    since: float = 0.0
    busy: bool = False
    dead: bool = False

    @classmethod
    def start(cls, inputs: int) -> "Worker":
        """Start it; it waits for a model, and makes up so many inputs for one that has none."""
        context = multiprocessing.get_context("spawn")
        mine, other = context.Pipe()
        process = context.Process(target=_serve, args=(other, inputs), daemon=True)
        process.start()
        other.close()
        return cls(process, mine)

    def give(self, model: Path, recipes: Sequence[str]) -> None:
        """Send it a model."""
        self.model, self.left, self.busy = model, list(recipes), True
        self.since = time.monotonic()
        self.pipe.send((model, self.left))


def _all(todo: list[tuple[Path, list[str]]], arguments: argparse.Namespace) -> Iterator[Outcome]:
    todo.reverse()
    inputs, seconds = arguments.inputs, arguments.seconds
    workers = [Worker.start(inputs) for _ in range(arguments.jobs)]
    while todo or any(worker.busy for worker in workers):
        for worker in workers:
            if not worker.busy and todo:
                worker.give(*todo.pop())
        ready = wait([worker.pipe for worker in workers], timeout=1)
        for index, worker in enumerate(workers):
            if worker.pipe in ready:
                yield from _hear(worker)
            elif worker.busy and time.monotonic() - worker.since > seconds:
                yield _lost(worker, HUNG, f"{seconds:g} s")
            if worker.dead:
                if worker.left:
                    todo.append((worker.model, worker.left))
                workers[index] = Worker.start(inputs)
    for worker in workers:
        worker.process.kill()


def _hear(worker: Worker) -> Iterator[Outcome]:
    try:
        found = worker.pipe.recv()
    except (EOFError, OSError):
        worker.process.join()
        yield _lost(worker, CRASHED, f"exit code {worker.process.exitcode}")
        return
    worker.since = time.monotonic()
    if found is None:
        worker.busy = False
    else:
        worker.left.remove(found.recipe)
        yield found


def _lost(worker: Worker, kind: str, what: str) -> Outcome:
    worker.process.kill()
    worker.pipe.close()
    worker.dead = True
    recipe = worker.left.pop(0)
    return Outcome(name_of(worker.model), recipe, kind, what)


def _serve(pipe: Connection, inputs: int) -> None:
    while True:
        model, recipes = pipe.recv()
        with tempfile.TemporaryDirectory(prefix="never-broken-") as folder:
            for outcome in outcomes_on(model, recipes, Path(folder), inputs):
                pipe.send(outcome)
        pipe.send(None)


def report(outcomes: Sequence[Outcome]) -> int:
    """Print counts for each recipe, what is wrong, and why models with weights are refused."""
    print(f"| recipe | {QUANTIZED} | {REFUSED} | {WRONG} | {CRASHED} | {HUNG} | with weights, quantized |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    missed = False
    for recipe in dict.fromkeys(outcome.recipe for outcome in outcomes):
        mine = [outcome for outcome in outcomes if outcome.recipe == recipe]
        counts = Counter(outcome.kind for outcome in mine)
        eligible = [outcome for outcome in mine if outcome.weighted]
        done = sum(outcome.kind == QUANTIZED for outcome in eligible)
        share = done / len(eligible) if eligible else 1.0
        missed |= any(counts[kind] for kind in (WRONG, CRASHED, HUNG))
        cells = " | ".join(str(counts[kind]) for kind in (QUANTIZED, REFUSED, WRONG, CRASHED, HUNG))
        print(f"| {recipe} | {cells} | {done} of {len(eligible)}, {share:.0%} |")
    weighted = {outcome.model for outcome in outcomes if outcome.weighted}
    few_bits = {o.model for o in outcomes if o.kind == QUANTIZED and o.recipe not in SIXTEEN_BITS} & weighted
    print(f"\n{len(few_bits)} of {len(weighted)} models with weights are quantized to 8 bits or fewer.")
    _print_refusals(outcomes)
    return int(missed or len(few_bits) < LEAST_SHARE * len(weighted))


def _tell(outcome: Outcome) -> None:
    if outcome.kind in {WRONG, CRASHED, HUNG}:
        what = f"{outcome.kind}: {outcome.model}, {outcome.recipe}: {outcome.what} {outcome.detail[:200]}"
        print(what, file=sys.stderr, flush=True)


def _print_refusals(outcomes: Sequence[Outcome]) -> None:
    codes = Counter(outcome.what for outcome in outcomes if outcome.kind == REFUSED)
    print("\nRefusals: " + ", ".join(f"{code} {count}" for code, count in codes.most_common()))
    weighted = Counter(outcome.what for o in outcomes if (outcome := o).kind == REFUSED and o.weighted)
    print("Of models with weights: " + ", ".join(f"{code} {n}" for code, n in weighted.most_common()) + "\n")


if __name__ == "__main__":
    sys.exit(main())
