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

import onnx
from onnx import numpy_helper

from app.domain.errors import DomainError, Refused
from app.domain.processor import isa
from app.domain.recipe import Recipe, StaticInt8, uses_calibration
from worker.engine.__main__ import read_recipe
from worker.engine.calibrate import collect
from worker.engine.data.bind import Session, inputs_of
from worker.engine.data.dataset import Array
from worker.engine.data.feeds import synthetic_feeds
from worker.engine.evaluate.faithful import fidelity_on, refuse_unfaithful
from worker.engine.evaluate.run import run
from worker.engine.examine import examine
from worker.engine.kernels import kernels
from worker.engine.load import parse
from worker.engine.methods import Setting, quantize
from worker.engine.passes.scopes import all_graphs
from worker.engine.prepare import prepare_model
from worker.engine.ready import Feed
from worker.engine.requirements import requires
from worker.engine.session import open_session
from worker.engine.sqnr import least_db

LEAST_SHARE = 0.6
MADE_UP = 4  # inputs
SHAPES = {"samples": 4000}  # of audio: a quarter or half of a second
WEIGHTED = {"Conv": 1, "MatMul": 1, "Gemm": 1}
ALL_CORRECTIONS = ["equalization", "smoothquant", "weight_clipping", "rounding", "bias_correction"]
RECIPES = {
    "dynamic int8": '{"method": "dynamic_int8"}',
    "dynamic int8, Conv too": '{"method": "dynamic_int8", "include": {"op_types": ["*"]}}',
    "static int8": '{"method": "static_int8"}',
    "static int8, qoperator": '{"method": "static_int8", "format": "qoperator"}',
    "static int8, quantize_io": '{"method": "static_int8", "quantize_io": true}',
    "static a16 w8": '{"method": "static_int8", "activation": "uint16"}',
    "static a8 w4": '{"method": "static_int8", "weight": "int4"}',
    "static a16 w4": '{"method": "static_int8", "activation": "int16", "weight": "int4"}',
    "static a16 w4, adaround": json.dumps(
        {"method": "static_int8", "activation": "uint16", "weight": "int4", "corrections": ["adaround"]}
    ),
    **{
        f"static int8, {method}": json.dumps({"method": "static_int8", "ranges": {"method": method}})
        for method in ("minmax", "percentile", "entropy", "mse")
    },
    "static int8, all corrections": json.dumps({"method": "static_int8", "corrections": ALL_CORRECTIONS}),
    "mixed, all 8 bits": '{"method": "mixed", "overrides": [{"nodes": ["*"]}]}',
    "mixed, 8 and 16 bits": json.dumps(
        {
            "method": "mixed",
            "overrides": [
                {"nodes": ["*"]},
                {"nodes": ["*[a-m0-4]"], "activation": "int16", "weight": "uint8"},
            ],
        }
    ),
    **{
        f"{bits} bits, {algorithm}": json.dumps(
            {"method": "weight_only", "bits": bits, "algorithm": algorithm}
        )
        for bits in (8, 4, 2)
        for algorithm in ("rtn", "hqq", "gptq", "adaround", "awq", "kquant")
    },
    **{
        f"{number_format}, {algorithm}": json.dumps(
            {"method": "weight_only", "number_format": number_format, "algorithm": algorithm}
        )
        for number_format, algorithm in (("nf4", "awq"), ("fp4", "rtn"), ("ternary", "gptq"))
    },
    "float16": '{"method": "float16"}',
    "float16, full": '{"method": "float16", "compute": "full"}',
    "bfloat16": '{"method": "bfloat16"}',
}
SIXTEEN_BITS = frozenset({"float16", "float16, full", "bfloat16"})
QUANTIZED, REFUSED, WRONG, CRASHED, HUNG = "quantized", "refused", "wrong", "crashed", "hung"


@dataclass(frozen=True)
class Outcome:
    """What became of one recipe on one model."""

    model: str
    recipe: str
    kind: str
    what: str = ""  # a refusal's code, what is wrong with a file, or a crash's signal
    detail: str = ""
    weighted: bool = False  # whether the model has a Conv, MatMul or Gemm with constant weights


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
        for outcome in _all(todo, arguments.jobs, arguments.seconds):
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
        left = [recipe for recipe in recipes if (_name(model), recipe) not in done]
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
    def start(cls) -> "Worker":
        """Start it; it waits for a model."""
        context = multiprocessing.get_context("spawn")
        mine, other = context.Pipe()
        process = context.Process(target=_serve, args=(other,), daemon=True)
        process.start()
        other.close()
        return cls(process, mine)

    def give(self, model: Path, recipes: Sequence[str]) -> None:
        """Send it a model."""
        self.model, self.left, self.busy = model, list(recipes), True
        self.since = time.monotonic()
        self.pipe.send((model, self.left))


def _all(todo: list[tuple[Path, list[str]]], jobs: int, seconds: float) -> Iterator[Outcome]:
    todo.reverse()
    workers = [Worker.start() for _ in range(jobs)]
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
                workers[index] = Worker.start()
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
    return Outcome(_name(worker.model), recipe, kind, what)


def _name(model: Path) -> str:
    return model.parent.name if model.stem == "model" else model.stem


def _serve(pipe: Connection) -> None:
    while True:
        model, recipes = pipe.recv()
        with tempfile.TemporaryDirectory(prefix="never-broken-") as folder:
            for outcome in _on_model(model, recipes, Path(folder)):
                pipe.send(outcome)
        pipe.send(None)


@dataclass(frozen=True)
class Case:
    """A model that was prepared."""

    model: Path
    prepared: Path
    feeds: list[Feed]
    folder: Path
    statistics: Any


def _on_model(model: Path, recipes: list[str], folder: Path) -> Iterator[Outcome]:
    name = _name(model)
    try:
        case = _prepare(model, folder)
    except DomainError as error:
        code = getattr(error, "refusal", error.code)
        yield from (Outcome(name, recipe, REFUSED, code, str(error)) for recipe in recipes)
        return
    except Exception as error:  # noqa: BLE001 - this is what is looked for
        what = f"{type(error).__name__} in preparing"
        yield from (Outcome(name, recipe, CRASHED, what, str(error)) for recipe in recipes)
        return
    weighted = has_weights(parse(case.prepared).graph)
    for recipe in recipes:
        kind, what, detail = _judge(case, recipe)
        yield Outcome(name, recipe, kind, what, detail, weighted)


def _prepare(model: Path, folder: Path) -> Case:
    examine(model)
    session = open_session(model)
    feeds = _bundled(model) or _made_up(model, session)
    prepared = folder / "prepared.onnx"
    prepare_model(model, prepared, feeds, {})
    return Case(model, prepared, feeds, folder, collect(prepared, feeds))


def _bundled(model: Path) -> list[Feed]:
    """The test data beside a model, in the order of its inputs."""
    names = [value.name for value in open_session(model).get_inputs()]
    feeds: list[Feed] = []
    for data in sorted(model.parent.glob("test_data_set_*")):
        files = sorted(data.glob("input_*.pb"), key=lambda path: int(path.stem.split("_")[1]))
        feeds.append(dict(zip(names, map(_array, files), strict=False)))
    return feeds if names else []


def _array(path: Path) -> Array:
    tensor = onnx.TensorProto()
    try:
        tensor.ParseFromString(path.read_bytes())
        return numpy_helper.to_array(tensor)
    except Exception as error:
        raise Refused("unsupported_array", f"{path.name} holds no tensor.") from error


def _made_up(model: Path, session: Session) -> list[Feed]:
    outputs = [output.name for output in session.get_outputs()]
    if any(item.dtype is None for item in inputs_of(session)):
        raise Refused("unsupported_array", "An input is no tensor of numbers.")
    feeds, _ = synthetic_feeds(model, session, SHAPES, 1, lambda feed: run(session, outputs, dict(feed)))
    return feeds[:MADE_UP]


def _judge(case: Case, name: str) -> tuple[str, str, str]:
    recipe, out = read_recipe(RECIPES[name]), case.folder / "out.onnx"
    out.unlink(missing_ok=True)
    statistics = case.statistics if uses_calibration(recipe) else None
    setting = Setting(isa=isa(), statistics=statistics, samples=lambda: case.feeds)
    try:
        resolved = quantize(case.prepared, out, recipe, setting).recipe
        refuse_unfaithful(resolved, fidelity_on(case.model, out, case.feeds))
        kernels(out), requires(out)
    except DomainError as error:
        code = getattr(error, "refusal", error.code)
        broken = code in {"invalid_model", "model_not_loadable", "model_fails", "output_changed"}
        return (WRONG if broken else REFUSED), code, str(error)
    except Exception as error:  # noqa: BLE001 - this is what is looked for
        return CRASHED, type(error).__name__, str(error)[:500]
    wrong = _wrong(case, out, resolved)
    return (WRONG, wrong, "") if wrong else (QUANTIZED, "", "")


def _wrong(case: Case, out: Path, recipe: Recipe) -> str | None:
    """What is wrong with a file that the engine gave, found without the engine's own checks."""
    onnx.checker.check_model(str(out), full_check=False)
    before, after = (_interface(path, recipe) for path in (case.model, out))
    if before != after:
        return f"interface {after}, not {before}"
    fidelity, least = fidelity_on(case.model, out, case.feeds), least_db(recipe)
    if fidelity and least is not None and fidelity.sqnr_db < least:
        return f"{fidelity.sqnr_db:.1f} dB"
    return None


def _interface(path: Path, recipe: Recipe) -> list[tuple[Any, ...]]:
    session = open_session(path)
    changed = isinstance(recipe, StaticInt8) and recipe.quantize_io
    return [
        (value.name, None if changed else value.type, value.shape)
        for value in (*session.get_inputs(), *session.get_outputs())
    ]


def has_weights(graph: onnx.GraphProto) -> bool:
    """Whether a Conv, MatMul or Gemm in any scope reads a constant as its weights."""
    constants = {t.name for scope in all_graphs(graph) for t in scope.initializer}
    nodes = (node for scope in all_graphs(graph) for node in scope.node)
    return any(n.op_type in WEIGHTED and n.input[WEIGHTED[n.op_type]] in constants for n in nodes)


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
