"""Which nodes a recipe quantizes, and why the others stay float."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
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
    return named(list(all_nodes(graph)), selection.op_types, selection.nodes)


def named(nodes: Sequence[onnx.NodeProto], op_types: Iterable[str], names: Iterable[str]) -> set[str]:
    """Names of the nodes whose operator type or name a glob matches.

    Raises:
        Refused: `selection_matches_nothing`, naming the glob and what is like it.
    """
    kinds = matches((node.op_type for node in nodes), op_types, "operator")
    own = matches((node.name for node in nodes), names, "node name")
    return {node.name for node in nodes if node.op_type in kinds or node.name in own}


def matches(known: Iterable[str], globs: Iterable[str], kind: str) -> set[str]:
    """The names that any glob matches.

    Raises:
        Refused: `selection_matches_nothing`, naming the glob and what is like it.
    """
    names = list(dict.fromkeys(known))
    found: set[str] = set()
    for glob in globs:
        hits = {name for name in names if fnmatchcase(name, glob)}
        if not hits:
            near = listed(get_close_matches(glob, names, n=_NAMES_SHOWN) or names) or "none"
            detail = f"No {kind} in this model matches {glob!r}; it has: {near}."
            raise Refused("selection_matches_nothing", detail)
        found |= hits
    return found


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
