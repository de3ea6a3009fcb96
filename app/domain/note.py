"""Notes on figures: what to know of one, or why it is missing."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

About = Literal[
    "accuracy", "fidelity", "latency", "memory",  # why the figure is missing, or what it does not count
    "slower",  # a cause
    "data", "outputs", "given outputs", "evaluation", "preprocessing_suspect", "feeds", "layers", "imported",
    "recipe",  # what became of its fields
]  # fmt: skip
ABOUT: frozenset[str] = frozenset(get_args(About))
MEASURED: frozenset[About] = frozenset({"latency", "memory", "slower"})  # what a benchmark notes


@dataclass(frozen=True)
class Note:
    """One thing to know, and what it is about. In JSON it is the text that people read."""

    about: About
    text: str

    def __str__(self) -> str:
        """As people read it: `latency: 3 of 9 rounds …`, and of recipes the bare text."""
        return self.text if self.about == "recipe" else f"{self.about}: {self.text}"

    @classmethod
    def read(cls, shown: str) -> "Note":
        """The note that is shown as this text."""
        about, colon, text = shown.partition(": ")
        return cls(about, text) if colon and about in ABOUT else cls("recipe", shown)  # type: ignore[arg-type]

    @classmethod
    def __get_pydantic_core_schema__(cls, *_: object) -> dict[str, Any]:
        """Text in JSON, as a schema of pydantic-core; the vocabulary does without pydantic itself."""
        read = {"type": "function-plain", "function": {"type": "no-info", "function": _note}}
        return read | {"serialization": {"type": "to-string", "when_used": "always"}}


def _note(value: Note | str) -> Note:
    return value if isinstance(value, Note) else Note.read(value)
