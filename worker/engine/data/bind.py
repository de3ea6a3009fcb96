"""Which array feeds which input of a model, and in what shape and type."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import numpy as np

from app.domain import binding as rules
from app.domain.dataset import Preprocess
from app.domain.errors import FieldError, Refused, pointer
from worker.engine.data.dataset import Array, Dataset, Sample
from worker.engine.data.preprocess import values

DTYPES: dict[str, type[Any]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(bool)": np.bool_,
} | {f"tensor({name})": getattr(np, name) for b in (8, 16, 32, 64) for name in (f"int{b}", f"uint{b}")}
PAST = "past"  # exporters call it past_sequence_length
Session: TypeAlias = Any  # ONNX Runtime ships no types
Argument: TypeAlias = Any


@dataclass(frozen=True)
class Input:
    """An input of a model; an axis without a fixed size is None."""

    name: str
    dtype: np.dtype[Any] | None  # None: a type that arrays cannot feed
    kind: str  # ONNX Runtime's word for the type
    shape: tuple[int | None, ...]
    growing: frozenset[int] = frozenset()  # axes that begin empty: what a language model has seen so far


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
    sources = _sources(inputs, dataset, sample, image_input)
    arranged, errors, notes = {}, [], []
    for item in inputs:
        array = sample[sources[item.name]]
        try:
            found = _arrangement(array, item)
            convert(_apply(found, array), item, preprocess)
        except ValueError as error:
            errors.append(FieldError(pointer("inputs", item.name), f"{item.name}: {error}"))
        else:
            arranged[item.name] = found
            if found.channels_moved:
                notes.append(f"{sources[item.name]}: channels were moved to the front for {item.name}")
    if errors:
        raise _mismatch(errors)
    stacked = frozenset(name for name, found in arranged.items() if found.stacked)
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

    Raises:
        ValueError: it fits in no way.
    """
    found = _arrangement(array, item)
    return _apply(found, array), found.stacked


def convert(array: Array, item: Input, preprocess: Preprocess) -> Array:
    """The array in the input's dtype; uint8 takes scale, mean and std on its way to a float input.

    Raises:
        ValueError: the values would be changed.
    """
    if item.dtype is None:
        raise ValueError(f"it takes {item.kind}, which arrays cannot hold; no dataset can feed this model")
    if rules.takes_preprocess(array.dtype.name, item.dtype.name):
        array = values(array, preprocess)
    if array.dtype == item.dtype:
        return array
    if rules.converts(array.dtype.name, item.dtype.name):
        found = array.astype(item.dtype)
        if item.dtype.kind == "f" or np.array_equal(found, array):
            return found
    raise ValueError(_expected(array, item))


def _input(argument: Argument) -> Input:
    dtype = DTYPES.get(argument.type)
    axes = argument.shape or ()
    shape = tuple(size if isinstance(size, int) and size > 0 else None for size in axes)
    growing = frozenset(axis for axis, size in enumerate(axes) if PAST in str(size))
    return Input(argument.name, np.dtype(dtype) if dtype else None, argument.type, shape, growing)


def _sources(
    inputs: Sequence[Input], dataset: Dataset, sample: Sample, image_input: str | None
) -> dict[str, str]:
    names = [item.name for item in inputs]
    if image_input is not None:
        _check_known(image_input, names)
    by_place = dataset.format in rules.BY_PLACE
    sources = rules.sources(names, list(sample), image_input, by_place=by_place)
    free = [item for item in inputs if item.name not in sources]
    if free:
        raise _unfed(free, sample)
    return sources


def _check_known(image_input: str, names: Sequence[str]) -> None:
    if image_input not in names:
        detail = f"The model has no input {image_input!r}; its inputs are {', '.join(names)}."
        raise Refused("dataset_mismatch", detail, errors=(FieldError("/input", detail),))


def _unfed(free: Sequence[Input], sample: Sample) -> Refused:
    found = ", ".join(f"{name} {array.dtype} {list(array.shape)}" for name, array in sample.items())
    errors = [
        FieldError(pointer("inputs", i.name), f"{i.name}: expected {_described(i)}; found {found}")
        for i in free
    ]
    names = ", ".join(item.name for item in free)
    detail = f"Nothing in the dataset feeds {names}: it has {found}. Name each array after its input."
    return Refused("dataset_mismatch", detail, errors=tuple(errors))


def _mismatch(errors: Sequence[FieldError]) -> Refused:
    detail = f"The dataset does not fit the model: {'; '.join(e.detail for e in errors)}."
    return Refused("dataset_mismatch", detail, errors=tuple(errors))


def _batch(inputs: Sequence[Input], stacked: frozenset[str]) -> int:
    sizes = rules.fixed_batches({item.name: item.shape for item in inputs if item.name in stacked})
    if len(set(sizes.values())) > 1:
        detail = f"Inputs differ in their fixed batch: {sizes}. Give samples in the inputs' full shapes."
        raise Refused(
            "dataset_mismatch", detail, errors=tuple(FieldError(pointer("inputs", n), detail) for n in sizes)
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
        raise _mismatch([FieldError(pointer("inputs", item.name), f"{item.name}: {error}")]) from error


def _one(binding: Binding, item: Input, array: Array) -> Array:
    arranged, per_sample = arrange(array, item)
    if per_sample != (item.name in binding.stacked):
        raise ValueError(f"a sample of shape {list(array.shape)} has other axes than the first sample")
    return convert(arranged, item, binding.preprocess)


def _arrangement(array: Array, item: Input) -> rules.Arrangement:
    found = rules.arrange(array.shape, array.dtype.name, item.shape)
    if found is None:
        raise ValueError(_expected(array, item))
    return found


def _apply(found: rules.Arrangement, array: Array) -> Array:
    moved = np.moveaxis(array, -1, 0) if found.channels_moved else array
    return moved.reshape(cast("Sequence[int]", found.shape))  # sizes of an array are known


def _expected(array: Array, item: Input) -> str:
    return rules.expected(str(array.dtype), array.shape, _dtype(item), item.shape)


def _described(item: Input) -> str:
    return rules.described(_dtype(item), item.shape)


def _dtype(item: Input) -> str:
    return str(item.dtype or item.kind)
