"""The Linux system calls that confinement needs and Python has no names for."""

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)
PRCTL_ARGUMENTS = 4


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


def _wide(argument: object) -> object:
    return ctypes.c_size_t(argument) if isinstance(argument, int) else argument


def _checked(answer: int) -> int:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return answer
