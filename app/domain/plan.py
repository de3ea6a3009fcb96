"""What a job needs next, given what is done. Pure: no clock, no database."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class View:
    """A job as the plan sees it: states by id, and steps by (kind, subject)."""

    job: str
    inputs: Mapping[str, str]
    candidates: Mapping[str, str]
    steps: Mapping[tuple[str, str], str]


@dataclass(frozen=True)
class Start:
    """Insert these steps (kind, subject); the job is in this phase now."""

    phase: str
    steps: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Wait:
    """Something is under way; nothing to do."""


@dataclass(frozen=True)
class Succeed:
    """Everything is done."""


@dataclass(frozen=True)
class Fail:
    """The job cannot go on; `subject` is what failed."""

    code: str
    subject: str


Decision = Start | Wait | Succeed | Fail
SEQUENCE = (("benchmark", "benchmarking"), ("report", "reporting"))


def next_steps(view: View) -> Decision:
    """Inspect inputs → prepare → build each candidate → benchmark → report."""
    if decision := _inputs(view) or _failed_step(view):
        return decision
    if decision := _single(view, "prepare", "preparing") or _builds(view):
        return decision
    for kind, phase in SEQUENCE:
        if decision := _single(view, kind, phase):
            return decision
    return Succeed()


def _inputs(view: View) -> Decision | None:
    for subject, state in view.inputs.items():
        if state == "rejected":
            return Fail("input_rejected", subject)
    return Wait() if "inspecting" in view.inputs.values() else None


def _failed_step(view: View) -> Decision | None:
    """A failed build fails its candidate alone; any other failed step fails the job."""
    for (kind, subject), state in view.steps.items():
        if state == "failed" and kind != "build":
            return Fail("step_failed", subject)
    return None


def _single(view: View, kind: str, phase: str) -> Decision | None:
    """Start the job's one step of this kind, or wait for it; None once it is done."""
    match view.steps.get((kind, view.job)):
        case None:
            return Start(phase, ((kind, view.job),))
        case "done":
            return None
        case _:
            return Wait()


def _builds(view: View) -> Decision | None:
    missing = tuple(("build", c) for c in view.candidates if ("build", c) not in view.steps)
    if missing:
        return Start("building", missing)
    if any(state in {"planned", "building"} for state in view.candidates.values()):
        return Wait()
    if not any(state in {"built", "measured"} for state in view.candidates.values()):
        return Fail("no_candidate", view.job)
    return None


WEIGHTS = {"preparing": 0.2, "building": 0.3, "benchmarking": 0.45, "reporting": 0.05}
KIND_PHASE = {
    "prepare": "preparing",
    "build": "building",
    "benchmark": "benchmarking",
    "report": "reporting",
}


def progress(steps: Mapping[str, float]) -> float:
    """How far a running job is, 0 to 1, from the mean progress of each kind of step."""
    return round(sum(WEIGHTS[phase] * steps.get(kind, 0.0) for kind, phase in KIND_PHASE.items()), 3)
