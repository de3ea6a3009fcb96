"""Landlock: which files a process may read and write from here on, and that it may not signal others.

https://docs.kernel.org/userspace-api/landlock.html. What an older kernel cannot restrict is left out.
"""

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

from worker.syscalls import system_call

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
GET_VERSION = 1
PATH_BENEATH = 1

WRITE_FILE, READ_FILE, READ_DIR = 1 << 1, 1 << 2, 1 << 3
REMOVE_DIR, REMOVE_FILE, MAKE_DIR, MAKE_FILE = 1 << 4, 1 << 5, 1 << 7, 1 << 8
REFER, TRUNCATE, DEVICE_IOCTL = 1 << 13, 1 << 14, 1 << 15
TCP = 0b11
OTHERS = 0b11  # abstract unix sockets and signals

# The first version can restrict all that was there with it; each later one a little more.
FILE_RIGHTS = {1: (1 << 13) - 1, 2: REFER, 3: TRUNCATE, 5: DEVICE_IOCTL}
TCP_SINCE, OTHERS_SINCE = 4, 6
READING = READ_FILE | READ_DIR
WRITING = READING | WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_FILE | REFER | TRUNCATE
OF_FILES = READ_FILE | WRITE_FILE | TRUNCATE | DEVICE_IOCTL


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def restrict(read: Iterable[Path], write: Iterable[Path]) -> None:
    """Only these places from here on, with everything below them; no TCP; no signals to other domains.

    Holds for the calling thread and what it starts. Places that do not exist are left out.

    Raises:
        OSError: This kernel has no Landlock.
    """
    version = system_call(CREATE_RULESET, None, 0, GET_VERSION)
    files = sum(right for since, right in FILE_RIGHTS.items() if since <= version)
    tcp = TCP if version >= TCP_SINCE else 0
    others = OTHERS if version >= OTHERS_SINCE else 0
    attributes = _Ruleset(files, tcp, others)
    ruleset = system_call(CREATE_RULESET, ctypes.byref(attributes), ctypes.sizeof(attributes), 0)
    try:
        for rights, places in ((READING, read), (WRITING, write)):
            for place in places:
                _allow(ruleset, place, rights & files)
        system_call(RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, place: Path, rights: int) -> None:
    try:
        parent = os.open(place, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        rule = _PathBeneath(rights if place.is_dir() else rights & OF_FILES, parent)
        system_call(ADD_RULE, ruleset, PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(parent)
