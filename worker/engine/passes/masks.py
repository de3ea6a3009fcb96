"""Attention masks near the lowest float become -10,000: beside them a quantized range resolves nothing."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx

from worker.engine.passes.scopes import array, as_initializer, consumers

LOWEST = -1e30  # below it a value is a mask, not a number that was learned
MASKED = np.float32(-1e4)  # its exponential is 0 in float32, as that of the lowest float is
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

    1. The constant is float32 and lies in the main graph; only values below -1e30 change, infinities too.
    2. Every way from it leads through sums, choices and moves of data to a Softmax.
    3. A way to an output of the graph or to any other operator keeps the constant as it is.
    """
    raised = list[str]()
    for tensor, elsewhere in _masks(model.graph):
        if elsewhere is None:
            values = array(tensor)
            tensor.CopyFrom(as_initializer(np.where(values < LOWEST, MASKED, values), tensor.name))
            raised.append(tensor.name)
    return model, raised


def masks_left(model: onnx.ModelProto) -> dict[str, str]:
    """Why each mask keeps its values, by the constant's name."""
    return {
        tensor.name: elsewhere or "raising it could not be shown to change nothing"
        for tensor, elsewhere in _masks(model.graph)
    }


def _masks(graph: onnx.GraphProto) -> Iterator[tuple[onnx.TensorProto, str | None]]:
    """Constants that hold a mask, and where they lead to besides a Softmax."""
    readers = consumers(graph)
    outputs = {value.name for value in graph.output}
    for tensor in graph.initializer:
        if _is_mask(tensor):
            yield tensor, _elsewhere(tensor.name, readers, outputs)


def _is_mask(tensor: onnx.TensorProto) -> bool:
    if tensor.data_type != onnx.TensorProto.FLOAT:
        return False
    return bool((array(tensor) < LOWEST).any())


def _elsewhere(name: str, readers: Mapping[str, Sequence[onnx.NodeProto]], outputs: set[str]) -> str | None:
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
                continue
            if node.op_type not in _CARRIERS:
                return f"{node.op_type} {node.name} reads it"
            waiting.extend(node.output)
    return None
