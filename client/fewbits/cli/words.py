"""Figures in words, for terminals and pipelines."""

from collections.abc import Sequence
from datetime import datetime

from fewbits.answers import Accuracy, Candidate, Check, Latency, Size, Verdict

NONE = "–"
MIB = 1024 * 1024
FIGURES = ("accuracy", "fidelity", "latency")
UP_TO_1 = frozenset({"top1", "top5", "f1", "miou", "map", "map50"})
HEADLINES = {
    "pass": "Gate passed",
    "fail": "Gate failed",
    "inconclusive": "Gate undecided",
    "none": "No gate",
}


def headline(verdict: Verdict, candidates: Sequence[Candidate]) -> str:
    """The verdict for somebody in a hurry."""
    best = next((c for c in candidates if c.id == verdict.best), None)
    what = f"the best is {summary(best)}" if best else "no candidate was measured"
    return f"{HEADLINES.get(verdict.conclusion, verdict.conclusion)}: {what}."


def summary(candidate: Candidate) -> str:
    """A candidate in one line."""
    latency, accuracy, size = candidate.latency, candidate.accuracy, candidate.size
    parts = [candidate.name]
    parts += [f"{speedup(latency)} as fast"] if latency else []
    parts += [f"{accuracy.metric} drop {drop(accuracy)}"] if accuracy else []
    parts += [f"{size.ratio:.0%} of the size"] if size else []
    return ", ".join(parts)


def missing(candidates: Sequence[Candidate]) -> dict[str, list[str]]:
    """Why figures are missing, each reason with the candidates that it is about."""
    found: dict[str, list[str]] = {}
    for candidate in candidates:
        gone = [f"{name}: " for name in FIGURES if getattr(candidate, name) is None]
        for note in candidate.notes:
            if note.startswith(tuple(gone)):
                found.setdefault(note, []).append(candidate.name)
    return found


def check(found: Check, candidates: Sequence[Candidate]) -> str:
    """One limit, what was measured, and what would decide it."""
    name = next((c.name for c in candidates if c.id == found.candidate), found.candidate)
    more = [found.reason] if found.reason else []
    more += [f"about {found.samples_needed} samples would decide"] if found.samples_needed else []
    measured = f"measured {number(found.value)}, bound {number(found.bound)}"
    tail = f" ({', '.join(more)})" if more else ""
    return f"{found.conclusion}: {name}: {found.name} {number(found.limit)}, {measured}{tail}"


def drop(accuracy: Accuracy | None) -> str:
    """What was lost, with its 95 % interval; above 0 is worse."""
    if accuracy is None:
        return NONE
    low, high = accuracy.ci
    if accuracy.metric in UP_TO_1:
        return f"{100 * accuracy.drop:+.2f} pt ({100 * low:+.2f}…{100 * high:+.2f})"
    return f"{accuracy.drop:+.4g} ({low:+.4g}…{high:+.4g})"


def speedup(latency: Latency | None) -> str:
    """How many times as fast, with its 95 % interval."""
    return f"{latency.speedup:.2f}× ({latency.ci[0]:.2f}–{latency.ci[1]:.2f})" if latency else NONE


def size(found: Size | None) -> str:
    """Bytes on disk, and their share of the upload's."""
    return f"{found.bytes / MIB:.2f} MiB ({found.ratio:.0%})" if found else NONE


def number(found: float | None) -> str:
    """A figure that may be missing."""
    return NONE if found is None else f"{found:.4g}"


def moment(found: datetime | None) -> str:
    """A time in this computer's zone."""
    return NONE if found is None else found.astimezone().strftime("%Y-%m-%d %H:%M")


def amount(count: int) -> str:
    """Bytes in a unit that people read."""
    return f"{count / MIB:.1f} MiB" if count >= MIB else f"{count / 1024:.1f} KiB"
