"""How far things are: bars on a terminal, lines everywhere else."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from fewbits.answers import Step
from fewbits.cli import terminal, words
from fewbits.progress import Progress

QUIET_S = 10.0  # between two lines about one file
ENDED = frozenset({"done", "failed", "canceled"})


class Display(Protocol):
    """What commands tell while they work."""

    def say(self, text: str) -> None:
        """One line that stays."""

    def file(self, progress: Progress) -> None:
        """How far a file is."""

    def steps(self, steps: Iterable[Step]) -> None:
        """How far a job's steps are."""


@contextmanager
def shown() -> Iterator[Display]:
    """The display that fits where standard error goes."""
    console = terminal.errors()
    if not terminal.is_live(console):
        yield Lines(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Bars(*columns, TimeElapsedColumn(), console=console) as bars:
        yield Moving(bars)


class Moving:
    """Bars that grow: one for each file and each step."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def say(self, text: str) -> None:
        """One line above the bars."""
        self._bars.console.print(escape(text))

    def file(self, progress: Progress) -> None:
        """A bar for hashing, one for the way up or down."""
        if progress.stage == "skipped":
            self.say(f"{progress.name}: the service has it already")
            return
        self._show(f"{progress.stage} {progress.name}", progress.done, progress.total)

    def steps(self, steps: Iterable[Step]) -> None:
        """A bar for each step."""
        for step in steps:
            done = 1.0 if step.state == "done" else step.progress
            state = "" if step.state in {"running", "done"} else f" ({step.state})"
            self._show(title(step), done, 1.0, state)

    def _show(self, name: str, done: float, total: float, remark: str = "") -> None:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(escape(name), total=total)
        self._bars.update(self._tasks[name], completed=done, description=escape(name + remark))


class Lines:
    """Lines that stay: each says something new."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._states: dict[str, str] = {}
        self._said: dict[str, float] = {}

    def say(self, text: str) -> None:
        """One line, never broken."""
        self._console.print(escape(text), soft_wrap=True)

    def file(self, progress: Progress) -> None:
        """When it begins to take long, and when it is done."""
        name, size = progress.name, words.amount(progress.total)
        if progress.stage == "skipped":
            self.say(f"{name}: the service has it already ({size})")
        elif progress.done >= progress.total:
            self._once(f"{progress.stage} {name}", f"{name}: {progress.stage} done ({size})")
        elif time.monotonic() - self._said.setdefault(name, time.monotonic()) > QUIET_S:
            self._said[name] = time.monotonic()
            self.say(f"{name}: {progress.stage} {progress.done / progress.total:.0%} of {size}")

    def steps(self, steps: Iterable[Step]) -> None:
        """When a step begins, and how it ends."""
        for step in steps:
            if step.state != "queued":
                self._once(step.id, f"{title(step)}: {step.state}{_how(step)}")

    def _once(self, about: str, text: str) -> None:
        if self._states.get(about) != text:
            self._states[about] = text
            self.say(text)


def title(step: Step) -> str:
    """What a step is about."""
    return f"{step.kind} {step.name}" if step.name else step.kind


def _how(step: Step) -> str:
    if step.error:
        return f" ({step.error.code}: {step.error.detail})"
    return f" in {step.seconds:.1f} s" if step.state in ENDED and step.seconds is not None else ""
