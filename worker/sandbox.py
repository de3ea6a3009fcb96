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
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

import worker
from app.domain.errors import DomainError, FieldError, Problem
from worker import footprint, probe
from worker.child import DONE, NO_SPACE, REFUSED, no_memory
from worker.confine import MIB, Limits

ROOT = Path(worker.__file__).parents[1]
CHILD = "worker.child"
POLL_SECONDS = 0.2
LOOKS_TAKE = 20  # between two looks at the disk passes so many times what one takes
ANSWER_BYTES = 64 * 1024 * 1024
LOG_BYTES = 64 * 1024
REPORT_BYTES = 64
DETAIL, ERRORS = 2000, 100  # characters of a problem's sentences, and how many it has
# What Rust's libraries print before they abort; C++'s throw, and the child itself tells.
NO_MEMORY = re.compile(rb"memory allocation of \d+ bytes failed")
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP)
# Escaped in JSON: backslashes and pairs of surrogates stay. Names in uploads may hold NULs, which no database
# takes, and halves of pairs, which nothing can encode.
ESCAPED = re.compile(
    rb"(\\\\|\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2})|\\u(?:0000|d[89a-f][0-9a-f]{2})", re.IGNORECASE
)
Answer = TypeVar("Answer")


class Refusal(DomainError):
    """The engine refused, crashed or exceeded a limit: final, trying again changes nothing."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


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
            look = _looking(folder, child.pid, limits, interrupted)
            output = _watch(child, reports, log, on_progress, look)
            _check_disk(folder, limits)
        finally:
            _kill(child)
            on_log(bytes(log))
    return _answer(child.returncode, output, bytes(log), answer, limits)


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
    look: Callable[[], None],
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
            _check(output)
            look()
    while not _has_ended(child):
        look()
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


def _check(output: bytearray) -> None:
    if len(output) > ANSWER_BYTES:
        detail = f"The engine's answer has more than {ANSWER_BYTES // MIB} MiB, the limit."
        raise Refusal(Problem("output_limit", detail))


def _looking(folder: Path, pid: int, limits: Limits, interrupted: Callable[[], bool]) -> Callable[[], None]:
    """A look at the step, the clock and the disk; at the disk only as often as that costs next to nothing."""
    deadline = time.monotonic() + limits.wall_s
    next_time = 0.0

    def look() -> None:
        nonlocal next_time
        begun = time.monotonic()
        if interrupted():
            raise Interrupted
        if begun > deadline:
            detail = f"The step took more than {limits.wall_s:.0f} s, the limit for one engine call."
            raise Refusal(Problem("time_limit", detail))
        if begun >= next_time:
            _check_disk(folder, limits, footprint.held(pid))
            now = time.monotonic()
            next_time = now + max(POLL_SECONDS, LOOKS_TAKE * (now - begun))

    return look


def _check_disk(folder: Path, limits: Limits, more: int = 0) -> None:
    """What the folder holds, `more` bytes without a name, and what the disk has left for others."""
    if footprint.taken(folder, limits.folder) + more > limits.folder:
        detail = f"The step's files take more than {limits.folder // MIB} MiB of disk together, the limit."
        raise Refusal(Problem("output_limit", detail))
    if footprint.spare(folder) < 0:
        raise Refusal(NO_SPACE)


def _kill(child: subprocess.Popen[bytes]) -> None:
    """End the whole group: a child that is done may have left others behind."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _answer(code: int, output: bytes, log: bytes, answer: type[Answer], limits: Limits) -> Answer:
    if code == DONE:
        return _read(output, answer)
    if code == REFUSED:
        raise Refusal(_shortened(_read(output, Problem)))
    if code == -signal.SIGXCPU:
        detail = f"The step used more than {limits.cpu_s} s of CPU time, the limit for one engine call."
        raise Refusal(Problem("time_limit", detail))
    if code < 0 and -code not in CRASHES:
        message = f"the engine's process was ended by {_signal(-code)}"
        raise ChildLost(message)
    if code == -signal.SIGABRT and NO_MEMORY.search(log):
        raise Refusal(no_memory(limits))
    raise Refusal(Problem("engine_crashed", _crash(code, log)))


def _read(output: bytes, kind: type[Answer]) -> Answer:
    """What a child wrote; it may write what it likes once an upload has taken it over."""
    text = ESCAPED.sub(lambda found: found[1] or rb"\ufffd", output)
    try:
        return TypeAdapter(kind).validate_json(text)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]["msg"]
        raise Refusal(Problem("engine_crashed", f"The engine's answer cannot be read: {first}.")) from error


def _shortened(problem: Problem) -> Problem:
    """A model's names can be as long as the model, and the problem is kept in a row."""
    errors = tuple(
        FieldError(error.pointer[:DETAIL], error.detail[:DETAIL]) for error in problem.errors[:ERRORS]
    )
    return replace(problem, detail=problem.detail[:DETAIL], errors=errors)


def _crash(code: int, log: bytes) -> str:
    how = f"signal {_signal(-code)}" if code < 0 else f"exit code {code}"
    last = log.decode(errors="replace").replace("\0", "\ufffd").strip().rpartition("\n")[2][:500]
    return f"The engine crashed with {how} on this upload. {last}".strip()


def _signal(number: int) -> str:
    """Its name; real-time signals have none."""
    names = {int(known): known.name for known in signal.Signals}
    return names.get(number, str(number))
