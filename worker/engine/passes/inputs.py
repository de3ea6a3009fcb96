"""Constants leave the list of inputs: as inputs nothing may fold or quantize them."""

import onnx

from worker.engine.passes.scopes import real_inputs

_FIRST_IR_WITH_HIDDEN_CONSTANTS = 4


def separate_constants_from_inputs(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Keep as inputs only what a caller must feed.

    1. An input that has an initializer of the same name is removed; sessions never listed it.
    2. Before IR 4 every initializer had to be an input, so the IR version becomes 4.
    """
    kept = real_inputs(model.graph)
    names = {value.name for value in kept}
    removed = [value.name for value in model.graph.input if value.name not in names]
    if not removed:
        return model, []
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.ir_version = max(model.ir_version, _FIRST_IR_WITH_HIDDEN_CONSTANTS)
    return model, removed
