"""Uploads that did not come to their end: a later process goes on where this one was killed.

Each is a file in the platform's folder for caches: its name is made from the service, the key and the bytes,
and it holds the upload's path. Whether the upload still exists, the service says.
"""

import hashlib
import time
from contextlib import suppress
from pathlib import Path

import platformdirs

KEPT_S = 7 * 24 * 3600  # a service forgets them earlier


def sender(url: str, key: str) -> str:
    """Who sends, as a name that does not tell the key."""
    return hashlib.sha256(f"{url}\n{key}".encode()).hexdigest()


def recall(sender: str, sha256: str) -> str | None:
    """The path of an upload of these bytes that this sender began; None when none is known."""
    try:
        return _record(sender, sha256).read_text() or None
    except OSError:
        return None


def remember(sender: str, sha256: str, upload: str) -> None:
    """Keep the path of an upload that begins. Where nothing can be kept, a new process begins anew."""
    record = _record(sender, sha256)
    with suppress(OSError):
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(upload)
        _forget_old(record.parent)


def forget(sender: str, sha256: str) -> None:
    """The upload has ended."""
    with suppress(OSError):
        _record(sender, sha256).unlink(missing_ok=True)


def _record(sender: str, sha256: str) -> Path:
    name = hashlib.sha256(f"{sender}\n{sha256}".encode()).hexdigest()
    return platformdirs.user_cache_path("fewbits", appauthor=False) / "uploads" / name


def _forget_old(folder: Path) -> None:
    oldest = time.time() - KEPT_S
    for record in folder.iterdir():
        if record.stat().st_mtime < oldest:
            record.unlink(missing_ok=True)
