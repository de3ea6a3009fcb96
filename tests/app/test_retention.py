"""What a project keeps for a time: bytes go when it is over, what was found out with them stays."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import select, update

from app.db.base import now_us
from app.db.models import Job, Model, Project, ProjectBlob, Version
from app.db.session import Database, within
from app.domain.errors import DomainError
from app.domain.gate import Gate
from app.domain.job import JobSpec
from app.domain.retention import DAY_US, Retention
from app.services import jobs, retention, sweeper
from app.services.retention import Due
from app.storage import LocalStorage
from tests import factories
from tests.app.conftest import Service, Tenant, finished, new_tenant
from tests.app.problems import pointers, problem
from tests.app.uploading import content

YESTERDAY = -1  # a day that is not over yet: whatever there is was made before it
SHORT = Retention(models_days=YESTERDAY, datasets_days=YESTERDAY, artifacts_days=YESTERDAY)
WEIGHTY = {"candidate", "feeds", "statistics"}


@pytest.fixture
def operator(service: Service) -> Iterator[httpx.Client]:
    with new_tenant(service, ("read", "operator")) as found:
        yield found.http


def keep(service: Service, project: str, own: Retention) -> None:
    """Let a project keep things for so long, also for times that requests cannot ask for."""
    with service.database.writing() as db:
        db.execute(update(Project).where(Project.id == project).values(retention=own))


def expire(service: Service, *projects: str, own: Retention = SHORT) -> None:
    """Let everything expire that these projects can let expire, and nothing of others."""
    for project in projects:
        keep(service, project, own)
    with service.database.reading() as db:
        late = retention.due(db, Retention())
    assert {due.project_id for due in late} <= set(projects)
    for due in late:
        with within(due.project_id), service.database.writing() as db:
            retention.expire(db, service.storage, due)
    for project in projects:
        keep(service, project, Retention())


def forget_rights(service: Service, *tenants: Tenant) -> None:
    """Let rights to bytes that come from sending or making them end, as they do in a day."""
    mine = ProjectBlob.project_id.in_([tenant.project for tenant in tenants])
    with service.database.writing() as db:
        db.execute(update(ProjectBlob).where(mine).values(expires_at=now_us() - 1))


def upload(tenant: Tenant, sent: bytes, name: str = "net") -> dict[str, Any]:
    """A version that came over HTTP and was inspected."""
    made = tenant.http.post("/v1/models", files={"file": ("m.onnx", sent)}, data={"name": name}).json()
    return dict(made)


def accepted(service: Service, tenant: Tenant, sent: bytes, name: str = "net") -> dict[str, Any]:
    version = upload(tenant, sent, name)
    if version["state"] == "inspecting":
        factories.accept(service.database, version["id"])
    return version


def events(tenant: Tenant, subject: str) -> list[dict[str, Any]]:
    found = tenant.http.get("/v1/events", params={"subject": subject, "limit": "100"})
    return list(found.raise_for_status().json()["items"])


def test_an_operator_sets_what_a_project_keeps_and_everybody_sees_it(
    operator: httpx.Client, tenant: Tenant
) -> None:
    asked = {"models_days": 30, "artifacts_days": 7}
    path = f"/v1/projects/{tenant.project}"

    changed = operator.patch(path, json={"retention": asked}).json()

    assert changed["retention"] == asked | {"datasets_days": None}
    assert operator.get(path).json()["retention"] == changed["retention"]
    assert tenant.http.get("/v1/limits").json()["retention"] == changed["retention"]
    assert events(tenant, tenant.project)[0]["data"] == {"changed": ["retention"]}
    untouched = operator.patch(path, json={"quotas": {}}).json()
    assert untouched["retention"] == changed["retention"]


@pytest.mark.parametrize("days", [0, -1, 36_501, 1.5, "7", True])
def test_days_that_make_no_sense_are_refused(operator: httpx.Client, tenant: Tenant, days: object) -> None:
    refused = operator.patch(f"/v1/projects/{tenant.project}", json={"retention": {"models_days": days}})

    assert pointers(refused) == ["/retention/models_days"]


def test_what_a_project_does_not_say_is_the_operators_default(database: Database, project: str) -> None:
    defaults = Retention(models_days=90, datasets_days=60)
    with database.writing() as db:
        db.get_one(Project, project).retention = Retention(datasets_days=5, artifacts_days=7)

    with database.reading() as db:
        assert retention.of(db, project, defaults) == Retention(
            models_days=90, datasets_days=5, artifacts_days=7
        )


def test_what_nobody_used_for_its_time_is_gone_and_says_what_is_kept(
    service: Service, tenant: Tenant
) -> None:
    before, sent, samples = service.objects(), content(), content()
    version = accepted(service, tenant, sent)
    dataset = tenant.http.post("/v1/datasets", files={"file": ("d.npz", samples)}).json()
    factories.accept(service.database, dataset["id"])
    forget_rights(service, tenant)

    expire(service, tenant.project)

    assert service.objects() == before
    shown = tenant.http.get(version["links"]["self"]).json()
    assert (shown["state"], shown["files"], shown["expires_at"]) == ("ready", version["files"], None)
    assert shown["examination"] is not None
    assert datetime.fromisoformat(shown["expired_at"]) >= datetime.fromisoformat(shown["created_at"])
    gone = problem(tenant.http.get(version["links"]["content"]), 410, "expired")["detail"]
    assert version["id"] in gone
    assert "SHA-256" in gone
    samples_shown = tenant.http.get(dataset["links"]["self"]).json()
    assert (samples_shown["sha256"], samples_shown["summary"]) == (
        dataset["sha256"],
        samples_shown["summary"],
    )
    assert dataset["id"] in problem(tenant.http.get(dataset["links"]["preview"]), 410, "expired")["detail"]
    for what in (version, dataset):
        told = events(tenant, what["id"])[0]
        assert (told["type"].partition(".")[2], told["actor"]) == ("expired", "system")
    assert tenant.http.head(f"/v1/blobs/{dataset['sha256']}").status_code == 404


def test_the_files_of_a_job_expire_and_its_report_stays(service: Service, tenant: Tenant) -> None:
    job, http = finished(service, tenant, Gate(max_accuracy_drop=0.1)), tenant.http
    before = {path: http.get(f"/v1/jobs/{job}{path}").json() for path in ("/verdict", "/report")}
    best = before["/verdict"]["best"]
    files = http.get(f"/v1/jobs/{job}/artifacts").json()["items"]
    objects = len(service.objects())
    forget_rights(service, tenant)

    expire(service, tenant.project, own=Retention(artifacts_days=YESTERDAY))

    assert len(service.objects()) == objects - len(files)
    assert http.get(f"/v1/jobs/{job}/verdict").json() == before["/verdict"]
    report = http.get(f"/v1/jobs/{job}/report").json()
    assert [c.pop("links")["self"] for c in report["candidates"]] == [
        c.pop("links")["self"] for c in before["/report"]["candidates"]
    ]
    assert report == before["/report"]
    gone = problem(http.get(f"/v1/candidates/{best}/content"), 410, "expired")["detail"]
    assert job in gone
    assert next(f["sha256"] for f in files if f["subject"] == best) in gone
    listed = http.get(f"/v1/jobs/{job}/artifacts").json()["items"]
    for was, now in zip(files, listed, strict=True):
        assert now == was | {"expired_at": now["expired_at"], "links": {}}
        problem(http.get(was["links"]["content"]), 410, "expired")
    pages = [http.get(f"/v1/jobs/{job}/artifacts", params={"limit": 1, "kind": "candidate"}).json()]
    assert [row["kind"] for row in pages[0]["items"]] == ["candidate"]
    assert events(tenant, job)[0]["type"] == "artifacts.expired"
    assert http.get(f"/v1/jobs/{job}/logs").status_code == 200
    assert http.get("/v1/usage").json()["bytes"]["artifacts"] == 0


def test_a_retry_makes_again_what_has_expired(service: Service, tenant: Tenant) -> None:
    job = finished(service, tenant)
    forget_rights(service, tenant)
    expire(service, tenant.project, own=Retention(artifacts_days=YESTERDAY))

    again = tenant.http.post(f"/v1/jobs/{job}/retry").json()["id"]
    factories.work_off(service.database, service.storage, again)

    best = tenant.http.get(f"/v1/jobs/{again}").json()["best"]
    assert tenant.http.get(f"/v1/candidates/{best}/content").status_code == 200
    assert tenant.http.get(f"/v1/candidates/{best}").json()["reused"] is None


def test_a_later_gate_still_compares_with_a_job_whose_files_expired(service: Service, tenant: Tenant) -> None:
    version = factories.make_version(service.database, tenant.project)
    first = factories.make_job(service.database, tenant.project, version=version)
    factories.work_off(service.database, service.storage, first)
    expire(service, tenant.project, own=Retention(artifacts_days=YESTERDAY))
    gate = Gate(min_speedup=0.5, against="latest")

    second = factories.make_job(service.database, tenant.project, version=version, gate=gate)
    factories.work_off(service.database, service.storage, second)

    assert tenant.http.get(f"/v1/jobs/{second}/verdict").json()["conclusion"] == "pass"


def test_a_job_on_what_expired_is_refused_and_the_same_bytes_sent_again_serve(
    service: Service, tenant: Tenant
) -> None:
    sent = content()
    version = accepted(service, tenant, sent)
    forget_rights(service, tenant)
    expire(service, tenant.project)

    refused = tenant.http.post("/v1/jobs", json={"version": version["id"]})

    error = problem(refused, 422, "invalid_input")["errors"][0]
    assert error["pointer"] == "/version"
    assert "expired" in error["detail"]
    again = accepted(service, tenant, sent)
    assert tenant.http.post("/v1/jobs", json={"version": again["id"]}).status_code == 202
    assert tenant.http.get(again["links"]["content"]).content == sent


def test_what_an_open_job_takes_does_not_expire(service: Service, tenant: Tenant) -> None:
    database = service.database
    version, measured = (factories.make_version(database, tenant.project) for _ in range(2))
    dataset = factories.make_dataset(database, tenant.project)
    spec = {"version": version, "candidates": [measured], "evaluation": {"dataset": dataset}}
    job = tenant.http.post("/v1/jobs", json=spec).json()["id"]
    factories.work_off(database, service.storage, job, until="benchmark")
    forget_rights(service, tenant)

    expire(service, tenant.project)

    paths = [f"/v1/versions/{version}", f"/v1/versions/{measured}", f"/v1/datasets/{dataset}"]
    assert [tenant.http.get(path).json()["expired_at"] for path in paths] == [None] * 3
    files = tenant.http.get(f"/v1/jobs/{job}/artifacts").json()["items"]
    assert {file["kind"] for file in files} >= WEIGHTY - {"statistics"}
    assert [file["expired_at"] for file in files] == [None] * len(files)
    factories.work_off(database, service.storage, job)
    assert tenant.http.get(f"/v1/jobs/{job}").json()["state"] == "succeeded"
    expire(service, tenant.project)
    assert None not in [tenant.http.get(path).json()["expired_at"] for path in paths]


def test_a_job_makes_what_it_takes_stay_longer_and_the_date_is_told(service: Service, tenant: Tenant) -> None:
    versions = [factories.make_version(service.database, tenant.project) for _ in range(3)]
    dataset = factories.make_dataset(service.database, tenant.project)
    long_ago = now_us() - 10 * DAY_US
    with service.database.writing() as db:
        db.execute(update(Version).where(Version.id.in_(versions)).values(created_at=long_ago))
    taken, measured, unused = versions
    spec = {"version": taken, "candidates": [measured], "evaluation": {"dataset": dataset}}
    job = tenant.http.post("/v1/jobs", json=spec).json()
    keep(service, tenant.project, Retention(models_days=30, datasets_days=5, artifacts_days=3))

    ends = {v: tenant.http.get(f"/v1/versions/{v}").json()["expires_at"] for v in versions}
    samples = tenant.http.get(f"/v1/datasets/{dataset}").json()["expires_at"]

    made = datetime.fromisoformat(job["created_at"])
    for version, days in ((taken, 30), (measured, 30), (unused, 20)):
        assert abs(datetime.fromisoformat(ends[version]) - made - timedelta(days=days)) < timedelta(hours=5)
    assert abs(datetime.fromisoformat(samples) - made - timedelta(days=5)) < timedelta(hours=5)
    model = tenant.http.get(f"/v1/versions/{taken}").json()["model"]
    assert tenant.http.get(f"/v1/models/{model}/versions").json()["items"][0]["expires_at"] == ends[taken]
    factories.work_off(service.database, service.storage, job["id"])
    finished_at = datetime.fromisoformat(tenant.http.get(f"/v1/jobs/{job['id']}").json()["finished_at"])
    for file in tenant.http.get(f"/v1/jobs/{job['id']}/artifacts").json()["items"]:
        assert datetime.fromisoformat(file["expires_at"]) == finished_at + timedelta(days=3)


def test_nothing_expires_before_its_time_nor_where_nothing_is_said(service: Service, tenant: Tenant) -> None:
    finished(service, tenant)
    before = service.objects()

    for own in (Retention(), Retention(models_days=1, datasets_days=1, artifacts_days=1)):
        expire(service, tenant.project, own=own)

    assert service.objects() == before
    assert {row["expired_at"] for row in tenant.http.get("/v1/datasets").json()["items"]} == {None}


@pytest.mark.parametrize("who", ["another version", "another project"])
def test_bytes_that_somebody_else_refers_to_stay(
    service: Service, tenant: Tenant, stranger: Tenant, who: str
) -> None:
    sent = content()
    mine = accepted(service, tenant, sent)
    other = accepted(service, tenant if who == "another version" else stranger, sent, "other")
    forget_rights(service, tenant, stranger)
    with service.database.writing() as db:  # only the first is old
        late = Due(tenant.project, mine["id"], now_us_of(service) + DAY_US)
        retention.expire(db, service.storage, late)

    owner = tenant if who == "another version" else stranger
    assert owner.http.get(other["links"]["content"]).content == sent
    assert tenant.http.get(mine["links"]["self"]).json()["expired_at"]

    expire(service, tenant.project, stranger.project)

    problem(owner.http.get(other["links"]["content"]), 410, "expired")
    sha256 = mine["files"][0]["sha256"]
    assert owner.http.head(f"/v1/blobs/{sha256}").status_code == 404


def now_us_of(service: Service) -> int:
    with service.database.reading() as db:
        return db.scalars(select(now_us())).one()


def test_bytes_that_a_client_was_just_told_are_here_stay_for_it(service: Service, tenant: Tenant) -> None:
    sent = content()
    version = accepted(service, tenant, sent)
    sha256 = version["files"][0]["sha256"]
    forget_rights(service, tenant)
    assert tenant.http.head(f"/v1/blobs/{sha256}").status_code == 200

    expire(service, tenant.project)

    assert tenant.http.get(version["links"]["self"]).json()["expired_at"]
    again = tenant.http.post("/v1/models", json={"name": "again", "files": {"m.onnx": sha256}})
    assert tenant.http.get(again.json()["links"]["content"]).content == sent


def test_a_sweep_looks_once_a_minute_and_holds_the_operators_defaults(
    database: Database, storage: LocalStorage, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "EVERY", DAY_US)  # this may take longer than a minute
    versions = [factories.make_version(database, project)]
    sweeper.sweep(database, storage, defaults=SHORT)
    versions.append(factories.make_version(database, project))
    sweeper.sweep(database, storage, defaults=SHORT)

    with database.reading() as db:
        expired = [db.get_one(Version, version).expired_at for version in versions]
    assert expired[0] is not None
    assert expired[1] is None


def test_a_deleted_model_does_not_expire(service: Service, tenant: Tenant) -> None:
    version = factories.make_version(service.database, tenant.project)
    model = tenant.http.get(f"/v1/versions/{version}").json()["model"]
    tenant.http.delete(f"/v1/models/{model}")

    expire(service, tenant.project)

    assert "version.expired" not in {event["type"] for event in events(tenant, version)}
    with service.database.reading() as db:
        assert db.get_one(Model, model).deleted_at


def test_an_expired_version_can_be_deleted(service: Service, tenant: Tenant) -> None:
    version = factories.make_version(service.database, tenant.project)
    model = tenant.http.get(f"/v1/versions/{version}").json()["model"]
    expire(service, tenant.project)

    assert tenant.http.delete(f"/v1/models/{model}").status_code == 204
    problem(tenant.http.get(f"/v1/versions/{version}"), 404, "not_found")


ROUNDS = 8


def take(database: Database, project: str, version: str) -> bool:
    """Begin a job on it, unless it has expired."""
    try:
        with database.writing() as db:
            jobs.create(db, project, JobSpec(version=version))
    except DomainError:
        return False
    return True


def measure(database: Database, project: str, version: str) -> bool:
    """The same, with the version as a candidate."""
    other = factories.make_version(database, project)
    try:
        with database.writing() as db:
            jobs.create(db, project, JobSpec(version=other, candidates=(version,)))
    except DomainError:
        return False
    return True


@pytest.mark.parametrize("use", [take, measure])
def test_a_version_that_a_job_takes_while_it_expires_keeps_its_bytes_or_refuses_the_job(
    postgres_database: Database, storage: LocalStorage, use: Callable[[Database, str, str], bool]
) -> None:
    database, project = postgres_database, factories.make_project(postgres_database)
    start = threading.Barrier(2)

    def let_go(version: str) -> None:
        start.wait()
        with database.writing() as db:
            retention.expire(db, storage, Due(project, version, tomorrow))

    def come_to_use(version: str) -> bool:
        start.wait()
        return use(database, project, version)

    with database.reading() as db:
        tomorrow = db.scalars(select(now_us())).one() + DAY_US
    outcomes = set()
    with ThreadPoolExecutor(2) as both:
        for _ in range(ROUNDS):
            version = factories.make_version(database, project)
            late, used = both.submit(let_go, version), both.submit(come_to_use, version)
            late.result()
            with database.reading() as db:
                row = db.get_one(Version, version)
                assert used.result() == (row.expired_at is None) == bool(row.files)
                outcomes.add(used.result())
    with database.reading() as db:
        open_jobs = db.scalars(select(Job.id).where(Job.project_id == project)).all()
    assert bool(open_jobs) == (True in outcomes)
