"""What a sandboxed child takes away from itself before it opens anything: one layer behind the other."""

import resource
import signal
import site
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import app
import worker
from worker import landlock, seccomp
from worker.syscalls import control, drop_capabilities

MIB = 1024 * 1024
PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38
# CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: Python may lie in somebody else's home. Landlock says which files.
CAPABILITIES = 1 << 1 | 1 << 2
# Of 1000: when memory is short, the kernel ends the child, not the worker or the database.
FIRST_TO_GO = "800"
# Of all processes of this user together, so that a child leaves some to API and worker. Not for root.
USER_THREADS = 16_384
OOM_SCORE = Path("/proc/self/oom_score_adj")

SYSTEM = (
    *("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime"),
    *("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/sys/devices/system"),
    *("/dev/urandom", "/dev/null"),
)


@dataclass(frozen=True)
class Limits:
    """Bytes of address space, CPU seconds, bytes of a written file and of the folder, wall-clock seconds."""

    memory: int
    cpu_s: int
    file: int
    folder: int
    wall_s: float


def confine(limits: Limits, folder: Path, layers: Sequence[str]) -> None:
    """Apply these layers to this process, in order; the wall clock and the folder are the parent's to watch.

    The process may read Python, the system's libraries and our code, and write below `folder`.

    Raises:
        OSError: A layer cannot be applied here.
    """
    if sys.platform == "linux":
        control(PR_SET_PDEATHSIG, signal.SIGKILL)
    for layer in layers:
        LAYERS[layer](limits, folder)


def _limit_resources(limits: Limits, _folder: Path) -> None:
    _limit(resource.RLIMIT_AS, limits.memory)
    # SIGXCPU at the limit tells what happened; a child that ignores it is killed 5 s later.
    _limit(resource.RLIMIT_CPU, limits.cpu_s, grace=5)
    _limit(resource.RLIMIT_FSIZE, limits.file)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, 1024)
    _limit(resource.RLIMIT_NPROC, _threads())


def _limit(kind: int, value: int, grace: int = 0) -> None:
    _, hard = resource.getrlimit(kind)
    ceiling = value + grace if hard == resource.RLIM_INFINITY else min(value + grace, hard)
    resource.setrlimit(kind, (min(value, ceiling), ceiling))


def _threads() -> int:
    _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    return USER_THREADS if hard == resource.RLIM_INFINITY else min(USER_THREADS, hard // 2)


def _go_first(_limits: Limits, _folder: Path) -> None:
    OOM_SCORE.write_text(FIRST_TO_GO, encoding="ascii")


def _keep_privileges_low(_limits: Limits, _folder: Path) -> None:
    control(PR_SET_NO_NEW_PRIVS, 1)
    drop_capabilities(CAPABILITIES)


def _close_files(_limits: Limits, folder: Path) -> None:
    landlock.restrict(read=_readable(), write=(folder,))


def _refuse_calls(_limits: Limits, _folder: Path) -> None:
    seccomp.restrict()


def _readable() -> list[Path]:
    """Python, its packages, the system's libraries, and our two packages; not the folder that they lie in."""
    ours = [Path(str(package.__file__)).parent for package in (app, worker)]
    python = [sys.prefix, sys.base_prefix, *site.getsitepackages()]
    return [*ours, *map(Path, (*python, *SYSTEM))]


LAYERS: dict[str, Callable[[Limits, Path], None]] = {
    "rlimits": _limit_resources,
    "oom_score_adj": _go_first,
    "no_new_privs": _keep_privileges_low,
    "landlock": _close_files,
    "seccomp": _refuse_calls,
}
