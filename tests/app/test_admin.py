"""The operator's commands, as an operator runs them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, func, select, text, update

from app.admin import __main__ as admin
from app.db.keys import ApiKey
from app.db.models import ProjectBlob, Step, Worker
from app.db.operations import Measure
from app.db.queries import drains, workers
from app.db.session import Database
from app.secrets import new_key
from app.services import blobs, keys, sweeper
from app.storage import LocalStorage
from tests import factories

ROOT = Path(__file__).parent.parent.parent
ALL_QUEUES = ["inspect", "default", "benchmark", "control", "webhooks"]
LAYERS = {"rlimits": True, "landlock": True, "seccomp": True}


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def facts(self) -> dict[str, Any]:
        """Its JSON."""
        found: dict[str, Any] = json.loads(self.out)
        return found


Run = Callable[..., Said]


@pytest.fixture
def run(
    database_url: str,
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Runs a command with these words on the test's database."""
    monkeypatch.setenv("FEWBITS_HOME", str(tmp_path))
    monkeypatch.setenv("FEWBITS_DATABASE_URL", database_url)
    monkeypatch.setenv("FEWBITS_REDIS_URL", redis_url)
    monkeypatch.setenv("FEWBITS_SECRET_KEY", new_key())
    monkeypatch.setattr("app.broker.celery.conf.broker_url", redis_url)

    def command(*words: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["admin", *words])
        code = admin.main()
        return Said(code, *capsys.readouterr())

    return command


def see(database: Database, name: str, *, layers: dict[str, bool] | None = None) -> None:
    with database.writing() as db:
        workers.see_worker(db, name, ALL_QUEUES, layers or LAYERS)


def findings(said: Said) -> dict[str, dict[str, str]]:
    return {finding["part"]: finding for finding in said.facts["findings"]}


def test_a_key_is_printed_alone_and_opens_its_project(run: Run, database: Database) -> None:
    plain = run("create-key", "--project", "team", "--name", "ci")
    made = run("create-project", "other", "--json")

    with database.reading() as db:
        caller = keys.authenticate(db, plain.out.strip())
        first = keys.authenticate(db, made.facts["key"])
    assert (plain.code, caller.scopes) == (0, frozenset({"read", "write"}))
    assert (first.project_id, first.scopes) == (made.facts["project"], frozenset({"read", "write", "admin"}))


def test_a_project_that_is_there_gets_no_second_first_key(run: Run, database: Database) -> None:
    run("create-project", "team")

    again = run("create-project", "team")

    assert (again.code, again.out) == (1, "")
    assert "'team'" in again.err
    with database.reading() as db:
        assert db.scalar(select(func.count()).select_from(ApiKey)) == 1


@pytest.mark.parametrize(
    "words",
    [
        ["create-project", ""],
        ["create-project", "a" * 201],
        ["create-key", "--name", ""],
        ["create-key", "--project", "a" * 201],
        ["create-key", "--scopes", "everything"],
        ["drain", "alpha", "--wait", "nan"],
        ["drain", "alpha", "--wait", "-1"],
        ["collect", "everything"],
    ],
)
def test_words_that_make_no_command_are_refused(
    run: Run, database: Database, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    see(database, "alpha:7")

    with pytest.raises(SystemExit) as ended:
        run(*words)

    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err
    with database.reading() as db:
        assert db.scalar(select(func.count()).select_from(ApiKey)) == 0
        assert drains.drained(db) == []


@pytest.mark.parametrize(
    ("name", "value", "command", "told"),
    [
        ("FEWBITS_SECRET_KEY", "secret", "doctor", "FEWBITS_SECRET_KEY: Value error, key 1 is not 32 bytes"),
        ("FEWBITS_DATABASE_URL", "a:secret", "doctor", "FEWBITS_DATABASE_URL is no URL"),
        ("FEWBITS_STORAGE_URL", "ftp://there", "collect", "use file:/absolute/folder, database: or s3://"),
        ("FEWBITS_HOME", "/proc/nowhere", "bootstrap", "/proc/nowhere"),
    ],
)
def test_a_setting_that_cannot_be_is_named(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str, value: str, command: str, told: str
) -> None:
    monkeypatch.setenv(name, value)

    said = run(command)

    assert (said.code, said.out) == (1, "")
    assert told in said.err
    assert "secret" not in said.err


def test_a_bucket_that_is_away_keeps_the_collector_from_its_work(
    run: Run, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEWBITS_STORAGE_URL", s3_url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("app.storage.bucket.ATTEMPTS", 1)

    said = run("collect")

    assert (said.code, "does not answer" in said.err) == (1, True)


def test_bootstrap_makes_one_key_once(run: Run, tmp_path: Path) -> None:
    first = run("bootstrap", "--json").facts["path"]
    key = Path(first).read_text()
    again = run("bootstrap", "--json").facts["path"]

    assert (again, Path(again).read_text()) == (first, key)
    assert (tmp_path / "admin.key").stat().st_mode & 0o777 == 0o600


def test_a_job_is_done_again(run: Run, database: Database, project: str) -> None:
    job = factories.make_job(database, project)
    factories.fail(database, LocalStorage(Path()), factories.step_of(database, job, "prepare").id, "broken")

    said = run("retry", job, "--json")

    again = factories.job_row(database, said.facts["job"])
    assert (said.code, again.retry_of, again.project_id) == (0, job, project)
    assert factories.step_of(database, again.id, "prepare").state == "queued"


def test_a_job_that_is_not_there_is_named(run: Run) -> None:
    said = run("retry", "job_none")

    assert (said.code, said.out) == (1, "")
    assert "job_none" in said.err


def test_a_drained_host_is_told_of_and_works_again(run: Run, database: Database, project: str) -> None:
    see(database, "alpha:7")
    job = factories.make_job(database, project)
    step = factories.take(database, factories.step_of(database, job, "prepare").id, "alpha:7").step_id

    drained = run("drain", "alpha", "--json")
    in_vain = run("drain", "alpha", "--wait", "0.01")

    assert (drained.code, drained.facts) == (0, {"drained": "alpha", "running": [step]})
    assert (in_vain.code, step in in_vain.out) == (1, True)
    with database.reading() as db:
        assert drains.is_drained(db, "alpha:7")
        assert drains.is_drained(db, "alpha:8")
        assert not drains.is_drained(db, "alphabet:7")
    assert findings(run("doctor", "--json"))["drained"]["state"] == "warn"

    assert run("undrain", "alpha").code == 0
    with database.reading() as db:
        assert not drains.is_drained(db, "alpha:7")
    assert run("undrain", "alpha").code == 1


def test_what_runs_elsewhere_is_not_waited_for(run: Run, database: Database, project: str) -> None:
    see(database, "alpha:7")
    job = factories.make_job(database, project)
    factories.take(database, factories.step_of(database, job, "prepare").id, "alpha:70")

    assert run("drain", "alpha:7", "--wait", "60", "--json").facts["running"] == []


def test_a_name_that_no_worker_has_is_not_drained(run: Run, database: Database) -> None:
    see(database, "alpha:7")

    said = run("drain", "beta")

    assert (said.code, "alpha:7" in said.err) == (1, True)
    with database.reading() as db:
        assert drains.drained(db) == []


def test_a_drained_worker_that_is_gone_is_forgotten_and_its_host_is_not(
    database: Database, storage: LocalStorage
) -> None:
    with database.writing() as db:
        drains.drain(db, "alpha:7")
        drains.drain(db, "alpha")

    sweeper.sweep(database, storage)

    with database.reading() as db:
        assert drains.drained(db) == ["alpha"]


def test_the_collector_deletes_what_nobody_needs(
    run: Run, database: Database, project: str, tmp_path: Path
) -> None:
    storage = LocalStorage(tmp_path / "blobs")
    received = [factories.store(storage, bytes([number])) for number in range(150)]
    with database.writing() as db:
        for one in received:
            blobs.keep(db, storage, project, one, 3600)
        db.execute(update(ProjectBlob).values(expires_at=1))
    kept = factories.store(storage, b"kept")
    with database.writing() as db:
        blobs.keep(db, storage, project, kept, 3600)

    said = run("collect", "--json")

    assert said.facts == {"expired": 0, "uploads": 0, "blobs": 150, "objects": 0}
    with storage.open(kept.key) as file:
        assert file.read() == b"kept"
    with pytest.raises(FileNotFoundError):
        storage.open(received[0].key)


def test_the_doctor_finds_nothing_wrong_with_a_whole_service(
    run: Run, database: Database, storage: LocalStorage
) -> None:
    see(database, "alpha:7")
    sweeper.sweep(database, storage)

    said, plain = run("doctor", "--json"), run("doctor")

    assert {finding["state"] for finding in said.facts["findings"]} == {"ok"}, said.out
    assert (said.code, said.facts["ok"], plain.code) == (0, True, 0)
    assert all(line.startswith("ok ") and "→" not in line for line in plain.out.splitlines())


def test_the_doctor_names_what_is_wrong_and_the_next_step(
    run: Run, database: Database, project: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    see(database, "alpha:7", layers=LAYERS | {"landlock": False})
    jobs = [factories.make_job(database, project) for _ in range(2)]
    waits, silent = (factories.step_of(database, job, "prepare").id for job in jobs)
    factories.take(database, silent)
    with database.writing() as db:
        db.execute(update(Step).where(Step.id == silent).values(lease_until=1, losses=2))
        db.execute(update(Step).where(Step.id == waits).values(created_at=1))
        db.execute(delete(Measure))
        db.execute(update(Worker).values(queues=["default"]))
    monkeypatch.setenv("FEWBITS_SECRET_KEY", "")
    monkeypatch.setenv("FEWBITS_STORAGE_URL", f"file:{tmp_path}/file/not/a/folder")
    (tmp_path / "file").touch()
    monkeypatch.setattr("app.broker.celery.conf.broker_url", "redis://127.0.0.1:1/0")

    said = run("doctor", "--json")

    found = findings(said)
    assert said.code == 1
    states = {part: found[part]["state"] for part in found}
    assert states == {
        "database": "ok",
        "schema": "ok",
        "broker": "fail",
        "storage": "fail",
        "secret key": "warn",
        "queue inspect": "fail",
        "queue default": "ok",
        "queue benchmark": "fail",
        "queue control": "fail",
        "queue webhooks": "fail",
        "sandbox": "warn",
        "sweeps": "fail",
        "waiting steps": "warn",
        "running steps": "fail",
        "losses": "warn",
        "webhook endpoints": "ok",
    }
    assert all(found[part]["next_step"] for part in found if states[part] != "ok")
    assert silent in found["running steps"]["what"]
    assert "1 prepare" in found["waiting steps"]["what"]


def test_the_doctor_sees_a_database_that_is_behind_and_one_that_is_ahead(
    run: Run, database: Database
) -> None:
    steps = []
    for revision in ("0001", "9999"):
        with database.writing() as db:
            db.execute(text("UPDATE alembic_version SET version_num = :r"), {"r": revision})
        schema = findings(run("doctor", "--json"))["schema"]
        assert schema["state"] == "fail"
        steps.append(schema["next_step"])

    assert "upgrade head" in steps[0]
    assert "older than the database" in steps[1]


def test_without_a_database_the_doctor_says_so_and_commands_point_to_it(tmp_path: Path) -> None:
    nowhere = {"FEWBITS_HOME": str(tmp_path), "FEWBITS_DATABASE_URL": "sqlite:////nowhere/at/all.db"}
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("FEWBITS_")
    } | nowhere

    def ran(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "app.admin", *words]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    doctor, key = ran("doctor"), ran("create-key")

    assert (doctor.returncode, key.returncode, key.stdout) == (1, 1, "")
    assert doctor.stdout.startswith("fail  database: ")
    assert "app.admin doctor" in key.stderr
    assert "Traceback" not in doctor.stderr + key.stderr
