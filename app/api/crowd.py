"""How many requests each project has under way in this process: none takes the place of all others."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

REQUESTS = 1024  # at once; `app.listen` takes as many
KEPT_FREE = 64  # of them, for projects that have none under way: a newcomer finds a place
SHARE = 4  # of the others a project may have so many times what is free: alone three quarters of all


class Crowd:
    """Counts requests while they are under way."""

    def __init__(self) -> None:
        self._mine: Counter[str] = Counter()

    def under_way(self, project_id: str) -> int:
        """How many requests this project has."""
        return self._mine[project_id]

    def may_join(self, project_id: str) -> bool:
        """Whether another request of this project leaves room for the others."""
        mine, free = self._mine[project_id], REQUESTS - self._mine.total()
        return free > 0 if mine == 0 else mine < SHARE * (free - KEPT_FREE)

    @contextmanager
    def joined(self, project_id: str) -> Iterator[None]:
        """Count a request while the block runs."""
        self._mine[project_id] += 1
        try:
            yield
        finally:
            self._mine[project_id] -= 1
            if not self._mine[project_id]:
                del self._mine[project_id]
