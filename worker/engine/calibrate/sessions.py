"""The sessions that return activations: groups of tensors under a budget of bytes."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import helper

from worker.engine.calibrate.observers import LAST
from worker.engine.load import check_external_data, parse
from worker.engine.passes.scopes import (
    FLOATS,
    attribute,
    initializers,
    names_used,
    tensor_names,
    tensor_types,
    unused_name,
)
from worker.engine.session import open_session

Feed = Mapping[str, npt.NDArray[Any]]
BUDGET = 256_000_000  # bytes of activations that may be held at once
_BYTES: dict[int, int] = {onnx.TensorProto.FLOAT16: 2, onnx.TensorProto.FLOAT: 4, onnx.TensorProto.DOUBLE: 8}
_OBSERVED = FLOATS | {onnx.TensorProto.DOUBLE}


@dataclass(frozen=True)
class Plan:
    """What is run for each sample, and where the channels of each tensor are."""

    sessions: Sequence[tuple[ort.InferenceSession, list[str]]]
    axes: Mapping[str, int]


def open_plan(path: Path, feed: Feed, threads: int) -> Plan:
    """Open a session for each group of tensors, sized by one sample.

    Args:
        path: the prepared model.
        feed: one sample.
        threads: how many samples will be run at once; they share the budget.
    """
    model = parse(path)
    check_external_data(model, path.parent)
    names = observed(model.graph)
    sizes = _sizes(model, names, feed, path.parent) if names else {}
    groups = grouped(names, sizes, BUDGET // threads)
    return Plan([(_session(model, group, path.parent), group) for group in groups], channel_axes(model.graph))


def observed(graph: onnx.GraphProto) -> list[str]:
    """Float tensors that nodes of the main graph write, in their order."""
    types = tensor_types(graph)
    return [name for node in graph.node for name in node.output if name and types.get(name) in _OBSERVED]


def channel_axes(graph: onnx.GraphProto) -> dict[str, int]:
    """Where the channels of the tensors are that Conv, MatMul and Gemm multiply by constant weights.

    1. Axis 1 of what a Conv reads.
    2. The last axis of what a MatMul reads, and a Gemm that does not transpose it.
    3. Where a tensor has readers of both kinds, the first one decides.
    """
    constants, axes = initializers(graph), dict[str, int]()
    for node in graph.node:
        weighted = node.op_type in {"Conv", "MatMul", "Gemm"} and not node.domain
        if weighted and node.input[1] in constants and not attribute(node, "transA", 0):
            axes.setdefault(node.input[0], 1 if node.op_type == "Conv" else LAST)
    return axes


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


def _sizes(model: onnx.ModelProto, names: Sequence[str], feed: Feed, folder: Path) -> dict[str, int]:
    """Bytes of each tensor on this sample, counted inside the graph so that none is returned."""
    types, taken = tensor_types(model.graph), tensor_names(model.graph)
    counts = {name: unused_name(f"{name}__values", taken) for name in names}
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.node.extend(helper.make_node("Size", [name], [count]) for name, count in counts.items())
    session = _augmented(probe, list(counts.values()), folder)
    values = session.run(list(counts.values()), dict(feed))
    return {name: int(value) * _BYTES[types[name]] for name, value in zip(names, values, strict=True)}


def _session(model: onnx.ModelProto, names: Sequence[str], folder: Path) -> ort.InferenceSession:
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    _keep_only_what_is_needed(cut.graph, set(names))
    return _augmented(cut, names, folder)


def _augmented(model: onnx.ModelProto, outputs: Sequence[str], folder: Path) -> ort.InferenceSession:
    """Open a model with other outputs. It is written beside its external data, for a moment."""
    types = tensor_types(model.graph)
    del model.graph.output[:]
    model.graph.output.extend(
        helper.make_tensor_value_info(name, types.get(name, onnx.TensorProto.INT64), None) for name in outputs
    )
    with tempfile.NamedTemporaryFile(dir=folder, prefix="calibrate-", suffix=".onnx") as file:
        file.write(model.SerializeToString())
        file.flush()
        return open_session(Path(file.name), optimize=False)


def _keep_only_what_is_needed(graph: onnx.GraphProto, wanted: set[str]) -> None:
    """Drop the nodes behind the last wanted tensor, and the constants that only those read."""
    last = max((i for i, node in enumerate(graph.node) if wanted & set(node.output)), default=-1)
    del graph.node[last + 1 :]
    written = {name for node in graph.node for name in node.output}
    kept = [v for v in graph.value_info if v.name in written]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    read = {name for node in graph.node for name in names_used(node)}
    constants = [t for t in graph.initializer if t.name in read]
    del graph.initializer[:]
    graph.initializer.extend(constants)
