"""Ready inputs for a few runs, from real samples or, where there are none, made up."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from app.domain.errors import FieldError, Refused
from worker.engine.data.bind import Input, Session, feed, inputs_of
from worker.engine.data.made_up import made_up
from worker.engine.data.source import Source
from worker.engine.ready import Feed

COUNT = 8
FREE_SIZES = (1, 64, 224)  # tried in turn for a free dimension that `shapes` does not name
Axis = int | str | None


def real_feeds(source: Source, batch: int) -> tuple[list[Feed], int]:
    """Up to 8 runs' inputs from the first samples, and how many samples each holds.

    Raises:
        Refused: `fixed_batch`, the model cannot take `batch` samples at once.
    """
    size = _batch(source, batch)
    indices = source.indices[: COUNT * size]
    starts = range(0, len(indices), size)
    chunks = [[source.dataset.sample(i) for i in indices[start : start + size]] for start in starts]
    return [feed(source.binding, samples, size) for samples in chunks], size


def synthetic_feeds(
    model: Path, session: Session, shapes: Mapping[str, int], batch: int, run: Callable[[Feed], object]
) -> tuple[list[Feed], int]:
    """8 runs' made-up inputs, in the first shapes that the model runs on, and how many samples each holds.

    A free first dimension gets `batch`; other free ones get what `shapes` says, or are tried as 1, 64, 224.

    Raises:
        Refused: `shapes_needed`, naming the free dimensions, or `fixed_batch`.
    """
    inputs = inputs_of(session)
    declared = [argument.shape or () for argument in session.get_inputs()]
    batch = _fixed_batch(declared, batch)
    for size in FREE_SIZES:
        sized = [[_size(d, i, shapes, batch, size) for i, d in enumerate(shape)] for shape in declared]
        feeds: list[Feed] = [*made_up(model, inputs, sized, COUNT)]
        try:
            run(feeds[0])
        except Refused:
            continue
        return feeds, batch
    raise _shapes_needed(inputs, declared)


def _size(declared: Axis, axis: int, shapes: Mapping[str, int], batch: int, size: int) -> int:
    if isinstance(declared, int) and declared > 0:
        return declared
    return shapes.get(str(declared), batch if axis == 0 else size)


def _fixed_batch(declared: Sequence[Sequence[Axis]], batch: int) -> int:
    """The first axis, where all inputs fix the same one: then it is the batch."""
    fixed = {shape[0] for shape in declared if shape and isinstance(shape[0], int)}
    size = next(iter(fixed)) if len(fixed) == 1 else batch
    if batch not in {1, size}:
        raise _fixed(int(size), batch)
    return int(size)


def _fixed(size: int, batch: int) -> Refused:
    detail = f"The model takes {size} samples at a time, not {batch}; leave benchmark.batch out."
    return Refused("fixed_batch", detail, errors=(FieldError("/benchmark/batch", detail),))


def _batch(source: Source, batch: int) -> int:
    binding = source.binding
    stacked = [item for item in binding.inputs if item.name in binding.stacked]
    fixed = {item.shape[0] for item in stacked if item.shape[0] is not None}
    if source.feedback and batch != 1:
        raise _fixed(binding.batch, batch)
    if batch == 1 or fixed == {batch}:
        return binding.batch
    if fixed or len(stacked) < len(binding.inputs):
        raise _fixed(binding.batch, batch)
    return batch


def _shapes_needed(inputs: Sequence[Input], declared: Sequence[Sequence[Axis]]) -> Refused:
    free = sorted({str(d) for shape in declared for d in shape if not isinstance(d, int)})
    listed = ", ".join(free) or "none by name"
    names = ", ".join(item.name for item in inputs)
    detail = (
        f"The model runs on no made-up input (inputs {names}; free dimensions "
        f"{listed}). Send data, or give the sizes of free dimensions in shapes."
    )
    return Refused("shapes_needed", detail, errors=(FieldError("/shapes", detail),))
