"""What every quantized model has in common with the model that it was made of."""

import onnx
from onnx import helper

from worker.engine.passes.domains import drop_unused_domains
from worker.engine.passes.scopes import all_graphs, all_nodes

_PRODUCER = "fewbits"
_QUANTIZER_MARKS = frozenset({"onnx.infer", "onnx.quant.pre_process"})


def tidy(quantized: onnx.ModelProto, source: onnx.ModelProto) -> onnx.ModelProto:
    """Restore the surroundings of a quantized graph, in place.

    1. Inputs and outputs are declared as in `source`: names, order, types, dynamic dimensions.
    2. IR version, description and metadata are those of `source`.
    3. Exactly the used domains are imported (the quantizer overlooks those used in subgraphs alone).
    4. Inferred shapes go, since the runtime infers them again.
    """
    for values in ("input", "output"):
        del getattr(quantized.graph, values)[:]
        getattr(quantized.graph, values).extend(getattr(source.graph, values))
    for graph in all_graphs(quantized.graph):
        del graph.value_info[:]
    quantized.ir_version = source.ir_version
    quantized.domain, quantized.model_version = source.domain, source.model_version
    quantized.doc_string, quantized.graph.name = source.doc_string, source.graph.name
    quantized.producer_name, quantized.producer_version = _PRODUCER, ""
    kept = [entry for entry in source.metadata_props if entry.key not in _QUANTIZER_MARKS]
    del quantized.metadata_props[:]
    quantized.metadata_props.extend(kept)
    imported = {entry.domain for entry in quantized.opset_import}
    if "com.microsoft" not in imported and any(
        n.domain == "com.microsoft" for n in all_nodes(quantized.graph)
    ):
        quantized.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return drop_unused_domains(quantized)[0]
