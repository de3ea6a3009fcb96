"""The engine's command line: JSON on standard output, progress on standard error.

Exit codes: 0 done, 2 refused (standard output is the problem: code, detail, errors), 1 crashed.
"""
# ruff: noqa: PLC0415  # each command imports what it needs: a latency round must start quickly

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, get_args

from pydantic import Discriminator, TypeAdapter, ValidationError

from app.domain import processor
from app.domain.dataset import PRESETS, Preprocess
from app.domain.errors import DomainError, FieldError, Problem, Refused, pointer
from app.domain.job import Evaluation, MetricName
from app.domain.note import Note
from app.domain.recipe import Recipe, reads_ranges
from app.domain.snippet import snippet
from app.domain.target import RULES, Target
from worker.engine.calls import CALLS, run_call
from worker.engine.requests import Data, Prepare

if TYPE_CHECKING:
    from worker.engine.methods import Setting

DONE, REFUSED = 0, 2
STEP = 0.05
METRICS = get_args(MetricName)


def main(words: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; a crash is left to Python, which ends with 1."""
    try:
        arguments = _parser().parse_args(words)
        answer = arguments.command(arguments)
    except DomainError as error:
        _print(asdict(Problem.of(error)))
        return REFUSED
    _print(answer)
    return DONE


def examine(arguments: argparse.Namespace) -> dict[str, Any]:
    """What is in a model."""
    return run_call("examine_model", {"model": arguments.model}, Report())


def calibrate(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write the statistics from which static recipes take their ranges."""
    from worker.engine.calibrate import load_statistics

    _refuse_overwriting(arguments)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="calibrate-") as folder:
        prepared = _prepare(arguments, Path(folder))
        shutil.move(Path(folder) / prepared["statistics"], arguments.out)
    return {
        "statistics": str(arguments.out),
        "samples": prepared["calibration_samples"],
        "tensors": len(load_statistics(arguments.out).tensors),
        "seconds": round(time.perf_counter() - start, 3),
        "notes": prepared["notes"],
    }


def quantize(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write the model quantized by one recipe."""
    from worker.engine.calibrate import load_statistics
    from worker.engine.kernels import kernels
    from worker.engine.load import model_bytes, removed_if_refused
    from worker.engine.methods import Setting
    from worker.engine.methods import quantize as apply
    from worker.engine.stages import calibration_samples

    recipe, target = read_recipe(arguments.recipe), _target(arguments)
    _refuse_overwriting(arguments)
    with tempfile.TemporaryDirectory(prefix="quantize-") as folder:
        prepared = _prepare(arguments, Path(folder), ranges=reads_ranges(recipe))
        given = arguments.calibration or (prepared["statistics"] and Path(folder) / prepared["statistics"])
        statistics = load_statistics(given) if given else None
        isa = processor.isa() if target.isa == "auto" else target.isa
        model, order = (Path(folder) / (prepared[kind] or "") for kind in ("model", "calibration_order"))
        samples = calibration_samples(_data(arguments), order if order.is_file() else None, model)
        setting = Setting(isa=isa, runtime=target.onnxruntime, statistics=statistics, samples=samples)
        quantized = apply(model, arguments.out, recipe, setting)
        feeds = Path(folder) / prepared["feeds"]
        with removed_if_refused(arguments.out):
            if not (statistics and prepared["synthetic_feeds"]):  # ranges of real samples do not fit made-up
                _refuse_unfaithful(arguments, quantized.recipe, feeds)
            told = _write_layers(arguments, model, quantized.recipe, setting, feeds)
            use = _how_to_run(arguments.out, feeds)
            executed = kernels(arguments.out)
    size = model_bytes(arguments.out)
    return {
        "model": str(arguments.out),
        "recipe": asdict(quantized.recipe),
        "reasons": quantized.reasons,
        "notes": [*prepared["notes"], *map(str, told)],
        "size": {"bytes": size, "ratio": size / model_bytes(arguments.model)},
        "kernels": asdict(executed),
        **use,
    }


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Hold candidates against a float model."""
    from worker.engine.compare import Compare, Comparison
    from worker.engine.compare import compare as run

    request = Compare(
        model=arguments.model,
        candidates=tuple(arguments.candidates),
        data=_data(arguments),
        question=read_question(arguments.evaluation, arguments.metric),
        threads=arguments.threads,
        max_seconds=arguments.max_seconds,
    )
    answer: dict[str, Any] = TypeAdapter(Comparison).dump_python(run(request, Report()), mode="json")
    return answer


def call(arguments: argparse.Namespace) -> dict[str, Any]:
    """One call of the table, its arguments as JSON on standard input."""
    return run_call(arguments.name, json.load(sys.stdin), Report())


def read_recipe(text: str) -> Recipe:
    """Parse a recipe.

    Raises:
        Refused: `invalid_recipe`, with a JSON pointer for each field that is wrong.
    """
    adapter: TypeAdapter[Recipe] = TypeAdapter(Annotated[Recipe, Discriminator("method")])
    try:
        return adapter.validate_json(text)
    except ValidationError as error:
        # a location begins with the method that the discriminator chose, which is no field
        raise _invalid("invalid_recipe", "The recipe", error, skip=1) from error


def read_preprocess(text: str) -> Preprocess:
    """A preset by its name, or a specification as JSON.

    Raises:
        Refused: `invalid_preprocess`, with a JSON pointer for each field that is wrong.
    """
    if text in PRESETS:
        return PRESETS[text]
    try:
        return TypeAdapter(Preprocess).validate_json(text)
    except ValidationError as error:
        names = ", ".join(PRESETS)
        raise _invalid("invalid_preprocess", f"The preprocessing (JSON, or one of {names})", error) from error


def read_question(text: str, metric: MetricName | None) -> Evaluation:
    """How accuracy is measured, as JSON; a metric that is given besides takes its place.

    Raises:
        Refused: `invalid_evaluation`, with a JSON pointer for each field that is wrong.
    """
    try:
        found = TypeAdapter(Evaluation).validate_json(text)
    except ValidationError as error:
        raise _invalid("invalid_evaluation", "The evaluation", error) from error
    return replace(found, metric=metric) if metric else found


class Report:
    """Progress on standard error: a line for each new activity, and one every 5 %."""

    def __init__(self) -> None:
        self._last: tuple[str, int] | None = None

    def __call__(self, share: float, what: str) -> None:
        shown = (what, int(share / STEP))
        if shown != self._last:
            self._last = shown
            sys.stderr.write(f"{share:4.0%} {what}\n")


class Parser(argparse.ArgumentParser):
    """Wrong arguments are a refusal like any other."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and leaving."""
        raise Refused("invalid_arguments", f"{message}. {' '.join(self.format_usage().split())}.")


def _parser() -> Parser:
    parser = Parser(prog="python -m worker.engine", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    data = _data_options()
    one = commands.add_parser("examine", help=examine.__doc__)
    one.add_argument("model", type=_file)
    one.set_defaults(command=examine)
    two = commands.add_parser("calibrate", help=calibrate.__doc__, parents=[data])
    two.add_argument("model", type=_file)
    two.add_argument("out", type=_out)
    two.set_defaults(command=calibrate, needs_data=True)
    three = commands.add_parser("quantize", help=quantize.__doc__, parents=[data])
    three.add_argument("model", type=_file)
    three.add_argument("out", type=_out)
    three.add_argument("--recipe", required=True, metavar="JSON")
    three.add_argument("--calibration", type=_file, metavar="FILE", help="what `calibrate` wrote")
    three.add_argument("--layers", type=_out, metavar="FILE", help="write what each quantized node costs")
    three.add_argument("--target", default="auto", choices=("auto", *RULES), metavar="ISA")
    three.add_argument("--onnxruntime", metavar="V", help="the release that must load the result, as 1.N")
    three.set_defaults(command=quantize)
    four = commands.add_parser("compare", help=compare.__doc__, parents=[data])
    four.add_argument("model", type=_file)
    four.add_argument("candidates", type=_file, nargs="+", metavar="candidate")
    four.add_argument("--metric", choices=METRICS)
    four.add_argument("--evaluation", default="{}", metavar="JSON", help="output, average, pool, …")
    four.add_argument("--threads", type=int, default=1)
    four.add_argument("--max-seconds", type=float, default=60, help="for the latency of each candidate")
    four.set_defaults(command=compare)
    five = commands.add_parser("call", help=call.__doc__)
    five.add_argument("name", choices=CALLS)
    five.set_defaults(command=call)
    return parser


def _data_options() -> Parser:
    options = Parser(add_help=False)
    options.add_argument("--data", type=_file, metavar="FILE")
    options.add_argument("--preprocess", default="{}", metavar="JSON|NAME")
    options.add_argument("--input", help="the model's input that images feed")
    options.add_argument(
        "--state",
        type=_link,
        action="append",
        default=[],
        metavar="OUT=IN",
        help="an output fed back to an input",
    )
    options.add_argument("--samples", type=int, help="at most so many calibration samples")
    return options


def _file(text: str) -> Path:
    path = Path(text).absolute()
    if not path.is_file():
        raise Refused("file_not_found", f"There is no file {text}.")
    return path


def _link(text: str) -> tuple[str, str]:
    output, separator, name = text.partition("=")
    if not (output and separator and name):
        raise Refused("invalid_state", f"--state takes OUTPUT=INPUT, not {text!r}.")
    return output, name


def _out(text: str) -> Path:
    path = Path(text).absolute()
    if not path.parent.is_dir():
        raise Refused(
            "folder_not_found", f"There is no folder {Path(text).parent} to write {path.name} into."
        )
    return path


def _refuse_overwriting(arguments: argparse.Namespace) -> None:
    """No result takes the place of what it is made of; it may come with a second file of weights."""
    from worker.engine.load import external_files

    sources = [arguments.model, *external_files(arguments.model), arguments.data]
    sources.append(getattr(arguments, "calibration", None))
    read = {path.resolve() for path in sources if path is not None}
    out = arguments.out
    for path in (out, out.with_name(f"{out.name}.data"), getattr(arguments, "layers", None) or out):
        if path.resolve() in read:
            raise Refused(
                "output_is_input", f"{path.name} is what the result is made of; write to another file."
            )


def _data(arguments: argparse.Namespace) -> Data | None:
    preprocess = read_preprocess(arguments.preprocess)
    if arguments.data is None:
        return None
    state = dict(arguments.state)
    return Data(path=arguments.data, preprocess=preprocess, input=arguments.input, state=state)


def _target(arguments: argparse.Namespace) -> Target:
    try:
        fields = {"isa": arguments.target, "onnxruntime": arguments.onnxruntime}
        return TypeAdapter(Target).validate_python(fields)
    except ValidationError as error:
        raise _invalid("invalid_target", "The target", error) from error


def _prepare(arguments: argparse.Namespace, out: Path, *, ranges: bool = True) -> dict[str, Any]:
    data = _data(arguments)
    if arguments.command is calibrate and data is None:
        raise Refused("no_calibration_data", "Calibration needs samples: give --data.")
    request = Prepare(
        model=arguments.model,
        out=out,
        calibration=data,
        calibration_samples=arguments.samples,
        reads_ranges=ranges,
    )
    return run_call("prepare", TypeAdapter(Prepare).dump_python(request), Report())


def _refuse_unfaithful(arguments: argparse.Namespace, recipe: Recipe, feeds: Path) -> None:
    from worker.engine.evaluate.faithful import fidelity_on, refuse_unfaithful
    from worker.engine.ready import read_feeds

    refuse_unfaithful(recipe, fidelity_on(arguments.model, arguments.out, read_feeds(feeds)))


def _write_layers(
    arguments: argparse.Namespace, model: Path, recipe: Recipe, setting: "Setting", feeds: Path
) -> tuple[Note, ...]:
    """What each quantized node costs, as JSON in a file, if one was asked for."""
    from worker.engine.evaluate.layers import layers_of
    from worker.engine.ready import read_feeds

    if arguments.layers is None:
        return ()
    found, notes = layers_of(model, arguments.out, recipe, setting, read_feeds(feeds))
    if found:
        arguments.layers.write_text(json.dumps(asdict(found), indent=2) + "\n")
    return notes


def _how_to_run(model: Path, feeds: Path) -> dict[str, Any]:
    """What a runtime must know, which others take the model, and Python that loads and runs it."""
    from worker.engine.elsewhere.example import example
    from worker.engine.elsewhere.tensorrt import tensorrt
    from worker.engine.load import load_model
    from worker.engine.ready import read_feeds
    from worker.engine.requirements import requires
    from worker.engine.session import open_session

    needs, tried = requires(model), example(model, open_session(model), read_feeds(feeds)[0])
    return {
        "requires": asdict(needs),
        "runs_elsewhere": {"tensorrt": asdict(tensorrt(load_model(model)))},
        "snippet": snippet(model.name, tried, needs) if tried else None,
    }


def _invalid(code: str, what: str, error: ValidationError, skip: int = 0) -> Refused:
    errors = tuple(FieldError(pointer(*e["loc"][skip:]), e["msg"]) for e in error.errors())
    listed = "; ".join(f"{e.pointer or '/'}: {e.detail}" for e in errors)
    return Refused(code, f"{what} is not valid: {listed}.", errors=errors)


def _print(answer: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer, indent=2, default=str) + "\n")


if __name__ == "__main__":
    sys.exit(main())
