"""Functions that a model brings along give way to their nodes."""

import onnx
from onnx.inliner import inline_local_functions


def inline_functions(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Put the nodes of functions where these are called.

    So their weights are quantized too, and a function that has an operator's name is not taken for it. One
    that needs other versions of operators than the model is converted, where that is possible.
    """
    if not model.functions:
        return model, []
    called = [f"{function.domain}.{function.name}" for function in model.functions]
    return inline_local_functions(model, convert_version=True), called
