"""The package: light to start, and what it hands out."""

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

import fewbits
from fewbits.cli import main, options

ROOT = Path(__file__).parents[2]
LOADED = """
import sys
from fewbits.cli.main import fewbits
try:
    fewbits.main(sys.argv[1:], standalone_mode=False)
finally:
    print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)
"""


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["jobs", "--help"], ["--version"]])
def test_help_loads_no_http_library(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *words], capture_output=True, text=True, check=True, cwd=ROOT
    )

    assert not {"httpx", "rich", "yaml", "jsonschema", "msgspec"} & set(done.stderr.split())


def test_every_name_that_is_promised_is_there() -> None:
    assert [name for name in fewbits.__all__ if getattr(fewbits, name) is None] == []
    with pytest.raises(AttributeError, match="nothing"):
        getattr(fewbits, "nothing")  # noqa: B009 - the name is asked for, not known


def test_every_command_is_there_and_says_what_it_does() -> None:
    context = click.Context(main.fewbits)
    for name in main.COMMANDS:
        command = main.fewbits.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert command.help


def test_every_limit_of_the_gate_is_an_option() -> None:
    command = main.fewbits.get_command(click.Context(main.fewbits), "run")
    assert command is not None
    there = {option for parameter in command.params for option in parameter.opts}

    assert {"--max-accuracy-drop", "--min-speedup", "--against", "--on-inconclusive"} <= there
    assert options.limits_given({"min_speedup": 1.5, "max_size_ratio": None}) == {"min_speedup": 1.5}


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_a_shell_can_complete_commands_and_options(shell: str) -> None:
    script = fewbits_command("completion", shell)
    assert "_FEWBITS_COMPLETE" in script

    def completed(words: str) -> str:
        told = {
            "_FEWBITS_COMPLETE": f"{shell}_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": words.rsplit(maxsplit=1)[-1],
        }
        told["COMP_CWORD"] = told["COMP_CWORD"] if shell == "fish" else str(len(words.split()) - 1)
        return fewbits_command(env=told)

    assert "candidates" in completed("fewbits cand")
    assert "--max-size-ratio" in completed("fewbits run --max-s")


def fewbits_command(*words: str, env: dict[str, str] | None = None) -> str:
    command = [sys.executable, "-m", "fewbits", *words]
    done = subprocess.run(command, env=os.environ | (env or {}), capture_output=True, text=True, check=False)
    return done.stdout
