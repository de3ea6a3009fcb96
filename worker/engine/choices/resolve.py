"""What `auto` becomes, and why; what cannot be combined is refused."""

from collections.abc import Mapping
from typing import Any

from app.domain.errors import FieldError, Refused
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


def unsupported(field: str, value: object, why: str, instead: str) -> Refused:
    """A refusal of one field's value: what, why, and what to do.

    Args:
        field: its path in the recipe, as `symmetric.weight`.
        value: what was asked for.
        why: what stands against it.
        instead: the next step.
    """
    detail = f"{field} {_shown(value)}: {why}; {instead}."
    pointer = "/" + field.replace(".", "/")
    return Refused("unsupported_option", detail, errors=(FieldError(pointer, detail),))


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)
