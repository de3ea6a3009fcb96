"""Run a model over chosen samples and take its outputs one sample at a time."""

from collections.abc import Iterator, Sequence

import numpy as np

from app.domain.errors import Refused
from worker.engine.data.bind import Session, feed
from worker.engine.data.dataset import Array, Sample
from worker.engine.data.source import Source
from worker.engine.session import OUT_OF_MEMORY

Outputs = dict[str, Array]
REASON_LENGTH = 300


def outputs(session: Session, source: Source) -> Iterator[Outputs]:
    """The numeric outputs of each sample, in order; with a fixed batch, its row of each.

    Raises:
        Refused: `nan_output` or `model_fails`.
    """
    position = 0
    for _, found, count in _runs(session, source):
        for row in range(count):
            mine = {name: _row(array, row, source.binding.batch) for name, array in found.items()}
            _refuse_nan(mine, source.indices[position])
            position += 1
            yield mine


def every_feed(session: Session, source: Source) -> Iterator[dict[str, Array]]:
    """One run's inputs after the other; of a stateful model with the state that this session has come to.

    Raises:
        Refused: `model_fails` or `invalid_state`.
    """
    if source.feedback is None:
        return source.feeds()
    return (inputs for inputs, _, _ in _runs(session, source))


def _runs(session: Session, source: Source) -> Iterator[tuple[dict[str, Array], Outputs, int]]:
    """Inputs, outputs and the number of samples of each run; state runs freely, from zero in each stream."""
    names = [output.name for output in session.get_outputs()]
    state: dict[str, Array] = {}
    position = 0
    for samples in source.runs():
        inputs = feed(source.binding, samples)
        if source.feedback and source.begins_stream(position):
            state = source.feedback.initial(samples[0])
        found = run(session, names, inputs | state)
        yield inputs | state, found, len(samples)
        state = source.feedback.carried(found) if source.feedback else {}
        position += len(samples)


def run(session: Session, names: Sequence[str], inputs: Sample) -> Outputs:
    """One run; outputs that are no numeric arrays (strings, maps) are left out.

    Raises:
        Refused: `model_fails`, with the runtime's reason.
    """
    try:
        found = session.run(list(names), dict(inputs))
    except Exception as error:  # the runtime's errors share no base class but this
        if OUT_OF_MEMORY in str(error).lower():
            raise
        reason = " ".join(str(error).split())[:REASON_LENGTH]
        raise Refused("model_fails", f"The model fails on the data: {reason}.") from error
    pairs = zip(names, found, strict=True)
    return {name: a for name, a in pairs if isinstance(a, np.ndarray) and a.dtype.kind in "fiub"}


def _row(array: Array, row: int, batch: int) -> Array:
    if batch == 1 or not array.ndim or array.shape[0] != batch:
        return array
    return array[row : row + 1]


def _refuse_nan(found: Outputs, index: int) -> None:
    for name, array in found.items():
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise Refused(
                "nan_output",
                f"The output {name!r} holds NaN for sample {index}, so nothing can be said of it.",
            )
