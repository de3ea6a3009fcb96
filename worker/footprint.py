"""What a step's folder takes of the disk, and its removal, whatever a child has made of it."""

import errno
import os
import shutil
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

# So many bytes an ext4 sets aside for each inode: who writes none but empty files fills a disk, too.
LEAST = 16 * 1024
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


def held(pid: int) -> int:
    """Bytes of disk of the files without a name that a process holds open; where there is no /proc, 0."""
    found: dict[int, int] = {}
    with suppress(OSError), os.scandir(f"/proc/{pid}/fd") as descriptors:
        for descriptor in descriptors:
            with suppress(OSError):  # closed meanwhile
                status = Path(descriptor.path).stat()
                if stat.S_ISREG(status.st_mode) and not status.st_nlink:
                    found[status.st_ino] = status.st_blocks * 512
    return sum(found.values())


def spare(folder: Path) -> int:
    """Free bytes of the folder's disk beyond what is left for others: 256 MiB, or 2 % of a small disk."""
    disk = shutil.disk_usage(folder)
    return disk.free - min(SPARE_BYTES, disk.total // SPARE_SHARE)


def remove(folder: Path) -> None:
    """Delete the folder with all that is in it."""
    with suppress(OSError, RecursionError):
        shutil.rmtree(folder)
        return
    # Python 3.11 gives up at a thousand folders in each other, and at those that nobody may look into.
    subprocess.run(["chmod", "-R", "u+rwx", folder], check=False, capture_output=True)  # noqa: S603, S607
    subprocess.run(["rm", "-rf", folder], check=False, capture_output=True)  # noqa: S603, S607


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return max(entry.stat(follow_symlinks=False).st_blocks * 512, LEAST)
    except FileNotFoundError:
        return 0
