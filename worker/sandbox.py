"""Runs engine calls in a limited child process: progress, time-out, cancel, and what a death means."""

import contextlib
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

import worker
from app.domain.errors import DomainError, Problem
from worker import footprint, probe
from worker.child import DONE, REFUSED, no_memory, shortened
from worker.confine import MIB, Limits

ROOT = Path(worker.__file__).parents[1]
CHILD = "worker.child"
POLL_SECONDS = 0.2
LOOKS_TAKE = 20  # between two looks at the disk passes so many times what one takes
CHILD_THREADS = 4096  # some dozens for each core that a host has
ANSWER_BYTES = 8 * MIB  # reading one holds up the worker's other calls: a second
LONG_ANSWERS = {"build": 64 * MIB}  # what became of each sample and each layer
LOG_BYTES = 64 * 1024
REPORT_BYTES = 64
# What Rust's libraries print before they abort; C++'s throw, and the child itself tells.
NO_MEMORY = re.compile(rb"memory allocation of \d+ bytes failed")
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP)
# Escaped in JSON: backslashes and pairs of surrogates stay. Names in uploads may hold NULs, which no database
# takes, and halves of pairs, which nothing can encode.
ESCAPED = re.compile(
    rb"(\\\\|\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2})|\\u(?:0000|d[89a-f][0-9a-f]{2})", re.IGNORECASE
)
Answer = TypeVar("Answer")


@dataclass
class Bounds:
    """What one engine call may take, with the bytes staged before it, and how many it was seen to write."""

    folder: Path
    limits: Limits
    staged: int
    answer_bytes: int
    written: int = 0


class Refusal(DomainError):
    """The engine refused, crashed or exceeded a limit: final, trying again changes nothing."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class Outgrown(Refusal):
    """The step wrote more than this worker's disk has left for it."""


class ChildLost(DomainError):
    """The child was killed and nobody here ordered it."""


class Interrupted(DomainError):
    """The child was killed because its step was taken away or the worker stops."""


def run(  # noqa: PLR0913 - the request, its limits, and who listens
    name: str,
    request: object,
    answer: type[Answer],
    *,
    folder: Path,
    limits: Limits,
    on_progress: Callable[[float], None] = lambda _share: None,
    on_log: Callable[[bytes], None] = lambda _tail: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Answer:
    """Run one engine call in a child whose working folder is `folder`.

    `on_log` gets the end of what the child printed, however it ended.

    Raises:
        Refusal: The engine said no, crashed, or a limit was exceeded.
        ChildLost: Somebody else killed the child.
        Interrupted: `interrupted` became true.
    """
    call = {"call": name, "arguments": TypeAdapter(type(request)).dump_python(request, mode="json")}
    bounds = Bounds(folder, limits, footprint.taken(folder), LONG_ANSWERS.get(name, ANSWER_BYTES))
    log = bytearray()
    reading, writing = os.pipe()
    with (
        os.fdopen(reading, "rb", 0) as reports,
        os.fdopen(writing, "wb", 0) as theirs,
        _spawn(folder, writing) as child,
    ):
        theirs.close()
        try:
            confinement = {"limits": asdict(limits), "layers": probe.layers(), "progress_to": writing}
            _send(child, {**call, **confinement})
            output = _watch(child, reports, log, on_progress, _looking(bounds, child.pid, interrupted))
            _check_disk(bounds)
        finally:
            _kill(child)
            on_log(bytes(log))
    return _answer(child.returncode, output, bytes(log), answer, bounds)


def _spawn(folder: Path, progress_to: int) -> subprocess.Popen[bytes]:
    # -P keeps the working folder, which holds uploads, out of the module path.
    return subprocess.Popen(  # noqa: S603 - the command is ours
        [sys.executable, "-P", "-m", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env=environment(folder),
        pass_fds=(progress_to,),
        start_new_session=True,
    )


def environment(folder: Path) -> dict[str, str]:
    """Nothing of the parent's environment but what Python needs to start."""
    return {
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "PYTHONPATH": str(ROOT),
        "PYTHONHASHSEED": "0",
        "PYTHONNOUSERSITE": "1",
        "ORT_DISABLE_TELEMETRY": "1",
    }


def _send(child: subprocess.Popen[bytes], request: dict[str, Any]) -> None:
    """One line; the pipe stays open, so that its end tells the child that we are gone."""
    assert child.stdin is not None  # noqa: S101 - a pipe was asked for
    try:
        child.stdin.write(json.dumps(request).encode() + b"\n")
        child.stdin.flush()
    except BrokenPipeError:  # it is dead already; unless closed here, Popen would try to write once more
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()


def _watch(
    child: subprocess.Popen[bytes],
    reports: IO[bytes],
    log: bytearray,
    on_progress: Callable[[float], None],
    look: Callable[[int], None],
) -> bytes:
    """Collect all streams until they end: the answer, progress, and in `log` the end of what was printed."""
    output, progress = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(_pipe(child.stdout), selectors.EVENT_READ, output)
        selector.register(_pipe(child.stderr), selectors.EVENT_READ, log)
        selector.register(reports, selectors.EVENT_READ, progress)
        while selector.get_map():
            for key, _ in selector.select(POLL_SECONDS):
                chunk = os.read(key.fd, 65536)
                if not chunk:
                    selector.unregister(key.fileobj)
                key.data.extend(chunk)
            del log[:-LOG_BYTES]
            _pass_on(progress, on_progress)
            look(len(output))
    while not _has_ended(child):
        look(len(output))
        time.sleep(POLL_SECONDS / 20)
    return bytes(output)


def _has_ended(child: subprocess.Popen[bytes]) -> bool:
    """Without reaping it: until then its process group's id cannot be given to anybody else."""
    return os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # noqa: S101 - a pipe was asked for
    return stream


def _pass_on(progress: bytearray, on_progress: Callable[[float], None]) -> None:
    """Report every whole line, and keep what came behind the last."""
    *lines, rest = bytes(progress).split(b"\n")
    progress[:] = rest[-REPORT_BYTES:]
    for line in lines:
        on_progress(_share(line))


def _share(line: bytes) -> float:
    try:
        share = float(line)
    except ValueError:
        return 0.0
    return share if 0 <= share <= 1 else 0.0


def _check_answer(size: int, most: int) -> None:
    if size > most:
        detail = f"The engine's answer has more than {most // MIB} MiB, the limit."
        raise Refusal(Problem("output_limit", detail))


def _looking(bounds: Bounds, pid: int, interrupted: Callable[[], bool]) -> Callable[[int], None]:
    """A look at the step, the clock, the size of the answer so far, and at what is taken of the host.

    At that only as often as it costs next to nothing.
    """
    wall_s = bounds.limits.wall_s
    deadline = time.monotonic() + wall_s
    next_time = 0.0

    def look(answer: int) -> None:
        nonlocal next_time
        begun = time.monotonic()
        _check_answer(answer, bounds.answer_bytes)
        if interrupted():
            raise Interrupted
        if begun > deadline:
            detail = f"The step took more than {wall_s:.0f} s, the limit for one engine call."
            raise Refusal(Problem("time_limit", detail))
        if begun >= next_time:
            _check_threads(footprint.threads(pid))
            _check_disk(bounds, footprint.held(pid, bounds.folder))
            now = time.monotonic()
            next_time = now + max(POLL_SECONDS, LOOKS_TAKE * (now - begun))

    return look


def _check_threads(count: int) -> None:
    if count > CHILD_THREADS:
        raise Refusal(
            Problem("engine_crashed", f"The engine started {count} threads; the limit is {CHILD_THREADS}.")
        )


def _check_disk(bounds: Bounds, hidden: int = 0) -> None:
    """What the folder holds, with `hidden` bytes of files without a name, and what the disk has for others.

    When that is short, who wrote much is ended, and no call beside it.
    """
    folder, most = bounds.folder, bounds.limits.folder
    taken = footprint.taken(folder, most) + hidden
    if taken > most:
        detail = f"The step's files take more than {most // MIB} MiB of disk together, the limit."
        raise Refusal(Problem("output_limit", detail))
    bounds.written = max(bounds.written, taken - bounds.staged)
    if footprint.spare(folder) < 0 and bounds.written > footprint.reserve(folder):
        wrote = f"The step wrote {bounds.written // MIB} MiB, more than this worker's disk has left"
        raise Outgrown(Problem("no_space", f"{wrote}; free some space and retry.", retryable=True))


def _kill(child: subprocess.Popen[bytes]) -> None:
    """End the whole group: a child that is done may have left others behind."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _answer(code: int, output: bytes, log: bytes, answer: type[Answer], bounds: Bounds) -> Answer:
    if code == DONE:
        return _read(output, answer)
    if code == REFUSED:
        raise _refusal(shortened(_read(output, Problem)), bounds)
    if code == -signal.SIGXCPU:
        limit = f"{bounds.limits.cpu_s} s of CPU time, the limit for one engine call"
        raise Refusal(Problem("time_limit", f"The step used more than {limit}."))
    if code < 0 and -code not in CRASHES:
        message = f"the engine's process was ended by {_signal(-code)}"
        raise ChildLost(message)
    if code == -signal.SIGABRT and NO_MEMORY.search(log):
        raise Refusal(no_memory(bounds.limits))
    raise Refusal(Problem("engine_crashed", _crash(code, log)))


def _refusal(problem: Problem, bounds: Bounds) -> Refusal:
    """A disk may be full before the next look at it; who has filled it has told."""
    filled = problem.code == "no_space" and bounds.written > footprint.reserve(bounds.folder)
    return Outgrown(problem) if filled else Refusal(problem)


def _read(output: bytes, kind: type[Answer]) -> Answer:
    """What a child wrote; it may write what it likes once an upload has taken it over."""
    text = ESCAPED.sub(lambda found: found[1] or rb"\ufffd", output)
    try:
        return TypeAdapter(kind).validate_json(text)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]["msg"]
        raise Refusal(Problem("engine_crashed", f"The engine's answer cannot be read: {first}.")) from error


def _crash(code: int, log: bytes) -> str:
    how = f"signal {_signal(-code)}" if code < 0 else f"exit code {code}"
    last = log.decode(errors="replace").replace("\0", "\ufffd").strip().rpartition("\n")[2][:500]
    return f"The engine crashed with {how} on this upload. {last}".strip()


def _signal(number: int) -> str:
    """Its name; real-time signals have none."""
    names = {int(known): known.name for known in signal.Signals}
    return names.get(number, str(number))
