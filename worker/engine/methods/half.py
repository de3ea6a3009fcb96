"""float16 and bfloat16: half the bytes on disk; how the runtime computes is another question."""

from dataclasses import replace

import onnx

from app.domain.errors import Refused
from app.domain.recipe import BFloat16, Float16
from worker.engine.choices.resolve import resolve
from worker.engine.choices.setting import Setting
from worker.engine.methods.float16_graph import compute_in_half
from worker.engine.methods.float_storage import store_in_half

_STORAGE = ("storage", "a CPU computes in float32 either way, so this keeps every kernel of the float model")


def float16(
    model: onnx.ModelProto, recipe: Float16, _: Setting
) -> tuple[onnx.ModelProto, Float16, list[str]]:
    """Store weights in float16, or with `full` write the whole graph in it.

    Raises:
        Refused: `unsupported_option`, `nothing_to_quantize`, `selection_matches_nothing` or `opset_too_old`.
    """
    _refuse_other_interface(recipe)
    values, reasons = resolve({"compute": recipe.compute}, {"compute": _STORAGE})
    resolved = replace(recipe, **values)
    if resolved.compute == "full":
        converted, more = compute_in_half(model, resolved)
    else:
        converted, more = store_in_half(model, resolved, "float16")
    return converted, resolved, reasons + more


def bfloat16(
    model: onnx.ModelProto, recipe: BFloat16, _: Setting
) -> tuple[onnx.ModelProto, BFloat16, list[str]]:
    """Store weights in bfloat16.

    Raises:
        Refused: `unsupported_option`, `nothing_to_quantize`, `selection_matches_nothing` or `opset_too_old`.
    """
    _refuse_other_interface(recipe)
    if recipe.compute == "full":
        raise Refused(
            "unsupported_option",
            "ONNX Runtime has no bfloat16 kernels for a CPU, so such a model would not load; "
            "ask for compute storage.",
        )
    values, reasons = resolve({"compute": recipe.compute}, {"compute": _STORAGE})
    resolved = replace(recipe, **values)
    converted, more = store_in_half(model, resolved, "bfloat16")
    return converted, resolved, reasons + more


def _refuse_other_interface(recipe: Float16 | BFloat16) -> None:
    if not recipe.keep_io:
        raise Refused(
            "unsupported_option",
            "keep_io false would change the types of inputs and outputs, and candidates keep the upload's; "
            "leave keep_io true.",
        )
