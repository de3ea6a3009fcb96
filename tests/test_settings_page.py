"""docs/settings.md names every setting, with the default that holds."""

import re
from pathlib import Path

from app.settings import Settings

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"
ROW = re.compile(r"\| `FEWBITS_(\w+)` \| (\S+) \| ([^|]+) \| ([^|]+) \|")


def shown(default: object) -> str:
    return "none" if default in {None, "", ()} else f"`{default}`"


def test_the_page_has_every_setting_with_its_default_in_order() -> None:
    rows = [row.groups() for row in map(ROW.fullmatch, PAGE.read_text().splitlines()) if row]

    fields = Settings.model_fields.items()
    assert [(name, default) for name, default, _, _ in rows] == [
        (name.upper(), shown(field.default)) for name, field in fields
    ]


def test_no_other_page_names_a_setting_that_there_is_not() -> None:
    known = {name.upper() for name in Settings.model_fields} | {"URL", "KEY"}  # the client's two
    pages = [PAGE.parent.parent / "README.md", *PAGE.parent.glob("*.md")]

    for page in pages:
        named = set(re.findall(r"\bFEWBITS_([A-Z_]+)\b", page.read_text()))
        assert named <= known, page.name
