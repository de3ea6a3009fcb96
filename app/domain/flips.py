"""What a candidate answers beside the float model, sample by sample, for people to look at."""

from dataclasses import dataclass
from typing import Literal

MOST_FLIPS = 100
PREDICTIONS = 8


@dataclass(frozen=True)
class Answer:
    """A model's best class: its number, its name where classes have names, and its score in the output."""

    label: int
    name: str | None
    score: float | None


@dataclass(frozen=True)
class Compared:
    """One sample under the float model and under the candidate.

    `index` counts in the dataset; `name` is the file's, where there is one. `change` says whether the metric
    lost or gained the sample, or, without a label, that the best class changed. Answers are null where the
    output holds no class scores. `sqnr_db` is the candidate's output against the float model's.
    """

    index: int
    name: str | None
    label: int | None
    label_name: str | None
    baseline: Answer | None
    candidate: Answer | None
    change: Literal["lost", "gained", "changed"] | None
    sqnr_db: float


@dataclass(frozen=True)
class Flips:
    """The samples that a candidate answers otherwise than the float model, at most 100.

    Lost ones come first, then gained, then changed ones. Where nothing is right or wrong, `items` are the
    samples that differ most from float, and the counts are null.
    """

    metric: str | None
    samples: int
    lost: int | None
    gained: int | None
    changed: int | None
    items: tuple[Compared, ...]
