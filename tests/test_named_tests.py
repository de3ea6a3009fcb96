"""The pages on hostile input and on faults name tests that are there, and all of their own."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
TESTS = re.compile(r"^def (test_\w+)\(", re.MULTILINE)


def named(page: str) -> list[tuple[str, str]]:
    return NAMED.findall((ROOT / "docs" / page).read_text(encoding="utf-8"))


@pytest.mark.parametrize(("page", "rows"), [("hostile.md", 25), ("faults.md", 16)])
def test_every_test_that_a_page_names_is_there(page: str, rows: int) -> None:
    found = named(page)

    assert len(found) > rows
    for path, test in found:
        assert f"def {test}(" in (ROOT / path).read_text(encoding="utf-8") or not test, (path, test)


@pytest.mark.parametrize("page", ["hostile", "faults"])
def test_every_test_of_a_page_is_named_there(page: str) -> None:
    found, files = named(f"{page}.md"), [path for path, test in named(f"{page}.md") if not test]

    for path in sorted((ROOT / "tests" / page).glob("test_*.py")):
        where = str(path.relative_to(ROOT))
        for test in TESTS.findall(path.read_text(encoding="utf-8")):
            assert (where, test) in found or where in files, test
