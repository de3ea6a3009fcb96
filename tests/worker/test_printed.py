"""What the engine's children print: its end is kept with the attempt, as plain text, however it ended."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import select

from app.db.models import StepLog
from app.db.session import Database
from app.domain.errors import Problem
from app.services.outcomes import Record
from app.settings import Settings
from app.storage import LocalStorage
from tests import factories
from worker import run, sandbox
from worker.confine import MIB, Limits
from worker.printed import KEPT_BYTES, Printed
from worker.process import Process
from worker.sandbox import Refusal
from worker.steps import STEPS
from worker.work import Work

LIMITS = Limits(memory=8192 * MIB, cpu_s=600, file=256 * MIB, folder=1024 * MIB, wall_s=600)


def test_control_characters_colours_and_the_folder_are_left_out() -> None:
    printed = Printed()
    printed.add(b"\x1b[31mred\x1b[0m\x07 \x00nul\ttab \xff\xfe\r\nin /tmp/step/model.onnx\n")

    text = printed.text(Path("/tmp/step"))  # noqa: S108 - no such folder is used

    assert text == "red nul\ttab \ufffd\ufffd\nin model.onnx\n"


def test_only_the_end_is_kept_and_never_more_than_64_kb() -> None:
    printed = Printed()
    for number in range(3):
        printed.add(b"\xff" * KEPT_BYTES + b" of child %d" % number)
    printed.add(b"  \n")

    text = printed.text(Path("/nowhere"))

    assert len(text.encode()) <= KEPT_BYTES
    assert text.endswith(" of child 2\n")


@pytest.mark.parametrize(("how", "words"), [("noise", b"written"), ("stumble", b"LookupError: a bug")])
def test_the_sandbox_hands_over_what_was_printed_however_the_child_ended(
    how: str, words: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "CHILD", "tests.worker.misbehaving")
    heard: list[bytes] = []

    with suppress(Refusal):  # who stumbles crashes
        sandbox.run(how, {"mark": ""}, dict, folder=tmp_path, limits=LIMITS, on_log=heard.append)

    assert len(heard) == 1
    assert words in heard[0]


@pytest.mark.parametrize("state", ["done", "failed"])
def test_a_steps_attempt_keeps_what_was_printed(
    database: Database,
    storage: LocalStorage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    state: str,
) -> None:
    version = factories.make_version(database, factories.make_project(database), ready=False)
    step = factories.step_of(database, version, "inspect_version").id

    def inspect(work: Work) -> Record:
        work.printed.add(f"loading {work.folder}/model.onnx".encode())
        if state == "failed":
            raise Refusal(Problem("engine_crashed", "The engine crashed."))
        return factories.accepted(version)

    functions: dict[str, Callable[[Work], Record]] = STEPS
    monkeypatch.setitem(functions, "inspect_version", inspect)

    run.run(Process(Settings(home=tmp_path), database, storage, "this worker"), step)

    with database.reading() as db:
        (log,) = db.scalars(select(StepLog))
    assert (log.step_id, log.attempt, log.text) == (step, 1, "loading model.onnx\n")
    assert factories.step_of(database, version, "inspect_version").state == state
