"""How steps and jobs that ended are counted. Times are microseconds."""

from collections.abc import Iterable
from dataclasses import dataclass

SECOND = 1_000_000
BOUNDS_S = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0)
BOUNDS = tuple(int(seconds * SECOND) for seconds in BOUNDS_S)
ENDLESS = 2**62
JOB = "job"
REUSED = "reused"


@dataclass(frozen=True)
class Ended:
    """A step or a job that ended; `attempts` of a step that nobody ran are 0."""

    kind: str
    state: str
    code: str
    attempts: int
    losses: int
    took: int


@dataclass(frozen=True)
class Key:
    """What is counted together."""

    kind: str
    outcome: str
    code: str
    up_to: int


@dataclass(frozen=True)
class Sum:
    """How many there are, what they took together, and how often their workers were lost."""

    count: int = 0
    total: int = 0
    losses: int = 0

    def plus(self, ended: Ended) -> "Sum":
        """With one more."""
        return Sum(self.count + 1, self.total + ended.took, self.losses + ended.losses)


def summed(every: Iterable[Ended]) -> dict[Key, Sum]:
    """All of them by what is counted together, in one order: who adds them locks rows in it."""
    found: dict[Key, Sum] = {}
    for ended in every:
        key = _key(ended)
        found[key] = found.get(key, Sum()).plus(ended)
    return dict(
        sorted(found.items(), key=lambda item: (item[0].kind, item[0].outcome, item[0].code, item[0].up_to))
    )


def _key(ended: Ended) -> Key:
    """Only what came to its end by work says how long work takes."""
    outcome = REUSED if ended.state == "done" and ended.attempts == 0 else ended.state
    if outcome not in {"done", "succeeded"}:
        return Key(ended.kind, outcome, ended.code, ENDLESS)
    return Key(ended.kind, outcome, "", next((bound for bound in BOUNDS if ended.took <= bound), ENDLESS))
