"""Where output goes: results to standard output, everything else to standard error."""

import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

WIDE = 160


def errors() -> Console:
    """Standard error."""
    return Console(stderr=True, highlight=False)


def is_live(console: Console) -> bool:
    """Whether somebody is looking who can be shown things that move, and asked."""
    return console.is_interactive and console.file.isatty() and not os.environ.get("CI")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[str] = ()) -> None:
    """Print a table; one that nobody looks at is as wide as it needs to be."""
    console = Console(highlight=False)
    if not console.file.isatty():
        console.width = WIDE
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(escape(cell) for cell in row))
    console.print(shown)


def document(value: Any) -> None:  # noqa: ANN401 - any JSON
    """Print JSON."""
    print(json.dumps(value, indent=2, ensure_ascii=False))  # noqa: T201 - the result
