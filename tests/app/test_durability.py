"""What the store says is durable is durable: the order of writing, and the checks of who reads."""

import os
from pathlib import Path
from typing import Any

import pytest

from app.storage import LocalStorage
from tests import factories


def test_an_object_is_synced_before_it_is_named_and_its_name_before_anybody_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, str]] = []
    sync, rename = os.fsync, Path.rename

    def syncing(descriptor: int) -> None:
        done.append(("sync", Path(f"/proc/self/fd/{descriptor}").readlink().name))
        sync(descriptor)

    def renaming(path: Path, target: Any) -> Path:
        done.append(("rename", path.name))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(Path, "rename", renaming)
    storage = LocalStorage(tmp_path / "blobs")

    key = factories.store(storage, b"bytes").key

    temporary = f".{key}.part"
    assert done[-4:-1] == [("sync", temporary), ("rename", temporary), ("sync", key[:2])]
    assert ("sync", "blobs") in done[:-4], "a folder that was made now is there after a power cut too"
    assert done[-1] == ("sync", "blobs"), "another writer may have made the shelf and not come to its sync"


def test_every_folder_that_was_made_for_a_store_is_synced_into_the_one_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    sync = os.fsync

    def syncing(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", syncing)

    factories.store(LocalStorage(tmp_path / "data" / "blobs"), b"bytes")

    assert {tmp_path, tmp_path / "data", tmp_path / "data" / "blobs"} <= set(synced)
