"""The sandboxed child: confine itself, run one engine call, answer as JSON, end.

Exit codes as the engine's command line: 0 done, 2 refused (a problem object), 1 crashed.
"""

import errno
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from app.domain.errors import DomainError, FieldError, Problem
from worker.confine import MIB, Limits, confine

DONE, CRASHED, REFUSED = 0, 1, 2
DETAIL, ERRORS = 2000, 100  # characters of a problem's sentences, and how many it has
NO_SPACE = Problem("no_space", "The worker's disk is full; free some space and retry.", retryable=True)
FULL = (errno.ENOSPC, errno.EDQUOT)
HOST = (errno.EIO, errno.ENFILE, errno.ESTALE)  # no upload does that
Progress = Callable[[float, str], None]
# Threads are counted for all processes of a user. A stack that finds no memory is reported in the same words.
NO_THREAD = ("can't start new thread", "resource temporarily unavailable")
STACKS = 64 * MIB
OUT_OF_MEMORY = ("bad allocation", "std::bad_alloc", "failed to allocate memory", "bad_alloc")


def main() -> int:
    """Read one request line from standard input; the end of standard input means the parent is gone."""
    answer_to = _take_stdout()
    request = json.loads(sys.stdin.buffer.readline())
    limits = Limits(**request["limits"])
    confine(limits, Path.cwd(), request["layers"])
    try:
        threading.Thread(target=_die_with_parent, daemon=True).start()
        report = partial(_report, request["progress_to"])
        answer, code = _call(request["call"], request["arguments"], report), DONE
    except Exception as error:
        problem = _problem(error, limits)
        if problem is None:
            raise
        answer, code = asdict(shortened(problem)), REFUSED
    json.dump(answer, answer_to)
    answer_to.flush()
    return code


def _call(name: str, arguments: Mapping[str, Any], report: Progress) -> dict[str, Any]:
    # Imported only now: everything that opens a model runs behind the limits.
    from worker.engine.calls import run_call  # noqa: PLC0415

    return run_call(name, arguments, report)


def _report(descriptor: int, share: float, _doing: str) -> None:
    os.write(descriptor, f"{share:.4f}\n".encode())


def _problem(error: Exception, limits: Limits) -> Problem | None:
    """The refusal that this error stands for; None when it is a crash."""
    if isinstance(error, DomainError):
        return Problem.of(error)
    text = str(error).lower()
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, MemoryError) or number == errno.ENOMEM or any(w in text for w in OUT_OF_MEMORY):
        return no_memory(limits)
    if any(words in text for words in NO_THREAD):
        return no_memory(limits) if _most_memory() > limits.memory - STACKS else host_trouble(error)
    if isinstance(error, UnicodeError):
        return Problem("not_unicode", f"A name or a text in this upload is no Unicode: {error}.")
    if number == errno.EFBIG:
        detail = f"The step wrote a file of more than {limits.file // MIB} MiB, the limit."
        return Problem("output_limit", detail)
    return host_trouble(error) if number in (*FULL, *HOST) else None


def host_trouble(error: Exception) -> Problem:
    """What is said of an error that is this host's, whatever was uploaded."""
    if isinstance(error, OSError) and error.errno in FULL:
        return NO_SPACE
    return Problem("worker_trouble", f"{type(error).__name__}: {error}", retryable=True)


def shortened(problem: Problem) -> Problem:
    """A model's names can be as long as the model, and the problem is kept in a row."""
    errors = tuple(
        FieldError(error.pointer[:DETAIL], error.detail[:DETAIL]) for error in problem.errors[:ERRORS]
    )
    return replace(problem, detail=problem.detail[:DETAIL], errors=errors)


def no_memory(limits: Limits) -> Problem:
    """What is said of a call that asks for more memory than it may have."""
    detail = f"The step needs more than {limits.memory // MIB} MiB of memory, the limit for one step."
    return Problem("memory_limit", detail)


def _most_memory() -> int:
    """Bytes of address space that this process has had at most; where there is no /proc, 0."""
    with suppress(OSError):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmPeak"))
    return 0


def _take_stdout() -> TextIO:
    """Keep standard output for the answer; what libraries print goes to standard error."""
    answer_to = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answer_to


def _die_with_parent() -> None:
    while os.read(0, 65536):  # not through sys.stdin, whose lock would be held at the interpreter's end
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
