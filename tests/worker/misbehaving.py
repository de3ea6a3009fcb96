"""A sandboxed child whose calls misbehave; all else is the real one: `python -m tests.worker.misbehaving`."""

import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from worker import child

Arguments = Mapping[str, Any]
FOREVER = 600


def environment(_arguments: Arguments) -> dict[str, Any]:
    return {"values": {**os.environ}}


def modules(_arguments: Arguments) -> dict[str, Any]:
    import numpy  # noqa: ICN001, PLC0415 - which one is found is the question

    return {"values": {"numpy": str(numpy.__file__), "path": os.pathsep.join(sys.path)}}


def limits(_arguments: Arguments) -> dict[str, Any]:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    no_new_privs = next(line.split()[1] for line in status.splitlines() if line.startswith("NoNewPrivs"))
    core = resource.getrlimit(resource.RLIMIT_CORE)
    return {"values": {"no_new_privs": no_new_privs, "core": str(core), "folder": str(Path.cwd())}}


def hoard(_arguments: Arguments) -> dict[str, Any]:
    hoarded = [b"x" * (1 << 24)]
    while True:
        hoarded.append(bytes(1 << 24))


def spin(_arguments: Arguments) -> dict[str, Any]:
    while True:
        pass


def sleep(arguments: Arguments) -> dict[str, Any]:
    Path(arguments["mark"]).write_text(str(os.getpid()), encoding="utf-8")
    time.sleep(FOREVER)
    return {}


def breed(arguments: Arguments) -> dict[str, Any]:
    """Leave a grandchild behind that holds no pipe."""
    if not os.fork():
        for descriptor in (0, 1, 2):
            os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
        os.closerange(3, 100)
        Path(arguments["mark"]).write_text(str(os.getpid()), encoding="utf-8")
        time.sleep(FOREVER)
    while not Path(arguments["mark"]).exists():
        time.sleep(0.01)
    return {"values": {}}


def write(arguments: Arguments) -> dict[str, Any]:
    with Path(arguments["mark"]).open("wb") as file:
        while True:
            file.write(bytes(1 << 20))


def chatter(_arguments: Arguments) -> dict[str, Any]:
    answer = "x" * (65 << 20)
    return {"values": {"much": answer}}


def noise(_arguments: Arguments) -> dict[str, Any]:
    """What libraries print must not end up in the answer, nor fill a pipe that nobody reads."""
    print("printed", flush=True)  # noqa: T201 - this is the misbehaviour
    os.write(1, b"written\n" * 100_000)
    os.write(2, b'{"progress": "a lot"}\n{"progress": 7}\n{"progress":\n')
    return {"values": {"answer": "clean"}}


def die(arguments: Arguments) -> dict[str, Any]:
    os.write(2, b"last words\n")
    os.kill(os.getpid(), signal.Signals[arguments["mark"]])
    time.sleep(FOREVER)
    return {}


def leave(arguments: Arguments) -> dict[str, Any]:
    os._exit(int(arguments["mark"]))


def stumble(_arguments: Arguments) -> dict[str, Any]:
    message = "a bug"
    raise LookupError(message)


def lie(_arguments: Arguments) -> dict[str, Any]:
    return {"values": [1, 2, 3]}


def steps(_arguments: Arguments) -> dict[str, Any]:
    for share in (0.0, 0.25, 0.5, 1.0):
        child._progress(share, "working")
    return {"values": {}}


CALLS: dict[str, Callable[[Arguments], dict[str, Any]]] = {
    function.__name__: function
    for function in (
        breed,
        chatter,
        die,
        environment,
        hoard,
        leave,
        lie,
        limits,
        modules,
        noise,
        sleep,
        spin,
        steps,
        stumble,
        write,
    )
}


def call(name: str, arguments: Arguments) -> dict[str, Any]:
    return CALLS[name](arguments)


if __name__ == "__main__":
    child._call = call
    sys.exit(child.main())
