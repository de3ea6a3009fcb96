"""Samples in named arrays, whatever file they come from: axis 0 is samples, ragged ones are `name/000000`."""

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import EllipsisType
from typing import Any, Protocol

import numpy as np

from app.domain.errors import FieldError, Refused
from app.domain.report import ArrayInfo
from worker.engine.data.dataset import Array, Targets, as_bytes, common_shape
from worker.engine.data.labels import Truth, number_labels, truth_of

LABELS = "labels"
STREAM = "stream"
MAX_SAMPLES = 10_000_000  # arrays without values can claim any number
RAGGED = re.compile(r"(?P<name>.+)/\d{6}")
NUMERIC_KINDS = "biufc"


class Stored(Protocol):
    """An array that may lie in a file until parts of it are read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The size of each axis."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """What its values are."""
        ...

    def __getitem__(self, index: int | EllipsisType, /) -> object:
        """A part of it, read."""
        ...


@dataclass(frozen=True)
class Ragged:
    """One array for each sample, each of a shape of its own."""

    items: list[Stored]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int, /) -> Array:
        return np.asarray(self.items[index][...])


@dataclass(frozen=True)
class ArrayDataset:
    """Samples along axis 0 of some arrays, ragged samples as lists, constants as 0-d arrays."""

    stacked: Mapping[str, Stored]
    ragged: Mapping[str, Ragged]
    constants: dict[str, Array]
    labels: tuple[int | None, ...] | None
    classes: tuple[str, ...]
    samples: int
    targets: Targets | None = None
    groups: tuple[int, ...] | None = None
    format: str = "npz"
    warnings: tuple[str, ...] = ()
    pairs: bool = False

    def __len__(self) -> int:
        return self.samples

    @property
    def padding(self) -> dict[str, int]:
        """Nothing is filled up."""
        return {}

    def sample(self, index: int) -> dict[str, Array]:
        """The arrays of one sample, without a batch axis; constants are in every sample."""
        stacked = {name: np.asarray(array[index]) for name, array in self.stacked.items()}
        ragged = {name: items[index] for name, items in self.ragged.items()}
        return stacked | ragged | self.constants

    def content_hash(self, index: int) -> bytes:
        """16 bytes over names, dtypes, shapes and values."""
        digest = hashlib.blake2b(digest_size=16)
        for name, array in sorted(self.sample(index).items()):
            digest.update(name.encode() + b"\0" + as_bytes(array))
        return digest.digest()

    def file_name(self, _index: int) -> str | None:
        """None: arrays are no files."""
        return None

    def arrays(self) -> tuple[ArrayInfo, ...]:
        """Names, dtypes and the shapes of one sample."""
        stacked = [ArrayInfo(n, str(a.dtype), a.shape[1:]) for n, a in self.stacked.items()]
        ragged = [
            ArrayInfo(n, str(some.items[0].dtype), common_shape({a.shape for a in some.items}))
            for n, some in self.ragged.items()
        ]
        return (*stacked, *ragged, *(ArrayInfo(n, str(a.dtype), ()) for n, a in self.constants.items()))


def arrange(arrays: Mapping[str, Stored], kind: str) -> ArrayDataset:
    """Samples from arrays by name; `labels` holds labels, `stream` groups samples for stateful models.

    Args:
        arrays: numbers, but for `labels`, which may be names.
        kind: the format that they come from.

    Raises:
        Refused: `empty_dataset`, `too_many_samples`, `unequal_lengths`, `broken_array`, `unsupported_array`
            or `labels_not_finite`.
    """
    ragged = _ragged(arrays)
    whole = {name: array for name, array in arrays.items() if not RAGGED.fullmatch(name)}
    labels = whole.pop(LABELS) if LABELS in whole else ragged.pop(LABELS, None)
    streams = whole.pop(STREAM, None)
    constants = {name: np.asarray(array[...]) for name, array in whole.items() if not array.shape}
    stacked = {name: array for name, array in whole.items() if array.shape}
    samples = _count({n: a.shape[0] for n, a in stacked.items()} | {n: len(a) for n, a in ragged.items()})
    numbers, classes, targets = (None, (), None) if labels is None else _truth(labels, samples)
    groups = None if streams is None else _streams(np.asarray(streams[...]), samples)
    return ArrayDataset(stacked, ragged, constants, numbers, classes, samples, targets, groups, format=kind)


def _ragged(arrays: Mapping[str, Stored]) -> dict[str, Ragged]:
    found: dict[str, Ragged] = {}
    for key in sorted(arrays):
        if match := RAGGED.fullmatch(key):
            found.setdefault(match["name"], Ragged([])).items.append(arrays[key])
    return found


def _count(lengths: dict[str, int]) -> int:
    if not lengths or 0 in lengths.values():
        raise Refused(
            "empty_dataset", "The file holds no samples: axis 0 of an array is samples; send at least one."
        )
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        errors = tuple(FieldError(f"/arrays/{name}", f"{length} samples") for name, length in lengths.items())
        raise Refused("unequal_lengths", f"Arrays differ in samples along axis 0: {found}.", errors=errors)
    samples = next(iter(lengths.values()))
    if samples > MAX_SAMPLES:
        detail = f"The arrays hold {samples} samples; the limit is {MAX_SAMPLES}. Send fewer."
        raise Refused("too_many_samples", detail)
    return samples


def _streams(streams: Array, samples: int) -> tuple[int, ...]:
    """Streams numbered from 0 in the order of their first samples; a sample's place is its place in time."""
    if streams.shape != (samples,) or streams.dtype.kind not in "iu":
        detail = (
            f"stream is {streams.dtype} {list(streams.shape)}; it names each sample's stream: integers, "
            f"[{samples}]."
        )
        raise Refused("unequal_lengths", detail)
    numbers: dict[int, int] = {}
    return tuple(numbers.setdefault(int(stream), len(numbers)) for stream in streams)


def _truth(labels: Stored | Ragged, samples: int) -> Truth:
    shape = (len(labels),) if isinstance(labels, Ragged) else labels.shape
    if shape[:1] != (samples,):
        detail = f"labels has the shape {list(shape)}, but there are {samples} samples."
        raise Refused("unequal_lengths", detail)
    flat = _one_each(labels)
    if flat is not None and flat.dtype.kind in "US":
        return truth_of(_texts(flat), lambda index: f"Sample {index}")
    if flat is not None and _are_classes(flat):
        return (*number_labels([str(int(value)) for value in flat.real]), None)
    return None, (), _finite(labels, samples)


def _one_each(labels: Stored | Ragged) -> Array | None:
    """The labels, [samples], where each sample has a single one."""
    if isinstance(labels, Ragged):
        alone = all(math.prod(label.shape) == 1 for label in labels.items)
        return np.concatenate([labels[i].ravel() for i in range(len(labels))]) if alone else None
    return np.asarray(labels[...]).ravel() if math.prod(labels.shape) == labels.shape[0] else None


def _are_classes(flat: Array) -> bool:
    """Whole numbers; all else are numbers to come close to."""
    return flat.dtype.kind in "biu" or bool((np.isfinite(flat) & (flat == np.trunc(flat.real))).all())


def _texts(flat: Array) -> list[str | None]:
    try:
        return [str(v, "utf-8", "replace") if isinstance(v, bytes) else str(v) for v in flat]
    except SystemError as error:  # numpy's way to say that a code point lies beyond Unicode
        raise Refused("broken_array", "labels holds characters that there are not; save it again.") from error


def _finite(targets: Targets, samples: int) -> Targets:
    for index in range(samples):
        target = np.asarray(targets[index])
        if target.dtype.kind not in "biuf":
            detail = f"labels has the dtype {target.dtype}; real numbers are needed."
            raise Refused("unsupported_array", detail)
        if not np.isfinite(target).all():
            detail = f"labels holds NaN or an infinity for sample {index}; finite numbers are needed."
            raise Refused("labels_not_finite", detail, errors=(FieldError(f"/labels/{index}", detail),))
    return targets
