"""Text fields of forms, parsed into the domain's values."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import PurePosixPath
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from app.api.errors import invalid_input
from app.api.schemas.specs import SpecWithoutIds
from app.api.schemas.values import InputName, Labels
from app.domain.dataset import PRESETS, Preprocess
from app.domain.errors import FieldError, InvalidInput
from app.domain.file_path import NAME_BYTES, is_plain
from app.domain.gate import Gate

GATE_FIELDS = frozenset(f.name for f in dataclasses.fields(Gate))
EXAMPLES = {  # /docs fills in what it can make up from a pattern, where there is none: an id of no job
    "against": "float",
    "on_inconclusive": "fail",
    "max_accuracy_drop": 0.02,
    "max_relative_drop": 0.05,
    "min_speedup": 1.1,
    "max_latency_ms": 1000,
    "max_size_ratio": 0.5,
    "max_size_bytes": 100_000_000,
    "max_memory_ratio": 2,
    "max_memory_bytes": 1_000_000_000,
    "min_sqnr_db": 20,
}
Value = TypeVar("Value")


def gate_form() -> dict[str, Any]:
    """The gate's fields as a form describes them: each may be left out."""
    properties = TypeAdapter(Gate).json_schema()["properties"]
    return {name: _without_null(schema) | {"example": EXAMPLES[name]} for name, schema in properties.items()}


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    kind: dict[str, Any] = next((one for one in schema.get("anyOf", ()) if one != {"type": "null"}), {})
    return {key: value for key, value in schema.items() if key not in {"anyOf", "title", "default"}} | kind


def preprocess(text: str, pointer: str = "/preprocess") -> Preprocess:
    """A preset's name, or JSON.

    Raises:
        InvalidInput: It is neither.
    """
    text = text.strip() or "{}"
    return preprocess_value(loaded(text, pointer) if text.startswith("{") else text, pointer)


def preprocess_value(value: str | dict[str, Any], pointer: str = "/preprocess") -> Preprocess:
    """A preset's name, or an object."""
    return preset(value, pointer) if isinstance(value, str) else parse(Preprocess, value, pointer)


def preset(name: str, pointer: str) -> Preprocess:
    """A preset by its name.

    Raises:
        InvalidInput: There is none of this name.
    """
    if name not in PRESETS:
        detail = f"there is no preset {name!r}; use {', '.join(PRESETS)}, or a JSON object"
        raise InvalidInput.at(pointer, detail)
    return PRESETS[name]


def labels(text: str) -> dict[str, str]:
    """Labels as a JSON object of strings."""
    return parse(dict[str, str], loaded(text, "/labels"), "/labels", Labels) if text.strip() else {}


def input_name(text: str) -> str | None:
    """The model's input that images bind to; None where it is left open."""
    return parse(str, text, "/input", InputName) if text else None


def spec(text: str, form: Mapping[str, str]) -> SpecWithoutIds:
    """The one-shot's `spec`; the gate's fields that came as form fields of their own come before the spec's.

    Raises:
        InvalidInput: Something does not fit.
    """
    found = loaded(text, "/spec") if text.strip() else {}
    if not isinstance(found, dict):
        detail = "must be a JSON object"
        raise InvalidInput.at("/spec", detail)
    parsed = parse(SpecWithoutIds, found, "/spec")
    given = {name: _number_or_text(form[name]) for name in GATE_FIELDS & form.keys()}
    if not given:
        return parsed
    limits = parse(Gate, given, "")
    named = {name: getattr(limits, name) for name in given}
    return dataclasses.replace(parsed, gate=dataclasses.replace(parsed.gate or Gate(), **named))


def as_sent(error: InvalidInput, form: Mapping[str, str]) -> InvalidInput:
    """What is wrong with a job, said of where the one-shot has it: in `spec`, or in a field of the gate's."""
    detail, errors = error.detail, []
    for wrong in error.errors:
        name = wrong.pointer.removeprefix("/gate/")
        place = f"/{name}" if name in GATE_FIELDS & form.keys() else f"/spec{wrong.pointer}"
        detail = detail.replace(wrong.pointer, place)
        errors.append(FieldError(place, wrong.detail))
    return InvalidInput(detail, errors=tuple(errors))


def _number_or_text(text: str) -> float | str:
    """A form has only texts, where JSON tells numbers from them."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def loaded(text: str, pointer: str) -> Any:  # noqa: ANN401 - any JSON
    """JSON from a text field.

    Raises:
        InvalidInput: It is none; the place is named.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        detail = f"is no JSON: {error}"
        raise InvalidInput(f"{pointer} {detail}", errors=(FieldError(pointer, detail),)) from error


def parse(kind: type[Value], value: object, pointer: str, adapter: Any = None) -> Value:  # noqa: ANN401
    """A value of this type.

    Raises:
        InvalidInput: It does not fit; every misfit is named.
    """
    try:
        which: Any = adapter or kind
        parsed: Value = _adapter(which).validate_python(value)
    except ValidationError as error:
        raise invalid_input(error, pointer) from error
    return parsed


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:  # noqa: ANN401 - any type
    """Building one for a job takes milliseconds."""
    return TypeAdapter(kind)


def file_paths(texts: Iterable[str], pointer: str) -> list[str]:
    """The paths of a version's files, none of which is in another's way.

    Raises:
        InvalidInput: One leads outside or is none, or two cannot lie side by side.
    """
    paths = [_file_path(text, pointer) for text in texts]
    folders = {str(folder) for path in paths for folder in PurePosixPath(path).parents}
    for i, path in enumerate(paths):
        if path in folders or path in paths[:i]:
            detail = f"{path!r} is in the way of another file; every file needs a path of its own"
            raise InvalidInput.at(pointer, detail)
    return paths


def _file_path(text: str, pointer: str) -> str:
    """A path inside a version, as its external data is named.

    Raises:
        InvalidInput: It leads outside, is too long, or is none.
    """
    if not is_plain(text):
        allowed = f"a plain relative path below the model's folder, of names of at most {NAME_BYTES} bytes"
        detail = f"{text[:100]!r} is not {allowed}"
        raise InvalidInput.at(pointer, detail)
    return str(PurePosixPath(text))
