"""Which paths files of a version may have: plain and relative, whoever names them."""

import os
from pathlib import PurePosixPath

LONGEST = 500  # the column's length
NAME_BYTES = 255  # what file systems take


def is_plain(text: str) -> bool:
    """Whether a path leads to a file below wherever it is put, and fits into a row and a file system."""
    path = PurePosixPath(text)
    unsafe = path.is_absolute() or ".." in path.parts or "\\" in text or "\0" in text
    long = len(text) > LONGEST or any(len(os.fsencode(part)) > NAME_BYTES for part in path.parts)
    return bool(path.parts) and not unsafe and not long
