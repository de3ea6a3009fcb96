"""The home folder of an embedded service: one owner, its logs, its key, and a private folder for sockets."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from app.secrets import new_key

PREFIX = "fewbits-"
OWNER_ONLY = 0o700


class HomeTaken(Exception):
    """Another service runs on this home folder."""


@contextmanager
def sole_owner(home: Path) -> Iterator[TextIO]:
    """Hold the home's lock, making the folder if need be; the kernel frees it when this process dies."""
    home.mkdir(mode=OWNER_ONLY, parents=True, exist_ok=True)
    with (home / "serve.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HomeTaken(
                f"another service runs on {home}. Stop it, or give this one a home of its own: FEWBITS_HOME=…"
            ) from None
        yield lock


@contextmanager
def private_folder(lock: TextIO) -> Iterator[Path]:
    """A short path that nobody else can look into; the lock names it, for the next start after a crash."""
    lock.seek(0)
    _remove_leftover(lock.read().strip())
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    _write(lock, str(folder))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _write(lock, "")


@contextmanager
def announced(home: Path, url: str) -> Iterator[None]:
    """While the service can be reached, `url` in its home tells clients on this machine where."""
    path = home / "url"
    path.write_text(url + "\n")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def tell_clients(home: Path) -> None:
    """Say where the service is at home, for this user's clients in any folder; without, they look for it."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "fewbits"
    with suppress(OSError):
        state.mkdir(mode=OWNER_ONLY, parents=True, exist_ok=True)
        (state / "home").write_text(f"{home}\n")


def fresh_log(home: Path, name: str) -> Path:
    """An empty log; the one of the last run is kept beside it."""
    folder = home / "log"
    folder.mkdir(exist_ok=True)
    log = folder / f"{name}.log"
    if log.exists():
        log.replace(folder / f"{name}.log.1")
    return log


def tail(log: Path, lines: int) -> str:
    """The last lines of a log."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return "\n".join(text.splitlines()[-lines:])


def admin_key(home: Path) -> Path:
    """Where the first start leaves the admin key."""
    return home / "admin.key"


def secret_key(home: Path) -> str:
    """The key that secrets are kept with: made at the first start, for its owner alone."""
    path = home / "secret.key"
    if not path.exists():
        unfinished = path.with_suffix(".new")
        unfinished.unlink(missing_ok=True)
        unfinished.touch(mode=0o600)
        unfinished.write_text(new_key() + "\n")
        unfinished.replace(path)
    return path.read_text().strip()


def _remove_leftover(name: str) -> None:
    folder = Path(name)
    if folder.name.startswith(PREFIX) and folder.is_dir() and folder.lstat().st_uid == os.getuid():
        shutil.rmtree(folder, ignore_errors=True)


def _write(lock: TextIO, text: str) -> None:
    lock.seek(0)
    lock.truncate()
    lock.write(text)
    lock.flush()
