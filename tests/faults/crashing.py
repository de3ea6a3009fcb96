"""The API with places where it can be killed: `python -m tests.faults.crashing`.

A file in the home folder names the place, and after how many passes; the process removes it and kills itself
there, as if the host had lost its power between two lines. The next one is forked from a process that has
loaded everything and opened nothing, so that hundreds of deaths take minutes.
"""

import gc
import inspect
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from app import listen
from app import main as web
from app.api.idempotency import Writing
from app.broker import Doorbell
from app.embedded import tether
from app.services import blobs, uploads
from app.settings import Settings
from app.storage.local import LocalPart, LocalWriter

ARMED = "crash"
DEATHS = "deaths"
PLACES: dict[str, tuple[Any, str]] = {
    "commit": (Session, "commit"),
    "ring": (Doorbell, "send"),
    "write": (LocalWriter, "write"),
    "finish": (LocalWriter, "finish"),
    "fsync": (os, "fsync"),
    "rename": (Path, "rename"),
    "row": (blobs, "keep"),
    "sync": (LocalPart, "sync"),
    "count": (uploads, "advance"),
    "complete": (uploads, "complete"),
    "answer": (Writing, "keep"),
}
guard = threading.Lock()


def arm(home: Path, place: str, when: str, passes: int) -> None:
    """Let the next process that comes by die before or after this place, at this pass."""
    unfinished = home / f"{ARMED}.new"
    unfinished.write_text(f"{place} {when} {passes}")
    unfinished.rename(home / ARMED)


def pass_by(home: Path, place: str, when: str) -> None:
    """Die here, if it is the place and the time."""
    with guard:
        try:
            named, then, passes = (home / ARMED).read_text().split()
        except FileNotFoundError:
            return
        if (named, then) != (place, when):
            return
        if int(passes) > 1:
            (home / ARMED).write_text(f"{place} {when} {int(passes) - 1}")
            return
        (home / ARMED).unlink()
        os.kill(os.getpid(), signal.SIGKILL)


def wrapped(home: Path, place: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with a place before it and one after it."""
    if inspect.iscoroutinefunction(function):

        @wraps(function)
        async def passing(*arguments: Any, **options: Any) -> Any:
            pass_by(home, place, "before")
            result = await function(*arguments, **options)
            pass_by(home, place, "after")
            return result

        return passing

    @wraps(function)
    def going(*arguments: Any, **options: Any) -> Any:
        pass_by(home, place, "before")
        result = function(*arguments, **options)
        pass_by(home, place, "after")
        return result

    return going


def deaths(home: Path) -> int:
    """How often the API of this home folder has died."""
    counted = home / DEATHS
    return counted.stat().st_size if counted.exists() else 0


def live_again(home: Path) -> int:
    """One API after the other, while they are killed; the exit code of the one that was not."""
    signal.signal(signal.SIGTERM, lambda *_: None)  # the child gets it too, and ends first
    parent = os.getpid()
    while pid := os.fork():
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if code != -signal.SIGKILL:
            return code
        with (home / DEATHS).open("ab") as counted:
            counted.write(b".")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    tether.by_kernel(signal.SIGKILL, parent)
    listen.main()
    return 0


def load() -> None:
    """What every API needs a second of CPU time for, once: it opens nothing before it is asked something."""
    app = web.create_app()
    app.openapi()
    gc.collect()
    gc.freeze()  # else every process looks through all of it once more
    web.create_app = lambda: app  # type: ignore[assignment,misc]  # nobody gives it settings here


if __name__ == "__main__":
    for name, (owner, attribute) in PLACES.items():
        setattr(owner, attribute, wrapped(Settings().home, name, getattr(owner, attribute)))
    load()
    sys.exit(live_again(Settings().home))
