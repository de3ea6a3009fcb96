"""The parts of the embedded service on their own."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from app.embedded import address, children, home, redis_server
from app.embedded.children import Child
from app.embedded.tether import tether
from tests.waiting import SECONDS, in_time

ROOT = Path(__file__).parent.parent.parent
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(600)
"""
TALKER = """
import os, sys, time
print("a long line", flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.02)
print("b", flush=True)
time.sleep(600)
"""
PARENT = """
import subprocess, sys, time
from app.embedded.tether import tether
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
child = subprocess.Popen(tether(sleep), stdin=subprocess.PIPE)
print(child.pid, flush=True)
time.sleep(600)
"""
# What the tether does where the kernel does not help.
GUARDED = """
import os, sys
from app.embedded import tether
tether.by_guard(9)
os.execvp(sys.executable, [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"])
"""


def test_a_command_ends_when_its_parent_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        was_there = alive(child)
        parent.kill()
    assert was_there
    assert in_time(lambda: not alive(child))


def test_without_help_from_the_kernel_a_guard_ends_the_command() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", GUARDED], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as command:
        assert command.stdout
        assert command.stdin
        assert command.stdout.readline() == "up\n"
        command.stdin.close()
        assert command.wait(SECONDS) == -signal.SIGKILL


def test_a_tethered_command_reads_nothing() -> None:
    read = [sys.executable, "-c", "import sys; print(repr(sys.stdin.read()))"]
    with subprocess.Popen(tether(read), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout
        assert command.stdout.read() == "''\n"


def test_a_child_that_dies_is_started_again_after_growing_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(children, "time", SimpleNamespace(monotonic=lambda: now))
    child = Child("short", [sys.executable, "-c", "print('again')"], tmp_path / "log")
    pauses = []
    for _ in range(8):
        assert in_time(lambda: children.revive(child) == "exit code 0")
        pauses.append(children.due([child]) or 0)
        now += pauses[-1]
    assert pauses == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5])
    assert (tmp_path / "log").read_text().count("again") >= len(pauses)


def test_a_death_says_which_signal_it_was(tmp_path: Path) -> None:
    child = Child("long", [sys.executable, "-c", "import time; time.sleep(600)"], tmp_path / "log")
    children.revive(child)
    assert child.process
    child.process.kill()
    assert in_time(lambda: children.revive(child) == "signal SIGKILL")
    children.end([child], 0)


def test_who_does_not_stop_when_asked_is_killed_in_time(tmp_path: Path) -> None:
    child = Child("stubborn", [sys.executable, "-c", STUBBORN], tmp_path / "log")
    children.revive(child)
    assert in_time(lambda: "up" in home.tail(child.log, 1))
    process, start = child.process, time.monotonic()
    children.end([child], 0.2)
    assert process
    assert process.returncode == -signal.SIGKILL
    assert time.monotonic() - start >= 0.2


def test_a_log_keeps_the_run_before(tmp_path: Path) -> None:
    home.fresh_log(tmp_path, "api").write_text("first")
    home.fresh_log(tmp_path, "api").write_text("second")
    assert (tmp_path / "log" / "api.log.1").read_text() == "first"
    assert (tmp_path / "log" / "api.log").read_text() == "second"


def test_a_log_that_is_long_begins_anew_under_its_writers_hands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "LOG_BYTES", 10)
    child = Child("talker", [sys.executable, "-c", TALKER, str(tmp_path / "go")], tmp_path / "log")
    children.revive(child)
    assert in_time(lambda: "line" in home.tail(child.log, 1))

    children.bound_log(child)
    children.bound_log(child)
    assert child.log.read_text() == ""
    (tmp_path / "go").touch()

    assert in_time(lambda: child.log.read_text() == "b\n")
    assert (tmp_path / "log.1").read_text() == "a long line\n"
    children.end([child], 0)


def test_only_a_folder_of_its_own_making_is_taken_for_a_leftover(tmp_path: Path) -> None:
    precious, leftover = tmp_path / "precious", tmp_path / f"{home.PREFIX}old"
    for folder in (precious, leftover):
        folder.mkdir()
        (tmp_path / "serve.lock").write_text(str(folder))
        with home.sole_owner(tmp_path) as lock, home.private_folder(lock) as private:
            assert private.stat().st_mode & 0o077 == 0
        assert not private.exists()
    assert precious.exists()
    assert not leftover.exists()


def test_a_home_has_one_owner_at_a_time(tmp_path: Path) -> None:
    with (tmp_path / "serve.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(home.HomeTaken, match="FEWBITS_HOME"), home.sole_owner(tmp_path):
            pass
    with home.sole_owner(tmp_path):
        pass


def test_an_address_that_listens_everywhere_is_reached_on_this_machine() -> None:
    assert address.Address("0.0.0.0", 80).url == "http://127.0.0.1:80"  # noqa: S104 - not listened to
    assert address.Address("::", 80).url == "http://[::1]:80"


def test_a_server_on_the_path_goes_before_the_one_in_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "redis-server"
    mine.write_text("#!/bin/sh\n")
    mine.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert redis_server.find() == mine


def test_a_socket_path_that_the_kernel_would_cut_off_is_refused(tmp_path: Path) -> None:
    with pytest.raises(redis_server.NoServer, match="TMPDIR"):
        redis_server.command(tmp_path / ("x" * 100))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
