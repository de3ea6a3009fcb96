"""What becomes of recipes on one model: a file that holds, or a refusal with its code."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Case:
    """A model that was prepared."""

    model: Path
    prepared: Path
    feeds: list[Feed]
    folder: Path
    statistics: Any


def name_of(model: Path) -> str:
    """What a model is called here: its file's name, or its folder's."""
    return model.parent.name if model.stem == "model" else model.stem


def outcomes_on(model: Path, recipes: list[str], folder: Path, inputs: int) -> Iterator[Outcome]:
    """What becomes of each recipe on a model, with so many made-up inputs where it has no data beside it."""
    name = name_of(model)
    try:
        case = _prepare(model, folder, inputs)
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


def _prepare(model: Path, folder: Path, inputs: int) -> Case:
    examine(model)
    session = open_session(model)
    feeds = _bundled(model) or _made_up(model, session, inputs)
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


def _made_up(model: Path, session: Session, inputs: int) -> list[Feed]:
    outputs = [output.name for output in session.get_outputs()]
    if any(item.dtype is None for item in inputs_of(session)):
        raise Refused("unsupported_array", "An input is no tensor of numbers.")
    feeds, _ = synthetic_feeds(model, session, SHAPES, 1, lambda feed: run(session, outputs, dict(feed)))
    return feeds[:inputs]


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
