"""`run`, `submit` and `watch`: the line in a pipeline."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fewbits.cli import options
from fewbits.cli.options import Outputs

if TYPE_CHECKING:
    from fewbits.answers import Job
    from fewbits.cli.display import Display
    from fewbits.client import Client

F = TypeVar("F", bound=Callable[..., Any])
MODEL = click.argument("model", required=False, type=options.FILE_OR_ID)
WHAT = (
    click.option(
        "--data",
        type=options.FILE_OR_ID,
        metavar="FILE|dst_…",
        help="Samples for calibration and evaluation.",
    ),
    options.preprocess,
    options.bound,
    click.option("--name", metavar="NAME", help="The model's name; default: the file's."),
    click.option(
        "--candidate",
        "candidates",
        multiple=True,
        type=options.FILE_OR_ID,
        metavar="FILE|ver_…",
        help="A model quantized elsewhere, measured beside ours; repeatable.",
    ),
    click.option(
        "--label",
        "labels",
        multiple=True,
        metavar="NAME=VALUE",
        help="Of version and job; repeatable. In CI, commit and branch come by themselves.",
    ),
    click.option(
        "--spec",
        type=options.EXISTING,
        metavar="FILE",
        help="The job as YAML or JSON; default: .fewbits.yaml of this folder. Options go before it.",
    ),
    options.gate,
)


def _what(command: F) -> F:
    """The arguments that say what to quantize."""
    for decorate in reversed(WHAT):
        command = decorate(command)
    return MODEL(command)


@click.command()
@_what
@click.option("--wait/--no-wait", default=True, help="Wait for the end, and end by the gate (default).")
@options.outputs
@options.timeout
@click.option("-o", "--output", type=options.WRITABLE, metavar="FILE", help="Bring the best model here.")
def run(
    *,
    wait: bool,
    outputs: Outputs,
    timeout: float | None,
    output: Path | None,
    **what: Any,  # noqa: ANN401
) -> int:
    """Quantize MODEL (a file, a folder, or ver_…), measure it, and end by the gate.

    What is not given comes from .fewbits.yaml. Files that the service has are not sent again.
    """
    from fewbits.cli import following  # noqa: PLC0415 - not for --help

    if not wait and (timeout or output or outputs.junit or outputs.markdown):
        raise click.UsageError("--no-wait ends before there is a result to write or to wait for.")
    if not wait:
        return following.begin(_starting(what), as_json=outputs.json)
    return following.finish(_starting(what), outputs, timeout, output)


@click.command()
@_what
@options.as_json
def submit(*, as_json: bool, **what: Any) -> int:  # noqa: ANN401
    """Start a job as `run` does, and print its id."""
    from fewbits.cli import following  # noqa: PLC0415 - not for --help

    return following.begin(_starting(what), as_json=as_json)


@click.command()
@click.argument("job")
@options.outputs
@options.timeout
@click.option("-o", "--output", type=options.WRITABLE, metavar="FILE", help="Bring the best model here.")
def watch(*, job: str, outputs: Outputs, timeout: float | None, output: Path | None) -> int:
    """Follow JOB to its end, and end by its gate."""
    from fewbits.cli import following  # noqa: PLC0415 - not for --help

    return following.finish(lambda client, _display: client.job(job), outputs, timeout, output)


def _starting(what: dict[str, Any]) -> "Callable[[Client, Display], Job]":
    """Start the job that the options and the job file describe."""
    from fewbits.cli import asked  # noqa: PLC0415 - not for --help

    return lambda client, display: client.submit(**asked.job(what), tell=display.file)
