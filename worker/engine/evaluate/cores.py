"""Keeping a measurement on some of the cores."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def pinned(threads: int, seed: int) -> Iterator[None]:
    """Keep this process on `threads` of its cores while the block runs; the seed says where to begin.

    Threads that start inside inherit it, so sessions are opened inside. Rounds on different cores keep
    one core's neighbours from deciding all of them.
    """
    if not hasattr(os, "sched_getaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    cores = sorted(before)
    start = seed % len(cores)
    os.sched_setaffinity(0, (cores[start:] + cores[:start])[:threads])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
