"""The sandbox: what a child may have, what happens when it takes more, and what its death means."""

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.hostile.inputs import ENDLESS, GIANT, written
from tests.waiting import in_time
from worker import footprint, probe, sandbox
from worker.confine import MIB, USER_THREADS, Limits
from worker.engine.requests import Prepare, Prepared
from worker.sandbox import ChildLost, Interrupted, Outgrown, Refusal

GENEROUS = Limits(memory=8192 * MIB, cpu_s=6000, file=256 * MIB, folder=1024 * MIB, wall_s=600)
PARENT = """
import sys
from pathlib import Path
from tests.worker.test_sandbox import misbehave
misbehave("sleep", Path(sys.argv[1]), mark=sys.argv[2])
"""


@dataclass(frozen=True)
class Marked:
    """What a misbehaving call is told."""

    mark: str = ""


@dataclass(frozen=True)
class Told:
    """What it tells."""

    values: dict[str, str]


def misbehave(
    name: str,
    folder: Path,
    *,
    mark: str = "",
    limits: Limits = GENEROUS,
    on_progress: Callable[[float], None] = lambda _share: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> dict[str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox, "CHILD", "tests.worker.misbehaving")
        return sandbox.run(
            name,
            Marked(mark),
            Told,
            folder=folder,
            limits=limits,
            on_progress=on_progress,
            interrupted=interrupted,
        ).values


def refused(code: str, call: Callable[[], object]) -> str:
    with pytest.raises(Refusal) as refusal:
        call()
    assert refusal.value.problem.code == code, refusal.value.problem
    return refusal.value.problem.detail


def runs(pid: int) -> bool:
    """Whether this process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def written_pid(path: Path) -> int:
    assert in_time(lambda: path.exists() and path.read_text() != "")
    return int(path.read_text())


def test_a_secret_of_the_parent_does_not_reach_the_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEWBITS_SECRET_KEY", "a secret")
    monkeypatch.setenv("PGPASSWORD", "a secret")

    found = misbehave("environment", tmp_path)

    assert "a secret" not in found.values()
    assert found["HOME"] == found["TMPDIR"] == str(tmp_path)
    assert found["ORT_DISABLE_TELEMETRY"] == "1"
    assert set(found) <= {*sandbox.environment(tmp_path), "LC_CTYPE"}


def test_the_child_works_in_its_folder_without_privileges_without_core_dumps_and_with_few_threads(
    tmp_path: Path,
) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]

    assert misbehave("limits", tmp_path) == {
        "no_new_privs": "1",
        "core": "(0, 0)",
        "threads": str(USER_THREADS if hard == resource.RLIM_INFINITY else min(USER_THREADS, hard // 2)),
        "folder": str(tmp_path),
    }


@pytest.mark.parametrize("name", ["numpy.py", "sitecustomize.py", "usercustomize.py", "worker.py", "json.py"])
def test_an_upload_that_is_called_like_a_module_is_not_imported(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("raise SystemExit(9)")

    found = misbehave("modules", tmp_path)

    assert "site-packages" in found["numpy"]
    assert str(tmp_path) not in found["path"].split(os.pathsep)
    assert "" not in found["path"].split(os.pathsep)


def test_too_much_memory_is_a_refusal_with_a_reason(tmp_path: Path) -> None:
    limits = Limits(memory=600 * MIB, cpu_s=600, file=MIB, folder=64 * MIB, wall_s=600)

    detail = refused("memory_limit", lambda: misbehave("hoard", tmp_path, limits=limits))

    assert "600 MiB" in detail


def test_a_library_that_aborts_for_want_of_memory_is_a_refusal_with_that_reason(tmp_path: Path) -> None:
    assert "8192 MiB" in refused("memory_limit", lambda: misbehave("abort", tmp_path))


def test_too_long_is_a_refusal_and_the_child_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spawned, spawn = [], sandbox._spawn

    def told(folder: Path, progress_to: int) -> "subprocess.Popen[bytes]":
        spawned.append(spawn(folder, progress_to))
        return spawned[-1]

    monkeypatch.setattr(sandbox, "_spawn", told)
    limits = Limits(memory=2048 * MIB, cpu_s=600, file=MIB, folder=64 * MIB, wall_s=3)

    detail = refused("time_limit", lambda: misbehave("sleep", tmp_path, mark="pid", limits=limits))

    assert "3 s" in detail
    assert [runs(child.pid) for child in spawned] == [False]


def test_too_much_cpu_time_is_a_refusal(tmp_path: Path) -> None:
    limits = Limits(memory=2048 * MIB, cpu_s=1, file=MIB, folder=64 * MIB, wall_s=600)

    assert "CPU" in refused("time_limit", lambda: misbehave("spin", tmp_path, limits=limits))


def test_too_large_a_file_is_a_refusal(tmp_path: Path) -> None:
    limits = Limits(memory=2048 * MIB, cpu_s=600, file=3 * MIB, folder=64 * MIB, wall_s=600)
    target = tmp_path / "large"

    refused("output_limit", lambda: misbehave("write", tmp_path, mark=str(target), limits=limits))

    assert target.stat().st_size <= 3 * MIB


@pytest.mark.parametrize("way", ["litter", "crowd", "hide", "map_hidden"])
def test_too_much_in_many_files_is_a_refusal(tmp_path: Path, way: str) -> None:
    limits = replace(GENEROUS, folder=64 * MIB)

    detail = refused("output_limit", lambda: misbehave(way, tmp_path, limits=limits))

    assert "64 MiB" in detail


@pytest.mark.parametrize("way", ["bury", "bolt"])
def test_a_folder_that_cannot_be_looked_into_is_a_refusal_and_goes(tmp_path: Path, way: str) -> None:
    folder = tmp_path / "step"
    folder.mkdir()

    if way == "bury" or os.getuid():  # nothing is closed to root
        refused("output_limit", lambda: misbehave(way, folder))
    else:
        misbehave(way, folder)
    footprint.remove(folder)

    assert not folder.exists()


def test_who_fills_the_disk_is_ended_before_it_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(footprint, "spare", lambda _folder: -1)
    monkeypatch.setattr(footprint, "SPARE_BYTES", MIB)

    with pytest.raises(Outgrown, match="more than this worker's disk has left"):
        misbehave("litter", tmp_path)


@pytest.mark.parametrize(("written", "itself"), [(8, True), (1, False)])
def test_who_meets_a_full_disk_has_filled_it_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int, itself: bool
) -> None:
    monkeypatch.setattr(footprint, "SPARE_BYTES", 4 * MIB)

    with pytest.raises(Refusal) as refusal:
        misbehave("fill", tmp_path, mark=str(written))

    assert (refusal.value.problem.code, isinstance(refusal.value, Outgrown)) == ("no_space", itself)


def test_who_writes_little_goes_on_when_others_have_filled_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(footprint, "spare", lambda _folder: -1)
    monkeypatch.setattr(footprint, "SPARE_BYTES", MIB)
    (tmp_path / "staged").write_bytes(bytes(4 * MIB))

    assert misbehave("limits", tmp_path)


def test_too_many_threads_are_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "CHILD_THREADS", 20)

    assert "the limit is 20" in refused("engine_crashed", lambda: misbehave("multiply", tmp_path))


@pytest.mark.parametrize("error", ["can't start new thread", "Resource temporarily unavailable"])
def test_a_host_that_has_no_more_threads_says_to_try_again(tmp_path: Path, error: str) -> None:
    with pytest.raises(Refusal) as refusal:
        misbehave("say", tmp_path, mark=error)

    assert (refusal.value.problem.code, refusal.value.problem.retryable) == ("worker_trouble", True)


def test_a_thread_for_which_there_is_no_memory_exceeds_the_limit(tmp_path: Path) -> None:
    refused("memory_limit", lambda: misbehave("hoard_threads", tmp_path))


def test_only_a_build_may_answer_at_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "ANSWER_BYTES", 10)
    refused("output_limit", lambda: misbehave("environment", tmp_path))

    monkeypatch.setitem(sandbox.LONG_ANSWERS, "environment", MIB)
    assert misbehave("environment", tmp_path)


def test_too_long_an_answer_is_a_refusal(tmp_path: Path) -> None:
    refused("output_limit", lambda: misbehave("chatter", tmp_path))


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE", "SIGTRAP"])
def test_a_crash_is_final_and_names_its_signal(tmp_path: Path, name: str) -> None:
    detail = refused("engine_crashed", lambda: misbehave("die", tmp_path, mark=name))

    assert name in detail
    assert "last words" in detail


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGHUP"])
def test_a_kill_that_nobody_here_ordered_is_a_loss(tmp_path: Path, name: str) -> None:
    with pytest.raises(ChildLost, match=name):
        misbehave("die", tmp_path, mark=name)


def test_a_kill_before_the_child_has_read_its_request_is_a_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawn = sandbox._spawn

    def spawn_and_kill(folder: Path, progress_to: int) -> subprocess.Popen[bytes]:
        child = spawn(folder, progress_to)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        return child

    monkeypatch.setattr(sandbox, "_spawn", spawn_and_kill)
    with pytest.raises(ChildLost, match="SIGKILL"):
        misbehave("sleep", tmp_path)


def test_a_kill_from_outside_is_a_loss(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    killer = threading.Thread(target=lambda: os.kill(written_pid(mark), signal.SIGKILL))
    killer.start()

    with pytest.raises(ChildLost, match="SIGKILL"):
        misbehave("sleep", tmp_path, mark=str(mark))

    killer.join()


@pytest.mark.parametrize(
    ("number", "code"),
    [
        *(("ENOSPC", "no_space"), ("EDQUOT", "no_space")),
        *(("EIO", "worker_trouble"), ("ENFILE", "worker_trouble"), ("ESTALE", "worker_trouble")),
    ],
)
def test_an_error_that_is_the_hosts_says_to_try_again(tmp_path: Path, number: str, code: str) -> None:
    with pytest.raises(Refusal) as refusal:
        misbehave("fail_with", tmp_path, mark=number)

    assert (refusal.value.problem.code, refusal.value.problem.retryable) == (code, True)


def test_a_call_that_gets_no_memory_from_the_system_exceeds_its_limit(tmp_path: Path) -> None:
    refused("memory_limit", lambda: misbehave("fail_with", tmp_path, mark="ENOMEM"))


def test_a_signal_without_a_name_is_a_loss_with_its_number(tmp_path: Path) -> None:
    with pytest.raises(ChildLost, match="40"):
        misbehave("die_by_number", tmp_path, mark="40")


@pytest.mark.parametrize("code", ["1", "3"])
def test_an_unexpected_exit_is_a_crash(tmp_path: Path, code: str) -> None:
    assert f"exit code {code}" in refused("engine_crashed", lambda: misbehave("leave", tmp_path, mark=code))


def test_a_bug_in_the_engine_is_a_crash_with_its_last_line(tmp_path: Path) -> None:
    assert "LookupError: a bug\ufffd" in refused("engine_crashed", lambda: misbehave("stumble", tmp_path))


def test_an_interrupted_child_is_dead_after_the_first_yes(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    answers: list[bool] = []

    def interrupted() -> bool:
        answers.append(mark.exists() and mark.read_text() != "")
        return answers[-1]

    with pytest.raises(Interrupted):
        misbehave("sleep", tmp_path, mark=str(mark), interrupted=interrupted)

    assert answers.count(True) == 1
    assert not runs(int(mark.read_text()))


def test_what_a_child_leaves_behind_is_killed_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "pid"
    monkeypatch.setattr(probe, "layers", tuple)  # with seccomp it could leave nobody

    misbehave("breed", tmp_path, mark=str(mark))

    assert in_time(lambda: not runs(int(mark.read_text())))


def test_the_child_dies_with_its_parent(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    command = [sys.executable, "-c", PARENT, str(tmp_path), str(mark)]
    with subprocess.Popen(command, cwd=sandbox.ROOT, stderr=subprocess.DEVNULL) as parent:
        child = written_pid(mark)
        assert runs(child)

        parent.kill()

    assert in_time(lambda: not runs(child))


def test_nuls_and_half_characters_in_names_are_replaced_and_what_only_looks_like_one_stays(
    tmp_path: Path,
) -> None:
    assert misbehave("name", tmp_path) == {
        "a\ufffd": "\ufffd\\\ufffd",
        "plain": "\\u0000",
        "\ufffd": "\ufffdx\ufffd\U0001f525",
        "pair": "\U0001f525",
        "no": "\\ud800 \\\\udcff",
    }


def test_a_name_that_is_no_unicode_is_a_refusal(tmp_path: Path) -> None:
    assert "Unicode" in refused("not_unicode", lambda: misbehave("mumble", tmp_path))


@pytest.mark.parametrize(("way", "code"), [("lie", "0"), ("babble", "0"), ("babble", "2")])
def test_an_answer_that_is_none_is_a_crash(tmp_path: Path, way: str, code: str) -> None:
    assert "answer" in refused("engine_crashed", lambda: misbehave(way, tmp_path, mark=code))


def test_a_refusal_without_end_is_shortened(tmp_path: Path) -> None:
    with pytest.raises(Refusal) as refusal:
        misbehave("refuse", tmp_path)

    problem = refusal.value.problem
    assert (problem.code, problem.detail, len(problem.errors)) == ("much", "x" * 2000, 100)
    assert {len(error.pointer + error.detail) for error in problem.errors} == {4000}


def test_progress_passes_in_order(tmp_path: Path) -> None:
    seen: list[float] = []

    misbehave("steps", tmp_path, on_progress=seen.append)

    assert seen == [0.0, 0.25, 0.5, 1.0]


def test_what_libraries_print_stays_out_of_the_answer(tmp_path: Path) -> None:
    seen: list[float] = []

    assert misbehave("noise", tmp_path, on_progress=seen.append) == {"answer": "clean"}

    assert seen == []


def test_progress_that_cannot_be_is_none(tmp_path: Path) -> None:
    seen: list[float] = []

    misbehave("boast", tmp_path, on_progress=seen.append)

    assert seen == [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5]


def prepare(tmp_path: Path, text: str, limits: Limits) -> Prepared:
    """Ask the real child to run this model, as a job without data does."""
    model, out = tmp_path / "model.onnx", tmp_path / "out"
    model.write_bytes(written(text))
    out.mkdir()
    request = Prepare(model=model, out=out)
    return sandbox.run("prepare", request, Prepared, folder=tmp_path, limits=limits)


def test_a_model_that_asks_for_all_memory_is_refused_by_the_real_child(tmp_path: Path) -> None:
    limits = Limits(memory=3072 * MIB, cpu_s=600, file=MIB, folder=64 * MIB, wall_s=600)

    refused("memory_limit", lambda: prepare(tmp_path, GIANT, limits))


def test_a_model_that_never_ends_is_refused_by_the_real_child(tmp_path: Path) -> None:
    limits = Limits(memory=4096 * MIB, cpu_s=600, file=MIB, folder=64 * MIB, wall_s=8)

    refused("time_limit", lambda: prepare(tmp_path, ENDLESS, limits))
