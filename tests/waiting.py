"""Waiting for something to become true, for a bounded time."""

import time
from collections.abc import Callable

SECONDS = 300  # far more than is ever needed, on a slow and busy machine too
POLL_SECONDS = 0.02


def in_time(condition: Callable[[], object], seconds: float = SECONDS) -> bool:
    """Whether the condition became true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(POLL_SECONDS)
    return True
