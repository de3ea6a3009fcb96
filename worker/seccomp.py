"""seccomp: system calls that a process may not make from here on.

A list of what is refused, not of what is allowed: numpy, ONNX Runtime and the C library between them use more
calls than anybody could keep count of. A refused call fails with EPERM.
https://docs.kernel.org/userspace-api/seccomp_filter.html
"""

import ctypes
import errno
import os
import platform
from dataclasses import dataclass

from worker.syscalls import control

PR_SET_SECCOMP, MODE_FILTER = 22, 2
KILL_PROCESS, FAIL, ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
LOAD, EQUAL, AT_LEAST, ANY_BIT, ANSWER = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16  # offsets in what the kernel shows to the filter
X32 = 0x40000000
NEW_THREAD = 0x00010000
Instruction = tuple[int, int, int, int]


@dataclass(frozen=True)
class Machine:
    """An architecture: how the kernel calls it, and the numbers of its system calls."""

    architecture: int
    refused: tuple[int, ...]
    clone: int
    signalling: tuple[int, ...]


# 424 pidfd_send_signal, 425-427 io_uring, 434 pidfd_open, 438 pidfd_getfd: the same number everywhere.
EVERYWHERE = (424, 425, 426, 427, 434, 438)
CLONE3 = 435
MACHINES = {
    "x86_64": Machine(
        0xC000003E,
        (
            *(41, 42, 49, 50),  # socket connect bind listen
            *(57, 58, 59, 322),  # fork vfork execve execveat
            *(101, 310, 311, 321, 298, 323),  # ptrace process_vm_* bpf perf_event_open userfaultfd
            *(248, 249, 250),  # add_key request_key keyctl
            *(155, 161, 165, 166, 272, 308),  # pivot_root chroot mount umount2 unshare setns
            *(133, 259, 303, 304),  # mknod mknodat name_to_handle_at open_by_handle_at
            *(175, 176, 246, 313, 320, 169, 200),  # modules, kexec, reboot, tkill
            *EVERYWHERE,
        ),
        clone=56,
        signalling=(62, 234),  # kill tgkill
    ),
    "aarch64": Machine(
        0xC00000B7,
        (
            *(198, 203, 200, 201),
            *(221, 281),
            *(117, 270, 271, 280, 241, 282),
            *(217, 218, 219),
            *(41, 51, 40, 39, 97, 268),
            *(33, 264, 265),
            *(105, 106, 104, 273, 294, 142, 130),
            *EVERYWHERE,
        ),
        clone=220,
        signalling=(129, 131),
    ),
}


class _Filter(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("jt", ctypes.c_uint8),
        ("jf", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("filters", ctypes.POINTER(_Filter)))


def restrict() -> None:
    """No network, no other programs, no child processes, no signals to others, from here on.

    `no_new_privs` has to be set. Threads can still be started.

    Raises:
        OSError: The kernel refuses, or nobody wrote down this architecture's numbers.
    """
    machine = MACHINES.get(platform.machine())
    if machine is None:
        raise OSError(errno.ENOSYS, f"no list of system calls for {platform.machine()}")
    instructions = _instructions(machine, os.getpid())
    filters = (_Filter * len(instructions))(*(_Filter(*line) for line in instructions))
    program = _Program(len(instructions), filters)
    control(PR_SET_SECCOMP, MODE_FILTER, ctypes.byref(program))


def _instructions(machine: Machine, pid: int) -> list[Instruction]:
    """The filter in classic BPF: a jump skips as many instructions as it says for true, or for false."""
    refuse: Instruction = (ANSWER, 0, 0, FAIL | errno.EPERM)
    return [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 1, 0, machine.architecture),
        (ANSWER, 0, 0, KILL_PROCESS),
        (LOAD, 0, 0, NUMBER),
        (AT_LEAST, 0, 1, X32),
        refuse,
        *(line for number in machine.refused for line in ((EQUAL, 0, 1, number), refuse)),
        # The C library falls back to clone, whose flags can be read here, when there seems to be no clone3.
        (EQUAL, 0, 1, CLONE3),
        (ANSWER, 0, 0, FAIL | errno.ENOSYS),
        (EQUAL, 0, 4, machine.clone),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        (ANY_BIT, 1, 0, NEW_THREAD),
        refuse,
        (ANSWER, 0, 0, ALLOW),
        *(line for number in machine.signalling for line in _only_to(number, pid, refuse)),
        (ANSWER, 0, 0, ALLOW),
    ]


def _only_to(number: int, pid: int, refuse: Instruction) -> list[Instruction]:
    """A signalling call may name this process or its group, which it leads."""
    return [
        (EQUAL, 0, 5, number),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        (EQUAL, 2, 0, pid),
        (EQUAL, 1, 0, -pid & 0xFFFFFFFF),
        refuse,
        (ANSWER, 0, 0, ALLOW),
    ]
