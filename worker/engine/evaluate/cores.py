"""Which cores this process may use, and whether its quota held it back."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
CPU_V1 = "cpu"


def allowed_cores() -> int:
    """Cores by affinity, or fewer where a cgroup's quota says so; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota()
    return max(1, min(cores, math.floor(quota))) if quota else cores


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


def throttled_periods() -> int:
    """How often the quota has stopped this process's cgroup so far; 0 where there is none."""
    for folder in _folders():
        fields = dict(line.split()[:2] for line in _read(folder / "cpu.stat").splitlines())
        if "nr_throttled" in fields:
            return int(fields["nr_throttled"])
    return 0


def _quota() -> float | None:
    """Cores' worth of time that the cgroup allows; None without a limit."""
    for folder in _folders():
        words = _read(folder / "cpu.max").split()
        if not words:
            words = (_read(folder / "cpu.cfs_quota_us") + " " + _read(folder / "cpu.cfs_period_us")).split()
        if len(words) > 1 and words[0] not in {"max", "-1"}:
            return int(words[0]) / int(words[1])
    return None


def _folders() -> list[Path]:
    """This process's cgroup for CPU time, as seen from here: version 2, version 1, then the roots."""
    own = []
    for line in _read(OWN).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            own.append(CGROUPS / path.lstrip("/"))
        elif CPU_V1 in controllers.split(","):
            own.append(CGROUPS / CPU_V1 / path.lstrip("/"))
    return [*own, CGROUPS, CGROUPS / CPU_V1]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
