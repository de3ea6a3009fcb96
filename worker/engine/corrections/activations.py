"""What a model computes inside on the calibration samples."""

import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from app.domain.errors import Refused
from worker.engine.calibrate import Statistics, collect
from worker.engine.choices.setting import Samples
from worker.engine.load import write_model
from worker.engine.passes.likeness import likeness_db
from worker.engine.passes.scopes import tensor_types
from worker.engine.ready import Feed
from worker.engine.session import OUT_OF_MEMORY, open_session, reason

Array = npt.NDArray[Any]
THREADS = 2
LEAST_LIKENESS_DB = 80.0  # of a float model after a correction, as after a pass
_COMPARED = 2  # samples


def activations(
    model: onnx.ModelProto, tensors: Sequence[str], samples: Samples
) -> Iterator[dict[str, Array]]:
    """The values of some tensors of the main graph, one sample after another.

    Args:
        model: any model; it is not changed.
        tensors: names of what nodes write or callers feed.
        samples: gives the calibration feeds anew at each call.

    Raises:
        Refused: `model_fails`, with the runtime's reason.
    """
    fed = {value.name for value in model.graph.input}
    computed = [name for name in tensors if name not in fed]
    with tempfile.TemporaryDirectory(prefix="activations-") as folder:
        path = Path(folder) / "model.onnx"
        write_model(_showing(model, computed), path)
        session = open_session(path, THREADS)
        inputs = {value.name for value in session.get_inputs()}
        for feed in samples():
            taken = {name: value for name, value in feed.items() if name in inputs}
            found = _run(session, computed, taken, path) if computed else []
            values = dict(zip(computed, found, strict=True))
            yield values | {name: np.asarray(feed[name]) for name in tensors if name in fed}


def _run(session: Any, names: Sequence[str], feed: Feed, path: Path) -> list[Array]:  # noqa: ANN401
    try:
        found: list[Array] = session.run(names, feed)
    except Exception as error:  # the runtime's errors share no base class but this
        if OUT_OF_MEMORY in str(error).lower():
            raise
        raise Refused(
            "model_fails", f"The model fails on the calibration samples: {reason(error, path)}"
        ) from error
    return found


def _showing(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """The model up to these tensors, as its outputs; without any, as it is."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    if tensors:
        types, wanted = tensor_types(model.graph), set(tensors)
        last = max(i for i, node in enumerate(shown.graph.node) if wanted & set(node.output))
        del shown.graph.node[last + 1 :]
        del shown.graph.output[:]
        shown.graph.output.extend(
            helper.make_tensor_value_info(name, types.get(name, onnx.TensorProto.FLOAT), None)
            for name in tensors
        )
    return shown


def recollect(
    model: onnx.ModelProto, statistics: Statistics, tensors: Collection[str], samples: Samples
) -> Statistics:
    """Statistics with these tensors observed anew on a changed model.

    Ranges of single channels do not say how the rest of a tensor's values moved, so they are not rescaled.
    """
    if not tensors:
        return statistics
    with tempfile.TemporaryDirectory(prefix="recollect-") as folder:
        path = Path(folder) / "model.onnx"
        write_model(_observing(model, tensors), path)
        seen = collect(path, samples())
    fresh = {name: seen.tensors[name] for name in tensors if name in seen.tensors}
    return replace(statistics, tensors={**statistics.tensors, **fresh})


def _observing(model: onnx.ModelProto, tensors: Collection[str]) -> onnx.ModelProto:
    """Calibration observes what has a type on record: only these keep theirs."""
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    kept = [value for value in cut.graph.value_info if value.name in tensors]
    del cut.graph.value_info[:]
    cut.graph.value_info.extend(kept)
    return cut


def same_outputs(before: onnx.ModelProto, after: onnx.ModelProto, samples: Samples) -> bool:
    """Whether two float models match by 80 dB on the first samples."""
    few = list(islice(samples(), _COMPARED))
    names = [value.name for value in before.graph.output]
    found = [
        [[values[name] for name in names] for values in activations(model, names, lambda: few)]
        for model in (before, after)
    ]
    return likeness_db(*found) >= LEAST_LIKENESS_DB
