"""What is wrong in a job file: each fault with its line and field, and what to write instead."""

import difflib
import json
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from jsonschema import Draft202012Validator, TypeChecker, ValidationError
from jsonschema.validators import extend

TYPES = {"object": "a mapping", "array": "a list", "string": "text", "boolean": "true or false"}
TYPES |= {"number": "a number", "integer": "a whole number", "null": "null"}
ANOTHER_KIND = frozenset({"type", "enum", "const"})


@dataclass(frozen=True, order=True)
class Fault:
    """One fault; `field` is empty for the file as a whole."""

    line: int
    field: str
    text: str


def _is_finite(_checker: TypeChecker, value: object) -> bool:
    """What JSON knows as a number: neither .nan nor .inf."""
    number = Draft202012Validator.TYPE_CHECKER.is_type(value, "number")
    return number and (not isinstance(value, float) or math.isfinite(value))


CHECKER = Draft202012Validator.TYPE_CHECKER.redefine("number", _is_finite)
Validator: Any = extend(Draft202012Validator, type_checker=CHECKER)  # type: ignore[no-untyped-call]


def faults(node: yaml.Node | None, content: object, schema: dict[str, Any]) -> list[Fault]:
    """All faults of a document, by line: fields that are there twice, and what does not fit the schema."""
    errors = [_meant(error) for error in Validator(schema).iter_errors({} if content is None else content)]
    # One error for each place: that it has the wrong type says less than what it may be.
    errors.sort(key=lambda error: error.validator != "type")
    places = {(error.json_path, error.validator == "additionalProperties"): error for error in errors}
    found = [fault for error in places.values() for fault in _told(node, error)]
    return sorted([*found, *_repeated(node)])


def _meant(error: ValidationError) -> ValidationError:
    """The error in the alternative that was meant: the one that goes deepest, or takes this kind of value."""
    context = error.context or ()
    deeper = [e for e in context if len(e.absolute_path) > len(error.absolute_path)]
    of_its_kind = [e for e in context if e.validator not in ANOTHER_KIND]
    chosen = next(iter([*deeper, *of_its_kind]), None)
    return _meant(chosen) if chosen else error


def _told(node: yaml.Node | None, error: ValidationError) -> Iterator[Fault]:
    """The faults that an error of the schema stands for."""
    path = list(error.absolute_path)
    if error.validator == "additionalProperties" and error.validator_value is False:
        for name in _extra(error):
            yield Fault(_line(node, [*path, name]), _field(path), _unknown(str(name), _known(error)))
    else:
        yield Fault(_line(node, path), _field(path), _words(error))


def _words(error: ValidationError) -> str:
    match error.validator:
        case "type" | "enum" | "const" | "anyOf":
            expected = " or ".join(_expected(error.schema))
            return f"must be {expected}, not {_shown(error.instance)}{_hint(error.instance, expected)}"
        case "required":
            missing = [name for name in _list(error.validator_value) if name not in _list(error.instance)]
            return f"the field {missing[0]!r} is missing"
        case _:
            return str(error.message)


def _shown(value: object) -> str:
    """A value as YAML calls it."""
    match value:
        case dict():
            return TYPES["object"]
        case list():
            return TYPES["array"]
        case None | bool():
            return json.dumps(value)
        case str():
            return repr(value)
        case _:
            return str(value)


def _hint(value: object, expected: str) -> str:
    """YAML 1.1 takes 1e-2 for text, as what stands in quotes."""
    if "number" not in expected or not isinstance(value, str):
        return ""
    try:
        return f"; write {float(value):g}"
    except ValueError:
        return ""


def _expected(schema: Any) -> Iterator[str]:  # noqa: ANN401 - any schema
    """What a schema takes, in words."""
    if "anyOf" in schema:
        for branch in schema["anyOf"]:
            yield from _expected(branch)
    elif "$ref" in schema:
        yield TYPES["object"]
    elif "enum" in schema:
        yield from (json.dumps(value) for value in schema["enum"])
    elif "const" in schema:
        yield json.dumps(schema["const"])
    else:
        yield TYPES.get(schema.get("type", ""), str(schema.get("type")))


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}."
    return f"there is no field {name!r}; {hint}"


def _extra(error: ValidationError) -> list[Any]:
    return [name for name in _list(error.instance) if name not in _known(error)]


def _known(error: ValidationError) -> list[str]:
    schema: Any = error.schema
    return list(schema["properties"])


def _list(value: Any) -> list[Any]:  # noqa: ANN401 - any mapping or list
    return list(value)


def _repeated(root: yaml.Node | None) -> Iterator[Fault]:
    """Fields that are there twice: YAML readers take the last one without a word."""
    left: list[tuple[tuple[Any, ...], yaml.Node]] = [((), root)] if root else []
    seen: set[int] = set()
    while left:
        path, node = left.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        left += [((*path, name), value) for name, value in _children(node)]
        first: dict[object, int] = {}
        for name, line in _names(node):
            if name in first:
                yield Fault(line, _field(path), f"{name!r} is there twice; first in line {first[name]}")
            first.setdefault(name, line)


def _field(path: tuple[Any, ...] | list[Any]) -> str:
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in path]
    return "".join(parts).removeprefix(".")


def _line(node: yaml.Node | None, path: list[Any]) -> int:
    """The line of what lies at a path, or of the last thing on the way to it."""
    steps, line = deque(path), 1
    while node is not None:
        line = node.start_mark.line + 1
        step = steps.popleft() if steps else None
        node = dict(_children(node)).get(step)
    return line


def _children(node: yaml.Node) -> Iterator[tuple[Any, yaml.Node]]:
    """What lies in a node, by name or number."""
    if isinstance(node, yaml.MappingNode):
        yield from ((name.value, value) for name, value in node.value if isinstance(name, yaml.ScalarNode))
    elif isinstance(node, yaml.SequenceNode):
        yield from enumerate(node.value)


def _names(node: yaml.Node) -> Iterator[tuple[str, int]]:
    """The names in a mapping, each with its line."""
    if isinstance(node, yaml.MappingNode):
        for name, _ in node.value:
            yield str(name.value), name.start_mark.line + 1
