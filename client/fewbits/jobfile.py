"""`.fewbits.yaml`: what a pipeline quantizes, how, and within which limits. Checked before anything is sent.

Its JSON Schema is in the package (`fewbits.schema.json`), made from the API's own document.
"""

import json
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from fewbits import faults
from fewbits.errors import InvalidInput
from fewbits.faults import Fault

NAME = ".fewbits.yaml"
OURS = ("model", "data", "name", "preprocess", "input")
SHOWN = 5


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
    node, content = _parsed(path)
    _refuse_faults(path, faults.faults(node, content, schema()))
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


def check(where: str, content: dict[str, Any]) -> None:
    """Refuse what was given elsewhere than in a file.

    Raises:
        InvalidInput: It does not fit the schema.
    """
    found = faults.faults(None, content, schema())
    if found:
        raise InvalidInput("\n".join(f"{where}: {fault.text}" for fault in found))


def _located(file: Path, given: str) -> str:
    """A path as seen from the current folder; ids stay."""
    return given if given.startswith(("ver_", "dst_")) else str(file.parent / given)


def _parsed(path: Path) -> tuple[yaml.Node | None, Any]:
    """A document as nodes, which know their lines, and as values."""
    try:
        text = path.read_text(encoding="utf-8")
        return yaml.compose(text, yaml.SafeLoader), yaml.safe_load(text)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        said = ", ".join(part for part in (error.context, error.problem) if part)
        raise InvalidInput(f"{where}: this is no YAML: {said}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} is no YAML: {error}") from error


def _refuse_faults(path: Path, found: list[Fault]) -> None:
    rows = [f"{path}:{fault.line}: {fault.field}{': ' if fault.field else ''}{fault.text}" for fault in found]
    if rows:
        more = [f"and {len(rows) - SHOWN} more"] if len(rows) > SHOWN else []
        raise InvalidInput("\n".join([*rows[:SHOWN], *more]))
