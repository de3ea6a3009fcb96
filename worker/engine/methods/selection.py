"""Which nodes a recipe quantizes, and why the others stay float."""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import onnx

from app.domain.errors import Refused
from app.domain.recipe import Selection
from worker.engine.passes.scopes import all_nodes

_NAMES_SHOWN = 6


def matching(graph: onnx.GraphProto, selection: Selection) -> set[str]:
    """Names of the nodes that any glob of a selection matches, subgraphs included.

    Raises:
        Refused: `selection_matches_nothing`, naming the glob.
    """
    nodes = list(all_nodes(graph))
    found: set[str] = set()
    for glob in selection.op_types:
        found |= _hits(glob, "operator", (n.name for n in nodes if fnmatchcase(n.op_type, glob)))
    for glob in selection.nodes:
        found |= _hits(glob, "node name", (n.name for n in nodes if fnmatchcase(n.name, glob)))
    return found


def _hits(glob: str, kind: str, names: Iterable[str]) -> set[str]:
    hits = set(names)
    if not hits:
        raise Refused("selection_matches_nothing", f"No {kind} in this model matches {glob!r}.")
    return hits


def stays_float(reasons: Mapping[str, str]) -> list[str]:
    """One sentence per reason, with the nodes that it holds for.

    Args:
        reasons: node name to reason.
    """
    return [f"stays float, {reason}: {listed(names)}" for reason, names in by_reason(reasons).items()]


def by_reason(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    """The names that each reason holds for.

    Args:
        reasons: name to reason.
    """
    names: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names.setdefault(reason, []).append(name)
    return names


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more


def refuse_nothing(selected: Iterable[str], method: str, reasons: Mapping[str, str]) -> None:
    """Refuse a recipe that would leave the model as it is.

    Raises:
        Refused: `nothing_to_quantize`, with the reasons.
    """
    if any(True for _ in selected):
        return
    why = "; ".join(stays_float(reasons)[:3]) or "the model has none of the operators that it quantizes"
    raise Refused("nothing_to_quantize", f"{method} finds nothing to quantize in this model: {why}.")
