"""The plan: what comes next from what is done, on every path, and never twice."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import plan
from app.domain.plan import Decision, Fail, Start, Succeed, View, Wait, next_steps

READY = {"ver_1": "ready", "dst_1": "ready"}
PREPARED = {("prepare", "job"): "done"}
BUILT = PREPARED | {("build", "a"): "done", ("build", "b"): "failed"}
MEASURED = BUILT | {("benchmark", "job"): "done"}


def view(
    inputs: dict[str, str] | None = None,
    candidates: dict[str, str] | None = None,
    steps: dict[tuple[str, str], str] | None = None,
) -> View:
    return View("job", READY if inputs is None else inputs, candidates or {}, steps or {})


CASES: dict[str, tuple[View, Decision]] = {
    "a version is being inspected": (view({"ver_1": "inspecting"}), Wait()),
    "a dataset is being inspected": (view(READY | {"dst_1": "inspecting"}), Wait()),
    "a version was rejected": (view({"ver_1": "rejected"}), Fail("input_rejected", "ver_1")),
    "one rejected, one under way": (
        view({"dst_1": "inspecting", "ver_1": "rejected"}),
        Fail("input_rejected", "ver_1"),
    ),
    "everything is there": (view(), Start("preparing", (("prepare", "job"),))),
    "it is being prepared": (view(steps={("prepare", "job"): "running"}), Wait()),
    "preparing failed": (view(steps={("prepare", "job"): "failed"}), Fail("step_failed", "job")),
    "it is prepared": (
        view(candidates={"a": "planned", "b": "planned"}, steps=PREPARED),
        Start("building", (("build", "a"), ("build", "b"))),
    ),
    "one build is not queued yet": (
        view(candidates={"a": "building", "b": "planned"}, steps=PREPARED | {("build", "a"): "running"}),
        Start("building", (("build", "b"),)),
    ),
    "builds are under way": (
        view(
            candidates={"a": "built", "b": "building"},
            steps=PREPARED | {("build", "a"): "done", ("build", "b"): "running"},
        ),
        Wait(),
    ),
    "one build failed, one is queued": (
        view(
            candidates={"a": "failed", "b": "planned"},
            steps=PREPARED | {("build", "a"): "failed", ("build", "b"): "queued"},
        ),
        Wait(),
    ),
    "every build failed": (
        view(
            candidates={"a": "failed", "b": "failed"},
            steps=PREPARED | {("build", "a"): "failed", ("build", "b"): "failed"},
        ),
        Fail("no_candidate", "job"),
    ),
    "one build of two failed": (
        view(candidates={"a": "built", "b": "failed"}, steps=BUILT),
        Start("benchmarking", (("benchmark", "job"),)),
    ),
    "it is being measured": (
        view(candidates={"a": "built", "b": "failed"}, steps=BUILT | {("benchmark", "job"): "queued"}),
        Wait(),
    ),
    "the benchmark failed": (
        view(candidates={"a": "built", "b": "failed"}, steps=BUILT | {("benchmark", "job"): "failed"}),
        Fail("step_failed", "job"),
    ),
    "it is measured": (
        view(candidates={"a": "measured", "b": "failed"}, steps=MEASURED),
        Start("reporting", (("report", "job"),)),
    ),
    "it is being reported": (
        view(candidates={"a": "measured", "b": "failed"}, steps=MEASURED | {("report", "job"): "running"}),
        Wait(),
    ),
    "everything is done": (
        view(candidates={"a": "measured", "b": "failed"}, steps=MEASURED | {("report", "job"): "done"}),
        Succeed(),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_comes_next(case: str) -> None:
    seen, decision = CASES[case]

    assert next_steps(seen) == decision


@dataclass
class Run:
    """A job that is run by the plan: an independent, naive bookkeeping of what was started."""

    candidates: dict[str, str]
    inputs: dict[str, str]
    steps: dict[tuple[str, str], str] = field(default_factory=dict)
    phases: list[str] = field(default_factory=list)

    def decide(self) -> Decision:
        planned = self.candidates if ("prepare", "job") in self.steps else {}
        decision = next_steps(View("job", self.inputs, planned, self.steps))
        if isinstance(decision, Start):
            assert decision.steps
            assert not set(decision.steps) & set(self.steps), "a step is started twice"
            self.steps |= dict.fromkeys(decision.steps, "queued")
            self.phases.append(decision.phase)
        return decision

    def end(self, step: tuple[str, str], state: str) -> None:
        self.steps[step] = state
        kind, subject = step
        if kind == "build":
            self.candidates[subject] = "built" if state == "done" else "failed"
        if step == ("benchmark", "job") and state == "done":
            built = [c for c, found in self.candidates.items() if found == "built"]
            self.candidates |= dict.fromkeys(built, "measured")


@given(st.integers(1, 5), st.data())
def test_no_step_is_started_twice_and_every_job_ends_when_its_steps_do(
    count: int, data: st.DataObject
) -> None:
    run = Run({str(i): "planned" for i in range(count)}, {"ver_1": "inspecting", "dst_1": "inspecting"})
    assert run.decide() == Wait()
    for upload in data.draw(st.permutations(list(run.inputs))):
        run.inputs[upload] = data.draw(st.sampled_from(["ready", "ready", "ready", "rejected"]))
        decision = run.decide()
    while not isinstance(decision, Succeed | Fail):
        under_way = [step for step, state in run.steps.items() if state == "queued"]
        assert under_way, "nothing is under way and the job did not end"
        ended = data.draw(st.sampled_from(under_way))
        run.end(ended, data.draw(st.sampled_from(["done", "done", "done", "failed"])))
        decision = run.decide()
        decision = run.decide() if isinstance(decision, Start) else decision

    assert len(run.steps) <= 3 + count
    assert run.phases == ["preparing", "building", "benchmarking", "reporting"][: len(run.phases)]
    if isinstance(decision, Succeed):
        assert "measured" in run.candidates.values()
        assert [s for (kind, _), s in run.steps.items() if kind != "build"] == ["done"] * 3


def test_progress_grows_from_nothing_to_one() -> None:
    shares: list[dict[str, float]] = [
        {},
        {"prepare": 0.5},
        {"prepare": 1.0},
        {"prepare": 1.0, "build": 0.5},
        {"prepare": 1.0, "build": 1.0, "benchmark": 0.3},
        {"prepare": 1.0, "build": 1.0, "benchmark": 1.0, "report": 1.0},
    ]

    found = [plan.progress(steps) for steps in shares]

    assert found == sorted(set(found))
    assert (found[0], found[-1]) == (0.0, 1.0)


def test_inspections_do_not_count_as_progress() -> None:
    assert plan.progress({"inspect_version": 1.0}) == 0.0
