"""Once per Idempotency-Key: over HTTP, in parallel, on two API processes, and when one is killed between."""

import io
import json
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from sqlalchemy import func, null, select, update

from app.api.idempotency import OncePerKey
from app.db.base import now_us
from app.db.models import Dataset, IdempotencyKey, Job, Project, Version
from app.db.session import Database
from app.domain.errors import IdempotencyKeyReused, InProgress
from app.domain.quota import Quotas
from app.main import create_app
from app.services import idempotency, sweeper
from app.services.idempotency import Claim, Done
from app.settings import Settings
from app.storage import LocalStorage
from tests import factories
from tests.app.conftest import Service, Tenant, new_key, serving
from tests.app.problems import problem
from tests.waiting import in_time

REPLAYED = "idempotent-replayed"
CREATES_NOTHING = {"/v1/datasets/{dataset_id}/check"}


def key() -> dict[str, str]:
    return {"Idempotency-Key": secrets.token_hex(8)}


def count(service: Service, table: Any, project: str) -> int:
    with service.database.reading() as db:
        return db.scalars(select(func.count()).select_from(table).where(table.project_id == project)).one()


def test_the_same_job_is_made_once_and_answered_as_the_first_time(
    service: Service, tenant: Tenant, version: str
) -> None:
    sent = key()
    first = tenant.http.post(
        "/v1/jobs", json={"version": version, "labels": {"a": "1", "b": "2"}}, headers=sent
    )
    same = json.dumps({"labels": {"b": "2", "a": "1"}, "version": version}, indent=3)
    tenant.http.post(f"{first.headers['location']}/cancel")

    again = tenant.http.post("/v1/jobs", content=same, headers=sent | {"Content-Type": "application/json"})

    assert (first.status_code, again.status_code) == (202, 202)
    assert (again.content, again.headers["location"]) == (first.content, first.headers["location"])
    assert REPLAYED not in first.headers
    assert again.headers[REPLAYED] == "true"
    assert again.headers["content-type"] == first.headers["content-type"]
    assert count(service, Job, tenant.project) == 1


def test_a_quoted_key_is_the_same_key(service: Service, tenant: Tenant, version: str) -> None:
    text = secrets.token_hex(8)
    for written in (text, f'"{text}"'):
        answer = tenant.http.post("/v1/jobs", json={"version": version}, headers={"Idempotency-Key": written})
        assert answer.status_code == 202

    assert count(service, Job, tenant.project) == 1


def test_another_request_with_the_same_key_is_refused(tenant: Tenant, version: str) -> None:
    sent = key()
    job = tenant.http.post("/v1/jobs", json={"version": version}, headers=sent).json()["id"]

    for path, body in (
        ("/v1/jobs", {"version": version, "deadline_s": 60}),
        ("/v1/jobs?x=1", {"version": version}),
        (f"/v1/jobs/{job}/cancel", None),
    ):
        problem(tenant.http.post(path, json=body, headers=sent), 422, "idempotency_key_reused")


def test_a_key_of_another_project_is_another_key(
    service: Service, tenant: Tenant, stranger: Tenant, version: str
) -> None:
    sent, foreign = key(), factories.make_version(service.database, stranger.project)
    assert tenant.http.post("/v1/jobs", json={"version": version}, headers=sent).status_code == 202

    assert stranger.http.post("/v1/jobs", json={"version": foreign}, headers=sent).status_code == 202


@pytest.mark.parametrize("text", [b"", b"a b", "ü".encode(), b"x" * 256])
def test_a_key_that_is_none_is_refused(tenant: Tenant, version: str, text: bytes) -> None:
    headers = {b"Idempotency-Key": text}
    answer = tenant.http.post("/v1/jobs", json={"version": version}, headers=headers)

    assert problem(answer, 422, "invalid_input")["errors"][0]["pointer"] == "/idempotency-key"


def form(boundary: str, content: bytes = b"model", name: str = "m") -> tuple[bytes, dict[str, str]]:
    """A multipart body as curl sends it, with a boundary of its own."""
    parts = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="name"\r\n\r\n{name}\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="m.onnx"\r\n\r\n'
    )
    body = parts.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


@pytest.mark.parametrize("noun", ["models", "datasets"])
def test_a_form_is_the_same_whatever_its_boundary_and_leaves_no_second_file(
    service: Service, tenant: Tenant, noun: str
) -> None:
    sent, content = key(), secrets.token_bytes(1000)
    body, headers = form("one", content)
    first = tenant.http.post(f"/v1/{noun}", content=body, headers=headers | sent)
    before = service.objects()

    body, headers = form("another", content)
    again = tenant.http.post(f"/v1/{noun}", content=body, headers=headers | sent)

    assert (first.status_code, again.status_code, again.content) == (201, 201, first.content)
    assert count(service, Version if noun == "models" else Dataset, tenant.project) == 1
    assert service.objects() == before
    for other in (form("one", secrets.token_bytes(1000)), form("one", content, name="n")):
        answer = tenant.http.post(f"/v1/{noun}", content=other[0], headers=other[1] | sent)
        problem(answer, 422, "idempotency_key_reused")
    assert service.objects() == before


def test_a_one_shot_that_is_repeated_joins_the_wait_for_its_job(service: Service, tenant: Tenant) -> None:
    """A connection that broke during the wait is the reason to ask again."""
    sent, content = key(), secrets.token_bytes(100)

    def ask(wait: int) -> httpx.Response:
        files = {"model": ("m.onnx", io.BytesIO(content))}
        headers = sent | {"Prefer": f"wait={wait}"}
        return tenant.http.post("/v1/quantize?status=http", files=files, headers=headers)

    problem(ask(1), 409, "job_not_finished")
    before = service.objects()
    with ThreadPoolExecutor(1) as asker:
        waiting = asker.submit(ask, 600)
        with service.database.reading() as db:
            job = db.scalars(select(Job.id).where(Job.project_id == tenant.project)).one()
        tenant.http.post(f"/v1/jobs/{job}/cancel")
        answer = waiting.result()

    problem(answer, 409, "job_not_succeeded")
    assert answer.headers[REPLAYED] == "true"
    assert count(service, Job, tenant.project) == 1
    assert service.objects() == before


def test_a_refusal_is_answered_again_too(tenant: Tenant, version: str) -> None:
    job = tenant.http.post("/v1/jobs", json={"version": version}).json()["id"]
    tenant.http.post(f"/v1/jobs/{job}/cancel")
    sent = key()

    first = tenant.http.post(f"/v1/jobs/{job}/cancel", headers=sent)
    again = tenant.http.post(f"/v1/jobs/{job}/cancel", headers=sent)

    problem(first, 409, "job_finished")
    assert (again.content, again.headers[REPLAYED]) == (first.content, "true")


def test_a_refusal_that_waiting_mends_is_not_kept(service: Service, tenant: Tenant, version: str) -> None:
    sent = key()
    with service.database.writing() as db:
        db.get_one(Project, tenant.project).quotas = Quotas(unfinished_jobs=0)
    problem(tenant.http.post("/v1/jobs", json={"version": version}, headers=sent), 429, "quota_exceeded")
    with service.database.writing() as db:
        db.get_one(Project, tenant.project).quotas = Quotas()

    assert tenant.http.post("/v1/jobs", json={"version": version}, headers=sent).status_code == 202


def test_an_answer_that_showed_a_secret_is_not_kept(service: Service, tenant: Tenant) -> None:
    tenant.http.headers["Authorization"] = (
        f"Bearer {new_key(service, tenant.project, ('read', 'write', 'admin'))}"
    )
    sent, body = key(), {"name": "ci"}
    made = tenant.http.post("/v1/api-keys", json=body, headers=sent).json()

    found = problem(tenant.http.post("/v1/api-keys", json=body, headers=sent), 409, "already_created")

    assert made["id"] in found["detail"]
    with service.database.reading() as db:
        row = db.get_one(IdempotencyKey, (tenant.project, sent["Idempotency-Key"]))
    assert (row.answer, row.subject_id) == (None, made["id"])
    assert len(tenant.http.get("/v1/api-keys").json()["items"]) == 3


def test_requests_at_once_on_two_processes_make_one_job(
    service: Service, tenant: Tenant, version: str, tmp_path: Any
) -> None:
    """Some are told that it is being worked on, the others get the answer; whoever insists gets it too."""
    url = service.database.engine.url.render_as_string(hide_password=False)
    settings = Settings(home=tmp_path, database_url=url, storage_url=f"file:{service.storage.root}")
    sent = dict(tenant.http.headers) | key()
    with serving(settings) as other, ThreadPoolExecutor(8) as askers:
        for base in (
            service.url,
            other,
        ):  # FastAPI builds its routes at the first request, and not in parallel
            assert httpx.get(f"{base}/v1/me", headers=sent).status_code == 200
        barrier = threading.Barrier(8)

        def ask(i: int) -> httpx.Response:
            barrier.wait()
            base = (service.url, other)[i % 2]
            return httpx.post(f"{base}/v1/jobs", json={"version": version}, headers=sent)

        answers = list(askers.map(ask, range(8)))

    for answer in answers:
        if answer.status_code != 202:
            assert problem(answer, 409, "in_progress")["retryable"]
    made = {answer.json()["id"] for answer in answers if answer.status_code == 202}
    final = tenant.http.post("/v1/jobs", json={"version": version}, headers=sent)
    assert made == {final.json()["id"]}
    assert count(service, Job, tenant.project) == 1


def test_what_was_made_is_found_although_the_process_died_before_it_answered(
    service: Service, tenant: Tenant, version: str
) -> None:
    sent = key()
    job = tenant.http.post("/v1/jobs", json={"version": version}, headers=sent).json()["id"]
    with service.database.writing() as db:
        db.execute(update(IdempotencyKey).values(answer=null()).where(IdempotencyKey.subject_id == job))

    again = [tenant.http.post("/v1/jobs", json={"version": version}, headers=sent) for _ in range(2)]

    assert [answer.json()["id"] for answer in again] == [job, job]
    assert all(answer.headers[REPLAYED] for answer in again)
    assert count(service, Job, tenant.project) == 1


def claim(database: Database, project: str, text: str, content: str = "c") -> Claim | Done:
    with database.writing() as db:
        return idempotency.claim(db, project, text, content)


def age(database: Database, project: str, **columns: int) -> None:
    """Make what this project has claimed older by so many seconds."""
    aged = {name: now_us() - seconds * 1_000_000 for name, seconds in columns.items()}
    with database.writing() as db:
        db.execute(update(IdempotencyKey).where(IdempotencyKey.project_id == project).values(**aged))


def test_unfinished_work_is_taken_over_after_a_minute_and_the_slow_one_writes_nothing(
    database: Database,
) -> None:
    project = factories.make_project(database)
    slow = claim(database, project, "k")
    assert isinstance(slow, Claim)
    age(database, project, claimed_at=50)
    with pytest.raises(InProgress):
        claim(database, project, "k")
    age(database, project, claimed_at=61)
    with pytest.raises(IdempotencyKeyReused):
        claim(database, project, "k", "other content")

    fast = claim(database, project, "k")

    assert isinstance(fast, Claim)
    with database.writing() as db, pytest.raises(InProgress):
        idempotency.made(db, slow, "job_0", secret=False)
    with database.writing() as db:
        idempotency.release(db, slow)  # not its own any more
        idempotency.made(db, fast, "job_1", secret=False)
    assert claim(database, project, "k") == Done("job_1", None)


def test_what_was_done_is_forgotten_after_a_day(database: Database, storage: LocalStorage) -> None:
    project = factories.make_project(database)
    first = claim(database, project, "k")
    assert isinstance(first, Claim)
    with database.writing() as db:
        idempotency.made(db, first, "job_1", secret=False)
    age(database, project, expires_at=1)

    assert isinstance(claim(database, project, "k", "other content"), Claim)

    age(database, project, expires_at=1)
    sweeper.sweep(database, storage)
    with database.reading() as db:
        assert db.get(IdempotencyKey, (project, "k")) is None


def test_only_one_of_many_claims_at_once(database: Database) -> None:
    project = factories.make_project(database)

    def attempt(_: int) -> bool:
        try:
            return isinstance(claim(database, project, "k"), Claim)
        except InProgress:
            return False

    with ThreadPoolExecutor(8) as claimants:
        assert sum(claimants.map(attempt, range(8))) == 1


def test_a_crash_between_claim_and_work_is_forgotten_at_once(
    service: Service, tenant: Tenant, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = key()
    with monkeypatch.context() as broken:
        broken.setattr("app.services.jobs.create", lambda *_: 1 / 0)
        headers = dict(tenant.http.headers) | sent  # the server closes this connection
        answer = httpx.post(f"{service.url}/v1/jobs", json={"version": version}, headers=headers)
        assert answer.status_code == 500

    assert tenant.http.post("/v1/jobs", json={"version": version}, headers=sent).status_code == 202
    assert in_time(lambda: count(service, Job, tenant.project) == 1)


def test_every_post_that_creates_something_is_done_once(tmp_path: Any) -> None:
    app = create_app(Settings(home=tmp_path))
    document = app.openapi()

    for path, item in document["paths"].items():
        if path.startswith("/v1/") and "post" in item:
            names = {p["name"].lower() for p in item["post"].get("parameters", [])}
            assert ("idempotency-key" in names) == (path not in CREATES_NOTHING), path
    assert issubclass(OncePerKey, APIRoute)
