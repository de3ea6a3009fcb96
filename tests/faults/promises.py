"""What clients were promised, and whether it holds: the log of acknowledged operations, and its checker.

Every fault test sends its requests through a `Client`, which notes what was acknowledged, and ends with
`verify`: acknowledged jobs are rows that have ended, once; acknowledged bytes are in the store as they were
sent; and the store holds nothing that no row knows.
"""

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Self

import httpx
import psycopg
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.models import Artifact, Blob, Candidate, Event, Job, ProjectBlob, Step, UploadPart
from app.db.session import Database
from app.domain.job import CANDIDATE_ENDED, JOB_ENDED
from app.services import orphans
from app.storage import LocalStorage
from app.storage.base import ABANDONED_S, SHELVES, chunks
from tests.faults.parts import Cluster
from tests.waiting import SECONDS

CLEAN = {429, 503, 507}  # says to try again, and nothing was done
STEP_ENDED = {"done", "failed", "canceled"}
PAUSE_S = 0.2
MODELS = 4
OPEN = (
    "SELECT (SELECT count(*) FROM jobs WHERE state IN ('queued', 'running')), "
    "(SELECT count(*) FROM steps WHERE state IN ('queued', 'running') AND kind <> 'deliver')"
)
Settled = Callable[[], bool]
TERMINAL = [f"job.{state}" for state in sorted(JOB_ENDED)]


@dataclass
class Log:
    """What a client was told: jobs by their Idempotency-Key, bytes by their SHA-256, all statuses."""

    jobs: dict[str, str] = field(default_factory=dict)
    blobs: set[str] = field(default_factory=set)
    statuses: Counter[int] = field(default_factory=Counter)
    broken: int = 0
    wrong: list[str] = field(default_factory=list)

    def note(self, answer: httpx.Response) -> None:
        """Count an answer; one that is neither done nor a clean refusal is wrong."""
        self.statuses[answer.status_code] += 1
        if answer.is_server_error and answer.status_code not in CLEAN:
            self.wrong.append(f"{answer.request.method} {answer.request.url.path}: {answer.text}")

    def acknowledge(self, key: str, job: str) -> None:
        """A job was accepted under this key, now or before."""
        if self.jobs.setdefault(key, job) != job:
            self.wrong.append(f"{key} is {self.jobs[key]} and {job}")


class Client:
    """Sends requests again, under the same key, until they are acknowledged."""

    def __init__(self, cluster: Cluster, log: Log) -> None:
        self.log = log
        self._cluster = cluster
        self._http = cluster.client()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def upload(self, script: Mapping[str, Any], name: str = "model") -> str:
        """The id of a new version whose model is this script."""
        return self.version(self.put(json.dumps({"named": name, **script}).encode()), name)

    def version(self, sha256: str, name: str) -> str:
        """The id of a new version whose model is these bytes."""
        body = {"name": name, "files": {"m.onnx": sha256}}
        answer = self.send("POST", "/v1/models", json=body, headers={"Idempotency-Key": name})
        return str(answer.json()["id"])

    def put(self, content: bytes) -> str:
        """Send bytes; their SHA-256."""
        sha256 = hashlib.sha256(content).hexdigest()
        self.send("PUT", f"/v1/blobs/{sha256}", content=content)
        self.log.blobs.add(sha256)
        return sha256

    def submit(self, version: str, key: str) -> str:
        """The id of the job that this key stands for."""
        answer = self.send("POST", "/v1/jobs", **job(version, key))
        self.log.acknowledge(key, str(answer.json()["id"]))
        return self.log.jobs[key]

    def listen(self, url: str) -> str:
        """The secret of a new endpoint that is told of jobs that succeed."""
        asked = {"url": url, "events": ["job.succeeded"]}
        return str(self.send("POST", "/v1/webhook-endpoints", json=asked).json()["secret"])

    def send(self, method: str, path: str, **request: Any) -> httpx.Response:
        """The first answer that is none of the service's troubles."""
        end = time.monotonic() + SECONDS
        while True:
            answer = self.once(method, path, **request)
            if answer is not None and answer.is_success:
                return answer
            assert answer is None or answer.status_code in {409, *CLEAN}, self._cluster.log_of(
                self._cluster.api
            )
            assert time.monotonic() < end, "no answer"
            time.sleep(PAUSE_S)

    def once(self, method: str, path: str, **request: Any) -> httpx.Response | None:
        """One answer; none when the connection broke."""
        try:
            answer = self._http.request(method, path, **request)
        except httpx.TransportError:
            self.log.broken += 1
            return None
        self.log.note(answer)
        return answer


def job(version: str, key: str) -> dict[str, Any]:
    """The request for a job that this key stands for."""
    spec = {
        "version": version,
        "recipes": [{"method": "dynamic_int8"}],
        "benchmark": {"max_seconds": 0.001},
        "reuse": "never",
    }
    return {"json": spec, "headers": {"Idempotency-Key": key}}


@contextmanager
def submitting(
    cluster: Cluster, log: Log, numbers: Iterable[int], every_s: float = 0.0, **script: Any
) -> Iterator[Settled]:
    """Submit jobs of these numbers from a thread of its own; it yields what says whether all have ended."""

    def submit_all() -> None:
        with Client(cluster, log) as client:
            versions = [client.upload(script, f"model-{n}") for n in range(MODELS)]
            for n in numbers:
                client.submit(versions[n % MODELS], f"job-{n}")
                time.sleep(every_s)

    with ThreadPoolExecutor(1) as thread:
        sent = thread.submit(submit_all)
        yield lambda: sent.done() and sent.result() is None and ended(cluster)


def ended(cluster: Cluster) -> bool:
    """Whether all jobs and inspections have ended, by the database's word."""
    with suppress(psycopg.OperationalError):
        return cluster.postgres.execute(OPEN, cluster.database) == [(0, 0)]
    return False


@dataclass(frozen=True)
class Truth:
    """What the database and the store say in the end."""

    states: Mapping[str, int]
    errors: Mapping[str, int]
    attempts: int
    steps: int
    losses: int
    blobs: int

    def __str__(self) -> str:
        """As a figure."""
        states = ", ".join(f"{count} {state}" for state, count in sorted(self.states.items()))
        work = f"{self.attempts - self.steps} extra attempts, {self.losses} losses in {self.steps} steps"
        return f"{states}; {work}; {self.blobs} blobs"


def verify(log: Log, database_url: str, storage: LocalStorage) -> Truth:
    """Hold everything that was acknowledged against database and store, when all work has ended.

    Raises:
        AssertionError: Something was lost, done twice, left open, damaged, or left lying.
    """
    assert log.wrong == []
    database = Database(database_url)
    try:
        with database.reading() as db:
            jobs = list(db.scalars(select(Job)))
            _check_jobs(log, jobs)
            _check_events(db, jobs)
            _check_work(db)
            _check_blobs(log, db, storage)
        _check_orphans(database, storage)
        with database.reading() as db:
            return _truth(db, jobs)
    finally:
        database.dispose()


def _check_jobs(log: Log, jobs: list[Job]) -> None:
    assert {job.id for job in jobs} == set(log.jobs.values()), "acknowledged jobs are the rows, none twice"
    assert len(set(log.jobs.values())) == len(log.jobs), "each key made a job of its own"
    assert [job.id for job in jobs if job.state not in JOB_ENDED] == []


def _check_events(db: Session, jobs: list[Job]) -> None:
    of_end = select(Event.subject_id, func.count()).where(Event.type.in_(TERMINAL)).group_by(Event.subject_id)
    assert {(subject, count) for subject, count in db.execute(of_end)} == {(job.id, 1) for job in jobs}
    last = select(Event.subject_id, func.count(), func.max(Event.seq)).group_by(Event.subject_id)
    assert [subject for subject, count, highest in db.execute(last) if count != highest] == []


def _check_work(db: Session) -> None:
    """Nothing is open, and what is built has one result."""
    steps = list(db.scalars(select(Step).where(Step.kind != "deliver")))
    assert [(s.id, s.kind, s.state) for s in steps if s.state not in STEP_ENDED] == []
    candidates = list(db.scalars(select(Candidate)))
    in_jobs_that_went_on = [c for c in candidates if not c.baseline]
    assert [c.id for c in in_jobs_that_went_on if c.state not in CANDIDATE_ENDED] == []
    made = list(db.scalars(select(Artifact.subject_id).where(Artifact.kind == "candidate")))
    built = {s.subject_id for s in steps if s.kind == "build" and s.state == "done"}
    assert Counter(made) == Counter(built), "one result for each build that is done"


def _check_blobs(log: Log, db: Session, storage: LocalStorage) -> None:
    rows = {blob.sha256: blob for blob in db.scalars(select(Blob))}
    assert log.blobs - set(rows) == set(), "acknowledged bytes are there"
    granted = set(db.scalars(select(ProjectBlob.sha256)))
    assert set(rows) == granted
    damaged = [sha256 for sha256, blob in rows.items() if _digest(storage, blob.key) != (sha256, blob.size)]
    assert damaged == []


def _digest(storage: LocalStorage, key: str) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    with storage.open(key) as file:
        for chunk in chunks(file):
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size


def _check_orphans(database: Database, storage: LocalStorage) -> None:
    """Collect as the sweeper does, a week later."""
    for path in storage.root.rglob("*"):
        if path.is_file():
            then = time.time() - orphans.FORGOTTEN_S - ABANDONED_S
            os.utime(path, (then, then))
    storage.tidy()
    for shelf in range(SHELVES):
        orphans.collect(database, storage, shelf)
    with database.reading() as db:
        known = {*db.scalars(select(Blob.key)), *db.scalars(select(UploadPart.key))}
    assert {path.name for path in storage.root.rglob("*") if path.is_file()} == known


def _truth(db: Session, jobs: list[Job]) -> Truth:
    steps = list(db.scalars(select(Step).where(Step.kind != "deliver")))
    return Truth(
        states=Counter(job.state for job in jobs),
        errors=Counter(job.problem.code for job in jobs if job.problem),
        attempts=sum(max(step.attempt, 1) for step in steps),
        steps=len(steps),
        losses=sum(step.losses for step in steps),
        blobs=db.scalars(select(func.count()).select_from(Blob)).one(),
    )
