"""Only the operator sets that are used are imported."""

import onnx

from worker.engine.passes.scopes import STANDARD, all_nodes


def drop_unused_domains(model: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
    """Remove imports of domains that no node and no function of the model uses.

    1. The standard domain always stays.
    2. A domain that is imported twice is kept once, as it came first.
    """
    used = {node.domain for node in all_nodes(model.graph)}
    for function in model.functions:
        used |= {function.domain} | {node.domain for node in function.node}
    kept: dict[str, onnx.OperatorSetIdProto] = {}
    for entry in model.opset_import:
        if entry.domain in used or entry.domain in STANDARD:
            kept.setdefault("" if entry.domain in STANDARD else entry.domain, entry)
    modified = len(kept) < len(model.opset_import)
    if modified:
        entries = list(kept.values())
        del model.opset_import[:]
        model.opset_import.extend(entries)
    return model, modified
