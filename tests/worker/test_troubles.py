"""A host in trouble, a full disk above all, costs no upload and no loss: its steps wait."""

import errno

import pytest
from sqlalchemy import update
from sqlalchemy.exc import OperationalError

from app.db import queries
from app.db.models import Job, Step, Version
from app.services import jobs
from tests import factories
from tests.worker.endings import Do, one, raising, run_often
from worker import run
from worker.child import NO_SPACE
from worker.process import Process
from worker.sandbox import Interrupted, Outgrown, Refusal
from worker.steps import STEPS

FULL = OSError(errno.ENOSPC, "No space left on device")
AWAY = OperationalError("", {}, Exception("gone"))
TROUBLES = [FULL, OSError("the store is away"), Refusal(NO_SPACE), AWAY]


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_host_in_trouble_costs_nothing_and_tries_again_later(
    process: Process, step: str, do: Do, trouble: Exception
) -> None:
    do(raising(trouble))

    run.run(process, step)

    found = one(process.database, step)
    assert (found.state, found.losses) == ("queued", 0)
    assert found.not_before > found.rung_at


def test_no_trouble_of_a_host_deletes_an_upload(process: Process, version: str, step: str, do: Do) -> None:
    do(raising(FULL))

    run_often(process, step, 10)

    assert one(process.database, step).state == "queued"
    with process.database.reading() as db:
        found = db.get_one(Version, version)
        assert (found.state, len(found.files)) == ("inspecting", 1)


def test_a_job_waits_until_its_deadline_and_then_says_what_for(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = factories.make_job(process.database, factories.make_project(process.database))
    (prepare,) = factories.steps_of(process.database, job, "prepare")
    monkeypatch.setitem(STEPS, "prepare", raising(FULL))

    run_often(process, prepare.id, 10)

    assert (one(process.database, prepare.id).state, one(process.database, prepare.id).troubles) == (
        "queued",
        10,
    )
    with process.database.writing() as db:
        jobs.expire(db, job)
    with process.database.reading() as db:
        found = db.get_one(Job, job).problem
    assert found
    assert "its steps were put off 10 times for a full or failing disk, store or database" in found.detail


def test_a_step_that_fills_the_disk_itself_is_not_tried_for_ever(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = factories.make_job(process.database, factories.make_project(process.database))
    (prepare,) = factories.steps_of(process.database, job, "prepare")
    monkeypatch.setitem(STEPS, "prepare", raising(Outgrown(NO_SPACE)))

    run_often(process, prepare.id, run.PATIENCE)

    found = one(process.database, prepare.id)
    assert (found.state, found.losses, found.problem) == ("failed", 0, NO_SPACE)


def test_an_upload_that_fills_the_disk_itself_is_rejected_in_the_end_and_keeps_its_bytes(
    process: Process, version: str, step: str, do: Do
) -> None:
    with process.database.reading() as db:
        (file,) = db.get_one(Version, version).files
    do(raising(Outgrown(NO_SPACE)))

    run_often(process, step, run.PATIENCE - 1)
    assert one(process.database, step).state == "queued"
    run_often(process, step, 1)

    with process.database.reading() as db:
        found = db.get_one(Version, version)
        assert (found.state, found.problem) == ("rejected", NO_SPACE)
        assert queries.project_blob(db, found.project_id, file.sha256)


def test_trouble_that_lasts_for_weeks_still_waits(process: Process, step: str, do: Do) -> None:
    do(raising(FULL))
    with process.database.writing() as db:
        db.execute(update(Step).values(troubles=5000))

    run.run(process, step)

    assert (one(process.database, step).state, one(process.database, step).losses) == ("queued", 0)


def test_stops_of_a_worker_take_nothing_of_a_jobs_patience(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = factories.make_job(process.database, factories.make_project(process.database))
    (prepare,) = factories.steps_of(process.database, job, "prepare")
    monkeypatch.setitem(STEPS, "prepare", raising(Interrupted()))
    run_often(process, prepare.id, run.PATIENCE)

    monkeypatch.setitem(STEPS, "prepare", raising(Outgrown(NO_SPACE)))
    run_often(process, prepare.id, 1)

    found = one(process.database, prepare.id)
    assert (found.state, found.attempt, found.troubles) == ("queued", run.PATIENCE + 1, 1)
