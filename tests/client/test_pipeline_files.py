"""The action, the component and the documented pipelines, held against the schemas of their forges."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ACTION = ROOT / "client" / "action.yml"
COMPONENT = ROOT / "templates" / "fewbits.yml"
DOCS = (ROOT / "docs" / "ci.md").read_text()
PIPELINES = [text for text in re.findall(r"```yaml\n(.*?)```", DOCS, re.DOTALL) if text[:6] != "model:"]


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


@pytest.mark.parametrize("text", [text for text in PIPELINES if kind(text)])
def test_documented_pipelines_fit_their_schema(text: str, tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yml"
    path.write_text(text if text.startswith("name") or "runs-on" not in text else f"on: push\n{text}")

    assert checked(kind(text), path) == ""


@pytest.mark.skipif(not shutil.which("actionlint"), reason="actionlint is not installed")
@pytest.mark.parametrize("text", [text for text in PIPELINES if kind(text) == "vendor.github-workflows"])
def test_documented_workflows_pass_actionlint(text: str, tmp_path: Path) -> None:
    path = tmp_path / "workflow.yml"
    path.write_text(text if text.startswith("name") else f"on: push\n{text}")

    done = subprocess.run(["actionlint", str(path)], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout


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
