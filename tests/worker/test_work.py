"""What a step copies in and out of its folder: never to another place, and never against a stop."""

from pathlib import Path
from typing import Any

import pytest

from app.domain.errors import Problem
from app.services import blobs
from tests import factories
from worker.engine.requests import Unpacked
from worker.lease import Lease
from worker.process import Process
from worker.sandbox import Interrupted, Refusal
from worker.steps import inspect_version
from worker.work import Work


@pytest.fixture
def work(process: Process, step: str) -> Work:
    claim = factories.take(process.database, step)
    folder = process.settings.work / "step"
    folder.mkdir(parents=True)
    return Work(process, claim, Lease(process.database, claim), folder.resolve())


@pytest.fixture
def sent(work: Work) -> str:
    """The digest of some bytes in the store."""
    process, project = work.process, work.claim.project_id
    received = factories.store(process.storage, b"weights")
    with process.database.writing() as db:
        return blobs.keep(db, process.storage, project, received, 60).sha256


def refused(call: Any, *arguments: object) -> Problem:
    with pytest.raises(Refusal) as refusal:
        call(*arguments)
    return refusal.value.problem


@pytest.mark.parametrize("path", ["../beside", "model/../../beside", "/srv/beside"])
def test_nothing_is_staged_outside_of_the_steps_folder(work: Work, sent: str, path: str) -> None:
    problem = refused(work.stage, sent, path)

    assert problem.code == "engine_crashed"
    assert [entry.name for entry in work.folder.parent.iterdir()] == ["step"]


def test_nothing_is_staged_through_a_link_that_a_child_has_made(
    work: Work, sent: str, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (work.folder / "model").symlink_to(tmp_path / "elsewhere")

    assert refused(work.stage, sent, "model/m.onnx").code == "engine_crashed"

    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(
    "files",
    [
        ("d/m.onnx", "d/../../../evil.pth"),
        ("m.onnx", "/srv/evil.pth"),
        ("m.onnx", "a\0b"),
        ("m.onnx", "a" * 300),
        ("d/m.onnx", "beside"),
    ],
)
def test_a_child_cannot_name_files_outside_of_what_it_unpacked(
    work: Work, monkeypatch: pytest.MonkeyPatch, files: tuple[str, ...]
) -> None:
    monkeypatch.setattr("worker.steps.is_packed", lambda _model: True)
    monkeypatch.setattr(Work, "stage", lambda work, _sha256, path: work.folder / path)
    monkeypatch.setattr(Work, "call", lambda *_arguments: Unpacked(files=files))

    assert refused(inspect_version, work).code == "engine_crashed"


def test_a_result_that_is_no_file_is_the_engines_fault(work: Work) -> None:
    (work.folder / "link").symlink_to("/etc/passwd")

    for name in ("link", "missing", "."):
        assert refused(work.publish, work.folder / name).code == "engine_crashed"


def test_a_stop_ends_copies_in_both_directions(work: Work, sent: str) -> None:
    (work.folder / "result").write_bytes(b"weights")
    work.process.stopping.set()

    with pytest.raises(Interrupted):
        work.stage(sent, "model/m.onnx")
    with pytest.raises(Interrupted):
        work.publish(work.folder / "result")
