"""Which array feeds which input of a model, and how: decided on names, shapes and dtypes alone.

The engine binds samples by these rules; the check of a dataset holds its description against them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Axes = Sequence[int | None]  # None: of no fixed size
BY_PLACE = frozenset({"pb"})  # formats whose arrays come in the order of the graph's inputs
FIRST_OF_TEXTS = "input_ids"  # what an input of another name takes of texts
IMAGE_AXES = 3
CHANNEL_COUNTS = (1, 3, 4)
INTEGERS = frozenset(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
FLOATS = frozenset({"float16", "float32", "float64"})
FEEDABLE = INTEGERS | FLOATS | {"bool"}  # what arrays can hold of what inputs take
Kind = Literal["float", "integer", "bool"]


@dataclass(frozen=True)
class Arrangement:
    """A sample's shape once it fits an input, and what was done for that."""

    shape: Axes
    stacked: bool  # whether the input's first axis counts samples
    channels_moved: bool = False


def sources(
    inputs: Sequence[str], arrays: Sequence[str], image_input: str | None, *, by_place: bool
) -> dict[str, str]:
    """Array names by input name; an input that nothing feeds is left out.

    Names first, then the one array that is left over goes to the one input that is (`image_input`, if that is
    named). `by_place`: as many arrays as inputs that have other names go in their order.
    """
    if by_place and len(inputs) == len(arrays):
        return dict(zip(inputs, inputs if set(inputs) == set(arrays) else arrays, strict=True))
    found = {name: name for name in inputs if name in arrays}
    spare = [name for name in arrays if name not in found]
    if image_input is not None and len(spare) == 1:
        found[image_input] = spare[0]
    free = [name for name in inputs if name not in found]
    spare = [name for name in arrays if name not in found.values()]
    spare = [FIRST_OF_TEXTS] if FIRST_OF_TEXTS in spare else spare
    return found | ({free[0]: spare[0]} if len(free) == len(spare) == 1 else {})


def arrange(shape: Axes, dtype: str, wanted: Axes) -> Arrangement | None:
    """How a sample of this shape comes into the input's axes; None where it fits in no way.

    A sample has the input's shape, or that without its first axis; axes of size 1 may be missing or extra; a
    uint8 [H, W, C] image becomes [C, H, W] where only that fits.
    """
    inner = wanted[1:]
    if fits(shape, wanted):
        return Arrangement(shape, stacked=False)
    if wanted and fits(shape, inner):
        return Arrangement(shape, stacked=True)
    moved = (*shape[-1:], *shape[:-1])
    if wanted and _is_image(shape, dtype) and fits(moved, inner):
        return Arrangement(moved, stacked=True, channels_moved=True)
    reshaped = _with_unit_axes(shape, inner)
    return Arrangement(reshaped, stacked=bool(wanted)) if fits(reshaped, inner) else None


def fits(shape: Axes, wanted: Axes) -> bool:
    """Whether every axis has the size wanted, or one of both is not fixed."""
    pairs = zip(shape, wanted, strict=False)
    return len(shape) == len(wanted) and all(w is None or s is None or s == w for s, w in pairs)


def fixed_batches(stacked: Mapping[str, Axes]) -> dict[str, int]:
    """The batch that stacked inputs fix, by name, from their shapes; all have to fix the same one."""
    return {name: shape[0] for name, shape in stacked.items() if shape[0] is not None}


def takes_preprocess(dtype: str, wanted: str) -> bool:
    """Whether scale, mean and std are applied: uint8 on its way to a float input takes them."""
    return dtype == "uint8" and wanted in FLOATS


def converts(dtype: str, wanted: str) -> bool:
    """Whether an array may be cast for an input; integers must besides keep their values."""
    if wanted in FLOATS:
        return kind(dtype) in {"float", "bool"}
    if wanted in INTEGERS:
        return kind(dtype) in {"integer", "bool"}
    return wanted == dtype == "bool"


def kind(dtype: str) -> Kind | None:
    """What an array of this dtype holds; None for what feeds no input."""
    if dtype in INTEGERS:
        return "integer"
    if dtype in FLOATS:
        return "float"
    return "bool" if dtype == "bool" else None


def expected(dtype: str, shape: Axes, wanted_dtype: str, wanted: Axes) -> str:
    """What an input takes, and what there is instead."""
    images = len(shape) == IMAGE_AXES and len(wanted) == IMAGE_AXES + 1
    hint = "; set resize, size, crop, layout or color in the preprocessing" if images else ""
    found = described(dtype, shape)
    return f"expected {described(wanted_dtype, wanted)} per run, found {found} per sample{hint}"


def described(dtype: str, shape: Axes) -> str:
    """`float32 [?, 3, 32, 32]`."""
    return f"{dtype} [{', '.join('?' if size is None else str(size) for size in shape)}]"


def _is_image(shape: Axes, dtype: str) -> bool:
    return dtype == "uint8" and len(shape) == IMAGE_AXES and shape[-1] in CHANNEL_COUNTS


def _with_unit_axes(shape: Axes, wanted: Axes) -> Axes:
    """The shape with axes of size 1 added or taken away where `wanted` has or lacks them."""
    sizes = [size for size in shape if size != 1]
    taken = [1 if size == 1 or not sizes else sizes.pop(0) for size in wanted]
    return (*taken, *sizes)
