"""How far a file has come, for whoever wants to know."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Progress:
    """Bytes of a file that are done; `skipped` when the service has them already."""

    stage: Literal["hashing", "uploading", "skipped", "downloading"]
    name: str
    done: int
    total: int


Tell = Callable[[Progress], object]
