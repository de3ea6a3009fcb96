"""The command `fewbits`: which commands there are, and how it ends."""

import io
import os
import sys
import traceback
from importlib import import_module
from typing import Any

import click

from fewbits import __version__
from fewbits.errors import FewbitsError

RUN = "run"
COMMANDS = {
    "run": (RUN, "Quantize a model, measure, and end by the gate: exit 0 pass, 1 fail, 3 inconclusive."),
    "submit": (RUN, "Start a job and print its id."),
    "watch": (RUN, "Follow a job to its end, and end by its gate."),
    "models": ("lists", "The project's models, newest first."),
    "jobs": ("lists", "The project's jobs, newest first."),
    "candidates": ("lists", "What each candidate of a job costs and wins."),
    "verdict": ("results", "A job's verdict; ends by it."),
    "compare": ("results", "Two candidates side by side."),
    "download": ("results", "Bring a quantized model here."),
    "comment": ("comment", "Write a report into the pull or merge request, in place of the last one."),
    "datasets": ("datasets", "Check samples before any job."),
    "login": ("login", "Keep the key to a service."),
    "doctor": ("doctor", "Look whether everything is ready, and say what to do where it is not."),
    "completion": ("completion", "Print what makes a shell complete `fewbits`."),
}
FAILED = 4
INTERRUPTED = 130
BROKEN_PIPE = 141
EPILOG = (
    "Exit codes: 0 the gate passed or there is none, 1 it failed, 2 wrong use or input, 3 inconclusive, "
    "4 the service or the job failed, 5 timed out."
)


class Commands(click.Group):
    """A group that imports a command when it is used; its help needs none of them."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """All of them, in the order of a first visit."""
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        """The command of this name, if there is one."""
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"fewbits.cli.{COMMANDS[name][0]}"), name)
        return command

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - as in click
        """Run the command; that whoever read its output has read enough is no failed gate."""
        try:
            code = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return BROKEN_PIPE
        return code

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in the help."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fewbits")
def fewbits() -> None:
    """Quantize ONNX models as a service, and let a gate decide."""


def main() -> None:
    """Run the command of this process's arguments, and end with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # not every terminal has every character
    sys.exit(_run())


def _run() -> int:
    try:
        return int(fewbits.main(prog_name="fewbits", standalone_mode=False) or 0)
    except click.exceptions.Abort:
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except FewbitsError as error:
        click.echo(f"fewbits: {error}", err=True)
        return error.exit_code
    except Exception:  # noqa: BLE001 - Python would end with 1, and that means that the gate failed
        traceback.print_exc()
        click.echo("fewbits: this is a mistake of the client; please report the lines above.", err=True)
        return FAILED
