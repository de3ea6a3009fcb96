"""Faults are made to a service of many processes; what each test found is printed at the end."""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults import parts

FULL = os.environ.get("FAULTS") == "full"  # what takes longest at its full scale, too
FIGURE = "figure"
Report = Callable[[str], None]


@pytest.fixture(scope="session")
def postgres() -> Iterator[parts.Postgres]:
    """One server for all faults; those that kill it let it come back."""
    with parts.postgres() as server:
        yield server


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="fewbits-fault-") as folder:
        yield Path(folder)


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Report:
    """Says in one line what a test found."""
    return lambda text: record_property(FIGURE, text)


def within(value: float, goal: float, unit: str = "s") -> str:
    """A figure beside its goal, which it may miss on a busy host: no verdict depends on speed."""
    return f"{value:.3g} {unit} (goal {goal:g}{'' if value < goal else ', missed'})"


def pytest_itemcollected(item: pytest.Item) -> None:
    """The HTTP client leaves a unix socket open when nobody listens there."""
    item.add_marker(pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The figures of all tests."""
    for report in terminalreporter.getreports("passed"):
        for name, text in report.user_properties:
            if name == FIGURE:
                terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}: {text}")
