"""An upload's inspection over HTTP: waited for, passed, or ended by a rejection."""

import hashlib
import threading
import time

import httpx
import pytest
from sqlalchemy import select, update

from app.db import queries
from app.db.base import MICROSECONDS, now_us
from app.db.models import ProjectBlob, Version
from app.domain.errors import Problem
from app.services import datasets, models, sweeper
from tests import factories
from tests.app.conftest import Service, Tenant
from tests.app.problems import problem
from tests.app.uploading import Files, content

DAY_S = 24 * 3600


def reject(service: Service, version_id: str) -> None:
    """What a worker does with a file that is no model."""
    with service.database.writing() as db:
        models.reject(db, service.storage, version_id, Problem("not_onnx", "This is no model."))


def test_who_waits_for_an_inspection_gets_a_rejection_as_the_answer(service: Service, tenant: Tenant) -> None:
    answers: list[httpx.Response] = []
    files: Files = [("file", ("m.onnx", content()))]
    asking = threading.Thread(
        target=lambda: answers.append(
            tenant.http.post("/v1/models", files=files, headers={"Prefer": "wait=600"})
        )
    )
    asking.start()
    with service.database.reading() as db:
        mine = select(Version.id).where(Version.project_id == tenant.project)
        while (version := db.scalars(mine).first()) is None:
            db.rollback()
            time.sleep(0.02)

    reject(service, version)
    asking.join()

    assert version in problem(answers[0], 422, "not_onnx")["detail"]


def test_a_rejected_version_keeps_its_problem_and_loses_its_bytes(
    service: Service, http: httpx.Client
) -> None:
    stored = http.post("/v1/models", files={"file": ("m.onnx", content())}).json()

    reject(service, stored["id"])

    shown = http.get(stored["links"]["self"]).json()
    gone = http.get(stored["links"]["content"])
    refused = http.post("/v1/jobs", json={"version": stored["id"]})
    assert (shown["state"], shown["error"]["code"], shown["files"]) == ("rejected", "not_onnx", [])
    problem(gone, 404, "not_found")
    assert "This is no model." in problem(refused, 422, "invalid_input")["errors"][0]["detail"]


@pytest.mark.parametrize("path", ["/v1/models", "/v1/datasets"])
def test_an_upload_whose_workers_died_is_here_to_be_tried_again(
    service: Service, http: httpx.Client, path: str
) -> None:
    sent = content()
    stored = http.post(path, files={"file": ("m.onnx", sent)}).json()

    give_up(service, path, stored["id"])

    assert http.head(f"/v1/blobs/{hashlib.sha256(sent).hexdigest()}").status_code == 200
    assert http.get(stored["links"]["self"]).json()["state"] == "rejected"


def let_end_in(service: Service, sha256: str, seconds: int) -> None:
    """Let the time for which the project may name these bytes end then."""
    until = now_us() + seconds * MICROSECONDS
    with service.database.writing() as db:
        db.execute(update(ProjectBlob).where(ProjectBlob.sha256 == sha256).values(expires_at=until))


def seconds_left(service: Service, sha256: str) -> int:
    """For how long the project may still name these bytes."""
    with service.database.reading() as db:
        until = db.scalars(select(ProjectBlob.expires_at).where(ProjectBlob.sha256 == sha256)).one()
        return (until - queries.now(db)) // MICROSECONDS


def give_up(service: Service, path: str, subject_id: str) -> None:
    """What follows when an inspection was lost for the third time."""
    lost = Problem("worker_lost", "inspect was lost 3 times", retryable=True)
    rejecting = models.reject if path == "/v1/models" else datasets.reject
    with service.database.writing() as db:
        rejecting(db, service.storage, subject_id, lost)


@pytest.mark.parametrize("path", ["/v1/models", "/v1/datasets"])
def test_the_day_to_try_again_begins_when_the_inspection_is_given_up(
    service: Service, tenant: Tenant, path: str
) -> None:
    sent = content()
    stored = tenant.http.post(path, files={"file": ("m.onnx", sent)}).json()
    sha256 = hashlib.sha256(sent).hexdigest()
    let_end_in(service, sha256, -3600)

    give_up(service, path, stored["id"])
    sweeper.sweep(service.database, service.storage)

    assert DAY_S - 600 < seconds_left(service, sha256) <= DAY_S
    named = {"files": {"m.onnx": sha256}} if path == "/v1/models" else {"sha256": sha256}
    assert tenant.http.post(path, json={"name": "again", **named}).status_code == 201


def test_a_longer_time_for_what_was_sent_is_not_cut_short(service: Service, tenant: Tenant) -> None:
    sent = content()
    stored = tenant.http.post("/v1/models", files={"file": ("m.onnx", sent)}).json()
    sha256 = hashlib.sha256(sent).hexdigest()
    let_end_in(service, sha256, 3 * DAY_S)

    give_up(service, "/v1/models", stored["id"])

    assert seconds_left(service, sha256) > 2 * DAY_S


def test_waiting_for_an_inspection_that_does_not_end_gives_the_version_as_it_is(
    http: httpx.Client,
) -> None:
    answer = http.post("/v1/models", files={"file": ("m.onnx", content())}, headers={"Prefer": "wait=1"})

    assert (answer.status_code, answer.json()["state"]) == (201, "inspecting")
    assert answer.headers["preference-applied"] == "wait=1"


def test_a_version_that_is_inspected_shows_what_is_in_it(service: Service, http: httpx.Client) -> None:
    version = http.post("/v1/models", files={"file": ("m.onnx", content())}).json()

    factories.accept(service.database, version["id"])

    shown = http.get(version["links"]["self"]).json()
    assert shown["state"] == "ready"
    assert shown["examination"]["op_types"] == {"Gemm": 1}
