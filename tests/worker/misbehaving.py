"""A sandboxed child whose calls misbehave; all else is the real one: `python -m tests.worker.misbehaving`."""

import ctypes
import errno
import fcntl
import mmap
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from app.domain.errors import FieldError, Refused
from worker import child

Arguments = Mapping[str, Any]
FOREVER = 600
told: list[int] = []
libc = ctypes.CDLL(None, use_errno=True)


def environment(_arguments: Arguments) -> dict[str, Any]:
    return {"values": {**os.environ}}


def modules(_arguments: Arguments) -> dict[str, Any]:
    import numpy  # noqa: ICN001, PLC0415 - which one is found is the question

    return {"values": {"numpy": str(numpy.__file__), "path": os.pathsep.join(sys.path)}}


def limits(_arguments: Arguments) -> dict[str, Any]:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    no_new_privs = next(line.split()[1] for line in status.splitlines() if line.startswith("NoNewPrivs"))
    core = resource.getrlimit(resource.RLIMIT_CORE)
    threads = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    values = {"no_new_privs": no_new_privs, "core": str(core), "threads": str(threads)}
    return {"values": {**values, "folder": str(Path.cwd())}}


def hoard(_arguments: Arguments) -> dict[str, Any]:
    hoarded = [b"x" * (1 << 24)]
    while True:
        hoarded.append(bytes(1 << 24))


def abort(_arguments: Arguments) -> dict[str, Any]:
    """As Rust does where it gets no memory."""
    os.write(2, b"memory allocation of 99999999999 bytes failed\n")
    os.abort()


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


def litter(_arguments: Arguments) -> dict[str, Any]:
    """Many files of which none is large."""
    for number in range(4000):
        Path(f"litter-{number}").write_bytes(bytes(1 << 20))
    time.sleep(FOREVER)
    return {}


def crowd(_arguments: Arguments) -> dict[str, Any]:
    """Many files that are empty."""
    for number in range(100_000):
        Path(f"crowd-{number}").touch()
    time.sleep(FOREVER)
    return {}


def hide(_arguments: Arguments) -> dict[str, Any]:
    """Write to files that have no name any more."""
    for _ in range(500):
        descriptor = os.open("hidden", os.O_CREAT | os.O_WRONLY)
        Path("hidden").unlink()
        os.write(descriptor, bytes(1 << 20))
    time.sleep(FOREVER)
    return {}


def map_hidden(_arguments: Arguments) -> dict[str, Any]:
    """Files without a name that no descriptor holds, only a mapping."""
    mapped = []
    for _ in range(500):
        with Path("hidden").open("w+b") as file:
            Path("hidden").unlink()
            file.write(bytes(1 << 20))
            file.flush()
            mapped.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    time.sleep(FOREVER)
    return {}


def fill(arguments: Arguments) -> dict[str, Any]:
    """Write some MiB and say that there is no more space."""
    Path("full").write_bytes(bytes(int(arguments["mark"]) << 20))
    time.sleep(1)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def multiply(_arguments: Arguments) -> dict[str, Any]:
    for _ in range(40):
        threading.Thread(target=time.sleep, args=[FOREVER], daemon=True).start()
    time.sleep(FOREVER)
    return {}


def hoard_threads(_arguments: Arguments) -> dict[str, Any]:
    """Until no stack finds memory; each says that no thread can be started."""
    threading.stack_size(256 << 20)
    while True:
        threading.Thread(target=time.sleep, args=[FOREVER], daemon=True).start()


def say(arguments: Arguments) -> dict[str, Any]:
    raise RuntimeError(arguments["mark"])


def bury(_arguments: Arguments) -> dict[str, Any]:
    """Folders in each other, deeper than any path can say."""
    for _ in range(3000):
        Path("a" * 200).mkdir()
        os.chdir("a" * 200)
    Path("deep").write_bytes(bytes(1 << 20))
    return {"values": {}}


def bolt(_arguments: Arguments) -> dict[str, Any]:
    """A folder that can be written and not looked into."""
    Path("bolted").mkdir(0o300)
    Path("bolted/large").write_bytes(bytes(1 << 20))
    return {"values": {}}


def chatter(_arguments: Arguments) -> dict[str, Any]:
    answer = "x" * (65 << 20)
    return {"values": {"much": answer}}


def noise(_arguments: Arguments) -> dict[str, Any]:
    """What libraries print must not end up in the answer, nor fill a pipe that nobody reads."""
    print("printed", flush=True)  # noqa: T201 - this is the misbehaviour
    os.write(1, b"written\n" * 100_000)
    os.write(2, b'{"progress": 0.5}\n0.5\n')
    return {"values": {"answer": "clean"}}


def die(arguments: Arguments) -> dict[str, Any]:
    os.write(2, b"last words\n")
    os.kill(os.getpid(), signal.Signals[arguments["mark"]])
    time.sleep(FOREVER)
    return {}


def fail_with(arguments: Arguments) -> dict[str, Any]:
    """As the system call that fails with this error."""
    number = getattr(errno, arguments["mark"])
    raise OSError(number, os.strerror(number), "model.onnx")


def die_by_number(arguments: Arguments) -> dict[str, Any]:
    os.kill(os.getpid(), int(arguments["mark"]))
    return {}


def leave(arguments: Arguments) -> dict[str, Any]:
    os._exit(int(arguments["mark"]))


def stumble(_arguments: Arguments) -> dict[str, Any]:
    message = "a bug\0"
    raise LookupError(message)


def mumble(_arguments: Arguments) -> dict[str, Any]:
    """Stumble over a name that is no Unicode."""
    return {"values": {"name": "\udcff".encode().hex()}}


def lie(_arguments: Arguments) -> dict[str, Any]:
    """Answer what was not asked, or in no JSON at all."""
    return {"values": [1, 2, 3]}


def babble(arguments: Arguments) -> dict[str, Any]:
    """Say to be done, or to refuse, in what nobody can read."""
    for descriptor in range(3, 10):  # one of them is the answer's
        with suppress(OSError):
            os.write(descriptor, b'{"detail": "\xff\0' + b"[" * 10_000)
    os._exit(int(arguments["mark"]))


def name(_arguments: Arguments) -> dict[str, Any]:
    """Tell names that a protobuf or a tar may hold, and a database may not."""
    lone = {"\udcff": "\ud800x\udfff\ud83d\udd25", "pair": "\U0001f525", "no": "\\ud800 \\\\udcff"}
    return {"values": {"a\0": "\0\\\0", "plain": "\\u0000", **lone}}


def refuse(_arguments: Arguments) -> dict[str, Any]:
    """Refuse in a few million words."""
    raise Refused("much", "x" * 10**5, errors=(FieldError("/" + "y" * 10**5, "z" * 10**5),) * 200)


ESCAPES: dict[str, Callable[[], object]] = {
    "read a system file": lambda: Path("/etc/passwd").read_bytes(),
    "list the root": lambda: list(Path("/").iterdir()),
    "read the project's files": lambda: Path(__file__).parents[2].joinpath("pyproject.toml").read_bytes(),
    "read the neighbour's folder": lambda: Path("../neighbour/upload").read_bytes(),
    "read through a link": lambda: Path("link").read_bytes(),
    "read the parent's environment": lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes(),
    "write beside the folder": lambda: Path("../written").write_bytes(b"x"),
    "write into a package": lambda: Path(child.__file__).with_name("planted.py").write_bytes(b"x"),
    "make a link": lambda: Path("made").symlink_to("/etc/passwd"),
    "move a file out": lambda: Path("own").rename("../moved"),
    "open a TCP socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    "open a UDP socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    "open a unix socket": lambda: socket.socket(socket.AF_UNIX),
    "run a program": lambda: os.execv(sys.executable, [sys.executable, "-V"]),  # noqa: S606
    "fork": os.fork,
    "signal the parent": lambda: os.kill(os.getppid(), signal.SIGCONT),
    "signal everybody": lambda: os.kill(-1, signal.SIGCONT),
    "leave for another namespace": lambda: checked(libc.unshare(0x10000000)),
    "trace another process": lambda: checked(libc.ptrace(16, os.getppid(), 0, 0)),
    "limit the parent": lambda: resource.prlimit(os.getppid(), resource.RLIMIT_CORE, (0, 0)),
    "slow the parent down": lambda: os.setpriority(os.PRIO_PROCESS, os.getppid(), 19),
    "pin the parent to a core": lambda: os.sched_setaffinity(os.getppid(), [0]),
    "reschedule the parent": lambda: os.sched_setscheduler(os.getppid(), os.SCHED_IDLE, os.sched_param(0)),
    "queue a signal for the parent": lambda: checked(libc.sigqueue(os.getppid(), signal.SIGCONT, None)),
    "name the parent as a pipe's owner": lambda: fcntl.fcntl(told[0], fcntl.F_SETOWN, os.getppid()),
    "outlive the parent": lambda: checked(libc.prctl(1, 0, 0, 0, 0)),
    "send a datagram": lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM),
    "open the neighbour's file to all": lambda: Path("../neighbour/upload").chmod(0o777),
    "give the neighbour's file away": lambda: os.chown("../neighbour/upload", os.getuid(), os.getgid()),
    "let the neighbour's file look old": lambda: os.utime("../neighbour/upload", (1, 1)),
    "label the neighbour's file": lambda: os.setxattr("../neighbour/upload", "user.x", b"x"),
    "watch the neighbour's folder": lambda: checked(libc.inotify_init()),
    "share memory that stays": lambda: checked(libc.shmget(0, 1 << 20, 0o600)),
    "hold memory as a file": lambda: os.memfd_create("hoard"),
    "set the clock": lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()),
    "rename the host": lambda: socket.sethostname(socket.gethostname()),
}


def checked(answer: int) -> None:
    if answer < 0:
        raise OSError(ctypes.get_errno(), "refused")


def escape(arguments: Arguments) -> dict[str, Any]:
    """Try to get out in several ways: how each was refused."""
    return {"values": {way: refusal(ESCAPES[way]) for way in arguments["mark"].splitlines()}}


def refusal(way: Callable[[], object]) -> str:
    try:
        way()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


def work(_arguments: Arguments) -> dict[str, Any]:
    """What an engine call may do: files in its folder, threads, random numbers, the clock."""
    Path("folder").mkdir()
    Path("folder/new").write_bytes(b"12")
    Path("folder/new").rename("renamed")
    os.truncate("renamed", 1)
    done: list[int] = []
    threads = [threading.Thread(target=done.append, args=(1,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"values": {"size": str(Path("renamed").stat().st_size), "threads": str(sum(done))}}


def standing(_arguments: Arguments) -> dict[str, Any]:
    return {"values": {"oom_score_adj": Path("/proc/self/oom_score_adj").read_text("ascii").strip()}}


def steps(_arguments: Arguments) -> dict[str, Any]:
    for share in (0.0, 0.25, 0.5, 1.0):
        tell(share, "working")
    return {"values": {}}


def boast(_arguments: Arguments) -> dict[str, Any]:
    """Progress that no engine call makes."""
    for text in ("nan", "inf", "-1", "7", "1e400", "[" * 10_000, "0.5"):
        os.write(told[0], f"{text}\n".encode())
    os.write(told[0], b"x" * 100_000)
    return {"values": {}}


CALLS: dict[str, Callable[[Arguments], dict[str, Any]]] = {
    function.__name__: function
    for function in (
        abort,
        babble,
        boast,
        bolt,
        breed,
        bury,
        chatter,
        crowd,
        die,
        die_by_number,
        environment,
        escape,
        fail_with,
        fill,
        hide,
        hoard,
        hoard_threads,
        leave,
        lie,
        limits,
        litter,
        map_hidden,
        modules,
        multiply,
        mumble,
        name,
        noise,
        refuse,
        say,
        sleep,
        spin,
        standing,
        steps,
        stumble,
        work,
        write,
    )
}


def call(name: str, arguments: Arguments, report: child.Progress) -> dict[str, Any]:
    assert isinstance(report, partial)
    told[:] = report.args
    return CALLS[name](arguments)


def tell(share: float, doing: str) -> None:
    child._report(told[0], share, doing)


if __name__ == "__main__":
    child._call = call
    sys.exit(child.main())
