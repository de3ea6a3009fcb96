"""A worker that is told to stop gives back what it has, and one that is drained takes nothing more."""

import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from app import broker, start
from app.db.models import Step, Worker
from app.db.queries import drains
from app.db.session import Database
from app.secrets import new_key
from app.settings import Settings
from app.storage import LocalStorage
from tests import factories
from tests.receiving import Receiver, receiving
from tests.waiting import SECONDS, in_time
from tests.worker.deliver.telling import delivery, end_a_job, listen, step_of
from worker import deliver, run, stopping
from worker.process import Process

ROOT = Path(__file__).parents[2]
KEY = new_key()


@dataclass(frozen=True)
class Running:
    """A worker process, and its log."""

    process: subprocess.Popen[bytes]
    log: Path

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def stop(self) -> int:
        """Its exit code, after a SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SECONDS)


@pytest.fixture
def process(sqlite_url: str, tmp_path: Path) -> Iterator[Process]:
    """What the test has in common with the workers that it starts."""
    settings = Settings(home=tmp_path, secret_key=KEY, webhook_allow=(ip_network("127.0.0.0/8"),))
    database = Database(sqlite_url)
    yield Process(settings, database, LocalStorage(tmp_path / "blobs"), "the test")
    database.dispose()


@pytest.fixture
def project(process: Process) -> str:
    return factories.make_project(process.database)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@pytest.fixture
def ringing(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Rings reach the workers, on a broker of their own database."""
    url = f"{redis_url}?virtual_host=7" if redis_url.startswith("redis+socket") else redis_url
    monkeypatch.setattr(broker.celery.conf, "broker_url", url)
    monkeypatch.setattr(broker, "ring", broker.Doorbell().ring)  # the shared one keeps its connection a while
    return url


@contextmanager
def working(
    process: Process, url: str, name: str, queues: str, module: str = "worker.tasks"
) -> Iterator[Running]:
    """A worker that hears these queues."""
    settings = {
        "FEWBITS_HOME": str(process.settings.home),
        "FEWBITS_DATABASE_URL": process.database.engine.url.render_as_string(hide_password=False),
        "FEWBITS_REDIS_URL": url,
        "FEWBITS_SECRET_KEY": KEY,
        "FEWBITS_WEBHOOK_ALLOW": "127.0.0.0/8",
    }
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FEWBITS_")}
    command = [word if word != "worker.tasks" else module for word in start.worker(name, queues, 2)]
    log = process.settings.home / f"{name}.log"
    with (
        log.open("wb") as file,
        subprocess.Popen(command, cwd=ROOT, env=kept | settings, stderr=file) as started,
    ):
        try:
            assert in_time(lambda: started.poll() is not None or name_of(process, started.pid))
            yield Running(started, log)
        finally:
            started.kill()


def name_of(process: Process, pid: int) -> str | None:
    """The worker's name, once it has said that it is there."""
    name = f"{socket.gethostname()}:{pid}"
    with process.database.reading() as db:
        return db.scalars(select(Worker.name).where(Worker.name == name)).one_or_none()


def one(process: Process, step_id: str) -> Step:
    with process.database.reading() as db:
        return db.get_one(Step, step_id)


def test_a_stop_hands_messages_under_way_back_without_a_loss(
    process: Process, project: str, receiver: Receiver, ringing: str
) -> None:
    listen(process, project, receiver.url)
    release, asked = receiver.hang()
    with working(process, ringing, "control", "webhooks") as worker:
        end_a_job(process, project)
        assert asked.acquire(timeout=SECONDS)
        code = worker.stop()
    release.set()

    step = step_of(process, delivery(process))
    assert code == 0
    assert (step.state, step.attempt, step.losses, step.worker) == ("queued", 1, 0, None)
    assert (delivery(process).state, delivery(process).tries) == ("pending", 0)
    assert name_of(process, worker.process.pid) is None


def test_a_stop_hands_engine_steps_back_without_a_loss(process: Process, project: str, ringing: str) -> None:
    version = factories.make_version(process.database, project, ready=False)
    step = factories.step_of(process.database, version, "inspect_version")
    with working(process, ringing, "engine", "inspect", "tests.worker.playing") as worker:
        assert in_time(lambda: list(process.settings.work.glob(f"{step.id}-*/mark")))
        code = worker.stop()

    found = one(process, step.id)
    assert code == 0
    assert (found.state, found.attempt, found.losses, found.worker) == ("queued", 1, 0, None)
    about = [line for line in worker.lines() if line.get("step") == step.id]
    assert about, "every line is JSON, and those of a step name it"
    assert {(line["project"], line["subject"], line["attempt"]) for line in about} == {(project, version, 1)}


def test_a_drained_worker_leaves_its_queues_to_others_until_it_may_work_again(
    process: Process, project: str, receiver: Receiver, ringing: str
) -> None:
    listen(process, project, receiver.url)
    with working(process, ringing, "first", "webhooks") as first:
        name = name_of(process, first.process.pid)
        assert name
        with process.database.writing() as db:
            drains.drain(db, name)
        assert in_time(lambda: said(first, "Canceling queue webhooks"))
        end_a_job(process, project)
        with working(process, ringing, "second", "webhooks") as second:
            assert in_time(lambda: delivery(process).state == "delivered")
            by = step_of(process, delivery(process)).worker
            assert by == name_of(process, second.process.pid)
            assert second.stop() == 0
        with process.database.writing() as db:
            assert drains.undrain(db, name)
        end_a_job(process, project)
        assert in_time(lambda: len(receiver.received) == 2)
        assert first.stop() == 0


def said(worker: Running, text: str) -> bool:
    return text in worker.log.read_text()


def test_a_message_that_ends_in_time_is_written_down(
    process: Process, project: str, receiver: Receiver, rings: Sequence[str]
) -> None:
    assert rings == []
    listen(process, project, receiver.url)
    end_a_job(process, project)
    release, asked = receiver.hang()
    sending = threading.Thread(target=deliver.run, args=(process, step_of(process, delivery(process)).id))
    sending.start()
    assert asked.acquire(timeout=SECONDS)
    leaving = threading.Thread(target=stopping.leave, args=(process, SECONDS))
    leaving.start()
    release.set()
    leaving.join()
    sending.join()

    assert (delivery(process).state, step_of(process, delivery(process)).state) == ("delivered", "done")


def test_a_worker_that_stops_sends_nothing_more(
    process: Process, project: str, receiver: Receiver, rings: Sequence[str]
) -> None:
    assert rings == []
    listen(process, project, receiver.url)
    end_a_job(process, project)
    process.stopping.set()

    run.run(process, step_of(process, delivery(process)).id)
    deliver.run(process, step_of(process, delivery(process)).id)

    assert receiver.received == []
    assert process.sending == {}
    assert step_of(process, delivery(process)).attempt == 0
