"""A model on its way through the engine, in a folder of the test's own."""

from pathlib import Path

import pytest

from tests.engine.quantizing import Case, Start


@pytest.fixture
def case(tmp_path: Path) -> Start:
    return lambda model, samples: Case(tmp_path, model, samples)
