"""Attention masks near the lowest float become -10,000: beside them a quantized range resolves nothing."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from worker.engine.passes.scopes import array, as_initializer, consumers, initializers

LOWEST = -1e30  # below it a value is a mask, not a number that was learned
MASKED = np.float32(-1e4)  # its exponential is 0 in float32, as that of the lowest float is
MARK = "fewbits.masks"  # the metadata that tells what masks were
_SMALLEST_FACTOR = 0.01  # times -10,000 still masks
_CARRIERS = frozenset(
    {
        "Add",
        "Cast",
        "Concat",
        "Expand",
        "Gather",
        "Max",
        "Min",
        "Mul",
        "Reshape",
        "Slice",
        "Squeeze",
        "Sub",
        "Tile",
        "Transpose",
        "Unsqueeze",
        "Where",
    }
)


def soften_masks(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Raise mask values below -1e30 to -10,000 where they can only reach a Softmax.

    A row that is masked as a whole has other results then: `restore_masks` undoes it for what rounds no sum.

    1. The constant is float32 and lies in the main graph; only values below -1e30 change, infinities too.
    2. Every way from it leads through sums, choices and moves of data to a Softmax of which nothing asks
       whether it is NaN.
    3. A way to an output of the graph or to any other operator keeps the constant as it is.
    """
    raised = dict[str, str]()
    for tensor, elsewhere in _masks(model.graph):
        if elsewhere is None:
            values = array(tensor)
            raised[tensor.name] = str(values.min())
            tensor.CopyFrom(as_initializer(np.where(values < LOWEST, MASKED, values), tensor.name))
    if raised:
        model.metadata_props.add(key=MARK, value=json.dumps(raised))
    return model, list(raised)


def restore_masks(model: onnx.ModelProto) -> None:
    """Give raised masks the values that they had, in place."""
    constants = initializers(model.graph)
    for mark in [entry for entry in model.metadata_props if entry.key == MARK]:
        for name, lowest in json.loads(mark.value).items():
            values = array(constants[name])
            restored = np.where(values == MASKED, np.float32(lowest), values)
            constants[name].CopyFrom(as_initializer(restored, name))
        model.metadata_props.remove(mark)


def masks_left(model: onnx.ModelProto) -> dict[str, str]:
    """Why each mask keeps its values, by the constant's name."""
    return {
        tensor.name: elsewhere or "raising it could not be shown to change nothing"
        for tensor, elsewhere in _masks(model.graph)
    }


def _masks(graph: onnx.GraphProto) -> Iterator[tuple[onnx.TensorProto, str | None]]:
    """Constants that hold a mask, and where they lead to besides a Softmax."""
    readers = consumers(graph)
    outputs, constants = {value.name for value in graph.output}, initializers(graph)
    for tensor in graph.initializer:
        if _is_mask(tensor):
            yield tensor, _mixed(array(tensor)) or _elsewhere(tensor.name, readers, outputs, constants)


def _is_mask(tensor: onnx.TensorProto) -> bool:
    if tensor.data_type != onnx.TensorProto.FLOAT:
        return False
    return bool((array(tensor) < LOWEST).any())


def _mixed(values: npt.NDArray[Any]) -> str | None:
    if len(np.unique(values[values < LOWEST])) > 1 or (values == MASKED).any():
        return "it holds several of such values"
    return None


def _elsewhere(
    name: str,
    readers: Mapping[str, Sequence[onnx.NodeProto]],
    outputs: set[str],
    constants: Mapping[str, onnx.TensorProto],
) -> str | None:
    waiting, seen = [name], set[str]()
    while waiting:
        tensor = waiting.pop()
        if tensor in seen:
            continue
        seen.add(tensor)
        if tensor in outputs or tensor not in readers:
            return "an output shows it"
        for node in readers[tensor]:
            if node.op_type == "Softmax":
                asking = [r.name for r in readers.get(node.output[0], ()) if r.op_type == "IsNaN"]
                if asking:
                    return f"IsNaN {asking[0]} looks for rows that are masked as a whole"
                continue
            if node.op_type not in _CARRIERS or _shrinks(node, constants):
                return f"{node.op_type} {node.name} reads it"
            waiting.extend(node.output)
    return None


def _shrinks(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether a Mul could make a raised mask too small to mask."""
    if node.op_type != "Mul":
        return False
    factors = [abs(array(constants[name])) for name in node.input if name in constants]
    return any(((factor > 0) & (factor < _SMALLEST_FACTOR)).any() for factor in factors)
