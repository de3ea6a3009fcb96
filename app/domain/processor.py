"""The processor here, and what of it and of the memory this process may use: its cgroup's limits."""

import math
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from app.domain.target import Isa, detect

CPU_INFO = Path("/proc/cpuinfo")
CGROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
CPU, MEMORY = "cpu", "memory"  # as version 1 calls them
MEMORY_LIMITS = ("memory.max", "memory.limit_in_bytes")


def isa() -> Isa:
    """The instruction set that quantized kernels can use here."""
    return detect(platform.machine(), cpu_info("flags").split())


def cpu_info(name: str) -> str:
    """A field of the first processor in /proc/cpuinfo; empty where there is none."""
    fields = (line.partition(":") for line in _read(CPU_INFO).splitlines())
    return next((value.strip() for key, _, value in fields if key.strip() == name), "")


def allowed_cores() -> int:
    """Cores by affinity, or fewer where a cgroup's quota says so; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota()
    return max(1, min(cores, math.floor(quota))) if quota else cores


def allowed_memory() -> int:
    """Bytes of physical memory, or fewer where a cgroup says so."""
    return min([os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *_memory_limits()])


def _memory_limits() -> Iterator[int]:
    for folder in _folders(MEMORY):
        for limit in (_read(folder / name).strip() for name in MEMORY_LIMITS):
            if limit.isdigit():
                yield int(limit)


def throttled_periods() -> int:
    """How often the quota has stopped this process's cgroup so far; 0 where there is none."""
    for folder in _folders(CPU):
        fields = dict(line.split()[:2] for line in _read(folder / "cpu.stat").splitlines())
        if "nr_throttled" in fields:
            return int(fields["nr_throttled"])
    return 0


def _quota() -> float | None:
    """Cores' worth of time that the cgroup allows; None without a limit."""
    for folder in _folders(CPU):
        words = _read(folder / "cpu.max").split()
        if not words:
            words = (_read(folder / "cpu.cfs_quota_us") + " " + _read(folder / "cpu.cfs_period_us")).split()
        if len(words) > 1 and words[0] not in {"max", "-1"}:
            return int(words[0]) / int(words[1])
    return None


def _folders(controller: str) -> list[Path]:
    """This process's cgroup, as seen from here: version 2, version 1 for the controller, then the roots."""
    own = []
    for line in _read(OWN).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            own.append(CGROUPS / path.lstrip("/"))
        elif controller in controllers.split(","):
            own.append(CGROUPS / controller / path.lstrip("/"))
    return [*own, CGROUPS, CGROUPS / controller]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
