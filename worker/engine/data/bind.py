"""Which array feeds which input of a model, and in what shape and type."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from app.domain.dataset import Preprocess
from app.domain.errors import FieldError, Refused
from worker.engine.data.dataset import Array, Dataset, Sample
from worker.engine.data.preprocess import values

DTYPES: dict[str, type[Any]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(bool)": np.bool_,
} | {f"tensor({name})": getattr(np, name) for b in (8, 16, 32, 64) for name in (f"int{b}", f"uint{b}")}
Session: TypeAlias = Any  # ONNX Runtime ships no types
Argument: TypeAlias = Any
IMAGE_AXES = 3
FIRST_OF_TEXTS = "input_ids"  # what an input of another name takes of texts
CHANNEL_COUNTS = (1, 3, 4)


@dataclass(frozen=True)
class Input:
    """An input of a model; an axis without a fixed size is None."""

    name: str
    dtype: np.dtype[Any] | None  # None: a type that arrays cannot feed
    kind: str  # ONNX Runtime's word for the type
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Binding:
    """Array names by input name, and how many samples the model wants at once."""

    inputs: tuple[Input, ...]
    sources: dict[str, str]
    preprocess: Preprocess
    batch: int  # 1, or the model's fixed batch
    stacked: frozenset[str]  # inputs whose first axis counts samples
    notes: tuple[str, ...] = ()
    padding: Mapping[str, int] = field(default_factory=dict)  # by array, for those that differ in length


def inputs_of(session: Session) -> tuple[Input, ...]:
    """The inputs that must be fed; initializers that may be overridden are not among them."""
    return tuple(_input(argument) for argument in session.get_inputs())


def bind(
    inputs: Sequence[Input], dataset: Dataset, preprocess: Preprocess, image_input: str | None
) -> Binding:
    """Match the dataset's arrays with the model's inputs.

    Names first; one array that is left over goes to one input that is left over. Every input is tried with
    the first sample.

    Raises:
        Refused: `dataset_mismatch`, with one entry per input that does not fit.
    """
    sample = dataset.sample(0)
    by_place = getattr(dataset, "ordered", False) and len(sample) == len(inputs)
    sources = _by_place(inputs, sample) if by_place else _sources(inputs, sample, image_input)
    arranged, errors, notes = {}, [], []
    for item in inputs:
        try:
            arranged[item.name] = arrange(sample[sources[item.name]], item)
            convert(arranged[item.name][0], item, preprocess)
        except ValueError as error:
            errors.append(FieldError(f"/inputs/{_escaped(item.name)}", f"{item.name}: {error}"))
        else:
            if _channels_moved(sample[sources[item.name]], item):
                notes.append(f"{sources[item.name]}: channels were moved to the front for {item.name}")
    if errors:
        raise _mismatch(errors)
    stacked = frozenset(name for name, (_, per_sample) in arranged.items() if per_sample)
    batch = _batch(inputs, stacked)
    return Binding(tuple(inputs), sources, preprocess, batch, stacked, tuple(notes), dataset.padding)


def feed(binding: Binding, samples: Sequence[Sample], batch: int | None = None) -> dict[str, Array]:
    """One run's inputs from up to `batch` samples; the last one is repeated to fill it.

    Raises:
        Refused: `dataset_mismatch`, a sample differs from the first so that it does not fit.
    """
    wanted = batch or binding.batch
    padded = [*samples, *[samples[-1]] * (wanted - len(samples))]
    return {item.name: _stack(binding, item, padded) for item in binding.inputs}


def arrange(array: Array, item: Input) -> tuple[Array, bool]:
    """The sample in the input's axes, and whether it still lacks the batch axis.

    A sample has the input's shape, or that without its first axis; axes of size 1 may be missing or extra; a
    uint8 [H, W, C] image becomes [C, H, W] where only that fits.

    Raises:
        ValueError: it fits in no way.
    """
    shape = item.shape
    if _fits(array.shape, shape):
        return array, False
    if shape and _fits(array.shape, shape[1:]):
        return array, True
    if _channels_moved(array, item):
        return np.moveaxis(array, -1, 0), True
    reshaped = _with_unit_axes(array, shape[1:])
    if reshaped is not None:
        return reshaped, bool(shape)
    raise ValueError(_expected(array, item))


def convert(array: Array, item: Input, preprocess: Preprocess) -> Array:
    """The array in the input's dtype; uint8 takes scale, mean and std on its way to a float input.

    Raises:
        ValueError: the values would be changed.
    """
    if item.dtype is None:
        raise ValueError(f"it takes {item.kind}, which arrays cannot hold; no dataset can feed this model")
    if array.dtype == np.uint8 and item.dtype.kind == "f":
        array = values(array, preprocess)
    if array.dtype == item.dtype:
        return array
    if item.dtype.kind == "f" and array.dtype.kind in "fb":
        return array.astype(item.dtype)
    if item.dtype.kind in "iu" and array.dtype.kind in "iub":
        cast = array.astype(item.dtype)
        if np.array_equal(cast, array):
            return cast
    raise ValueError(_expected(array, item))


def _input(argument: Argument) -> Input:
    dtype = DTYPES.get(argument.type)
    shape = tuple(size if isinstance(size, int) and size > 0 else None for size in argument.shape or ())
    return Input(argument.name, np.dtype(dtype) if dtype else None, argument.type, shape)


def _sources(inputs: Sequence[Input], sample: Sample, image_input: str | None) -> dict[str, str]:
    names = [item.name for item in inputs]
    sources = {name: name for name in names if name in sample}
    if image_input is not None:
        _check_known(image_input, names)
        spare = [name for name in sample if name not in sources]
        sources |= {image_input: spare[0]} if len(spare) == 1 else {}
    free = [name for name in names if name not in sources]
    spare = [name for name in sample if name not in sources.values()]
    spare = [FIRST_OF_TEXTS] if FIRST_OF_TEXTS in spare else spare
    if len(free) == 1 and len(spare) == 1:
        sources[free[0]] = spare[0]
        free = []
    if free:
        raise _unfed(free, [item for item in inputs if item.name in free], sample)
    return sources


def _by_place(inputs: Sequence[Input], sample: Sample) -> dict[str, str]:
    names = [item.name for item in inputs]
    return dict(zip(names, names if set(names) == set(sample) else sample, strict=True))


def _check_known(image_input: str, names: Sequence[str]) -> None:
    if image_input not in names:
        detail = f"The model has no input {image_input!r}; its inputs are {', '.join(names)}."
        raise Refused("dataset_mismatch", detail, errors=(FieldError("/input", detail),))


def _unfed(free: list[str], inputs: Sequence[Input], sample: Sample) -> Refused:
    found = ", ".join(f"{name} {array.dtype} {list(array.shape)}" for name, array in sample.items())
    errors = [
        FieldError(f"/inputs/{_escaped(i.name)}", f"{i.name}: expected {_described(i)}; found {found}")
        for i in inputs
    ]
    detail = (
        f"Nothing in the dataset feeds {', '.join(free)}: it has {found}. Name each array after its input."
    )
    return Refused("dataset_mismatch", detail, errors=tuple(errors))


def _mismatch(errors: Sequence[FieldError]) -> Refused:
    detail = f"The dataset does not fit the model: {'; '.join(e.detail for e in errors)}."
    return Refused("dataset_mismatch", detail, errors=tuple(errors))


def _batch(inputs: Sequence[Input], stacked: frozenset[str]) -> int:
    sizes = {
        item.name: item.shape[0] for item in inputs if item.name in stacked and item.shape[0] is not None
    }
    if len(set(sizes.values())) > 1:
        detail = f"Inputs differ in their fixed batch: {sizes}. Give samples in the inputs' full shapes."
        raise Refused(
            "dataset_mismatch", detail, errors=tuple(FieldError(f"/inputs/{n}", detail) for n in sizes)
        )
    return next(iter(sizes.values()), 1)


def _stack(binding: Binding, item: Input, samples: Sequence[Sample]) -> Array:
    source = binding.sources[item.name]
    try:
        if item.name not in binding.stacked:
            return np.asarray(_one(binding, item, samples[0][source]), order="C")
        arrays = [sample[source] for sample in samples]
        if source in binding.padding:
            longest = max(len(array) for array in arrays)
            fill = binding.padding[source]
            arrays = [np.pad(a, (0, longest - len(a)), constant_values=fill) for a in arrays]
        return np.stack([_one(binding, item, array) for array in arrays])
    except ValueError as error:
        raise _mismatch([FieldError(f"/inputs/{_escaped(item.name)}", f"{item.name}: {error}")]) from error


def _one(binding: Binding, item: Input, array: Array) -> Array:
    arranged, per_sample = arrange(array, item)
    if per_sample != (item.name in binding.stacked):
        raise ValueError(f"a sample of shape {list(array.shape)} has other axes than the first sample")
    return convert(arranged, item, binding.preprocess)


def _fits(found: Sequence[int], wanted: Sequence[int | None]) -> bool:
    return len(found) == len(wanted) and all(w in (None, f) for f, w in zip(found, wanted, strict=True))


def _channels_moved(array: Array, item: Input) -> bool:
    if array.dtype != np.uint8 or array.ndim != IMAGE_AXES or array.shape[-1] not in CHANNEL_COUNTS:
        return False
    moved = (array.shape[-1], *array.shape[:-1])
    return not _fits(array.shape, item.shape[1:]) and _fits(moved, item.shape[1:]) and bool(item.shape)


def _with_unit_axes(array: Array, wanted: Sequence[int | None]) -> Array | None:
    """The array with axes of size 1 added or taken away to fit `wanted`; None where that is not enough."""
    sizes = [size for size in array.shape if size != 1]
    shape = [_next_size(size, sizes) for size in wanted]
    return array.reshape(shape) if not sizes and _fits(shape, wanted) else None


def _next_size(wanted: int | None, sizes: list[int]) -> int:
    """Take the next of `sizes` unless the axis is of size 1 anyhow."""
    return 1 if wanted == 1 or not sizes else sizes.pop(0)


def _expected(array: Array, item: Input) -> str:
    hint = ""
    if array.ndim == IMAGE_AXES and len(item.shape) == IMAGE_AXES + 1:
        hint = "; set resize, crop, layout or color in the preprocessing"
    return f"expected {_described(item)} per run, found {array.dtype} {list(array.shape)} per sample{hint}"


def _described(item: Input) -> str:
    shape = [size if size is not None else "?" for size in item.shape]
    return f"{item.dtype or item.kind} [{', '.join(map(str, shape))}]"


def _escaped(name: str) -> str:
    """A name as one part of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")
