"""One doorbell, and every way a step can end: written down, handed back, or left to the sweeper."""

import errno
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import update
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session

from app.db.models import Step
from app.db.session import Database
from app.domain.errors import NotFound, Problem
from app.services import blobs
from app.services.outcomes import Record
from tests import factories
from tests.waiting import in_time
from tests.worker import misbehaving
from tests.worker.endings import Do, one, raising, run_often
from worker import footprint, hostlock, lease, run, sandbox
from worker.child import NO_SPACE
from worker.confine import MIB
from worker.lease import Lease
from worker.process import Process
from worker.sandbox import ChildLost, Interrupted, Refusal
from worker.work import Work

REFUSAL = Refusal(Problem("not_onnx", "This is a cat."))


def test_a_step_is_claimed_done_and_written(process: Process, version: str, step: str, do: Do) -> None:
    seen: list[Step] = []

    def inspect(work: Work) -> Record:
        seen.append(one(process.database, step))
        assert work.folder.is_dir()
        return factories.accepted(version)

    do(inspect)
    run.run(process, step)

    assert (seen[0].state, seen[0].worker) == ("running", "this worker")
    assert one(process.database, step).state == "done"
    assert factories.row(process.database, version).state == "ready"
    assert list(process.settings.work.iterdir()) == []


def test_a_doorbell_that_rings_twice_is_harmless(process: Process, version: str, step: str, do: Do) -> None:
    calls: list[str] = []

    def inspect(_work: Work) -> Record:
        calls.append(step)
        run.run(process, step)  # while it runs
        return factories.accepted(version)

    do(inspect)
    run.run(process, step)
    run.run(process, step)  # and when it is done
    run.run(process, "stp_unknown")

    assert calls == [step]
    assert (one(process.database, step).state, one(process.database, step).attempt) == ("done", 1)


def test_a_refusal_is_final(process: Process, version: str, step: str, do: Do) -> None:
    do(raising(REFUSAL))

    run.run(process, step)

    found = one(process.database, step)
    assert (found.state, found.losses, found.problem) == ("failed", 0, REFUSAL.problem)
    assert factories.row(process.database, version).state == "rejected"


def test_a_model_that_is_too_large_for_jobs_is_refused_unopened(
    process: Process, version: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.steps.LARGEST_MODEL", 2)

    run.run(process, step)

    problem = factories.row(process.database, version).problem
    assert problem == Problem("model_too_large", "The model has 3 bytes; jobs take models of up to 2 bytes.")


def test_an_error_of_the_domain_is_final_too(process: Process, step: str, do: Do) -> None:
    do(raising(NotFound("gone")))

    run.run(process, step)

    found = one(process.database, step)
    assert found.state == "failed"
    assert found.problem == Problem("not_found", "gone")


@pytest.mark.parametrize(
    "away",
    [
        OperationalError("", {}, Exception("server closed the connection unexpectedly")),
        DBAPIError("", {}, Exception("idle-in-transaction timeout"), connection_invalidated=True),
    ],
    ids=["away", "timed out"],
)
def test_a_result_waits_for_a_database_that_is_away_for_a_moment(
    process: Process, version: str, step: str, do: Do, away: DBAPIError
) -> None:
    broken: list[str] = []

    def record(db: Session) -> None:
        if not broken:
            broken.append(step)
            raise away
        factories.accepted(version)(db)

    do(lambda _work: record)
    run.run(process, step)

    found = one(process.database, step)
    assert broken == [step]
    assert (found.state, found.attempt, found.losses) == ("done", 1, 0)
    assert factories.row(process.database, version).state == "ready"


def test_a_database_that_stays_away_leaves_the_step_to_the_sweeper(
    process: Process, step: str, do: Do, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "WRITE_SECONDS", 0.0)
    away = OperationalError("", {}, Exception("server closed the connection unexpectedly"))

    def record(_db: Session) -> None:
        raise away

    do(lambda _work: record)
    with pytest.raises(OperationalError):
        run.run(process, step)

    assert one(process.database, step).state == "running"


def test_an_interrupted_step_goes_back_and_costs_nothing(process: Process, step: str, do: Do) -> None:
    do(raising(Interrupted()))

    run.run(process, step)

    found = one(process.database, step)
    assert (found.state, found.losses, found.worker) == ("queued", 0, None)
    factories.take(process.database, step)


def test_a_killed_child_costs_a_loss_and_the_step_is_free_at_once(
    process: Process, step: str, do: Do
) -> None:
    do(raising(ChildLost("killed by SIGKILL")))

    run.run(process, step)

    found = one(process.database, step)
    assert (found.state, found.losses) == ("queued", 1)
    factories.take(process.database, step)


def test_a_bug_costs_losses_and_fails_with_what_it_was(process: Process, step: str, do: Do) -> None:
    do(raising(LookupError("a bug")))

    run_often(process, step, 3)

    found = one(process.database, step)
    assert found.state == "failed"
    assert found.problem is not None
    assert found.problem.code == "worker_lost"
    assert "a bug" in found.problem.detail


def test_the_result_of_a_step_that_was_taken_away_is_dropped(
    process: Process, version: str, step: str, do: Do
) -> None:
    def inspect(_work: Work) -> Record:
        with process.database.writing() as db:
            db.execute(update(Step).where(Step.id == step).values(attempt=2, worker="another"))
        return factories.accepted(version)

    do(inspect)
    run.run(process, step)

    assert (one(process.database, step).state, one(process.database, step).worker) == ("running", "another")
    assert factories.row(process.database, version).state == "inspecting"


@pytest.mark.parametrize("end", [Refusal(NO_SPACE), Interrupted(), ChildLost("killed"), REFUSAL, None])
def test_what_a_step_wrote_and_nothing_names_is_gone_from_the_store(
    process: Process, version: str, step: str, do: Do, end: Exception | None
) -> None:
    published: list[str] = []

    def inspect(work: Work) -> Record:
        (work.folder / "weights").write_bytes(b"secret weights")
        published.append(work.publish(work.folder / "weights").key)
        published.append(work.keep(REFUSAL.problem).key)
        if end:
            raise end
        with process.database.writing() as db:  # somebody else has it now
            db.execute(update(Step).where(Step.id == step).values(attempt=2))
        return factories.accepted(version)

    do(inspect)
    run.run(process, step)

    for key in published:
        with pytest.raises(FileNotFoundError):
            process.storage.open(key)


def test_a_worker_that_stops_leaves_the_step_to_others(process: Process, step: str, do: Do) -> None:
    do(raising(AssertionError("it was claimed")))
    process.stopping.set()

    with hostlock.hold(process.settings.locks, exclusive=True, stopping=lambda: False):
        run.run(process, step)

    assert (one(process.database, step).state, one(process.database, step).attempt) == ("queued", 0)


def test_engine_work_waits_for_a_benchmark_before_it_claims(
    process: Process, version: str, step: str, do: Do
) -> None:
    do(lambda _work: factories.accepted(version))
    worker = threading.Thread(target=run.run, args=[process, step])

    with hostlock.hold(process.settings.locks, exclusive=True, stopping=lambda: False):
        worker.start()
        worker.join(0.3)
        assert worker.is_alive()
        assert one(process.database, step).state == "queued"
    worker.join()

    assert one(process.database, step).state == "done"


def test_what_a_killed_worker_left_goes_with_the_next_step_and_what_is_in_use_stays(
    process: Process, version: str, step: str, do: Do
) -> None:
    leftover = process.settings.work / "stp_killed-x"
    leftover.mkdir(parents=True)
    (leftover / "model.onnx").write_bytes(b"gigabytes")

    def inspect(work: Work) -> Record:
        assert not leftover.exists()
        with run._folder(process, work.claim) as another:
            assert {path.name for path in process.settings.work.iterdir()} == {work.folder.name, another.name}
        return factories.accepted(version)

    do(inspect)
    run.run(process, step)

    assert one(process.database, step).state == "done"
    assert list(process.settings.work.iterdir()) == []


@pytest.fixture
def quick_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease that is lost only when something takes it."""
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(lease, "SILENCE_SECONDS", 3600.0)


@pytest.fixture
def held(process: Process, step: str, quick_beats: None) -> Iterator[Lease]:
    """The lease of a claimed step."""
    assert quick_beats is None
    with Lease(process.database, factories.take(process.database, step)) as held:
        yield held


def test_a_lease_is_renewed_again_and_again(process: Process, step: str, held: Lease) -> None:
    held.progress = 0.7
    for _ in range(2):
        with process.database.writing() as db:
            db.execute(update(Step).where(Step.id == step).values(lease_until=1))
        assert in_time(lambda: (one(process.database, step).lease_until or 0) > 1)

    assert one(process.database, step).progress == 0.7
    assert not held.lost


@pytest.mark.parametrize("change", [{"attempt": 2}, {"state": "canceled"}, {"state": "queued"}])
def test_a_lease_notices_that_its_step_was_taken_away(
    process: Process, step: str, held: Lease, change: dict[str, object]
) -> None:
    with process.database.writing() as db:
        db.execute(update(Step).where(Step.id == step).values(**change))

    assert in_time(lambda: held.lost)


def test_a_lease_is_lost_when_the_database_stays_away(process: Process, held: Lease) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lease, "SILENCE_SECONDS", 0.5)
        patch.setattr(held, "_database", Database("postgresql+psycopg://nobody@127.0.0.1:1/none"))
        assert in_time(lambda: held.lost)
        held._database.dispose()
    assert process.name


def stage(process: Process, step: str, path: str, damage: Callable[[Path], object]) -> Path:
    """Stage a blob whose object was changed behind our back."""
    claim = factories.take(process.database, step)
    project = claim.project_id
    received = factories.store(process.storage, b"weights")
    with process.database.writing() as db:
        sha256 = blobs.keep(db, process.storage, project, received, 60).sha256
    folder = process.settings.work
    folder.mkdir()
    damage(process.settings.home / "blobs" / received.key[:2] / received.key)
    return Work(process, claim, Lease(process.database, claim), folder).stage(sha256, path)


def test_staging_copies_a_blob_and_leaves_the_store_alone(process: Process, step: str) -> None:
    staged = stage(process, step, "model/m.onnx", lambda _object: None)

    assert staged.read_bytes() == b"weights"
    staged.write_bytes(b"changed")
    (stored,) = [p for p in (process.settings.home / "blobs").rglob("*") if p.is_file()]
    assert stored.read_bytes() == b"weights"


@pytest.mark.parametrize("content", [b"weightz", b"weight", b"weights!", b""])
def test_staging_detects_a_damaged_blob(process: Process, step: str, content: bytes) -> None:
    with pytest.raises(OSError, match="damaged"):
        stage(process, step, "m.onnx", lambda path: path.write_bytes(content))


def test_staging_detects_a_missing_blob(process: Process, step: str) -> None:
    with pytest.raises(OSError, match="damaged"):
        stage(process, step, "m.onnx", Path.unlink)


def test_nothing_is_staged_that_would_fill_the_disk(
    process: Process, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(footprint, "SPARE_BYTES", sys.maxsize)
    monkeypatch.setattr(footprint, "SPARE_SHARE", 1)

    with pytest.raises(OSError, match="No space") as full:
        stage(process, step, "m.onnx", lambda _object: None)

    assert full.value.errno == errno.ENOSPC
    assert not (process.settings.work / "m.onnx").exists()


def test_a_home_behind_a_link_is_as_good_as_another(
    process: Process, step: str, do: Do, tmp_path: Path
) -> None:
    (tmp_path / "linked").symlink_to(tmp_path)
    settings = process.settings.model_copy(update={"home": tmp_path / "linked"})

    def publish(work: Work) -> Record:
        (work.folder / "weights").write_bytes(b"weights")
        work.publish(work.folder / "weights")
        return lambda _db: None

    do(publish)
    run.run(replace(process, settings=settings), step)

    assert one(process.database, step).state == "done"


def test_a_child_that_litters_fails_its_step_and_nothing_of_it_stays(
    process: Process, step: str, do: Do, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(process, settings=process.settings.model_copy(update={"sandbox_output": 32 * MIB}))
    monkeypatch.setattr(sandbox, "CHILD", misbehaving.__name__)

    def litter(work: Work) -> Record:
        work.call("litter", {}, dict)
        raise AssertionError("it was ended")

    do(litter)
    run.run(small, step)

    found = one(process.database, step)
    assert (found.state, found.attempt, found.losses) == ("failed", 1, 0)
    assert found.problem == Problem(
        "output_limit", "The step's files take more than 64 MiB of disk together, the limit."
    )
    assert list(process.settings.work.iterdir()) == []
