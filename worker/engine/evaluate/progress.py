"""How long-running work says how far it is."""

from collections.abc import Callable

Progress = Callable[[float, str], None]  # a share from 0 to 1, and what is going on


def within(progress: Progress, start: float, end: float) -> Progress:
    """A progress that fills the part from `start` to `end` of another."""
    return lambda share, what: progress(start + (end - start) * share, what)
