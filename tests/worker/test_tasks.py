"""The Celery side of a worker."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.broker import QUEUES
from app.settings import Settings
from tests.waiting import SECONDS
from worker import probe, tasks
from worker.confine import LAYERS
from worker.process import Process, start
from worker.steps import STEPS


@pytest.fixture(autouse=True)
def own_process() -> Iterator[None]:
    """Each test makes the worker's process anew, and leaves neither threads of it nor connections behind."""
    tasks._process.cache_clear()
    yield
    for thread in threading.enumerate():
        if thread.name == "stopping":
            thread.join(SECONDS)
    if tasks._process.cache_info().currsize:
        tasks.process().database.dispose()
        tasks._process.cache_clear()


def test_tasks_that_begin_together_share_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly(settings: Settings) -> Process:
        time.sleep(0.05)
        return start(settings)

    monkeypatch.setattr(tasks, "start", slowly)
    found: list[Process] = []
    threads = [threading.Thread(target=lambda: found.append(tasks.process())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 8
    assert len({id(process) for process in found}) == 1


def test_a_worker_that_is_told_to_stop_hands_its_steps_back(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEWBITS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FEWBITS_DATABASE_URL", sqlite_url)
    assert not tasks.process().stopping.is_set()

    tasks.stop()

    assert tasks.process().stopping.is_set()


@pytest.mark.parametrize("table", ["there", "missing"])
def test_a_worker_that_was_noted_leaves_a_file_for_health_checks(
    table: str, sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEWBITS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FEWBITS_DATABASE_URL", sqlite_url if table == "there" else "sqlite://")
    tasks.stop()

    tasks._show_up(["default"])

    assert (tmp_path / "home" / tasks.SEEN).exists() == (table == "there")


def test_a_worker_that_must_have_every_layer_does_not_start_without_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probe, "layers", lambda: ("rlimits", "seccomp"))
    tasks.check_sandbox()
    monkeypatch.setenv("FEWBITS_SANDBOX", "require")

    with pytest.raises(SystemExit, match="oom_score_adj, no_new_privs, landlock"):
        tasks.check_sandbox()


def test_a_worker_with_every_layer_starts_where_all_are_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "layers", lambda: tuple(LAYERS))
    monkeypatch.setenv("FEWBITS_SANDBOX", "require")

    tasks.check_sandbox()


def test_every_kind_of_step_has_a_queue_and_a_function() -> None:
    assert set(QUEUES) == {*STEPS, "deliver"}
    assert {"run_step", "sweep"} <= set(tasks.celery.tasks)
