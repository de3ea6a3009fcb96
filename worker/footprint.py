"""What a step takes of its host, disk above all, and the removal of its folder, whatever is in it."""

import errno
import os
import re
import shutil
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

# So many bytes an ext4 sets aside for each inode: who writes none but empty files fills a disk, too.
LEAST = 16 * 1024
NAMELESS = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ (\d+) +(.*) \(deleted\)$", re.MULTILINE)
HIDDEN = (errno.EACCES, errno.ENAMETOOLONG)
SPARE_BYTES, SPARE_SHARE = 256 * 2**20, 50


def taken(folder: Path, enough: int = sys.maxsize) -> int:
    """Bytes of disk of everything below `folder`; above `enough`, counting ends.

    A folder that cannot be looked into takes all there is: only a hostile child makes one.
    """
    found, folders = 0, [str(folder)]
    while folders and found <= enough:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    found += _size(entry)
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
        except FileNotFoundError:  # it went meanwhile
            continue
        except OSError as error:
            if error.errno not in HIDDEN:
                raise
            return sys.maxsize
    return found


def held(pid: int, folder: Path) -> int:
    """Bytes of the files without a name that a process holds open or has mapped; where there is no /proc, 0.

    Of a file that is mapped and closed only what is mapped is known.
    """
    found = _mapped(pid, folder)
    with suppress(OSError), os.scandir(f"/proc/{pid}/fd") as descriptors:
        for descriptor in descriptors:
            with suppress(OSError):  # closed meanwhile
                status = Path(descriptor.path).stat()
                if stat.S_ISREG(status.st_mode) and not status.st_nlink:
                    found[status.st_ino] = status.st_blocks * 512
    return sum(found.values())


def threads(pid: int) -> int:
    """How many threads a process has; where there is no /proc, 0."""
    with suppress(OSError):
        return len(list(Path(f"/proc/{pid}/task").iterdir()))
    return 0


def reserve(folder: Path) -> int:
    """Bytes of the folder's disk that are left for others: 256 MiB, or 2 % of a small disk."""
    return min(SPARE_BYTES, shutil.disk_usage(folder).total // SPARE_SHARE)


def spare(folder: Path) -> int:
    """Free bytes of the folder's disk beyond the reserve."""
    return shutil.disk_usage(folder).free - reserve(folder)


def remove(folder: Path) -> None:
    """Delete the folder with all that is in it."""
    with suppress(OSError, RecursionError):
        shutil.rmtree(folder)
        return
    # Python 3.11 gives up at a thousand folders in each other, and at those that nobody may look into.
    subprocess.run(["chmod", "-R", "u+rwx", folder], check=False, capture_output=True)  # noqa: S603, S607
    subprocess.run(["rm", "-rf", folder], check=False, capture_output=True)  # noqa: S603, S607


def _mapped(pid: int, folder: Path) -> dict[int, int]:
    """The files below `folder` that lost their name and are mapped: how many bytes, by inode."""
    found: dict[int, int] = {}
    below = os.fsencode(folder) + b"/"
    with suppress(OSError):
        for start, end, inode, path in NAMELESS.findall(Path(f"/proc/{pid}/maps").read_bytes()):
            if path.startswith(below):
                found[int(inode)] = found.get(int(inode), 0) + int(end, 16) - int(start, 16)
    return found


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return max(entry.stat(follow_symlinks=False).st_blocks * 512, LEAST)
    except FileNotFoundError:
        return 0
