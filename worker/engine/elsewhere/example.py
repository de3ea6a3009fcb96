"""Inputs with which anybody can try a model."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from app.domain.report import Example, ExampleInput
from worker.engine.data.bind import DTYPES, Argument, Session
from worker.engine.data.dataset import Array
from worker.engine.interface import Affine, affine_of
from worker.engine.load import external_tensors, parse
from worker.engine.ready import Feed

FILLS = (0, 1)  # 0 indexes every table; where it means a size, 1 is one


def example(model: Path, session: Session, feed: Feed) -> Example | None:
    """Inputs filled with one value each on which a model runs; None where it runs on no such.

    Args:
        model: the model's main file.
        session: the model, as it takes its inputs.
        feed: one run's inputs as the float model takes them: their shapes, and the values of single numbers.
    """
    files = {e.value for t in external_tensors(parse(model)) for e in t.external_data if e.key == "location"}
    affine = affine_of(session)
    for fill in FILLS:
        inputs = tuple(_input(a, feed[a.name], fill, affine) for a in session.get_inputs())
        if _runs(session, inputs):
            return Example(inputs, tuple(sorted(files)))
    return None


def _input(argument: Argument, given: Array, fill: float, affine: Mapping[str, Affine]) -> ExampleInput:
    said = affine.get(argument.name)
    number = given.size == 1 and said is None and np.isfinite(given).all()
    return ExampleInput(
        name=argument.name,
        dtype=np.dtype(DTYPES[argument.type]).name,
        shape=given.shape,
        declared=tuple(argument.shape),
        fill=given.item() if number else fill,
        affine=(said.scale, said.zero_point) if said else None,
    )


def _runs(session: Session, inputs: tuple[ExampleInput, ...]) -> bool:
    try:
        session.run(None, {i.name: np.full(i.shape, i.fill, i.dtype) for i in inputs})
    except Exception:  # noqa: BLE001 - the runtime's errors share no base class but this
        return False
    return True
