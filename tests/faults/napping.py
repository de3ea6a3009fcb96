"""Sleeping under libfaketime: `time.sleep` fails there after a jump of the clock, as with no real clock."""

import time
from threading import Event


def sleep(seconds: float) -> None:
    """Sleep by another call of the system."""
    Event().wait(seconds)


vars(time)["sleep"] = sleep  # also for who imports it by name after this
