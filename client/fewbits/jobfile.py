"""`.fewbits.yaml`: what a pipeline quantizes, how, and within which limits. Checked before anything is sent.

Its JSON Schema is in the package (`fewbits.schema.json`), made from the API's own document.
"""

import difflib
import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, ValidationError

from fewbits.errors import InvalidInput

NAME = ".fewbits.yaml"
OURS = ("model", "data", "name", "preprocess", "input")
SHOWN = 5
TYPES = {"object": "a mapping", "array": "a list", "string": "text", "boolean": "true or false"}
TYPES |= {"number": "a number", "integer": "a whole number", "null": "null"}


@dataclass(frozen=True)
class JobFile:
    """A job as a pipeline gives it; files are as seen from the current folder."""

    model: str | None = None
    data: str | None = None
    name: str | None = None
    preprocess: str | dict[str, Any] | None = None
    input: str | None = None
    spec: dict[str, Any] = field(default_factory=dict)


def find(given: Path | None) -> JobFile:
    """The job file that was named, else that of the current folder, else an empty one."""
    if given is not None:
        return load(given)
    here = Path(NAME)
    return load(here) if here.is_file() else JobFile()


def load(path: Path) -> JobFile:
    """A job file, in YAML or JSON.

    Raises:
        InvalidInput: It cannot be read, or does not fit the schema; each place is named by line and field.
    """
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, yaml.SafeLoader)
        content = yaml.safe_load(text)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} is no YAML: {error}") from error
    _check(path, node, content)
    content = content or {}
    spec = {name: value for name, value in content.items() if name not in OURS}
    ours = {name: content[name] for name in OURS if name in content}
    for name in ("model", "data"):
        if name in ours:
            ours[name] = _located(path, ours[name])
    if "candidates" in spec:
        spec["candidates"] = [_located(path, candidate) for candidate in spec["candidates"]]
    return JobFile(**ours, spec=spec)


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema of a job file."""
    text = (files("fewbits") / "fewbits.schema.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def _located(file: Path, given: str) -> str:
    """A path as seen from the current folder; ids stay."""
    return given if given.startswith(("ver_", "dst_")) else str(file.parent / given)


def _check(path: Path, node: yaml.Node | None, content: object) -> None:
    found = list(Draft202012Validator(schema()).iter_errors({} if content is None else content))
    # One error for each place: that it has the wrong type says less than what it may be.
    leaves = sorted((_leaf(error) for error in found), key=lambda error: error.validator != "type")
    places = {(error.json_path, error.validator == "additionalProperties"): error for error in leaves}
    leaves = sorted(places.values(), key=lambda error: _line(node, error))
    rows = [f"{path}:{_line(node, error)}: {_field(error)}{_words(error)}" for error in leaves]
    if rows:
        more = [f"and {len(rows) - SHOWN} more"] if len(rows) > SHOWN else []
        raise InvalidInput("\n".join([*rows[:SHOWN], *more]))


def _leaf(error: ValidationError) -> ValidationError:
    """The error in the alternative that was meant: the one that goes deepest."""
    deeper = [e for e in error.context or () if len(e.absolute_path) > len(error.absolute_path)]
    unknown = [e for e in error.context or () if e.validator == "additionalProperties"]
    chosen = next(iter([*deeper, *unknown]), None)
    return _leaf(chosen) if chosen else error


def _field(error: ValidationError) -> str:
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path]
    return f"{''.join(parts).removeprefix('.')}: " if parts else ""


def _words(error: ValidationError) -> str:
    value: Any = error.validator_value
    match error.validator:
        case "additionalProperties" if value is False:
            return " ".join(_unknown(name, _known(error)) for name in _extra(error))
        case "type" | "enum" | "const" | "anyOf":
            return f"must be {' or '.join(_expected(error.schema))}, not {error.instance!r}"
        case _:
            return str(error.message)


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}."
    return f"there is no field {name!r}; {hint}"


def _extra(error: ValidationError) -> list[str]:
    instance: Any = error.instance
    return [str(name) for name in instance if name not in _known(error)]


def _known(error: ValidationError) -> list[str]:
    schema: Any = error.schema
    return list(schema["properties"])


def _expected(schema: Any) -> Iterator[str]:  # noqa: ANN401 - any schema
    """What a schema takes, in words."""
    if "anyOf" in schema:
        for branch in schema["anyOf"]:
            yield from _expected(branch)
    elif "$ref" in schema:
        yield "a mapping"
    elif "enum" in schema:
        yield from (json.dumps(value) for value in schema["enum"])
    elif "const" in schema:
        yield json.dumps(schema["const"])
    else:
        yield TYPES.get(schema.get("type", ""), str(schema.get("type")))


def _line(node: yaml.Node | None, error: ValidationError) -> int:
    """The line of what is wrong; of an unknown field, its own."""
    path = deque(error.absolute_path)
    if error.validator == "additionalProperties":
        path.extend(_extra(error)[:1])
    line = 1
    while node is not None:
        line, node = node.start_mark.line + 1, _child(node, path.popleft()) if path else None
    return line


def _child(node: yaml.Node, step: str | int) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        return next((value for name, value in node.value if name.value == step), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int):
        child: yaml.Node = node.value[step]
        return child
    return None
