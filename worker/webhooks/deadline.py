"""The time that a whole attempt has: names, connecting, TLS, sending and every byte of the answer."""

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Deadline:
    """A moment of the monotonic clock, and how long it was away at first, in seconds."""

    seconds: float
    moment: float

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        """The moment so many seconds from now."""
        return cls(seconds, time.monotonic() + seconds)

    def left(self) -> float:
        """Seconds that are left.

        Raises:
            TimeoutError: None are.
        """
        left = self.moment - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left
