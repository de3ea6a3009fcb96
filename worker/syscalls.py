"""The Linux system calls that confinement needs and Python has no names for."""

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)
PRCTL_ARGUMENTS = 4
CAPABILITIES = 0x20080522  # the third version of capset(2): 64 capabilities in two halves


class _Half(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inherited", ctypes.c_uint32),
    )


def system_call(number: int, *arguments: object) -> int:
    """What the kernel answers. Integers are passed as wide as a register.

    Raises:
        OSError: It refuses.
    """
    return _checked(_libc.syscall(ctypes.c_long(number), *map(_wide, arguments)))


def control(option: int, *arguments: object) -> int:
    """`prctl(2)`; arguments that are not given are 0.

    Raises:
        OSError: The kernel refuses.
    """
    zeros = [0] * (PRCTL_ARGUMENTS - len(arguments))
    return _checked(_libc.prctl(option, *map(_wide, (*arguments, *zeros))))


def drop_capabilities(kept: int) -> None:
    """Of the capabilities that this thread has, keep those in this bit set.

    Raises:
        OSError: The kernel refuses.
    """
    header, halves = (ctypes.c_uint32 * 2)(CAPABILITIES, 0), (_Half * 2)()
    _checked(_libc.capget(header, halves))
    for number, half in enumerate(halves):
        half.effective = half.permitted = half.permitted & (kept >> 32 * number)
        half.inherited = 0
    _checked(_libc.capset(header, halves))


def _wide(argument: object) -> object:
    return ctypes.c_size_t(argument) if isinstance(argument, int) else argument


def _checked(answer: int) -> int:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return answer
