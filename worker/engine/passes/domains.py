"""Only the operator sets that are used are imported."""

import onnx

from worker.engine.passes.scopes import STANDARD, all_nodes


def drop_unused_domains(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Remove imports of domains that no node and no function of the model uses.

    1. The standard domain always stays.
    2. A domain that is imported twice is kept once, as it came first.
    """
    used = {node.domain for node in all_nodes(model.graph)}
    for function in model.functions:
        used |= {function.domain} | {node.domain for node in function.node}
    kept: dict[str, onnx.OperatorSetIdProto] = {}
    dropped = list[str]()
    for entry in model.opset_import:
        domain = "" if entry.domain in STANDARD else entry.domain
        if domain in kept or domain not in used | {""}:
            dropped.append(entry.domain)
        else:
            kept[domain] = entry
    if dropped:
        entries = list(kept.values())
        del model.opset_import[:]
        model.opset_import.extend(entries)
    return model, dropped
