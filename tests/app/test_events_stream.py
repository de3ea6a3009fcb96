"""A job's events over real HTTP: each once and in order, from any place, until the job has ended."""

import asyncio
import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from starlette.types import Message

from app.api import stream, waiting
from app.api.stream import EventStream
from app.api.waiting import Watch
from app.db.session import Database
from app.settings import Settings
from app.storage import LocalStorage
from tests import factories
from tests.app.conftest import Service, Tenant, finished, new_key, serving
from tests.app.problems import problem
from tests.waiting import SECONDS, in_time


@dataclass(frozen=True)
class Sent:
    """One event as a client sees it."""

    id: int | None
    event: str
    data: dict[str, Any]


def events(lines: Iterator[str]) -> Iterator[Sent]:
    """Parse what the specification calls an event stream."""
    fields: dict[str, str] = {}
    for line in lines:
        if line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value
        elif not line and "data" in fields:
            number = int(fields["id"]) if "id" in fields else None
            yield Sent(number, fields["event"], json.loads(fields["data"]))
            fields = {}


def follow(http: httpx.Client, job: str, after: int | str | None = None) -> list[Sent]:
    """Everything that is sent until the stream ends."""
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    with http.stream("GET", f"/v1/jobs/{job}/events", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        return list(events(answer.iter_lines()))


def stored(sent: list[Sent]) -> list[Sent]:
    """Without the progress, which is told and not kept."""
    return [one for one in sent if one.id is not None]


def test_a_job_that_has_ended_is_told_from_its_beginning_to_its_end(service: Service, tenant: Tenant) -> None:
    job = finished(service, tenant)

    sent = stored(follow(tenant.http, job))

    assert [one.id for one in sent] == list(range(1, len(sent) + 1))
    assert (sent[0].event, sent[-1].event) == ("job.queued", "job.succeeded")
    assert {one.event for one in sent} > {"job.running", "job.phase", "candidate.built", "candidate.measured"}
    assert all(one.data["seq"] == one.id and one.data["type"] == one.event for one in sent)
    assert sent[-1].data["data"]["state"] == "succeeded"
    assert tenant.http.get(sent[-1].data["links"]["verdict"]).status_code == 200
    assert tenant.http.get(f"/v1/jobs/{job}").json()["links"]["events"] == f"/v1/jobs/{job}/events"


def test_who_comes_back_gets_what_is_missing_and_nothing_twice(service: Service, tenant: Tenant) -> None:
    job = finished(service, tenant)
    whole = stored(follow(tenant.http, job))

    for last in (1, 3, len(whole) - 1):
        assert [one.id for one in stored(follow(tenant.http, job, last))] == [
            one.id for one in whole if one.id is not None and one.id > last
        ]
    by_query = tenant.http.get(f"/v1/jobs/{job}/events", params={"after": 3}).text
    assert [one.id for one in events(iter(by_query.splitlines()))] == [one.id for one in whole[3:]]


def test_who_has_everything_of_an_ended_job_is_told_to_stay_away(service: Service, tenant: Tenant) -> None:
    job = finished(service, tenant)
    last = stored(follow(tenant.http, job))[-1].id

    answer = tenant.http.get(f"/v1/jobs/{job}/events", headers={"Last-Event-ID": str(last)})

    assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize("nonsense", ["", "abc", "-1", "1e3", "0x10", "9" * 400, "2147483648", "1; drop"])
def test_an_id_that_the_job_never_gave_replays_everything(
    service: Service, tenant: Tenant, nonsense: str
) -> None:
    job = finished(service, tenant)

    sent = stored(follow(tenant.http, job, nonsense))

    assert (sent[0].id, sent[-1].event) == (1, "job.succeeded")


@pytest.mark.parametrize("after", ["-1", "abc", str(10**20)])
def test_a_place_in_the_query_that_is_none_is_refused(service: Service, tenant: Tenant, after: str) -> None:
    job = factories.make_job(service.database, tenant.project)

    answer = tenant.http.get(f"/v1/jobs/{job}/events", params={"after": after})

    assert problem(answer, 422, "invalid_input")["errors"][0]["pointer"] == "/after"


def test_another_projects_job_cannot_be_watched(service: Service, tenant: Tenant, stranger: Tenant) -> None:
    job = factories.make_job(service.database, tenant.project)

    problem(stranger.http.get(f"/v1/jobs/{job}/events"), 404, "not_found")


def test_whoever_watches_a_running_job_sees_each_event_once_whenever_he_comes(
    service: Service, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0.01)
    job = factories.make_job(service.database, tenant.project)
    seen: list[list[Sent]] = []
    key = {"Authorization": tenant.http.headers["Authorization"]}

    def watch() -> None:
        with httpx.Client(base_url=service.url, headers=key, timeout=SECONDS) as http:
            seen.append(follow(http, job))

    watchers = [threading.Thread(target=watch) for _ in range(12)]
    for number, until in enumerate(("prepare", "build", "benchmark", "report", "", "")):
        for watcher in watchers[2 * number : 2 * number + 2]:
            watcher.start()  # some while the last events are being written
        factories.work_off(service.database, service.storage, job, until=until)
    for watcher in watchers:
        watcher.join()

    ids = [[one.id for one in stored(sent)] for sent in seen]
    assert len(ids) == 12
    assert all(found == list(range(1, len(ids[0]) + 1)) for found in ids)
    assert all(stored(sent)[-1].event == "job.succeeded" for sent in seen)
    told = [one for sent in seen for one in sent if one.id is None]
    assert {one.event for one in told} == {"progress"}
    assert all(0 <= one.data["progress"] <= 1 for one in told)


def test_progress_is_told_when_it_changes(service: Service, tenant: Tenant) -> None:
    job = factories.make_job(service.database, tenant.project)
    with tenant.http.stream("GET", f"/v1/jobs/{job}/events") as answer:
        sent = events(answer.iter_lines())
        first = next(one for one in sent if one.id is None)
        factories.work_off(service.database, service.storage, job, until="build")
        second = next(one for one in sent if one.id is None and one.data["progress"] > 0)

    assert (first.event, first.data["progress"]) == ("progress", 0.0)
    assert second.data["progress"] == pytest.approx(0.2)


def test_a_quiet_stream_has_a_heartbeat(
    service: Service, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT_SECONDS", 0.05)
    job = factories.make_job(service.database, tenant.project)

    with tenant.http.stream("GET", f"/v1/jobs/{job}/events") as answer:
        comments = (line for line in answer.iter_lines() if line.startswith(":"))
        assert [next(comments), next(comments)] == [": still here"] * 2


def test_a_stream_that_the_server_cut_goes_on_where_it_was(
    migrated_sqlite: Path, tmp_path: Path, quiet_broker: None
) -> None:
    assert quiet_broker is None
    shutil.copy(migrated_sqlite, tmp_path / "fewbits.db")
    settings = Settings(home=tmp_path)
    database, storage = Database(settings.database), LocalStorage(tmp_path / "blobs")
    project = factories.make_project(database)
    job = factories.make_job(database, project)
    key = new_key(Service("", database, storage), project, ("read",))
    headers = {"Authorization": f"Bearer {key}"}
    seen: list[int | None] = []
    with httpx.Client(headers=headers, timeout=SECONDS) as http:
        with serving(settings) as url:
            answer = http.send(http.build_request("GET", f"{url}/v1/jobs/{job}/events"), stream=True)
            sent = events(answer.iter_lines())
            seen.append(next(one.id for one in sent if one.id))
        with pytest.raises(httpx.RemoteProtocolError):
            seen += [one.id for one in sent if one.id]
    factories.work_off(database, storage, job)
    with serving(settings) as url, httpx.Client(base_url=url, headers=headers, timeout=SECONDS) as http:
        seen += [one.id for one in stored(follow(http, job, seen[-1]))]

    database.dispose()
    assert seen == list(range(1, len(seen) + 1))
    assert len(seen) > 10


class Deaf:
    """A client that is there and does not read."""

    def __init__(self) -> None:
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        await anyio.sleep_forever()
        raise AssertionError

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        if message["type"] == "http.response.body":
            await anyio.sleep_forever()


@pytest.mark.anyio
async def test_who_does_not_read_is_let_go(
    service: Service, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "SLOW_SECONDS", 0.05)
    job = factories.make_job(service.database, tenant.project)
    watch, deaf = Watch(service.database), Deaf()

    await asyncio.wait_for(EventStream(watch, job, 0)({}, deaf.receive, deaf.send), SECONDS)

    assert [message["type"] for message in deaf.sent] == ["http.response.start", "http.response.body"]
    assert watch._logs == {}


@pytest.mark.anyio
async def test_who_hangs_up_is_forgotten(service: Service, tenant: Tenant) -> None:
    job = factories.make_job(service.database, tenant.project)
    watch, sent, served = Watch(service.database), [], anyio.Event()

    async def receive() -> Message:
        await served.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)
        if message["type"] == "http.response.body":
            served.set()

    await asyncio.wait_for(EventStream(watch, job, 0)({}, receive, send), SECONDS)

    assert sent[-1]["more_body"]
    assert watch._logs == {}


@pytest.mark.anyio
async def test_many_watchers_share_one_log_and_one_poll(
    service: Service, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "POLL_SECONDS", 3600.0)
    job = factories.make_job(service.database, tenant.project)
    watch, looks = Watch(service.database), []
    look = watch._look

    def counting(*asked: Any) -> Any:
        looks.append(asked)
        return look(*asked)

    monkeypatch.setattr(watch, "_look", counting)
    deaf = [Deaf() for _ in range(500)]

    async with anyio.create_task_group() as group:
        for one in deaf:
            group.start_soon(EventStream(watch, job, 0), {}, one.receive, one.send)
        assert await anyio.to_thread.run_sync(in_time, lambda: looks and all(one.sent for one in deaf))
        await anyio.sleep(0.1)  # for looks that should not be
        assert len(watch._logs) == 1
        assert watch._logs[job].followers == 500
        group.cancel_scope.cancel()

    assert watch._logs == {}
    assert [list(seen) for _, seen in looks] == [[job]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
