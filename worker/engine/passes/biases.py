"""Constant rows that are added to products."""

from collections.abc import Mapping, Sequence

import onnx

from worker.engine.passes.scopes import is_standard


def added_row(
    readers: Sequence[onnx.NodeProto], constants: Mapping[str, onnx.TensorProto], width: int
) -> str | None:
    """The constant of `width` values that an Add gives to a tensor which nothing else reads.

    Args:
        readers: the nodes that read the tensor, a node once per time.
        constants: of the graph, by name.
        width: the last size of the tensor.
    """
    if len(readers) != 1 or not is_standard(readers[0], "Add"):
        return None
    rows = (name for name in readers[0].input if name in constants)
    return next((name for name in rows if list(constants[name].dims) == [width]), None)
