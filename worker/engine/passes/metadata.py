"""Metadata that would be read as if this model had written it."""

import onnx

from worker.engine.interface import KEY


def forget_interface(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Drop the scales that an earlier recipe noted for integer inputs and outputs.

    A result is held against the upload, whose inputs are the same integers: it has nothing to be scaled by.
    """
    kept = [entry for entry in model.metadata_props if entry.key != KEY]
    dropped = [entry.key for entry in model.metadata_props if entry.key == KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    return model, dropped
