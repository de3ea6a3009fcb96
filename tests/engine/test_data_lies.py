"""Data that lie about what they hold are refused for it, whoever opens them."""

from pathlib import Path

import pytest

from app.domain.errors import Refused
from tests.hostile.lies import LIES
from worker.engine.data import open_dataset
from worker.engine.data.dataset import summarize
from worker.engine.requests import Data


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, cases in LIES.items() for name in cases])
def test_data_that_lie_are_refused(tmp_path: Path, kind: str, name: str) -> None:
    make, code = LIES[kind][name]
    (tmp_path / "data").write_bytes(make())

    with pytest.raises(Refused) as refusal:
        summarize(open_dataset(Data(path=tmp_path / "data")))

    assert refusal.value.code == code, refusal.value
