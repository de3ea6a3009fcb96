"""Old operator sets are converted: below 13 there is no per-channel quantization."""

from collections.abc import Sequence

import onnx
from onnx import helper, version_converter

from worker.engine.load import tensor_bytes
from worker.engine.passes.scopes import STANDARD, all_nodes, is_standard, opset

PER_CHANNEL = 13
MODERN = 17
_PROTOBUF_LIMIT = 2_000_000_000


class CannotConvert(Exception):
    """The model cannot be brought to a newer operator set; the message says why."""


def convert_opset(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Convert the standard operators to opset 17, or to 13 where that is not possible.

    1. Opset 13 and above stay as they are.
    2. The IR version is raised to the lowest that the new opset may be stored in, never lowered.
    3. Other domains, metadata, and the declared inputs and outputs are kept.

    Raises:
        CannotConvert: when there is no way, or the model is too big for the converter (2 GB).
    """
    if opset(model) >= PER_CHANNEL:
        return model, []
    converted = raise_opset(model, (MODERN, PER_CHANNEL))
    return converted, [f"opset {opset(model)} → {opset(converted)}"]


def raise_opset(model: onnx.ModelProto, versions: Sequence[int]) -> onnx.ModelProto:
    """A copy with the standard operators converted to the first of these versions that is possible.

    Raises:
        CannotConvert: see `convert_opset`.
    """
    if tensor_bytes(model) > _PROTOBUF_LIMIT:
        raise CannotConvert("it is over 2 GB")
    if opset(model) < PER_CHANNEL and any(is_standard(node, "Hardmax") for node in all_nodes(model.graph)):
        raise CannotConvert("Hardmax means another thing since opset 13, and the converter does not know")
    converted = _convert(model, versions)
    others = [entry for entry in model.opset_import if entry.domain not in STANDARD]
    converted.opset_import.extend(o for o in others if o.domain not in _domains(converted))
    lowest = helper.find_min_ir_version_for(list(converted.opset_import), ignore_unknown=True)
    converted.ir_version = max(model.ir_version, lowest)
    _keep_surroundings(model, converted)
    return converted


def _convert(model: onnx.ModelProto, versions: Sequence[int]) -> onnx.ModelProto:
    reason = ""
    for version in versions:
        try:
            return version_converter.convert_version(model, version)
        except (RuntimeError, ValueError) as error:  # its C++ exceptions arrive as RuntimeError
            reason = reason or " ".join(str(error).split())[:200]
    raise CannotConvert(reason)


def _domains(model: onnx.ModelProto) -> set[str]:
    return {entry.domain for entry in model.opset_import}


def _keep_surroundings(old: onnx.ModelProto, new: onnx.ModelProto) -> None:
    new.producer_name, new.producer_version = old.producer_name, old.producer_version
    for values in ("metadata_props", "functions"):
        del getattr(new, values)[:]
        getattr(new, values).extend(getattr(old, values))
    for values in ("input", "output"):
        del getattr(new.graph, values)[:]
        getattr(new.graph, values).extend(getattr(old.graph, values))
