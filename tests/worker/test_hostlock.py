"""The host's lock: engine work side by side, a benchmark alone, and nobody starves."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.waiting import SECONDS, in_time
from worker import hostlock
from worker.sandbox import ROOT

HOLDER = """
import sys, time
from pathlib import Path
from worker import hostlock
with hostlock.hold(Path(sys.argv[1]), exclusive=sys.argv[2] == "exclusive", stopping=lambda: False):
    print("held", flush=True)
    time.sleep(600)
"""


class Holder:
    """A thread that takes the lock, says so, and keeps it until released."""

    def __init__(self, folder: Path, *, exclusive: bool) -> None:
        self.held, self.release = threading.Event(), threading.Event()
        self._folder, self._exclusive = folder, exclusive
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        with hostlock.hold(self._folder, exclusive=self._exclusive, stopping=self.release.is_set):
            self.held.set()
            self.release.wait(SECONDS)

    def end(self) -> None:
        self.release.set()
        self.thread.join()


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Callable[[bool], Holder]]:
    """Starts threads that want the lock: exclusive or not."""
    started: list[Holder] = []

    def start(exclusive: bool) -> Holder:
        started.append(Holder(tmp_path, exclusive=exclusive))
        return started[-1]

    yield start
    for holder in started:
        holder.end()


@contextmanager
def another_process(folder: Path, kind: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLDER, str(folder), kind]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def free(folder: Path, *, exclusive: bool) -> bool:
    """Whether the lock can be had at once."""
    try:
        with hostlock.hold(folder, exclusive=exclusive, stopping=lambda: True):
            return True
    except hostlock.Stopped:
        return False


def test_engine_work_shares_the_host(hold: Callable[[bool], Holder]) -> None:
    holders = [hold(False) for _ in range(3)]

    assert all(holder.held.wait(SECONDS) for holder in holders)


def test_a_benchmark_waits_for_engine_work_and_then_is_alone(
    hold: Callable[[bool], Holder], tmp_path: Path
) -> None:
    shared = hold(False)
    assert shared.held.wait(SECONDS)
    assert not free(tmp_path, exclusive=True)

    benchmark = hold(True)
    shared.end()

    assert benchmark.held.wait(SECONDS)
    assert not free(tmp_path, exclusive=False)
    assert not free(tmp_path, exclusive=True)
    benchmark.end()
    assert free(tmp_path, exclusive=True)


def test_a_waiting_benchmark_goes_before_engine_work_that_comes_later(
    hold: Callable[[bool], Holder], tmp_path: Path
) -> None:
    first = hold(False)
    assert first.held.wait(SECONDS)
    benchmark = hold(True)
    assert in_time(lambda: not free(tmp_path, exclusive=False))  # it stands in the turnstile
    latecomer = hold(False)

    first.end()

    assert benchmark.held.wait(SECONDS)
    assert not latecomer.held.is_set()
    benchmark.end()
    assert latecomer.held.wait(SECONDS)


@pytest.mark.parametrize("kind", ["exclusive", "shared"])
def test_the_lock_is_free_when_its_holder_was_killed(tmp_path: Path, kind: str) -> None:
    with another_process(tmp_path, kind) as holder:
        assert not free(tmp_path, exclusive=True)
        assert free(tmp_path, exclusive=False) == (kind == "shared")

        holder.send_signal(signal.SIGKILL)
        holder.wait()

    assert in_time(lambda: free(tmp_path, exclusive=True))


def test_who_stops_does_not_wait(hold: Callable[[bool], Holder], tmp_path: Path) -> None:
    assert hold(True).held.wait(SECONDS)

    with pytest.raises(hostlock.Stopped), hostlock.hold(tmp_path, exclusive=False, stopping=lambda: True):
        pytest.fail("the lock was held twice")


def test_who_gave_up_does_not_block_others(hold: Callable[[bool], Holder], tmp_path: Path) -> None:
    shared = hold(False)
    assert shared.held.wait(SECONDS)

    assert not free(tmp_path, exclusive=True)

    assert free(tmp_path, exclusive=False)
