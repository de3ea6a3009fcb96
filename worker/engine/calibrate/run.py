"""Run the model with its activations as outputs, a few at a time."""

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import helper

from app.domain.errors import Refused
from worker.engine.calibrate.observers import Extent, Statistics, observe, widen
from worker.engine.load import load_model, write_model
from worker.engine.passes.scopes import FLOATS, tensor_types
from worker.engine.session import open_session

Feed = Mapping[str, npt.NDArray[Any]]
Sessions = Sequence[tuple[ort.InferenceSession, list[str]]]
BUDGET = 256_000_000  # bytes of activations that one run may return
_BYTES_PER_VALUE = 4


def collect(
    model: Path,
    feeds: Iterable[Feed],
    *,
    progress: Callable[[float], None] | None = None,
    total: int | None = None,
) -> Statistics:
    """Observe every float activation of the main graph, in one pass over the samples.

    Memory does not grow with the number of samples. Tensors are returned in groups under a budget of bytes,
    measured on the first sample; a group is a session of its own and runs only what it needs.

    Args:
        model: the prepared model.
        feeds: inputs by name, one mapping per sample; consumed once.
        progress: called with the share that is done, 0 to 1, when `total` is given.
        total: how many feeds there will be.

    Raises:
        Refused: `no_calibration_data` when there is no sample.
    """
    samples = iter(feeds)
    first = next(samples, None)
    if first is None:
        raise Refused(
            "no_calibration_data", "Static recipes need calibration samples, and there are none. Send data."
        )
    tensors: dict[str, Extent] = {}
    seen = 0
    with tempfile.TemporaryDirectory(prefix="calibrate-") as folder:
        sessions = _sessions(model, first, Path(folder))
        for feed in chain([first], samples):
            _observe_sample(sessions, feed, tensors)
            seen += 1
            if progress and total:
                progress(min(seen / total, 1.0))
    return Statistics(seen, dict(sorted(tensors.items())))


def _observe_sample(sessions: Sessions, feed: Feed, tensors: dict[str, Extent]) -> None:
    for session, names in sessions:
        wanted = {value.name for value in session.get_inputs()}
        values = session.run(names, {name: value for name, value in feed.items() if name in wanted})
        for name, value in zip(names, values, strict=True):
            _add(tensors, name, value)
    for name, value in feed.items():
        if np.asarray(value).dtype in {np.dtype(np.float32), np.dtype(np.float16)}:
            _add(tensors, name, np.asarray(value))


def _add(tensors: dict[str, Extent], name: str, values: npt.NDArray[Any]) -> None:
    extent = widen(tensors.get(name), observe(values))
    if extent:
        tensors[name] = extent


def _sessions(path: Path, feed: Feed, folder: Path) -> Sessions:
    names = observed(load_model(path).graph)
    if not names:
        return []
    sizes = _sizes(path, names, feed, folder)
    groups = grouped(names, sizes, BUDGET)
    return [(_session(path, group, folder), group) for group in groups]


def observed(graph: onnx.GraphProto) -> list[str]:
    """Float tensors that nodes of the main graph write, in their order."""
    types = tensor_types(graph)
    return [name for node in graph.node for name in node.output if name and types.get(name) in FLOATS]


def grouped(names: Sequence[str], sizes: Mapping[str, int], budget: int) -> list[list[str]]:
    """Cut a sequence of tensors into runs that fit the budget; one that is larger goes alone.

    Args:
        names: tensors in the order of the graph.
        sizes: their bytes.
        budget: bytes per group.
    """
    groups: list[list[str]] = []
    room = 0
    for name in names:
        if not groups or sizes[name] > room:
            groups.append([])
            room = budget
        groups[-1].append(name)
        room -= sizes[name]
    return groups


def _sizes(path: Path, names: Sequence[str], feed: Feed, folder: Path) -> dict[str, int]:
    """Bytes of each tensor on this sample, counted inside the graph so that none is returned."""
    model = load_model(path)
    counts = {name: f"{name}__values" for name in names}
    model.graph.node.extend(helper.make_node("Size", [name], [count]) for name, count in counts.items())
    session = _augmented(model, list(counts.values()), folder / "sizes.onnx")
    values = session.run(list(counts.values()), dict(feed))
    return {name: int(value) * _BYTES_PER_VALUE for name, value in zip(names, values, strict=True)}


def _session(path: Path, names: Sequence[str], folder: Path) -> ort.InferenceSession:
    model = load_model(path)
    _keep_only_what_is_needed(model.graph, set(names))
    return _augmented(model, names, folder / "group.onnx")


def _augmented(model: onnx.ModelProto, outputs: Sequence[str], path: Path) -> ort.InferenceSession:
    types = tensor_types(model.graph)
    del model.graph.output[:]
    model.graph.output.extend(
        helper.make_tensor_value_info(name, types.get(name, onnx.TensorProto.INT64), None) for name in outputs
    )
    write_model(model, path)
    return open_session(path, optimize=False)


def _keep_only_what_is_needed(graph: onnx.GraphProto, wanted: set[str]) -> None:
    """Drop the nodes behind the last wanted tensor."""
    last = max((i for i, node in enumerate(graph.node) if wanted & set(node.output)), default=-1)
    del graph.node[last + 1 :]
    written = {name for node in graph.node for name in node.output}
    kept = [v for v in graph.value_info if v.name in written]
    del graph.value_info[:]
    graph.value_info.extend(kept)
