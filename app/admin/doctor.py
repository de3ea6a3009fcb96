"""What is wrong here, and what to do about it: one line for each part of the service."""

import secrets
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app import broker
from app.admin.answer import Answer, Commands
from app.db.queries import drains, health, workers
from app.db.session import Database
from app.settings import Settings
from app.storage import open_storage

ROOT = Path(__file__).resolve().parent.parent.parent
PROBE_BYTES = 1024
SHOWN = 3
STARTS = {
    "inspect": "worker",
    "default": "worker",
    "benchmark": "benchmark",
    "control": "control",
    "webhooks": "control",
}
State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One part: how it is, and the next step where it is not well."""

    part: str
    state: State
    what: str
    next_step: str = ""

    def line(self) -> str:
        """As an operator reads it."""
        hint = f" → {self.next_step}" if self.next_step else ""
        return f"{self.state:<4}  {self.part}: {self.what}{hint}"


def add_commands(commands: Commands, shared: ArgumentParser) -> None:
    """How it is called."""
    doctor = commands.add_parser("doctor", parents=[shared], help="say what is wrong here and what to do")
    doctor.set_defaults(run=_run)


def examine(settings: Settings, database: Database) -> list[Finding]:
    """Every part; without a database or its tables, only those that need none."""
    found = [_broker(settings), _storage(settings), _secret_key(settings)]
    reached = _database(database)
    if reached.state == "fail":
        return [reached, *found]
    with database.reading() as db:
        schema = _schema(db)
        if schema.state == "fail":
            return [reached, schema, *found]
        return [reached, schema, *found, *_workers(db), *_work(db)]


def _run(settings: Settings, database: Database, _arguments: Namespace) -> Answer:
    found = examine(settings, database)
    ok = all(finding.state != "fail" for finding in found)
    facts = {"ok": ok, "findings": [asdict(finding) for finding in found]}
    return Answer("\n".join(finding.line() for finding in found), facts, ok)


def _database(database: Database) -> Finding:
    kind = database.engine.dialect.name
    try:
        with database.reading() as db:
            health.answers(db)
    except SQLAlchemyError as error:
        return Finding("database", "fail", _first_line(error), "check FEWBITS_DATABASE_URL, and that it runs")
    return Finding("database", "ok", f"{kind} answers")


def _schema(db: Session) -> Finding:
    here = MigrationContext.configure(db.connection()).get_current_revision()
    head = ScriptDirectory.from_config(Config(ROOT / "alembic.ini")).get_current_head()
    if here == head:
        return Finding("schema", "ok", f"at {head}")
    what = f"at {here}, this release's is {head}" if here else "there are no tables"
    known = here is None or _is_ours(here)
    step = "python -m alembic upgrade head" if known else "this code is older than the database: upgrade it"
    return Finding("schema", "fail", what, step)


def _is_ours(revision: str) -> bool:
    scripts = ScriptDirectory.from_config(Config(ROOT / "alembic.ini"))
    return revision in {script.revision for script in scripts.walk_revisions()}


def _broker(settings: Settings) -> Finding:
    if not settings.redis_url:
        step = "set FEWBITS_REDIS_URL to ask about it from here"
        return Finding("broker", "warn", "make serve starts its own, where no other process finds it", step)
    if broker.reachable():
        return Finding("broker", "ok", "answers")
    return Finding("broker", "fail", "does not answer", "check FEWBITS_REDIS_URL; until then work is slow")


def _storage(settings: Settings) -> Finding:
    """Write an object, read it, delete it."""
    content = secrets.token_bytes(PROBE_BYTES)
    try:
        storage = open_storage(settings)
        with storage.create() as writer:
            writer.write(content)
            key = writer.finish().key
        with storage.open(key) as file:
            same = file.read() == content
        storage.delete(key)
    except Exception as error:  # noqa: BLE001 - whatever a store's library raises, it is what is wrong
        return Finding(
            "storage", "fail", _first_line(error), "check FEWBITS_STORAGE_URL, space and permissions"
        )
    if same:
        return Finding("storage", "ok", f"wrote, read and deleted {PROBE_BYTES} bytes")
    return Finding(
        "storage", "fail", "reads other bytes than were written", "stop writing, and check the disk"
    )


def _secret_key(settings: Settings) -> Finding:
    if settings.secret_keys:
        return Finding("secret key", "ok", f"{len(settings.secret_keys)} set")
    step = "set FEWBITS_SECRET_KEY; make one: openssl rand -base64 32"
    return Finding("secret key", "warn", "none in this environment: no webhooks", step)


def _workers(db: Session) -> Iterator[Finding]:
    seen = workers.workers(db)
    heard = {queue for worker in seen for queue in worker.queues}
    for queue, part in STARTS.items():
        count = sum(queue in worker.queues for worker in seen)
        if count:
            yield Finding(f"queue {queue}", "ok", f"{count} workers hear it")
        else:
            yield Finding(f"queue {queue}", "fail", "no worker hears it", f"python -m app.start {part}")
    weak = sorted(worker.name for worker in seen if not all(worker.sandbox.values()))
    if weak:
        step = "Linux 5.13 or newer with Landlock and seccomp; or FEWBITS_SANDBOX=require to refuse them"
        yield Finding("sandbox", "warn", f"not all layers hold on {_some(weak)}", step)
    elif heard:
        yield Finding("sandbox", "ok", "all layers hold on all workers")
    if names := drains.drained(db):
        step = "python -m app.admin undrain NAME, when they are to work again"
        yield Finding("drained", "warn", f"{_some(names)} take nothing more", step)


def _work(db: Session) -> Iterator[Finding]:
    """Whether anything is stuck."""
    for part, check in CHECKS.items():
        yield check(part, db)


def _sweeps(part: str, db: Session) -> Finding:
    age_s = health.seconds_since_sweep(db)
    if age_s is not None and age_s <= health.SWEEP_LATE_S:
        return Finding(part, "ok", f"the last one ended {age_s:.0f} s ago")
    what = "there was none" if age_s is None else f"the last one ended {age_s:.0f} s ago"
    return Finding(part, "fail", what, "python -m app.start control; if it runs, read its log")


def _waiting(part: str, db: Session) -> Finding:
    late = health.waiting_long(db)
    if not late:
        return Finding(part, "ok", f"none has waited for {health.LONG_S // 60} minutes")
    step = "start more workers, or read the logs of those that hear the queue"
    return Finding(part, "warn", f"{sum(late.values())} have waited long: {_counts(late)}", step)


def _stuck(part: str, db: Session) -> Finding:
    stuck = health.silent_steps(db)
    if not stuck:
        return Finding(part, "ok", "all are heard of")
    return Finding(
        part, "fail", f"not heard of for a minute: {_some(stuck)}", "a sweep takes them back: see sweeps"
    )


def _losses(part: str, db: Session) -> Finding:
    lost = health.lost_steps(db)
    if not lost:
        return Finding(part, "ok", "no open step's worker was lost")
    step = "look for kills by memory on its workers; the third loss ends it"
    return Finding(part, "warn", f"workers were lost with {_some(lost)}", step)


def _endpoints(part: str, db: Session) -> Finding:
    failing = health.failing_endpoints(db)
    if not failing:
        return Finding(part, "ok", "none fails")
    return Finding(
        part, "warn", f"failing: {_some(failing)}", "tell their owners; GET /v1/webhook-deliveries says why"
    )


CHECKS: dict[str, Callable[[str, Session], Finding]] = {
    "sweeps": _sweeps,
    "waiting steps": _waiting,
    "running steps": _stuck,
    "losses": _losses,
    "webhook endpoints": _endpoints,
}


def _counts(found: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in found.items())


def _some(names: Sequence[str]) -> str:
    shown, others = ", ".join(names[:SHOWN]), len(names) - SHOWN
    return f"{shown} and {others} more" if others > 0 else shown


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
