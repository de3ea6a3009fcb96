"""What docs/ci.md tells people to paste, pasted: the shell parts of its pipelines, on a running service."""

import json
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from examples.digits import data as digits
from tests.client.forges import Forge, forge
from tests.e2e.conftest import Service

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "client"
DOCS = (ROOT / "docs" / "ci.md").read_text()
README = (CLIENT / "README.md").read_text()
EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
INPUT = re.compile(r"\$\[\[ inputs\.(\S+) \]\]")
# pip does without its index: what the client needs is found where the tests have it.
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0"}
# The recipe and budget of the page's other jobs: what the first one measured serves all.
JOB_FILE = "recipes: [{method: static_int8}]\nbenchmark: {max_seconds: 10}\n"
PIP = f"""#!/bin/sh
case "$*" in "install fewbits") exec "{sys.executable}" -c "import fewbits" ;; esac
exit 1
"""


def fences(language: str, page: str = DOCS) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def yaml_with(word: str) -> Any:
    return yaml.safe_load(next(text for text in fences("yaml") if word in text))


@dataclass(frozen=True)
class Runner:
    """A folder with a model and samples, and what a pipeline finds in its environment."""

    folder: Path
    env: dict[str, str]

    def shell(self, script: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """As pipelines run a step: stop at the first command that fails."""
        whole = self.env | dict(env or {})
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
        return subprocess.run(
            command, cwd=self.folder, env=whole, capture_output=True, text=True, check=False
        )


@pytest.fixture(scope="module")
def forge_() -> Iterator[Forge]:
    with forge() as running:
        yield running


@pytest.fixture(scope="module")
def runner(service: Service, forge_: Forge, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    folder = tmp_path_factory.mktemp("pipeline")
    (folder / "model.onnx").write_bytes((ROOT / "examples" / "digits" / "digits.onnx").read_bytes())
    digits.write(digits.held_out(), folder / "samples.npz")
    (folder / ".fewbits.yaml").write_text(JOB_FILE)
    tools, temp = folder / "tools", folder / "temp"
    tools.mkdir()
    temp.mkdir()
    (tools / "pip").write_text(PIP)
    (tools / "pip").chmod(0o755)
    (folder / "event.json").write_text(json.dumps({"pull_request": {"number": 7}}))
    env = {
        "PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": sysconfig.get_path("purelib"),
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "CI": "true",
        "BUILD_ID": "42",
        "FEWBITS_URL": str(service.http.base_url).rstrip("/"),
        "FEWBITS_KEY": (service.home / "admin.key").read_text().strip(),
        "RUNNER_TEMP": str(temp),
        "GITHUB_ACTION_PATH": str(CLIENT),
        "GITHUB_EVENT_PATH": str(folder / "event.json"),
        "GITHUB_API_URL": forge_.url,
        "GITHUB_REPOSITORY": "team/model",
    }
    return Runner(folder, env | OFFLINE)


def action(runner: Runner, given: Mapping[str, str]) -> tuple[int, dict[str, str]]:
    """Run the action's steps as a runner does; the exit code of the last one that ran, and the outputs."""
    described = yaml.safe_load((CLIENT / "action.yml").read_text())
    inputs = {name: str(one.get("default", "")) for name, one in described["inputs"].items()} | dict(given)
    told = runner.folder / "outputs"
    told.write_text("")
    code = 0

    def value(found: re.Match[str]) -> str:
        return known(found[1], inputs | {"token": "right"}, outputs(told))

    for step in described["runs"]["steps"]:
        installed = step["name"] == "Install the client" and (runner.folder / "temp" / "fewbits").exists()
        if installed or ("if" in step and inputs["comment"] != "true"):
            continue
        env = {name: EXPRESSION.sub(value, text) for name, text in step.get("env", {}).items()}
        done = runner.shell(step["run"], env | {"GITHUB_OUTPUT": str(told)})
        code = done.returncode
        assert code == 0 or step["name"] == "End by the gate", (step["name"], done.stderr)
    return code, outputs(told)


def known(expression: str, inputs: Mapping[str, str], outputs_: Mapping[str, str]) -> str:
    """What an expression of the action stands for."""
    kind, _, name = expression.partition(".")
    return inputs[name] if kind == "inputs" else outputs_[name.rpartition(".")[2]]


def outputs(told: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in told.read_text().splitlines())


@pytest.mark.parametrize("page", [DOCS, README], ids=["ci.md", "README.md"])
def test_the_first_line_of_the_page_passes(runner: Runner, page: str) -> None:
    done = runner.shell(fences("sh", page)[0])

    assert done.returncode == 0, done.stderr
    assert "Gate passed" in done.stdout


def test_the_documented_workflow_uses_the_action(runner: Runner, forge_: Forge) -> None:
    forge_.comments.clear()
    steps = yaml_with("pull-requests: write")["jobs"]["quantize"]["steps"]
    given = steps[1]["with"] | {"url": runner.env["FEWBITS_URL"], "key": runner.env["FEWBITS_KEY"]}

    code, told = action(runner, given)
    failed, told_of_failure = action(runner, given | {"max-size-ratio": "0.01", "output": ""})

    assert (code, told["conclusion"], told["exit-code"]) == (0, "pass", "0")
    assert told["best"].startswith("cnd_")
    assert json.loads(Path(told["report"]).read_text())["job"]["id"] == told["job"] != told_of_failure["job"]
    assert (runner.folder / "best.onnx").stat().st_size > 0
    assert (failed, told_of_failure["conclusion"], told_of_failure["exit-code"]) == (1, "fail", "1")
    assert len(forge_.comments) == 1
    assert "Gate failed" in str(forge_.comments[0]["body"])
    last = EXPRESSION.sub(lambda found: told[found[1].rpartition(".")[2]], steps[2]["run"])
    assert runner.shell(last).stdout.strip() == f"{told['best']} passed"


def test_the_action_reports_wrong_input_too(runner: Runner) -> None:
    code, told = action(
        runner,
        {
            "url": runner.env["FEWBITS_URL"],
            "key": runner.env["FEWBITS_KEY"],
            "model": "nothing.onnx",
            "args": "--label=case=wrong input\n--on-inconclusive=pass",
            "comment": "false",
        },
    )

    assert (code, told["conclusion"], told["job"]) == (2, "", "")
    assert "nothing.onnx" in Path(told["markdown"]).read_text()


def test_the_documented_workflow_without_the_action(runner: Runner, forge_: Forge) -> None:
    forge_.comments.clear()
    steps = yaml_with("run: pip install fewbits")["jobs"]["quantize"]["steps"]
    for step in steps[1:]:
        env = {name: EXPRESSION.sub("right", text) for name, text in step.get("env", {}).items()}
        done = runner.shell(step["run"], env)
        assert done.returncode == 0, (step, done.stderr)

    assert "Gate passed" in str(forge_.comments[0]["body"])


def test_the_documented_component(runner: Runner, forge_: Forge) -> None:
    forge_.comments.clear()
    given = yaml_with("component:")["include"][0]["inputs"] | {
        "url": runner.env["FEWBITS_URL"],
        "client": str(CLIENT),
    }
    header, job = (ROOT / "templates" / "fewbits.yml").read_text().split("\n---\n")
    described = yaml.safe_load(header)["spec"]["inputs"]
    inputs = {name: str(one.get("default", "")) for name, one in described.items()} | given
    inputs["comment"] = inputs["comment"].lower()
    (steps,) = yaml.safe_load(INPUT.sub(lambda found: inputs[found[1]], job)).values()
    gitlab = {
        "GITLAB_CI": "true",
        "CI_API_V4_URL": forge_.url,
        "CI_MERGE_REQUEST_PROJECT_ID": "3",
        "CI_MERGE_REQUEST_IID": "7",
        "GITLAB_TOKEN": "right",
    }
    assert {type(value) for value in steps["variables"].values()} == {str}, "GitLab takes text alone"
    env = gitlab | steps["variables"]

    for part in (steps["before_script"] + steps["script"], steps["after_script"]):
        done = runner.shell("\n".join(part), env)
        assert done.returncode == 0, done.stderr

    assert all((runner.folder / name).exists() for name in steps["artifacts"]["paths"])
    assert (runner.folder / steps["artifacts"]["reports"]["junit"]).exists()
    assert "Gate passed" in str(forge_.comments[0]["body"])


def test_the_documented_gitlab_job_without_the_component(runner: Runner) -> None:
    (job,) = yaml_with("- pip install fewbits").values()

    done = runner.shell("\n".join(job["script"]))

    assert done.returncode == 0, done.stderr
    assert (runner.folder / job["artifacts"]["reports"]["junit"]).exists()


def test_curl_alone_is_enough(runner: Runner) -> None:
    for script in fences("sh")[1:]:
        done = runner.shell(script)
        assert done.returncode == 0, (script, done.stderr)

    verdict = json.loads((runner.folder / "verdict.json").read_text())
    assert verdict["conclusion"] == "pass"
    assert "<testsuites" in (runner.folder / "verdict.xml").read_text()
    assert (runner.folder / "metrics.txt").read_text().endswith("# EOF\n")
    assert (runner.folder / "best.onnx").stat().st_size > 0


@pytest.mark.parametrize(
    "words",
    [
        *(["-c", text] for text in fences("python") + fences("python", README)),
        [str(ROOT / "examples" / "client.py")],
    ],
)
def test_the_documented_python_runs(runner: Runner, words: list[str]) -> None:
    files = ["model.onnx", "samples.npz"] if len(words) == 1 else []
    command = [sys.executable, *words, *files]

    done = subprocess.run(
        command, cwd=runner.folder, env=runner.env, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "int8" in done.stdout
