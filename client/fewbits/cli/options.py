"""Options that several commands have."""

import functools
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


class Finite(click.types.FloatParamType):
    """A number that JSON knows."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401
        """Refuse nan and inf."""
        number = float(super().convert(value, param, ctx))
        return number if math.isfinite(number) else self.fail(f"{value!r} is no finite number.", param, ctx)


class Target(click.Path):
    """A file to write. Its folder is made at once: after the job it would be too late to find out."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:  # noqa: ANN401
        """Refuse what cannot be written."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self.fail(f"{str(path.parent)!r} cannot be made: {error.strerror}.", param, ctx)
        return path


EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)
FILE_OR_ID = click.Path()  # whatever it is; shells complete files
WRITABLE = Target(dir_okay=False, writable=True)
TYPES: "dict[str, click.ParamType[Any, Any]]" = {"number": Finite(), "integer": click.INT}
PRESETS = ("imagenet", "unit", "signed", "raw")
preprocess = click.option(
    "--preprocess",
    metavar="NAME|JSON",
    shell_complete=lambda _context, _option, begun: [name for name in PRESETS if name.startswith(begun)],
    help="imagenet, unit, signed, raw, or JSON.",
)
bound = click.option("--input", "bound", metavar="NAME", help="The model's input that images bind to.")


@dataclass(frozen=True)
class Outputs:
    """Where to write an outcome."""

    json: bool = False
    junit: Path | None = None
    markdown: Path | None = None


def outputs(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--json`, `--junit`, `--markdown`, as one value."""

    @functools.wraps(command)
    def joined(*, as_json: bool, junit: Path | None, markdown: Path | None, **others: Any) -> Any:  # noqa: ANN401
        return command(outputs=Outputs(as_json, junit, markdown), **others)

    decorated = click.option("--markdown", type=WRITABLE, metavar="FILE", help="Write the report there.")(
        joined
    )
    decorated = click.option("--junit", type=WRITABLE, metavar="FILE", help="Write the verdict there.")(
        decorated
    )
    return as_json(decorated)


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
timeout = click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Give up waiting; the job goes on, and the exit code is 5.",
)


def gate(command: F) -> F:
    """Every limit of the gate as an option, as the API describes it."""
    for name, field in reversed(_limits().items()):
        command = click.option(f"--{name.replace('_', '-')}", type=_type(field), help=_help(field))(command)
    return command


def limits_given(options: dict[str, Any]) -> dict[str, Any]:
    """The gate's fields among a command's options."""
    return {name: options[name] for name in _limits() if options.get(name) is not None}


@functools.cache
def _limits() -> dict[str, Any]:
    text = (files("fewbits") / "fewbits.schema.json").read_text(encoding="utf-8")
    limits: dict[str, Any] = json.loads(text)["$defs"]["Gate"]["properties"]
    return limits


def _type(field: dict[str, Any]) -> "click.ParamType[Any, Any]":
    if "enum" in field:
        return click.Choice(field["enum"])
    kinds = [branch.get("type") for branch in field.get("anyOf", [field])]
    return next((TYPES[kind] for kind in kinds if kind in TYPES), click.STRING)


def _help(field: dict[str, Any]) -> str:
    text = str(field["description"])
    return f"{text[0].upper()}{text[1:]}."
