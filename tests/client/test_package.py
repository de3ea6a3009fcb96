"""The package: light to start, and what it hands out."""

import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

import fewbits
from fewbits.cli import main, options

ROOT = Path(__file__).parents[2]
FEWBITS = [sys.executable, "-m", "fewbits"]
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


def test_methods_show_their_own_parameters_and_answers() -> None:
    def shown(method: Callable[..., object]) -> str:
        return str(inspect.signature(method)).replace("fewbits.answers.", "").replace("collections.abc.", "")

    assert shown(fewbits.Client.job) == "(self, /, job_id: str) -> Job"
    assert shown(fewbits.AsyncClient.job) == "(self, /, job_id: str) -> Awaitable[Job]"
    assert shown(fewbits.Client.steps) == "(self, /, job_id: str) -> Iterator[Step]"
    assert shown(fewbits.AsyncClient.steps) == "(self, /, job_id: str) -> AsyncIterator[Step]"
    with fewbits.Client("http://localhost", "fb_x") as client:
        assert list(inspect.signature(client.run).parameters)[:3] == ["model", "data", "spec"]
        assert inspect.getdoc(client.run)


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


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_can_complete_commands_options_values_and_files(shell: str) -> None:
    script = command("completion", shell).stdout
    assert "_FEWBITS_COMPLETE" in script

    def completed(words: str) -> str:
        begun = words.rpartition(" ")[2]
        told = {
            "_FEWBITS_COMPLETE": f"{shell}_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": begun if shell == "fish" else str(words.count(" ")),
        }
        return command(env=told).stdout

    assert "candidates" in completed("fewbits cand")
    assert "--max-size-ratio" in completed("fewbits run --max-s")
    assert "imagenet" in completed("fewbits run --preprocess im")
    assert "file" in completed("fewbits run mod")
    assert "file" in completed("fewbits run --data sam")


def test_what_is_printed_to_somebody_who_has_left_is_no_failed_gate() -> None:
    reader, pipe = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [*FEWBITS, "completion", "bash"], stdout=pipe, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(pipe)

    assert (done.returncode, done.stderr) == (141, "")


def test_a_terminal_without_our_characters_is_no_failed_gate(tmp_path: Path) -> None:
    narrow = {"PYTHONIOENCODING": "latin-1", "FEWBITS_URL": "http://127.0.0.1:9", "FEWBITS_KEY": "fb_x"}
    done = command("doctor", env=narrow | {"XDG_CONFIG_HOME": str(tmp_path)})

    assert done.returncode == 4
    assert "? fewbits" in done.stdout


def test_a_mistake_of_ours_is_no_failed_gate() -> None:
    broken = "from fewbits.cli import main, doctor; doctor.lines = None; doctor._look = None; main.main()"
    done = subprocess.run(
        [sys.executable, "-c", broken, "doctor"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 4
    assert "Traceback" in done.stderr
    assert "mistake of the client" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--no-wait", "--junit", "a.xml"], "--no-wait ends before"),
        (["run", "--min-speedup", "nan"], "no finite number"),
        (["watch", "job_1", "--markdown", "/dev/null/a.md"], "cannot be made"),
        (["run", "--spec", "nothing.yaml"], "does not exist"),
        (["no-such-command"], "No such command"),
    ],
)
def test_wrong_use_is_found_before_anything_is_sent(words: list[str], said: str, tmp_path: Path) -> None:
    done = command(*words, env={"XDG_CONFIG_HOME": str(tmp_path)})

    assert done.returncode == 2
    assert said in done.stderr


def test_folders_of_results_are_made_before_the_job(tmp_path: Path) -> None:
    path = tmp_path / "reports" / "today" / "gate.xml"

    command("watch", "job_1", "--junit", str(path), env={"FEWBITS_URL": "no url"})

    assert path.parent.is_dir()


def command(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*FEWBITS, *words], env=os.environ | (env or {}), capture_output=True, text=True, check=False
    )
