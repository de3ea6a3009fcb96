"""int8, 16-bit activations or float for each node, as it was chosen by hand."""

import onnx

from app.domain.recipe import Calibrated, Mixed
from worker.engine.choices.selection import stays_float
from worker.engine.choices.setting import Setting
from worker.engine.methods.by_hand import spelled_out, told, types_in
from worker.engine.methods.static_int8 import finish, make


def mixed(
    model: onnx.ModelProto, recipe: Mixed, setting: Setting
) -> tuple[onnx.ModelProto, Calibrated, list[str]]:
    """Quantize each node as the recipe says by hand; the resolved recipe names every node with what it got.

    Takes and returns what `static_int8` does.

    Raises:
        Refused: as `static_int8` does; `unsupported_option` also names what a node cannot get.
    """
    built, resolved, reasons = make(model, recipe, setting)
    types = types_in(built.quantized.graph, built.plan.nodes, built.plan.exceptions)
    left = [node.name for node in built.quantized.graph.node if node.name in built.left_float]
    spelled = spelled_out(resolved, types, left)
    reasons += [*told(types), *finish(built, resolved)]
    return built.quantized, spelled, reasons + stays_float(built.left_float)
