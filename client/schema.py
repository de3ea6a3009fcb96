"""Writes the JSON Schema of `.fewbits.yaml` from the API's document: `make openapi` runs it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "openapi.json"
PLACES = (ROOT / "client" / "fewbits" / "fewbits.schema.json", ROOT / "docs" / "fewbits.schema.json")
REF = "#/components/schemas/"
PRESETS = ["imagenet", "unit", "signed", "raw"]
PREPROCESS = {
    "description": "how pixels become input values: a preset, or a spec",
    "anyOf": [{"enum": PRESETS}, {"$ref": "#/$defs/Preprocess"}],
}
# What a pipeline has instead of ids.
FILES: dict[str, Any] = {
    "model": {
        "description": "the .onnx file, a folder or archive with its external data, or an id (ver_…)",
        "type": "string",
        "minLength": 1,
    },
    "data": {
        "description": "samples for calibration and evaluation: npz, zip or tar, or an id (dst_…)",
        "type": "string",
        "minLength": 1,
    },
    "name": {"description": "the model's name; the file's when left out", "type": "string", "maxLength": 200},
    "preprocess": PREPROCESS,
    "input": {"description": "the model's input that images bind to", "type": "string"},
}
CANDIDATES = "models quantized elsewhere, measured beside ours: files, or ids (ver_…)"


def schema(document: dict[str, Any]) -> dict[str, Any]:
    """The schema: a JobSpec without its version, and the files that a pipeline has."""
    known = {name: _adapted(value) for name, value in document["components"]["schemas"].items()}
    spec = known["JobCreate"]["properties"]
    del spec["version"]
    spec["candidates"]["description"] = CANDIDATES
    whole = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": ".fewbits.yaml",
        "description": "What a pipeline quantizes, how, and which limits the result must keep to",
        "type": "object",
        "additionalProperties": False,
        "properties": {**FILES, **spec},
    }
    return {**whole, "$defs": dict(sorted(_reached(whole, known)))}


def as_text(document: dict[str, Any]) -> str:
    """The schema as it is stored."""
    return json.dumps(schema(document), indent=1, ensure_ascii=False) + "\n"


def _adapted(value: Any) -> Any:  # noqa: ANN401 - any JSON
    """The same, with references as they are here, without titles; a recipe is chosen by its method."""
    if isinstance(value, list):
        return [_adapted(item) for item in value]
    if not isinstance(value, dict):
        return value.replace(REF, "#/$defs/") if isinstance(value, str) else value
    if "discriminator" in value:
        return _chosen(value["discriminator"])
    return {
        name: _adapted(item) for name, item in value.items() if name != "title" or not isinstance(item, str)
    }


def _chosen(discriminator: dict[str, Any]) -> dict[str, Any]:
    """One of several objects, so that an error is that of the object which was meant."""
    name, mapping = discriminator["propertyName"], discriminator["mapping"]
    return {
        "type": "object",
        "required": [name],
        "properties": {name: {"enum": sorted(mapping)}},
        "allOf": [
            {"if": {"properties": {name: {"const": value}}}, "then": {"$ref": ref.replace(REF, "#/$defs/")}}
            for value, ref in sorted(mapping.items())
        ],
    }


def _reached(value: Any, known: dict[str, Any]) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - any JSON
    """What a schema refers to, and what that refers to."""
    found: dict[str, Any] = {}
    left = list(_references(value))
    while left:
        name = left.pop()
        if name not in found:
            found[name] = known[name]
            left += _references(known[name])
    yield from found.items()


def _references(value: Any) -> Iterator[str]:  # noqa: ANN401 - any JSON
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _references(item)
    if isinstance(value, dict) and isinstance(value.get("$ref"), str):
        yield value["$ref"].rpartition("/")[2]


if __name__ == "__main__":
    text = as_text(json.loads(DOCUMENT.read_text()))
    for place in PLACES:
        place.write_text(text)
