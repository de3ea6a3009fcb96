"""What a job came to, for whoever started it: an exit code, and the files that pipelines read."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from fewbits.answers import Candidate, Job, Verdict
from fewbits.calls import without_result
from fewbits.cli import terminal, words
from fewbits.cli.options import Outputs
from fewbits.client import Client
from fewbits.errors import FewbitsError, InvalidInput

PASSED, FAILED, INCONCLUSIVE = 0, 1, 3
COLUMNS = ("candidate", "state", "size", "drop (95 % CI)", "SQNR", "p50", "speed-up (95 % CI)")


@dataclass(frozen=True)
class Outcome:
    """How a command ends. `lines` are for people, `document` is the same as JSON."""

    code: int
    lines: tuple[str, ...]
    document: dict[str, Any]
    markdown: str
    junit: str
    candidates: tuple[Candidate, ...] = ()


def concluded(client: Client, job: Job) -> Outcome:
    """The outcome of a job that has ended.

    Raises:
        InvalidInput: It has not.
        JobFailed: It ended without a result.
        TimedOut: Its deadline passed.
    """
    if not job.ended:
        raise InvalidInput(f"{job.id} is {job.state}; follow it to its end: fewbits watch {job.id}")
    if job.state != "succeeded":
        raise without_result(job)
    result = client.result(job.id)
    code = exit_code(result.verdict)
    checks = [words.check(check, result.candidates) for check in result.verdict.checks]
    return Outcome(
        code,
        (*checks, words.headline(result.verdict, result.candidates)),
        {**result.raw, "error": None, "exit_code": code},
        client.document(job.id, "report", "md"),
        client.document(job.id, "verdict", "junit"),
        result.candidates,
    )


def exit_code(verdict: Verdict) -> int:
    """0 unless the gate blocks; `on_inconclusive: pass` lets what is undecided pass."""
    if not verdict.blocking:
        return PASSED
    return INCONCLUSIVE if verdict.conclusion == "inconclusive" else FAILED


def failed(error: FewbitsError, job: Job | None) -> Outcome:
    """The outcome when there is no result: pipelines get their files all the same."""
    document: dict[str, Any] = {
        "job": job.raw if job else None,
        "candidates": [],
        "verdict": None,
        "error": {"code": error.code, "detail": str(error)},
        "exit_code": error.exit_code,
    }
    markdown = f"### ❌ No result: {error.code}\n\n```\n{error}\n```\n"
    return Outcome(error.exit_code, (), document, markdown, _junit(error))


def deliver(outcome: Outcome, outputs: Outputs) -> int:
    """Print and write an outcome; returns its exit code.

    Raises:
        InvalidInput: A file cannot be written.
    """
    if outputs.json:
        terminal.document(outcome.document)
    elif outcome.lines:
        table(outcome.candidates)
        print("", *outcome.lines, sep="\n")  # noqa: T201 - the result
    _write(outputs.junit, outcome.junit)
    _write(outputs.markdown, outcome.markdown)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        _write(Path(summary), outcome.markdown, "a")
    return outcome.code


def table(candidates: Sequence[Candidate]) -> None:
    """Print what each candidate costs and wins, and why a figure is missing."""
    terminal.table(COLUMNS, [_row(candidate) for candidate in candidates], COLUMNS[2:])
    for reason, names in words.missing(candidates).items():
        print(f"{reason} ({', '.join(names)})")  # noqa: T201 - the result


def _row(candidate: Candidate) -> list[str]:
    state = f"{candidate.state} ({candidate.error.code})" if candidate.error else candidate.state
    fidelity, latency = candidate.fidelity, candidate.latency
    return [
        candidate.name,
        state,
        words.size(candidate.size),
        words.drop(candidate.accuracy),
        f"{fidelity.sqnr_db:.1f} dB" if fidelity else words.NONE,
        f"{latency.p50_ms:.2f} ms" if latency else words.NONE,
        words.speedup(latency),
    ]


def _junit(error: FewbitsError) -> str:
    suites = ET.Element("testsuites", name="fewbits", tests="1", failures="0", errors="1")
    suite = ET.SubElement(suites, "testsuite", name="fewbits gate", tests="1", errors="1")
    case = ET.SubElement(suite, "testcase", classname="gate", name="the job", time="0")
    found = ET.SubElement(case, "error", message=str(error), type=error.code)
    found.text = str(error)
    return ET.tostring(suites, encoding="unicode", xml_declaration=True)


def _write(path: Path | None, text: str, mode: str = "w") -> None:
    if path is None:
        return
    try:
        with path.open(mode, encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be written: {error.strerror}.") from error
