"""Whether a dataset fits a version, and how small a drop it can decide: from what inspections found.

Arrays are bound to inputs as the engine does it; here only shapes, types and ranges are seen.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from app.domain import binding
from app.domain.dataset import RUNNING_TEXT, Preprocess, calibration_share
from app.domain.decidable import Decidable, decidable
from app.domain.errors import pointer
from app.domain.estimate import SHARES
from app.domain.gate import Gate, misfits
from app.domain.job import PERPLEXITY
from app.domain.report import ArrayInfo, DatasetSummary, Examination, TensorInfo

RAW_PIXELS = 32.0  # a float image beyond this was not scaled
Level = Literal["error", "warning", "info"]


@dataclass(frozen=True)
class Finding:
    """One thing to know; an `error` would fail a job. `pointer` says what it is about."""

    level: Level
    pointer: str
    detail: str


@dataclass(frozen=True)
class Fit:
    """It fits when no finding is an error. `decidable` is null where nothing is right or wrong."""

    fits: bool
    findings: tuple[Finding, ...]
    decidable: Decidable | None


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of a dataset."""

    gate: Gate | None = None
    metric: str = "auto"
    input: str | None = None
    candidates: int = 1


def check(
    examination: Examination, summary: DatasetSummary, preprocess: Preprocess, question: Question
) -> Fit:
    """Hold a dataset against a version, without opening either."""
    findings = [
        *_inputs(examination, summary, preprocess, question.input),
        *_values(summary),
        *_labels(examination, summary, question.metric),
        *_samples(summary),
        *_misfits(question),
    ]
    decided = _decidable(summary, question)
    if decided:
        findings += _limits_out_of_reach(decided)
    fits = not any(finding.level == "error" for finding in findings)
    return Fit(fits, tuple(findings), decided)


def _misfits(question: Question) -> Iterator[Finding]:
    """Limits that no job takes."""
    for wrong in misfits(question.gate, question.metric) if question.gate else ():
        yield Finding("error", wrong.pointer, wrong.detail)


def _inputs(
    examination: Examination, summary: DatasetSummary, preprocess: Preprocess, image_input: str | None
) -> Iterator[Finding]:
    names = [item.name for item in examination.inputs]
    if image_input is not None and image_input not in names:
        detail = f"the model has no input {image_input!r}; its inputs are {', '.join(names)}"
        yield Finding("error", "/input", detail)
        return
    if summary.format in {"text", RUNNING_TEXT}:
        yield Finding("info", "/inputs", "whether the tokenizer suits the model is seen when a job runs")
        return
    arrays = {array.name: _as_decoded(array, summary.format) for array in summary.arrays}
    by_place = summary.format in binding.BY_PLACE
    sources = binding.sources(names, list(arrays), image_input, by_place=by_place)
    fed = {item: arrays[sources[item.name]] for item in examination.inputs if item.name in sources}
    for item, array in fed.items():
        yield from _input(item, array, preprocess)
        yield from _ids(item, array, examination.vocabularies.get(item.name))
    yield from _batches(fed)
    yield from (_unfed(item, arrays) for item in examination.inputs if item not in fed)
    unused = [name for name in arrays if name not in sources.values()]
    if unused and not set(names) - set(sources):
        yield Finding("warning", "/inputs", f"no input takes {', '.join(unused)}")


def _as_decoded(array: ArrayInfo, kind: str) -> ArrayInfo:
    """Images are uint8 until scale, mean and std are applied."""
    return replace(array, dtype="uint8") if kind == "images" else array


def _unfed(item: TensorInfo, arrays: Mapping[str, ArrayInfo]) -> Finding:
    found = ", ".join(f"{a.name} {binding.described(a.dtype, a.shape)}" for a in arrays.values())
    wanted = binding.described(item.dtype, _axes(item))
    detail = f"expected {wanted}, found {found or 'no arrays'}; name each array after its input"
    return Finding("error", pointer("inputs", item.name), detail)


def _input(item: TensorInfo, array: ArrayInfo, preprocess: Preprocess) -> Iterator[Finding]:
    if item.dtype not in binding.FEEDABLE:
        detail = f"it takes {item.dtype}, which arrays cannot hold; no dataset can feed this model"
        yield Finding("error", pointer("inputs", item.name), detail)
        return
    arranged = binding.arrange(array.shape, array.dtype, _axes(item))
    converts = _converts(array, item.dtype, preprocess)
    if not (arranged and converts):
        detail = binding.expected(array.dtype, array.shape, item.dtype, _axes(item))
        yield Finding("error", pointer("inputs", item.name), detail)
    if not converts:
        return
    if binding.takes_preprocess(array.dtype, item.dtype):
        yield from _channels(array, arranged.shape if arranged else array.shape, preprocess)
    elif item.dtype in binding.FLOATS and len(array.shape) == binding.IMAGE_AXES:
        yield from _unscaled(item, array)


def _unscaled(item: TensorInfo, array: ArrayInfo) -> Iterator[Finding]:
    if (array.high or 0) > RAW_PIXELS:
        detail = f"{array.name} goes up to {array.high:g} and is fed so: only uint8 arrays take preprocess"
        yield Finding("warning", pointer("inputs", item.name), detail)


def _batches(fed: Mapping[TensorInfo, ArrayInfo]) -> Iterator[Finding]:
    arranged = {i: binding.arrange(a.shape, a.dtype, _axes(i)) for i, a in fed.items()}
    stacked = {item.name: _axes(item) for item, found in arranged.items() if found and found.stacked}
    sizes = binding.fixed_batches(stacked)
    if len(set(sizes.values())) > 1:
        detail = f"inputs differ in their fixed batch: {sizes}; give samples in the inputs' full shapes"
        yield Finding("error", "/inputs", detail)


def _ids(item: TensorInfo, array: ArrayInfo, rows: int | None) -> Iterator[Finding]:
    if rows is not None and array.high is not None and array.high >= rows:
        detail = (
            f"{array.name} holds the id {array.high:g}, but the model's table has the rows 0 to {rows - 1}"
        )
        yield Finding("error", pointer("inputs", item.name), detail)


def _axes(item: TensorInfo) -> binding.Axes:
    return tuple(size if isinstance(size, int) and size > 0 else None for size in item.shape)


def _converts(array: ArrayInfo, wanted: str, preprocess: Preprocess) -> bool:
    """Whether the values reach the input unchanged, but for scale, mean and std."""
    found = preprocess.dtype if binding.takes_preprocess(array.dtype, wanted) else array.dtype
    if not binding.converts(found, wanted) or wanted not in binding.INTEGERS:
        return binding.converts(found, wanted)
    low, high = _integer_range(wanted)
    return low <= (array.low or 0) and (array.high or 0) <= high


def _integer_range(dtype: str) -> tuple[int, int]:
    bits = int(dtype.lstrip("uint"))
    return (0, 2**bits - 1) if dtype.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _channels(array: ArrayInfo, shape: binding.Axes, preprocess: Preprocess) -> Iterator[Finding]:
    axis = max(len(shape) - binding.IMAGE_AXES, 0) if preprocess.layout == "NCHW" else len(shape) - 1
    channels = shape[axis] if shape else None
    for name, numbers in (("mean", preprocess.mean), ("std", preprocess.std)):
        if len(numbers) > 1 and channels is not None and len(numbers) != channels:
            layout = preprocess.layout
            detail = f"{name} has {len(numbers)} values, but {array.name} {channels} channels ({layout})"
            yield Finding("error", f"/preprocess/{name}", detail)


def _values(summary: DatasetSummary) -> Iterator[Finding]:
    for array in summary.arrays:
        where = pointer("arrays", array.name)
        if not array.finite:
            detail = f"{array.name} holds NaN or an infinity; a job refuses a model whose output is NaN"
            yield Finding("warning", where, detail)
        if array.low is not None and array.low == array.high and array.shape:
            yield Finding("warning", where, f"{array.name} is {array.low:g} everywhere")


def _labels(examination: Examination, summary: DatasetSummary, metric: str) -> Iterator[Finding]:
    if summary.streams:
        detail = f"samples of {summary.streams} streams are not independent; a run says what they decide"
        yield Finding("info", "/labels", detail)
    yield from _running_text(summary, metric)
    if summary.targets or summary.format == RUNNING_TEXT:
        return
    if not summary.labels:
        level: Level = "warning" if metric == "auto" else "error"
        yield Finding(
            level, "/labels", "there are no labels, so only fidelity to the float model is measured"
        )
        return
    if summary.labels < summary.samples:
        missing = summary.samples - summary.labels
        yield Finding("warning", "/labels", f"{missing} of {summary.samples} samples have no label")
    floats = [output for output in examination.outputs if output.dtype.startswith("float")]
    if len(floats) > 1:
        names = ", ".join(output.name for output in floats)
        yield Finding("info", "/labels", f"name one of the outputs {names} as evaluation.output in the job")
    elif floats and summary.label_range and metric in {"auto", *SHARES}:
        yield from _classes(_class_count(floats[0]), summary.label_range)


def _running_text(summary: DatasetSummary, metric: str) -> Iterator[Finding]:
    """Perplexity is of running text alone, and running text has no other metric."""
    is_running = summary.format == RUNNING_TEXT
    if is_running and metric not in {"auto", PERPLEXITY}:
        yield Finding(
            "error", "/metric", f"running text has no labels for {metric}; its metric is {PERPLEXITY}"
        )
    elif metric == PERPLEXITY and not is_running:
        detail = (
            f"{PERPLEXITY} needs running text: txt files, or a table of texts with preprocess.text.stride"
        )
        yield Finding("error", "/metric", detail)


def _classes(classes: int | None, labels: tuple[int, int]) -> Iterator[Finding]:
    low, high = labels
    if classes is not None and (low < 0 or high >= classes):
        detail = f"labels go from {low} to {high}, but the model tells the classes 0 to {classes - 1} apart"
        yield Finding("error", "/labels", detail)
    elif low == high:
        yield Finding("warning", "/labels", f"every label is {low}, so accuracy says little")


def _class_count(output: TensorInfo) -> int | None:
    """How many classes an output scores; None when its shape does not say so."""
    sizes = [size for size in output.shape[1:] if size != 1]
    return sizes[0] if len(sizes) == 1 and isinstance(sizes[0], int) and sizes[0] > 1 else None


def _samples(summary: DatasetSummary) -> Iterator[Finding]:
    if summary.samples < 2:  # noqa: PLR2004 - one for each use
        detail = f"{summary.samples} sample cannot be split; give calibration and evaluation a dataset each"
        yield Finding("error", "/samples", detail)


def _decidable(summary: DatasetSummary, question: Question) -> Decidable | None:
    if not summary.labels or summary.targets or summary.streams:
        return None
    if question.metric not in {"auto", *SHARES}:
        return None
    left = summary.labels - calibration_share(summary.labels)
    return decidable(max(left, 1), question.candidates, question.gate)


def _limits_out_of_reach(decided: Decidable) -> Iterator[Finding]:
    for limit in decided.limits:
        least = limit.needed[0]
        if not least.enough:
            detail = (
                f"{decided.samples} samples cannot decide {limit.limit:g}; "
                f"{least.samples} would, if {least.flip_rate:.0%} of them flip"
            )
            yield Finding("warning", f"/gate/{limit.name}", detail)
