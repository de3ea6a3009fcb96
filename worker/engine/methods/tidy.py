"""What every quantized model has in common with the model that it was made of."""

from collections.abc import Sequence
from typing import Any

import onnx
from onnx import helper

from worker.engine.contrib import MICROSOFT
from worker.engine.interface import KEY
from worker.engine.passes.copies import merge_copies
from worker.engine.passes.domains import drop_unused_domains
from worker.engine.passes.masks import MARK
from worker.engine.passes.scopes import all_graphs, all_nodes, opset
from worker.engine.requirements import lowest_ir

_PRODUCER = "fewbits"
_MARKS = frozenset({"onnx.infer", "onnx.quant.pre_process", MARK})


def tidy(quantized: onnx.ModelProto, source: onnx.ModelProto) -> onnx.ModelProto:
    """Restore the surroundings of a quantized graph, in place.

    1. Inputs and outputs are declared as in `source`: names, order, dynamic dimensions. So are their types,
       unless the recipe changed an element type.
    2. Description and metadata are those of `source`, and so is the IR version unless the operators or the
       element types need a higher one. What tells the scales of integer inputs and outputs stays.
    3. Exactly the used domains are imported (the quantizer overlooks those used in subgraphs alone).
    4. Inferred shapes go, since the runtime infers them again.
    5. Of equal constants in different subgraphs one is kept.
    """
    for values in ("input", "output"):
        _declare(getattr(quantized.graph, values), getattr(source.graph, values))
    for graph in all_graphs(quantized.graph):
        del graph.value_info[:]
    converted = quantized.ir_version if opset(quantized) > opset(source) else 0
    quantized.ir_version = max(source.ir_version, converted, lowest_ir(quantized))
    quantized.domain, quantized.model_version = source.domain, source.model_version
    quantized.doc_string, quantized.graph.name = source.doc_string, source.graph.name
    quantized.producer_name, quantized.producer_version = _PRODUCER, ""
    kept = [entry for entry in source.metadata_props if entry.key not in _MARKS]
    kept += [entry for entry in quantized.metadata_props if entry.key == KEY]
    del quantized.metadata_props[:]
    quantized.metadata_props.extend(kept)
    import_microsoft(quantized)
    return drop_unused_domains(merge_copies(quantized)[0])[0]


def import_microsoft(model: onnx.ModelProto) -> None:
    """Import `com.microsoft` where nodes use it and it is not imported."""
    imported = {entry.domain for entry in model.opset_import}
    if MICROSOFT not in imported and any(node.domain == MICROSOFT for node in all_nodes(model.graph)):
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))


def _declare(declared: Any, source: Sequence[onnx.ValueInfoProto]) -> None:  # noqa: ANN401 - a protobuf field
    """Declare as in `source`, but of the element types that are declared now."""
    kinds = {value.name: value.type.tensor_type.elem_type for value in declared}
    del declared[:]
    for value in source:
        declared.add().CopyFrom(value)
        if kinds.get(value.name):
            declared[-1].type.tensor_type.elem_type = kinds[value.name]
