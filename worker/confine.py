"""What a sandboxed child takes away from itself before it opens anything.

The one place for a layer of confinement: rlimits and no_new_privs now; Landlock, seccomp and network
isolation belong here too, before the engine is imported.
"""

import ctypes
import os
import resource
import signal
import sys
from dataclasses import dataclass

MIB = 1024 * 1024
PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38


@dataclass(frozen=True)
class Limits:
    """Bytes of address space, seconds of CPU time, bytes of one written file, seconds on the wall clock."""

    memory: int
    cpu_s: int
    file: int
    wall_s: float


def confine(limits: Limits) -> None:
    """Apply the limits to this process. The wall clock is the parent's to watch."""
    _limit(resource.RLIMIT_AS, limits.memory)
    # SIGXCPU at the limit tells what happened; a child that ignores it is killed 5 s later.
    _limit(resource.RLIMIT_CPU, limits.cpu_s, grace=5)
    _limit(resource.RLIMIT_FSIZE, limits.file)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, 1024)
    if sys.platform == "linux":
        _control(PR_SET_NO_NEW_PRIVS, 1)
        _control(PR_SET_PDEATHSIG, signal.SIGKILL)


def _limit(kind: int, value: int, grace: int = 0) -> None:
    _, hard = resource.getrlimit(kind)
    ceiling = value + grace if hard == resource.RLIM_INFINITY else min(value + grace, hard)
    resource.setrlimit(kind, (min(value, ceiling), ceiling))


def _control(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
