"""Ready inputs on disk; kept apart from the readers of datasets, so that a latency round starts quickly."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Feed = Mapping[str, NDArray[Any]]


def write_feeds(path: Path, feeds: Iterable[Feed]) -> None:
    """Write an npz with the keys `<six digits>/<input>`."""
    arrays = {f"{i:06}/{name}": array for i, one in enumerate(feeds) for name, array in one.items()}
    np.savez(path, allow_pickle=False, **arrays)


def read_feeds(path: Path) -> list[dict[str, NDArray[Any]]]:
    """Read what `write_feeds` wrote."""
    feeds: dict[str, dict[str, NDArray[Any]]] = {}
    with np.load(path, allow_pickle=False) as archive:
        for key in sorted(archive.files):
            number, name = key.split("/", 1)
            feeds.setdefault(number, {})[name] = archive[key]
    return list(feeds.values())
