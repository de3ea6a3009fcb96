"""Metadata that would be read as if this model had written it."""

import onnx

from worker.engine.interface import KEY
from worker.engine.passes.masks import MARK

_OURS = {KEY, MARK}


def forget_interface(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Drop the scales that an earlier recipe noted for integer inputs and outputs, and what masks were.

    A result is held against the upload, whose inputs are the same integers: it has nothing to be scaled by.
    """
    kept = [entry for entry in model.metadata_props if entry.key not in _OURS]
    dropped = [entry.key for entry in model.metadata_props if entry.key in _OURS]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    return model, dropped
