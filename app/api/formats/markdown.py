"""Report and verdict as Markdown, fit for a pull request."""

from collections.abc import Sequence

from app.api.formats import words
from app.api.schemas.candidates import CandidateRead
from app.api.schemas.jobs import JobRead, ReportRead, VerdictRead
from app.domain.flips import Answer, Compared
from app.domain.gate import Check

MEDIA_TYPE = "text/markdown; charset=utf-8"
COLUMNS = (
    "candidate",
    "size",
    "accuracy",
    "drop (95 % CI)",
    "SQNR",
    "p50",
    "speed-up (95 % CI)",
    "load",
    "memory",
)


def report(document: ReportRead) -> str:
    """The verdict, the table of candidates, and what to know about them."""
    parts = [
        verdict(document.verdict, document.candidates),
        _table(document.job, document.candidates),
        _predictions(document),
        _elsewhere(document),
        _notes(document.job, document.candidates),
        _environment(document.job),
    ]
    return "\n".join(part for part in parts if part)


def verdict(answer: VerdictRead, candidates: Sequence[CandidateRead]) -> str:
    """One sentence, and the checks behind it."""
    names = {c.id: c.name for c in candidates}
    sign = words.SIGNS[answer.conclusion]
    lines = [f"### {sign} {_escape(words.sentence(answer, candidates))}", ""]
    if answer.checks:
        lines += ["| candidate | limit | measured | bound | |", "|---|---|---:|---:|---|"]
        lines += [_check(check, names) for check in answer.checks]
        lines += [""]
    return "\n".join(lines)


def _check(check: Check, names: dict[str, str]) -> str:
    name = _escape(names.get(check.candidate, check.candidate))
    more = f", {_escape(words.remark(check))}" if words.remark(check) else ""
    conclusion = f"{words.SIGNS[check.conclusion]} {check.conclusion}{more}"
    figures = f"{words.number(check.value)} | {words.number(check.bound)}"
    return f"| {name} | {words.limit(check)} | {figures} | {conclusion} |"


def _table(job: JobRead, candidates: Sequence[CandidateRead]) -> str:
    rows = [job.baseline] if job.baseline else []
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" + "|---:" * (len(COLUMNS) - 1) + "|"]
    return "\n".join([*lines, *(_row(c) for c in [*rows, *candidates]), ""])


def _row(c: CandidateRead) -> str:
    name = f"{_escape(c.name)} ({_escape(c.error.code)})" if c.error else _escape(c.name)
    cells = [
        name,
        words.size(c.size),
        words.value(c.accuracy),
        words.NONE if c.recipe is None else words.drop(c.accuracy),
        words.sqnr(c),
        words.p50(c.latency),
        words.speedup(c.latency),
        words.load(c.latency),
        words.memory(c.memory),
    ]
    return f"| {' | '.join(cells)} |"


def _predictions(document: ReportRead) -> str:
    """The best candidate's first answers beside the float model's, where answers are classes."""
    best = next((c for c in document.candidates if c.id == document.verdict.best), None)
    shown = [one for one in best.predictions if one.baseline] if best else []
    if not (best and shown):
        return ""
    lines = ["| sample | label | float | candidate |", "|---|---|---|---|"]
    lines += [_prediction(one) for one in shown]
    title = f"Predictions of {_escape(best.name)} beside the float model's"
    return "\n".join([f"<details><summary>{title}</summary>", "", *lines, "", "</details>", ""])


def _elsewhere(document: ReportRead) -> str:
    """Which other runtimes take the candidates, and how to run the best one."""
    shown = [c for c in document.candidates if c.runs_elsewhere]
    if not shown:
        return ""
    lines = [
        f"- **{_escape(c.name)}**: {runtime}: {_escape(said)}"
        for c in shown
        for runtime, said in (("TensorRT", words.tensorrt(c)), ("OpenVINO", words.openvino(c)))
    ]
    best = next((c for c in shown if c.id == document.verdict.best), None)
    code = ["", f"```python\n{best.snippet}```"] if best and best.snippet else []
    title = "<details><summary>Runs elsewhere</summary>"
    return "\n".join([title, "", *lines, *code, "", "</details>", ""])


def _prediction(one: Compared) -> str:
    sample = str(one.index) if one.name is None else one.name
    label = words.NONE if one.label is None else one.label_name or str(one.label)
    cells = [sample, label, _class(one.baseline), _class(one.candidate)]
    return f"| {' | '.join(_escape(cell) for cell in cells)} |"


def _class(answer: Answer | None) -> str:
    return words.NONE if answer is None else answer.name or str(answer.label)


def _notes(job: JobRead, candidates: Sequence[CandidateRead]) -> str:
    lines = [f"- {_escape(note)}" for note in job.notes]
    lines += [f"- **{_escape(c.name)}**: {_escape(c.error.detail)}" for c in candidates if c.error]
    lines += [f"- **{_escape(c.name)}**: {_escape(note)}" for c in candidates for note in c.notes]
    if not lines:
        return ""
    return "\n".join(["<details><summary>Notes</summary>", "", *lines, "", "</details>", ""])


def _environment(job: JobRead) -> str:
    if not job.environment:
        return ""
    e, threads = job.environment, job.spec.benchmark.threads
    where = f"{e['cpu']} ({e['isa']}), {threads} thread{'s' if threads > 1 else ''}"
    return f"<sub>{_escape(where)}, ONNX Runtime {e['onnxruntime']}; job {job.id}</sub>\n"


def _escape(text: str) -> str:
    """Text from uploads must not become markup, a link, a mention, or break a table."""
    for character in "\\|`*_[]~#":
        text = text.replace(character, f"\\{character}")
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return " ".join(text.replace("@", "@\u200b").replace("://", ":\u200b//").split())
