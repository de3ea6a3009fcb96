"""What every reader offers: samples by index, decoded one at a time."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from app.domain.dataset import RUNNING_TEXT
from app.domain.report import ArrayInfo, DatasetSummary
from worker.engine.bounded import bounded

Array = NDArray[Any]
Sample = Mapping[str, Array]
MAX_SHOWN_CLASSES = 1000
SHOWN = 200  # characters of each
MAX_RANGED = 2000
ARRAYS = frozenset({"npz", "safetensors", "h5"})


class Targets(Protocol):
    """What an output should be, sample by sample; it may be read from a file each time."""

    def __getitem__(self, index: int, /) -> object:
        """One sample's numbers, an array of any shape."""
        ...


class Dataset(Protocol):
    """Samples of a dataset that stays on disk; `sample` decodes one of them anew each time."""

    @property
    def format(self) -> str:
        """`npz`, `safetensors`, `h5`, `images`, `text`, `running_text` or `pb`."""
        ...

    @property
    def labels(self) -> tuple[int | None, ...] | None:
        """The class of each sample; None as a whole when there are no labels."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, or the distinct labels as text."""
        ...

    @property
    def targets(self) -> Targets | None:
        """Labels that are no classes: numbers, or an array for each sample; None without."""
        ...

    @property
    def groups(self) -> tuple[int, ...] | None:
        """Which stream, pair or passage each sample belongs to, from 0; None when each stands for itself."""
        ...

    @property
    def pairs(self) -> bool:
        """Whether groups are pairs of texts, scored together."""
        ...

    @property
    def padding(self) -> Mapping[str, int]:
        """The arrays that differ in length, and what fills them up to the longest of one run."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was left out or looks wrong."""
        ...

    def __len__(self) -> int:
        """How many samples there are."""
        ...

    def sample(self, index: int) -> dict[str, Array]:
        """The arrays of one sample, without a batch axis."""
        ...

    def content_hash(self, index: int) -> bytes:
        """16 bytes that are equal exactly when the content of two samples is; labels do not count."""
        ...

    def file_name(self, index: int, /) -> str | None:
        """The name of the sample's file; None when samples are no files."""
        ...

    def arrays(self) -> tuple[ArrayInfo, ...]:
        """Names, dtypes and per-sample shapes; reading it may decode samples, and so refuse broken ones."""
        ...


def summarize(dataset: Dataset) -> DatasetSummary:
    """What is in a dataset, for people.

    Raises:
        Refused: `description_too_large`.
    """
    arrays = _with_ranges(dataset) if dataset.format in ARRAYS else dataset.arrays()
    labels = dataset.labels
    counts = Counter(label for label in labels or () if label is not None)
    found = DatasetSummary(
        format=dataset.format,
        samples=len(blocks(dataset)) if dataset.pairs else len(dataset),
        arrays=arrays,
        labels=None if labels is None else sum(label is not None for label in labels),
        classes=tuple(name[:SHOWN] for name in dataset.classes[:MAX_SHOWN_CLASSES]),
        warnings=dataset.warnings,
        label_counts=dict(counts.most_common(MAX_SHOWN_CLASSES)),
        label_range=(min(counts), max(counts)) if counts else None,
        targets=_target_info(dataset),
        streams=_streams(dataset),
        columns=getattr(dataset, "columns", ()),
        tokens=getattr(dataset, "tokens", None),
    )
    return bounded(found)


def _streams(dataset: Dataset) -> int | None:
    is_text = dataset.pairs or dataset.format == RUNNING_TEXT
    return None if dataset.groups is None or is_text else len(set(dataset.groups))


def _target_info(dataset: Dataset) -> ArrayInfo | None:
    """The shape over up to 2,000 samples, spread over all; reading them finds what is broken."""
    targets = dataset.targets
    if targets is None:
        return None
    shapes = {np.asarray(targets[index]).shape for index in _spread(dataset)}
    return ArrayInfo("labels", str(np.asarray(targets[0]).dtype), common_shape(shapes))


def _spread(dataset: Dataset) -> range:
    return range(0, len(dataset), -(-len(dataset) // MAX_RANGED))


def blocks(dataset: Dataset) -> list[list[int]]:
    """The samples that must stay together, in order: streams, pairs, passages, or each sample alone."""
    if dataset.groups is None:
        return [[index] for index in range(len(dataset))]
    found: dict[int, list[int]] = {}
    for index, group in enumerate(dataset.groups):
        found.setdefault(group, []).append(index)
    return list(found.values())


def class_name(classes: Sequence[str], label: int) -> str | None:
    """The name of a class; None when the classes are numbers, or it is none of them."""
    return classes[label] if have_names(classes) and 0 <= label < len(classes) else None


def have_names(classes: Sequence[str]) -> bool:
    """Whether classes are told apart by more than numbers."""
    return not all(name.removeprefix("-").isdigit() for name in classes)


def _with_ranges(dataset: Dataset) -> tuple[ArrayInfo, ...]:
    """The arrays with the range of their values over up to 2,000 samples, spread over all."""
    seen: dict[str, list[tuple[float, float, bool]]] = {}
    for index in _spread(dataset):
        for name, array in dataset.sample(index).items():
            seen.setdefault(name, []).append(_range(array))
    return tuple(_ranged(info, seen[info.name]) for info in dataset.arrays())


def _range(array: Array) -> tuple[float, float, bool]:
    if array.dtype.kind not in "biuf" or not array.size:
        return math.inf, -math.inf, True
    usable = np.isfinite(array)
    finite = bool(usable.all())
    values = array if finite else array[usable]
    if not values.size:
        return math.inf, -math.inf, finite
    return float(values.min()), float(values.max()), finite


def _ranged(info: ArrayInfo, ranges: Sequence[tuple[float, float, bool]]) -> ArrayInfo:
    low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
    known = low <= high
    finite = all(r[2] for r in ranges)
    return replace(info, low=low if known else None, high=high if known else None, finite=finite)


def common_shape(shapes: set[tuple[int, ...]]) -> tuple[int | None, ...]:
    """One shape for all, null where they differ; shapes of several ranks have none in common."""
    if len({len(shape) for shape in shapes}) != 1:
        return ()
    axes = zip(*shapes, strict=True)
    return tuple(sizes[0] if len(set(sizes)) == 1 else None for sizes in axes)


def as_bytes(array: Array) -> bytes:
    """The array's dtype, shape and values in C order, for hashing."""
    return f"{array.dtype.str}{array.shape}".encode() + np.ascontiguousarray(array).tobytes()
