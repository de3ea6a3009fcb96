"""What is remembered of uploads that did not come to their end."""

import os
import time
from pathlib import Path

import pytest

from fewbits import unfinished

ME = unfinished.sender("https://fewbits.example.com", "fb_secret")
SHA256 = "0" * 64


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "fewbits" / "uploads"


def test_each_service_key_and_file_has_an_upload_of_its_own() -> None:
    others = [
        unfinished.sender("https://fewbits.example.com", "fb_another"),
        unfinished.sender("http://fewbits.example.com", "fb_secret"),
    ]
    unfinished.remember(ME, SHA256, "/v1/uploads/upl_1")

    assert unfinished.recall(ME, SHA256) == "/v1/uploads/upl_1"
    assert unfinished.recall(ME, "1" * 64) is None
    assert [unfinished.recall(other, SHA256) for other in others] == [None, None]
    unfinished.forget(ME, SHA256)
    assert unfinished.recall(ME, SHA256) is None


def test_what_is_kept_tells_no_key(cache: Path) -> None:
    unfinished.remember(ME, SHA256, "/v1/uploads/upl_1")

    (record,) = cache.iterdir()
    assert "fb_secret" not in record.name + record.read_text()


def test_old_records_go_when_new_ones_come(cache: Path) -> None:
    unfinished.remember(ME, SHA256, "/v1/uploads/upl_1")
    (old,) = cache.iterdir()
    long_ago = time.time() - 8 * 24 * 3600
    os.utime(old, (long_ago, long_ago))

    unfinished.remember(ME, "1" * 64, "/v1/uploads/upl_2")

    assert unfinished.recall(ME, SHA256) is None
    assert unfinished.recall(ME, "1" * 64) == "/v1/uploads/upl_2"


def test_where_nothing_can_be_kept_nothing_is_remembered(cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")

    unfinished.remember(ME, SHA256, "/v1/uploads/upl_1")
    unfinished.forget(ME, SHA256)

    assert unfinished.recall(ME, SHA256) is None
