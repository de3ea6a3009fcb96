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
NUMBER, ARCHITECTURE, FIRST_ARGUMENT, SECOND_ARGUMENT = 0, 4, 16, 24  # offsets in what the filter is shown
X32 = 0x40000000
NEW_THREAD = 0x00010000
PR_SET_PDEATHSIG = 1
F_SETOWN, F_SETSIG, F_SETOWN_EX = 8, 10, 15
Instruction = tuple[int, int, int, int]


@dataclass(frozen=True)
class Machine:
    """An architecture: how the kernel calls it, and the numbers of its system calls."""

    architecture: int
    refused: tuple[int, ...]
    clone: int
    fcntl: int
    prctl: int
    of_oneself: tuple[int, ...]
    """Calls whose first argument names a process: this one, or its group, or nobody (0)."""


EVERYWHERE = (
    *(424, 434, 438, 440, 448),  # pidfd_send_signal pidfd_open pidfd_getfd process_madvise process_mrelease
    *(425, 426, 427),  # io_uring
    *(428, 429, 430, 431, 432, 433, 442, 467),  # mounting: open_tree move_mount fs* mount_setattr
    *(447, 452, 463, 466, 469),  # memfd_secret fchmodat2 setxattrat removexattrat file_setattr
)
CLONE3 = 435
MACHINES = {
    "x86_64": Machine(
        0xC000003E,
        (
            *(41, 42, 49, 50, 53),  # socket connect bind listen socketpair
            *(57, 58, 59, 322),  # fork vfork execve execveat
            *(101, 310, 311, 321, 298, 323),  # ptrace process_vm_* bpf perf_event_open userfaultfd
            *(248, 249, 250),  # add_key request_key keyctl
            *(155, 161, 165, 166, 272, 308),  # pivot_root chroot mount umount2 unshare setns
            *(133, 259, 303, 304),  # mknod mknodat name_to_handle_at open_by_handle_at
            *(175, 176, 246, 313, 320, 169, 103),  # modules, kexec, reboot, syslog
            *(200, 129, 297),  # tkill rt_sigqueueinfo rt_tgsigqueueinfo
            # Landlock lets whoever owns a file change these, wherever it lies.
            *(90, 91, 268, 92, 93, 94, 260),  # chmod chown
            *(132, 235, 261, 280),  # utime
            *(188, 189, 190, 197, 198, 199),  # setxattr removexattr
            *(253, 294, 300),  # inotify fanotify
            # Memory beyond the limit of the address space; that of System V outlives the process.
            *(319, 29, 30, 31, 64, 65, 66, 220, 68, 69, 70, 71, 240, 241),  # memfd_create shm* sem* msg* mq_*
            *(
                141,
                142,
                144,
                314,
                251,
            ),  # setpriority sched_setparam sched_setscheduler sched_setattr ioprio_set
            *EVERYWHERE,
        ),
        clone=56,
        fcntl=72,
        prctl=157,
        of_oneself=(62, 234, 302, 203),  # kill tgkill prlimit64 sched_setaffinity
    ),
    "aarch64": Machine(
        0xC00000B7,
        (
            *(198, 203, 200, 201, 199),
            *(221, 281),
            *(117, 270, 271, 280, 241, 282),
            *(217, 218, 219),
            *(41, 51, 40, 39, 97, 268),
            *(33, 264, 265),
            *(105, 106, 104, 273, 294, 142, 116),
            *(130, 138, 240),
            *(52, 53, 54, 55),
            *(88,),
            *(5, 6, 7, 14, 15, 16),
            *(26, 262),
            *(279, 186, 187, 188, 189, 190, 191, 192, 193, 194, 195, 196, 180, 181),
            *(140, 118, 119, 274, 30),
            *EVERYWHERE,
        ),
        clone=220,
        fcntl=25,
        prctl=167,
        of_oneself=(129, 131, 261, 122),
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
    """No network, no other programs, no child processes, nothing done to other processes, from here on.

    Nor to the modes, owners and times of files, and no memory that the limit of the address space does not
    count. `no_new_privs` has to be set. Threads can still be started.

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
        # A pipe can send any signal to whoever is named as its owner.
        *_not_with(machine.fcntl, SECOND_ARGUMENT, (F_SETOWN, F_SETSIG, F_SETOWN_EX), refuse),
        *_not_with(machine.prctl, FIRST_ARGUMENT, (PR_SET_PDEATHSIG,), refuse),
        *(line for number in machine.of_oneself for line in _only_to(number, pid, refuse)),
        (ANSWER, 0, 0, ALLOW),
    ]


def _not_with(number: int, argument: int, values: tuple[int, ...], refuse: Instruction) -> list[Instruction]:
    """A call may not have one of these values as this argument."""
    judged = [line for value in values for line in ((EQUAL, 0, 1, value), refuse)]
    return [
        (EQUAL, 0, len(judged) + 2, number),
        (LOAD, 0, 0, argument),
        *judged,
        (ANSWER, 0, 0, ALLOW),
    ]


def _only_to(number: int, pid: int, refuse: Instruction) -> list[Instruction]:
    """A call may name this process, its group, which it leads, or 0, the caller."""
    return [
        (EQUAL, 0, 6, number),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        (EQUAL, 3, 0, 0),
        (EQUAL, 2, 0, pid),
        (EQUAL, 1, 0, -pid & 0xFFFFFFFF),
        refuse,
        (ANSWER, 0, 0, ALLOW),
    ]
