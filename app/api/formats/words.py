"""Figures in words, the same in every format that people read."""

from collections.abc import Sequence

from app.api.schemas.candidates import CandidateRead
from app.api.schemas.jobs import VerdictRead
from app.domain.estimate import UP_TO_1
from app.domain.gate import Check
from app.domain.report import Accuracy, Latency, Memory, Obstacle, Size

MIB = 1024 * 1024
THOUSANDS = 999.5
NONE = "–"
SIGNS = {"pass": "✅", "fail": "❌", "inconclusive": "⚠️", "none": "ℹ️"}
HEADLINES = {"pass": "Passed", "fail": "Failed", "inconclusive": "Undecided", "none": "No gate"}
LIMITS = {
    "max_accuracy_drop": "accuracy drop ≤",
    "max_relative_drop": "relative drop ≤",
    "min_speedup": "speed-up ≥",
    "max_latency_ms": "latency in ms ≤",
    "max_size_ratio": "size ratio ≤",
    "max_size_bytes": "bytes on disk ≤",
    "max_memory_ratio": "memory ratio ≤",
    "max_memory_bytes": "bytes in memory ≤",
    "min_sqnr_db": "SQNR in dB ≥",
}


def sentence(answer: VerdictRead, candidates: Sequence[CandidateRead]) -> str:
    """The verdict for someone in a hurry."""
    best = next((c for c in candidates if c.id == answer.best), None)
    what = summary(best) if best else "no candidate was measured"
    match answer.conclusion:
        case "pass":
            return f"Gate passed: {what}."
        case "fail":
            return f"Gate failed: no candidate keeps to every limit; the best is {what}."
        case "inconclusive":
            return f"Gate undecided: what was measured cannot tell; the best is {what}."
        case _:
            return f"Best candidate: {what}."


def summary(c: CandidateRead) -> str:
    """A candidate in one line."""
    words = [c.name]
    if c.latency:
        low, high = c.latency.ci
        words.append(f"{c.latency.speedup:.2f}× as fast (95 % CI {low:.2f}–{high:.2f})")
    if c.accuracy:
        words.append(f"{c.accuracy.metric} drop {drop(c.accuracy)}")
    if c.size:
        words.append(f"{100 * c.size.ratio:.0f} % of the size")
    return ", ".join(words)


def value(accuracy: Accuracy | None) -> str:
    """A metric's value in its own units."""
    if accuracy is None:
        return NONE
    return f"{100 * accuracy.value:.2f} %" if accuracy.metric in UP_TO_1 else f"{accuracy.value:.4g}"


def drop(accuracy: Accuracy | None) -> str:
    """What was lost, with its interval; above 0 is worse."""
    if accuracy is None:
        return NONE
    low, high = accuracy.ci
    if accuracy.metric in UP_TO_1:
        return f"{100 * accuracy.drop:+.2f} pt ({100 * low:+.2f}…{100 * high:+.2f})"
    return f"{accuracy.drop:+.4g} ({low:+.4g}…{high:+.4g})"


def speedup(latency: Latency | None) -> str:
    """How many times as fast, with its interval."""
    return f"{latency.speedup:.2f} ({latency.ci[0]:.2f}–{latency.ci[1]:.2f})" if latency else NONE


def p50(latency: Latency | None) -> str:
    """The median run."""
    return f"{latency.p50_ms:.2f} ms" if latency else NONE


def load(latency: Latency | None) -> str:
    """How long a session takes to open."""
    return f"{latency.load_ms:.0f} ms" if latency else NONE


def size(found: Size | None) -> str:
    """Bytes on disk, and their share of the upload's."""
    return f"{found.bytes / MIB:.2f} MiB ({100 * found.ratio:.0f} %)" if found else NONE


def memory(found: Memory | None) -> str:
    """What the loaded model needs beside the runtime."""
    return f"{found.model_bytes / MIB:.0f} MiB" if found else NONE


def sqnr(c: CandidateRead) -> str:
    """How close the outputs stay to the float model's."""
    return f"{c.fidelity.sqnr_db:.1f} dB" if c.fidelity else NONE


def kernels(c: CandidateRead) -> str:
    """How many nodes run in integer kernels."""
    return f"{c.kernels.integer} of {c.kernels.integer + c.kernels.float}" if c.kernels else NONE


def tensorrt(c: CandidateRead) -> str:
    """Whether TensorRT takes a candidate by its rules, and what would."""
    found = c.runs_elsewhere.tensorrt if c.runs_elsewhere else None
    if found is None:
        return NONE
    if found.loads == "yes":
        return f"yes, by the rules of {found.rules}, which was not run"
    return "no: " + "; ".join(map(_obstacle, found.obstacles))


def openvino(c: CandidateRead) -> str:
    """Whether OpenVINO runs a candidate, how close it stays, and how quick it is beside ONNX Runtime."""
    found = c.runs_elsewhere.openvino if c.runs_elsewhere else None
    if found is None:
        return NONE
    if found.loads != "yes":
        return f"no: {found.reason}" if found.loads == "no" else str(found.reason)
    close = f", {found.fidelity.sqnr_db:.1f} dB" if found.fidelity else ""
    ours = f" (ONNX Runtime {found.onnxruntime.sqnr_db:.1f} dB)" if found.onnxruntime else ""
    quick = f", {speedup(found.latency)} times as fast as ONNX Runtime" if found.latency else ""
    return f"yes{close}{ours}{quick}" + (f"; {found.reason}" if found.reason else "")


def _obstacle(found: Obstacle) -> str:
    mend = f", mended by {found.mend}" if found.mend else ""
    return f"{found.reason} ({found.count}{mend})"


def limit(check: Check) -> str:
    """What a check asks for."""
    return f"{LIMITS[check.name]} {_plain(check.limit, 6)}"


def number(found: float | None) -> str:
    """A figure that may be missing."""
    return NONE if found is None else _plain(found, 4)


def _plain(found: float, digits: int) -> str:
    """Thousands in full, as bytes are; what is smaller to so many digits."""
    return f"{found:,.0f}" if abs(found) >= THOUSANDS else f"{found:.{digits}g}"


def remark(check: Check) -> str:
    """What to know about a check beyond its figures; empty when there is nothing."""
    more = [f"about {check.samples_needed} samples would decide"] if check.samples_needed else []
    more += [check.reason] if check.reason else []
    more += [f"against {check.against}"] if check.against else []
    return ", ".join(more)
