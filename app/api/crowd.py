"""How many requests each project has under way in this process: none takes the place of all others."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

REQUESTS = 1024  # at once; `app.listen` takes as many
SHARE = 3  # a project may have so many times what is still free: alone three quarters, together never all


class Crowd:
    """Counts requests while they are under way."""

    def __init__(self) -> None:
        self._mine: Counter[str] = Counter()

    def under_way(self, project_id: str) -> int:
        """How many requests this project has."""
        return self._mine[project_id]

    def may_join(self, project_id: str) -> bool:
        """Whether another request of this project leaves room for the others."""
        return self._mine[project_id] < SHARE * (REQUESTS - self._mine.total())

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
