"""Report and verdict as Markdown, fit for a pull request."""

from collections.abc import Sequence

from app.api.schemas import CandidateRead, JobRead, ReportRead, VerdictRead
from app.domain.gate import Check

MIB = 1024 * 1024
SIGNS = {"pass": "✅", "fail": "❌", "inconclusive": "⚠️", "none": "ℹ️"}
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
LIMITS = {
    "max_accuracy_drop": "accuracy drop ≤",
    "min_speedup": "speed-up ≥",
    "max_size_ratio": "size ratio ≤",
    "min_sqnr_db": "SQNR in dB ≥",
}


def report(document: ReportRead) -> str:
    """The verdict, the table of candidates, and what to know about them."""
    parts = [
        verdict(document.verdict, document.candidates),
        _table(document.job, document.candidates),
        _notes(document.job, document.candidates),
        _environment(document.job),
    ]
    return "\n".join(part for part in parts if part)


def verdict(answer: VerdictRead, candidates: Sequence[CandidateRead]) -> str:
    """One sentence, and the checks behind it."""
    names = {c.id: c.name for c in candidates}
    lines = [f"### {SIGNS[answer.conclusion]} {sentence(answer, candidates)}", ""]
    if answer.checks:
        lines += ["| candidate | limit | measured | bound | |", "|---|---|---:|---:|---|"]
        lines += [_check(check, names) for check in answer.checks]
        lines += [""]
    return "\n".join(lines)


def sentence(answer: VerdictRead, candidates: Sequence[CandidateRead]) -> str:
    """The verdict for someone in a hurry."""
    best = next((c for c in candidates if c.id == answer.best), None)
    what = _summary(best) if best else "no candidate was measured"
    match answer.conclusion:
        case "pass":
            return f"Gate passed: {what}."
        case "fail":
            return f"Gate failed: no candidate keeps to every limit; the best is {what}."
        case "inconclusive":
            return f"Gate undecided: what was measured cannot tell; the best is {what}."
        case _:
            return f"Best candidate: {what}."


def _summary(c: CandidateRead) -> str:
    words = [_escape(c.name)]
    if c.latency:
        low, high = c.latency.ci
        words.append(f"{c.latency.speedup:.2f}× as fast (95 % CI {low:.2f}–{high:.2f})")
    if c.accuracy:
        low, high = (100 * value for value in c.accuracy.ci)
        words.append(f"{c.accuracy.metric} drop {100 * c.accuracy.drop:+.2f} pt ({low:+.2f}…{high:+.2f})")
    if c.size:
        words.append(f"{100 * c.size.ratio:.0f} % of the size")
    return ", ".join(words)


def _check(check: Check, names: dict[str, str]) -> str:
    value = "–" if check.value is None else f"{check.value:.4g}"
    bound = "–" if check.bound is None else f"{check.bound:.4g}"
    more = f", about {check.samples_needed} samples would decide" if check.samples_needed else ""
    more += f", {_escape(check.reason)}" if check.reason else ""
    name = _escape(names.get(check.candidate, check.candidate))
    sign = SIGNS[check.conclusion]
    limit = f"{LIMITS[check.name]} {check.limit:g}"
    return f"| {name} | {limit} | {value} | {bound} | {sign} {check.conclusion}{more} |"


def _table(job: JobRead, candidates: Sequence[CandidateRead]) -> str:
    rows = [job.baseline] if job.baseline else []
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" + "|---:" * (len(COLUMNS) - 1) + "|"]
    return "\n".join([*lines, *(_row(c) for c in [*rows, *candidates]), ""])


def _row(c: CandidateRead) -> str:
    cells = [_escape(c.name), *_quality(c), *_cost(c)]
    if c.error:
        cells[0] += f" ({_escape(c.error.code)})"
    return f"| {' | '.join(cells)} |"


def _quality(c: CandidateRead) -> list[str]:
    size = f"{c.size.bytes / MIB:.2f} MiB ({100 * c.size.ratio:.0f} %)" if c.size else "–"
    accuracy = drop = "–"
    if c.accuracy:
        accuracy = f"{100 * c.accuracy.value:.2f} %"
        low, high = (100 * value for value in c.accuracy.ci)
        drop = f"{100 * c.accuracy.drop:+.2f} ({low:+.2f}…{high:+.2f}) pt"
    sqnr = f"{c.fidelity.sqnr_db:.1f} dB" if c.fidelity else "–"
    return [size, accuracy, "–" if c.recipe is None else drop, sqnr]


def _cost(c: CandidateRead) -> list[str]:
    p50 = speedup = load = "–"
    if c.latency:
        low, high = c.latency.ci
        p50, load = f"{c.latency.p50_ms:.2f} ms", f"{c.latency.load_ms:.0f} ms"
        speedup = f"{c.latency.speedup:.2f} ({low:.2f}–{high:.2f})"
    memory = f"{c.memory.model_bytes / MIB:.0f} MiB" if c.memory else "–"
    return [p50, speedup, load, memory]


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
    """Text from uploads must not become markup or break a table."""
    for character in "\\|`*_[]":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.replace("<", "&lt;").replace(">", "&gt;").split())
