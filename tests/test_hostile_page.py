"""The page on hostile input names tests that are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def test_every_test_that_the_page_names_is_there() -> None:
    named = NAMED.findall((ROOT / "docs" / "hostile.md").read_text(encoding="utf-8"))

    assert len(named) > 25
    for path, test in named:
        assert f"def {test}(" in (ROOT / path).read_text(encoding="utf-8") or not test, (path, test)
