"""What `auto` becomes, and why."""

from collections.abc import Mapping
from typing import Any

from app.domain.target import RULES


def types_for(isa: str) -> dict[str, tuple[Any, str]]:
    """For each numeric choice its value on an instruction set and the reason."""
    rules = RULES[isa]
    return {
        "activation": (rules.activation, rules.reason),
        "weight": (rules.weight, rules.reason),
        "reduce_range": (rules.reduce_range, rules.reason),
    }


def resolve(
    asked: Mapping[str, Any], choices: Mapping[str, tuple[Any, str]]
) -> tuple[dict[str, Any], list[str]]:
    """Replace each `auto` by its choice.

    Args:
        asked: fields of the recipe; what is not `auto` stays as asked.
        choices: field to its value and the reason for it.

    Returns:
        The fields without `auto`, and a sentence for each that was chosen.
    """
    chosen = {field: choices[field] for field, value in asked.items() if value == "auto"}
    values = {**asked, **{field: value for field, (value, _) in chosen.items()}}
    return values, [f"{field} {_shown(value)}: {reason}" for field, (value, reason) in chosen.items()]


def _shown(value: object) -> str:
    return {True: "on", False: "off"}.get(value, str(value)) if isinstance(value, bool) else str(value)
