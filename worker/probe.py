"""Which layers of confinement hold on this host: each is tried in a child, and the child tries to get out.

`python -m worker.probe` is that child; it prints the layers that held as a JSON list.
"""

import contextlib
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from worker.confine import CAPABILITIES, FIRST_TO_GO, LAYERS, MIB, OOM_SCORE, Limits, confine
from worker.syscalls import control

PR_GET_NO_NEW_PRIVS = 39
LIMITS = Limits(memory=4096 * MIB, cpu_s=60, file=MIB, folder=MIB, wall_s=60)


def _resources_are_limited() -> bool:
    return resource.getrlimit(resource.RLIMIT_CORE) == (0, 0) and _address_space() <= LIMITS.memory


def _address_space() -> int:
    return resource.getrlimit(resource.RLIMIT_AS)[0]


def _goes_first() -> bool:
    return OOM_SCORE.read_text(encoding="ascii").strip() == FIRST_TO_GO


def _gains_no_privileges() -> bool:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (effective,) = (line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    return control(PR_GET_NO_NEW_PRIVS) == 1 and not int(effective, 16) & ~CAPABILITIES


def _files_are_closed() -> bool:
    return _refused(lambda: list(Path("/").iterdir())) and _refused(lambda: Path("/etc/passwd").read_bytes())


def _calls_are_refused() -> bool:
    return _refused(socket.socket) and _refused(os.fork)


def _refused(escape: Callable[[], object]) -> bool:
    try:
        escaped = escape()
    except PermissionError:
        return True
    if escaped == 0:
        os._exit(0)  # a fork that was to fail did not: this is the other one
    return False


HOLDS: dict[str, Callable[[], bool]] = {
    "rlimits": _resources_are_limited,
    "oom_score_adj": _goes_first,
    "no_new_privs": _gains_no_privileges,
    "landlock": _files_are_closed,
    "seccomp": _calls_are_refused,
}


def main() -> None:
    """Apply one layer after the other and print those that hold."""
    held = []
    for layer in LAYERS if sys.platform == "linux" else ("rlimits",):
        with contextlib.suppress(OSError, ValueError):
            confine(LIMITS, Path.cwd(), [layer])
            if HOLDS[layer]():
                held.append(layer)
    sys.stdout.write(json.dumps(held))


def found() -> dict[str, bool]:
    """Of every layer, whether it holds for children of this process."""
    return {layer: layer in layers() for layer in LAYERS}


@cache
def layers() -> tuple[str, ...]:
    """The layers that hold for children of this process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-P", "-m", __name__]
        environment = {"PATH": os.defpath, "PYTHONPATH": str(Path(__file__).parents[1])}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)  # noqa: S603
    return tuple(json.loads(done.stdout))


if __name__ == "__main__":
    main()
