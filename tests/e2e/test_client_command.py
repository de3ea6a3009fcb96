"""The command `fewbits` as pipelines and people run it, against a running service."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from examples.digits import data as digits
from tests.e2e.conftest import Service
from tests.e2e.proxies import newer_than
from tests.waiting import in_time

DIGITS = Path(__file__).parents[2] / "examples" / "digits" / "digits.onnx"
FEWBITS = [sys.executable, "-m", "fewbits"]
PASSING = ["--max-size-ratio", "0.6"]
FAILING = ["--max-size-ratio", "0.01"]
JOB_FILE = """
model: digits.onnx
data: digits.npz
preprocess: unit
recipes:
  - method: dynamic_int8
  - method: static_int8
benchmark: {max_seconds: 1}
gate:
  max_size_ratio: 0.6
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a model, samples and a job file."""
    made = tmp_path_factory.mktemp("repository")
    (made / "digits.onnx").write_bytes(DIGITS.read_bytes())
    digits.write(digits.held_out(), made / "digits.npz")
    (made / ".fewbits.yaml").write_text(JOB_FILE)
    return made


@pytest.fixture(scope="module")
def environment(service: Service, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Nothing of this machine's settings; the service is found by its home folder."""
    settings = str(tmp_path_factory.mktemp("settings"))
    return {
        "PATH": os.environ["PATH"],
        "HOME": settings,
        "XDG_CONFIG_HOME": settings,
        "FEWBITS_HOME": str(service.home),
        "LANG": "C.UTF-8",
        "TERM": "xterm",
    }


@pytest.fixture(scope="module")
def url(service: Service) -> str:
    return str(service.http.base_url).rstrip("/")


@pytest.fixture(scope="module")
def passed(folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """What a pipeline runs, with everything that it can write."""
    files = ["--junit", "gate.xml", "--markdown", "gate.md", "-o", "best.onnx", "--json"]
    ci = {"CI": "true", "GITHUB_STEP_SUMMARY": str(folder / "summary.md"), "GITHUB_SHA": "abc123"}
    return fewbits("run", *files, folder=folder, env=environment | ci)


@pytest.fixture(scope="module")
def job(passed: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(passed.stdout)["job"]
    return found


def fewbits(
    *words: str, folder: Path, env: Mapping[str, str], stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run it without a terminal."""
    return subprocess.run(
        [*FEWBITS, *words], cwd=folder, env=env, input=stdin, capture_output=True, text=True, check=False
    )


@contextmanager
def on_a_terminal(*words: str, folder: Path, env: Mapping[str, str]) -> Iterator[tuple[int, int]]:
    """Run it on a terminal; gives its process id and the terminal."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execvpe(sys.executable, [*FEWBITS, *words], env)  # noqa: S606 - in the child
    try:
        yield pid, terminal
    finally:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(terminal)


def read_until(terminal: int, wanted: str, seconds: float = 200) -> str:
    """What appears on the terminal, up to the wanted text or its end."""
    seen, end = b"", time.monotonic() + seconds
    while wanted.encode() not in seen and time.monotonic() < end:
        try:
            seen += os.read(terminal, 4096)
        except OSError:
            break
    return seen.decode(errors="replace")


def xml(path: Path) -> ET.Element:
    return ET.fromstring(path.read_text())  # noqa: S314 - our own


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_pipeline_needs_one_line(passed: subprocess.CompletedProcess[str], folder: Path) -> None:
    assert passed.returncode == 0, passed.stderr
    report = json.loads(passed.stdout)
    assert (report["exit_code"], report["verdict"]["conclusion"]) == (0, "pass")
    assert report["job"]["spec"]["labels"] == {"commit": "abc123"}
    assert xml(folder / "gate.xml").get("failures") == "0"
    assert "Gate passed" in (folder / "gate.md").read_text()
    assert (folder / "summary.md").read_text() == (folder / "gate.md").read_text()
    best = next(c for c in report["candidates"] if c["id"] == report["job"]["best"])
    assert (folder / "best.onnx").stat().st_size == best["size"]["bytes"]


def test_what_a_pipeline_logs_is_plain_lines(passed: subprocess.CompletedProcess[str]) -> None:
    lines = passed.stderr.splitlines()

    assert "\x1b" not in passed.stderr
    assert "\r" not in passed.stderr
    assert any(line.startswith("digits.onnx: hashing done") for line in lines)
    assert any(line.startswith("build static int8") and "done" in line for line in lines)
    assert len(lines) == len(set(lines)), "each line says something new"


def test_a_gate_that_fails_ends_with_1_and_says_why(folder: Path, environment: dict[str, str]) -> None:
    done = fewbits("run", *FAILING, folder=folder, env=environment)

    assert done.returncode == 1, done.stderr
    assert "Gate failed" in done.stdout
    assert "max_size_ratio 0.01" in done.stdout
    assert "digits.onnx: the service has it already" in done.stderr


def test_an_undecided_gate_ends_with_3_or_passes_if_told_to(
    folder: Path, environment: dict[str, str]
) -> None:
    undecided = ["--max-size-ratio", "2", "--max-accuracy-drop", "0.0005"]
    inconclusive = fewbits("run", *undecided, folder=folder, env=environment)
    tolerated = fewbits("run", *undecided, "--on-inconclusive", "pass", folder=folder, env=environment)

    assert (inconclusive.returncode, tolerated.returncode) == (3, 0), inconclusive.stdout
    assert "Gate undecided" in inconclusive.stdout
    assert "samples would decide" in inconclusive.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "nothing.onnx", "--junit", "wrong.xml"], "There is no file nothing.onnx"),
        (["run", "digits.npz"], "was rejected"),
        (["run", "--min-speedup", "fast"], "'fast' is not a valid float"),
        (["run", "--label", "main"], "'main' is no NAME=VALUE"),
        (["run", "--max-accuracy-drop", "12"], "/gate/max_accuracy_drop"),
        (["watch", "job_01k9000000000000000000none"], "This project has no job"),
    ],
)
def test_wrong_use_ends_with_2(
    folder: Path, environment: dict[str, str], words: list[str], said: str
) -> None:
    done = fewbits(*words, folder=folder, env=environment)

    assert done.returncode == 2
    assert said in done.stderr
    if "--junit" in words:
        assert xml(folder / "wrong.xml").get("errors") == "1"


def test_a_job_without_a_result_ends_with_4(
    folder: Path, environment: dict[str, str], service: Service
) -> None:
    spec = folder / "measured-anew.yaml"
    spec.write_text("model: digits.onnx\nreuse: never\nbenchmark: {max_seconds: 60}\n")
    job = fewbits("submit", "--spec", str(spec), folder=folder, env=environment).stdout.strip()
    service.http.post(f"/v1/jobs/{job}/cancel").raise_for_status()

    done = fewbits("watch", job, "--json", folder=folder, env=environment)

    assert done.returncode == 4
    assert json.loads(done.stdout)["error"]["code"] == "job_failed"


def test_a_service_that_is_away_ends_with_4(folder: Path, environment: dict[str, str]) -> None:
    nowhere = environment | {"FEWBITS_URL": "http://127.0.0.1:9", "FEWBITS_KEY": "fb_x"}
    done = fewbits("doctor", folder=folder, env=nowhere)

    assert done.returncode == 4
    assert "Is it up?" in done.stdout


def test_a_job_that_takes_too_long_ends_with_5_and_goes_on(
    folder: Path, environment: dict[str, str], service: Service
) -> None:
    spec = folder / "slow.yaml"
    spec.write_text("model: digits.onnx\nreuse: never\nbenchmark: {max_seconds: 30}\n")
    done = fewbits("run", "--spec", str(spec), "--timeout", "0.3", folder=folder, env=environment)

    assert done.returncode == 5
    job = done.stderr.rpartition("fewbits watch ")[2].strip()
    assert service.http.post(f"/v1/jobs/{job}/cancel").json()["state"] == "canceled"


def test_results_can_be_asked_for_again(
    folder: Path, environment: dict[str, str], job: dict[str, Any]
) -> None:
    def said(*words: str) -> str:
        done = fewbits(*words, folder=folder, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    candidates = json.loads(said("candidates", job["id"], "--json"))
    assert "static int8" in said("candidates", job["id"])
    assert job["id"] in said("jobs", "--label", "commit=abc123")
    assert "digits" in said("models")
    assert "Gate passed" in said("verdict", job["id"])
    assert "speedup" in said("compare", *(c["id"] for c in candidates))
    download = ("download", job["id"], "-o", "again.onnx", "--snippet", "run.py")
    assert said(*download).strip() == "again.onnx"
    ran = subprocess.run([sys.executable, "run.py"], cwd=folder, capture_output=True, text=True, check=True)
    assert ran.stdout.endswith("float32 (1, 10)\n")
    assert (folder / "again.onnx").read_bytes() == (folder / "best.onnx").read_bytes()


def test_data_are_checked_before_any_job(folder: Path, environment: dict[str, str]) -> None:
    words = ["datasets", "check", "digits.npz", "--model", "digits.onnx", "--preprocess", "unit"]
    done = fewbits(*words, "--max-accuracy-drop", "0.01", folder=folder, env=environment)

    assert done.returncode == 0, done.stderr
    assert "digits.npz fits digits.onnx." in done.stdout
    assert "max_accuracy_drop 0.01 needs samples" in done.stdout


def test_the_service_of_this_computer_needs_neither_url_nor_key(
    folder: Path, environment: dict[str, str], service: Service, url: str
) -> None:
    done = fewbits("doctor", folder=folder, env=environment)

    assert done.returncode == 0, done.stdout
    assert f"service {url} (from {service.home})" in done.stdout
    assert ".fewbits.yaml: model digits.onnx" in done.stdout


def test_a_login_is_kept_for_its_owner_alone(
    folder: Path, environment: dict[str, str], service: Service, url: str, tmp_path: Path
) -> None:
    key = (service.home / "admin.key").read_text()
    alone = {name: value for name, value in environment.items() if name != "FEWBITS_HOME"}
    alone["XDG_CONFIG_HOME"] = str(tmp_path)

    refused = fewbits("login", url, folder=folder, env=alone, stdin="fb_wrong_key\n")
    kept = fewbits("login", url, folder=folder, env=alone, stdin=key)
    nothing = fewbits("login", url, folder=folder, env=alone, stdin="\n")
    used = fewbits("models", folder=folder, env=alone)

    assert (refused.returncode, kept.returncode, used.returncode) == (2, 0, 0), refused.stderr
    assert (nothing.returncode, "no key on standard input" in nothing.stderr) == (2, True)
    assert (tmp_path / "fewbits" / "config.json").stat().st_mode & 0o777 == 0o600
    assert key.strip() not in kept.stdout + kept.stderr


def test_an_expired_key_is_told_so_with_the_next_step(
    folder: Path, environment: dict[str, str], service: Service, url: str
) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=1)
    body = {"name": "brief", "expires_at": soon.isoformat()}
    key = service.http.post("/v1/api-keys", json=body).json()["key"]
    assert in_time(lambda: datetime.now(UTC) > soon)

    done = fewbits("run", folder=folder, env=environment | {"FEWBITS_URL": url, "FEWBITS_KEY": key})

    assert done.returncode == 2
    assert "expired" in done.stderr
    assert "fewbits login" in done.stderr


def test_a_newer_service_is_understood(
    folder: Path, environment: dict[str, str], service: Service, url: str
) -> None:
    key = (service.home / "admin.key").read_text().strip()
    with newer_than(url) as later:
        done = fewbits("run", folder=folder, env=environment | {"FEWBITS_URL": later, "FEWBITS_KEY": key})

    assert done.returncode == 0, done.stderr
    assert "archived" in done.stdout


def test_somebody_at_a_terminal_sees_bars(folder: Path, environment: dict[str, str]) -> None:
    with on_a_terminal("run", folder=folder, env=environment) as (pid, terminal):
        seen = read_until(terminal, "Gate passed")
        read_until(terminal, "never said")
        assert exit_code(pid) == 0

    assert "\x1b[" in seen
    assert "build static int8" in seen
    assert "100 %" in seen


@pytest.mark.parametrize(("answer", "state"), [("y", "canceled"), ("n", "going on")])
def test_who_interrupts_is_asked_whether_to_cancel_the_job(
    folder: Path, environment: dict[str, str], service: Service, answer: str, state: str
) -> None:
    spec = folder / "long.yaml"
    spec.write_text("model: digits.onnx\nreuse: never\nbenchmark: {max_seconds: 60}\n")
    with on_a_terminal("run", "--spec", str(spec), folder=folder, env=environment) as (pid, terminal):
        seen = read_until(terminal, "/report")
        time.sleep(0.5)
        os.kill(pid, signal.SIGINT)
        seen += read_until(terminal, "Cancel the job")
        os.write(terminal, f"{answer}\n".encode())
        seen += read_until(terminal, "never said")
        code = exit_code(pid)

    job = seen.partition("job ")[2][:30]
    found = service.http.get(f"/v1/jobs/{job}").json()["state"]
    service.http.post(f"/v1/jobs/{job}/cancel")
    assert code == 130, seen
    assert (found == "canceled") == (state == "canceled"), found
