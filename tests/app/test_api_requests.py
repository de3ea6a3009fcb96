"""What every request meets: keys, scopes, limits before any body, and errors that are all problems."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.db.keys import ApiKey
from app.db.models import Project
from app.db.session import Database
from app.settings import Settings
from app.storage import LocalStorage
from tests import factories
from tests.app.conftest import MIB, UPLOAD_LIMIT, Service, Tenant, finished, new_key, new_tenant, serving
from tests.app.problems import pointers, problem
from tests.app.sockets import head, talk

READS = ["/v1/me", "/v1/jobs", "/v1/models", "/v1/datasets", "/v1/jobs/job_1"]
GIGABYTE = 1 << 30


@pytest.mark.parametrize("path", READS)
@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer fb_x",
        "Bearer fb_01m7xzywhja7yacj1vp56mpg4t_wrong",
        "Basic YTpi",
    ],
)
def test_without_a_valid_key_nothing_is_answered(
    service: Service, path: str, authorization: str | None
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}

    answer = httpx.get(service.url + path, headers=headers)

    problem(answer, 401, "unauthenticated")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_a_key_with_a_wrong_secret_is_wrong(service: Service, tenant: Tenant) -> None:
    key = new_key(service, tenant.project, ("read",))

    for wrong in (key[:-1], key + "x", key.upper(), key.removeprefix("fb_")):
        answer = httpx.get(f"{service.url}/v1/me", headers={"Authorization": f"Bearer {wrong}"})
        problem(answer, 401, "unauthenticated")


@pytest.mark.parametrize("column", ["revoked_at", "expires_at"])
def test_a_revoked_or_expired_key_is_wrong(service: Service, tenant: Tenant, column: str) -> None:
    caller = tenant.http.get("/v1/me").json()
    assert caller["project"] == tenant.project
    with service.database.writing() as db:
        setattr(db.get_one(ApiKey, caller["key"]), column, 1)

    problem(tenant.http.get("/v1/me"), 401, "unauthenticated")


def test_a_key_that_may_only_read_cannot_post(service: Service) -> None:
    with new_tenant(service, ("read",)) as reader:
        assert reader.http.get("/v1/jobs").status_code == 200
        for method, path in (
            ("POST", "/v1/jobs"),
            ("POST", "/v1/models"),
            ("PUT", "/v1/blobs/" + "a" * 64),
            ("POST", "/v1/jobs/job_1/cancel"),
        ):
            found = problem(reader.http.request(method, path, content=b"{}"), 403, "forbidden")
            assert "'write'" in found["detail"]


def test_a_key_that_may_only_write_cannot_read(service: Service) -> None:
    with new_tenant(service, ("write",)) as writer:
        problem(writer.http.get("/v1/jobs"), 403, "forbidden")


def test_a_wrong_key_is_refused_before_the_body_is_sent(service: Service) -> None:
    before = service.objects()

    status, found = talk(service, head("/v1/models", "fb_wrong_key", f"Content-Length: {GIGABYTE}"))

    assert (status, found["code"]) == (401, "unauthenticated")
    assert service.objects() == before


@pytest.mark.parametrize(
    ("path", "length"),
    [("/v1/jobs", MIB + 1), ("/v1/models", UPLOAD_LIMIT + 1), ("/v1/quantize", GIGABYTE)],
)
def test_a_body_that_announces_to_be_too_large_is_refused_before_it_is_sent(
    service: Service, tenant: Tenant, path: str, length: int
) -> None:
    key = new_key(service, tenant.project, ("write",))

    status, found = talk(service, head(path, key, f"Content-Length: {length}"))

    assert (status, found["code"]) == (413, "too_large")
    assert "MiB" in found["detail"]


@pytest.mark.parametrize(
    ("method", "path", "kind", "size"),
    [
        ("POST", "/v1/jobs", "application/json", MIB),
        ("POST", "/v1/models", "application/json", MIB),
        ("PUT", "/v1/blobs/" + "a" * 64, "application/octet-stream", UPLOAD_LIMIT),
        ("POST", "/v1/models", "multipart/form-data; boundary=B", UPLOAD_LIMIT),
    ],
)
def test_a_chunked_body_that_grows_too_large_is_cut_off_and_leaves_nothing(
    service: Service, tenant: Tenant, method: str, path: str, kind: str, size: int
) -> None:
    key = new_key(service, tenant.project, ("write",))
    start = (
        b'--B\r\nContent-Disposition: form-data; name="file"; filename="m"\r\n\r\n' if "B" in kind else b""
    )
    body = start + b" " * (size + 1)
    headers = head(path, key, "Transfer-Encoding: chunked", f"Content-Type: {kind}", method=method)
    before = service.objects()

    status, found = talk(service, headers + f"{len(body):x}\r\n".encode() + body + b"\r\n")

    assert (status, found["code"]) == (413, "too_large")
    assert service.objects() == before


def test_every_answer_has_a_request_id_and_is_not_cached(http: httpx.Client) -> None:
    answers = [http.get(path) for path in ("/v1/jobs", "/v1/jobs/job_1", "/healthz", "/nowhere")]

    ids = {answer.headers["x-request-id"] for answer in answers}
    assert len(ids) == len(answers)
    assert all(answer.headers["cache-control"] == "no-store" for answer in answers)
    assert all(answer.headers["x-content-type-options"] == "nosniff" for answer in answers)


@pytest.mark.parametrize("path", ["/nowhere", "/v1/nowhere", "/v1/jobs/job_1/nowhere"])
def test_what_does_not_exist_is_not_found(http: httpx.Client, path: str) -> None:
    assert path in problem(http.get(path), 404, "not_found")["detail"]


@pytest.mark.parametrize(("method", "path"), [("DELETE", "/v1/jobs"), ("PUT", "/healthz")])
def test_a_wrong_method_says_so(http: httpx.Client, method: str, path: str) -> None:
    answer = http.request(method, path)

    assert method in problem(answer, 405, "method_not_allowed")["detail"]
    assert answer.headers["allow"]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/mdl_1",
        "/v1/models/mdl_1/versions",
        "/v1/versions/ver_1",
        "/v1/versions/ver_1/content",
        "/v1/datasets/dst_1",
        "/v1/jobs/job_1",
        "/v1/jobs/job_1/candidates",
        "/v1/jobs/job_1/steps",
        "/v1/jobs/job_1/artifacts",
        "/v1/jobs/job_1/report",
        "/v1/jobs/job_1/verdict",
        "/v1/candidates/cnd_1",
        "/v1/candidates/cnd_1/content",
        "/v1/artifacts/art_1/content",
    ],
)
def test_an_unknown_id_is_not_found(http: httpx.Client, path: str) -> None:
    problem(http.get(path), 404, "not_found")


@pytest.mark.parametrize("text", ["%00", "a%00b", "%ff", "%F0%9F%92%A9", "x" * 500, "..%2f..", "'--"])
def test_an_id_that_is_nonsense_is_not_found(http: httpx.Client, text: str) -> None:
    for noun in ("jobs", "models", "versions", "datasets", "candidates"):
        answer = http.get(f"/v1/{noun}/{text}")
        assert answer.status_code in {404, 422}, answer.text
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("name", ["cursor", "state", "conclusion", "version", "model"])
@pytest.mark.parametrize("text", ["%00", "%ff", "nonsense", "key_0", ""])
def test_a_filter_that_is_nonsense_is_refused(http: httpx.Client, name: str, text: str) -> None:
    assert pointers(http.get(f"/v1/jobs?{name}={text}")) == [f"/{name}"]


@pytest.mark.parametrize("label", ["branch=%00", "branch=a%00b", "a%00b=main", f"branch={'x' * 201}"])
def test_a_label_that_nothing_can_have_is_refused_as_a_filter(http: httpx.Client, label: str) -> None:
    name = label.partition("=")[0].replace("%00", "\0")

    assert pointers(http.get(f"/v1/jobs?label.{label}")) == [f"/label.{name}"]


def test_a_filter_that_is_misspelt_is_refused_by_every_list(service: Service) -> None:
    with new_tenant(service, ("read", "write", "admin", "operator")) as tenant:
        http = tenant.http
        job = http.get(f"/v1/jobs/{finished(service, tenant)}").json()
        model = http.get(f"/v1/versions/{job['spec']['version']}").json()["model"]
        paths = http.get("/openapi.json").json()["paths"].items()
        lists = [path.format(job_id=job["id"], model_id=model) for path, item in paths if is_list(item)]
        misspelt = {path: pointers(http.get(f"{path}?stat=failed")) for path in lists}
        labelled = {path for path in lists if http.get(f"{path}?label.branch=main").is_success}

    assert len(lists) > 10
    assert misspelt == {path: ["/stat"] for path in lists}
    assert labelled == {"/v1/jobs", f"/v1/models/{model}/trend"}


def is_list(operations: dict[str, Any]) -> bool:
    """Whether a path's GET takes a cursor."""
    return any(one["name"] == "cursor" for one in operations.get("get", {}).get("parameters", ()))


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "limit=-1"])
def test_a_limit_that_is_out_of_range_is_refused(http: httpx.Client, query: str) -> None:
    assert pointers(http.get(f"/v1/jobs?{query}")) == ["/limit"]


def test_a_cursor_that_is_too_long_is_refused(http: httpx.Client) -> None:
    assert pointers(http.get("/v1/jobs", params={"cursor": "x" * 51})) == ["/cursor"]


def test_what_is_a_key_is_told(tenant: Tenant) -> None:
    caller = tenant.http.get("/v1/me").json()

    assert caller["scopes"] == ["read", "write"]
    assert caller["key"].startswith("key_")


def test_the_service_is_alive_and_ready(service: Service) -> None:
    assert httpx.get(f"{service.url}/healthz").json() == {"status": "ok"}
    ready = httpx.get(f"{service.url}/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "ok")


@pytest.fixture
def dead_database(tmp_path: Path) -> Settings:
    """Settings that point at a port where no Postgres is."""
    return Settings(home=tmp_path, database_url="postgresql+psycopg://nobody@127.0.0.1:1/none")


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_without_a_database_the_answer_is_a_problem_that_says_to_try_again(
    dead_database: Settings, quiet_broker: None, method: str
) -> None:
    assert quiet_broker is None
    with serving(dead_database) as url:
        answer = httpx.request(method, f"{url}/v1/jobs", headers={"Authorization": "Bearer fb_a_b"})
        ready = httpx.get(f"{url}/readyz")
        alive = httpx.get(f"{url}/healthz")

    assert problem(answer, 503, "unavailable")["retryable"]
    assert answer.headers["retry-after"]
    assert (ready.status_code, ready.json()["status"]) == (503, "unavailable")
    assert alive.status_code == 200


def test_a_request_that_stood_still_in_a_transaction_may_be_sent_again(
    own_postgres_url: str, tmp_path: Path, quiet_broker: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database ends its connection, so that its locks hold nobody up; nothing was written."""
    assert quiet_broker is None
    monkeypatch.setattr("app.db.session.SILENT_SECONDS", 1)

    def stand_still(db: Session, *_: object) -> None:
        db.execute(text("SELECT 1"))
        time.sleep(3)
        db.execute(text("SELECT 1"))

    monkeypatch.setattr("app.services.keys.revoke", stand_still)
    database = Database(own_postgres_url)
    with serving(Settings(home=tmp_path, database_url=own_postgres_url)) as url:
        project = factories.make_project(database)
        key = new_key(Service(url, database, LocalStorage(tmp_path)), project, ("read", "write", "admin"))
        answer = httpx.delete(f"{url}/v1/api-keys/key_1", headers={"Authorization": f"Bearer {key}"})
    database.dispose()

    assert problem(answer, 503, "unavailable")["retryable"]


def test_a_bug_is_a_problem_with_a_request_id_and_no_details(
    tmp_path: Path, migrated_sqlite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(migrated_sqlite, tmp_path / "fewbits.db")
    monkeypatch.setattr("app.services.keys.authenticate", lambda _db, _key: 1 / 0)

    with serving(Settings(home=tmp_path)) as url:
        answer = httpx.get(f"{url}/v1/me", headers={"Authorization": "Bearer fb_a_b"})

    found = problem(answer, 500, "error")
    assert found["request_id"] in found["detail"]
    assert "ZeroDivision" not in answer.text


def test_a_project_sees_only_its_own_key(service: Service, tenant: Tenant, stranger: Tenant) -> None:
    assert tenant.http.get("/v1/me").json()["project"] != stranger.http.get("/v1/me").json()["project"]
    with service.database.reading() as db:
        assert db.get(Project, tenant.project) is not None


def test_a_hundred_readers_at_once_are_all_answered(service: Service, tenant: Tenant) -> None:
    headers, everybody = tenant.http.headers, httpx.Limits(max_connections=100)
    with (
        httpx.Client(headers=headers, limits=everybody) as http,
        ThreadPoolExecutor(100) as readers,
    ):
        answers = readers.map(lambda _: http.get(f"{service.url}/v1/jobs").status_code, range(100))
        assert set(answers) == {200}
