"""What output looks like where nobody looks at it."""

import io

import pytest
from rich.console import Console

from fewbits.cli import terminal


def test_a_log_is_no_terminal_whatever_pipelines_say_about_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")

    assert not terminal.is_live(Console(file=io.StringIO()))


def test_a_table_in_a_log_is_as_wide_as_it_needs_to_be(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    name = "static int8, mse, bias correction [of 10 nodes], and what else belongs into a name"

    terminal.table(("candidate", "size"), [(name, "0.20 MiB")], ("size",))

    assert name in capsys.readouterr().out
