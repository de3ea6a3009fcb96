"""What a command answers: lines for people, facts for programs."""

import argparse
import json
from dataclasses import dataclass, field
from typing import Any, TypeAlias

# It has no other name, and is generic for type checkers alone.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001


@dataclass(frozen=True)
class Answer:
    """`ok` decides the exit code."""

    text: str
    facts: dict[str, Any] = field(default_factory=dict)
    ok: bool = True

    def shown(self, *, as_json: bool) -> str:
        """As one JSON object, or as text."""
        return json.dumps(self.facts) if as_json else self.text


class Refused(Exception):
    """The command cannot be done; the message says why and what to do."""
