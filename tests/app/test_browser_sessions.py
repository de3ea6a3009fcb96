"""The cookie: it reads like its key, changes nothing, and ends with its key."""

from collections.abc import Iterator
from http.cookies import SimpleCookie

import httpx
import pytest

from app.db.keys import ApiKey, BrowserSession
from tests.app.conftest import Service, Tenant, new_tenant
from tests.app.problems import problem


@pytest.fixture
def cookie(service: Service, tenant: Tenant) -> Iterator[httpx.Client]:
    """A browser without a key that has the cookie."""
    answer = httpx.post(f"{service.url}/v1/session", headers=dict(tenant.http.headers))
    assert answer.status_code == 201, answer.text
    sent = {"Cookie": answer.headers["set-cookie"].split(";")[0]}
    with httpx.Client(base_url=service.url, headers=sent) as browser:
        yield browser


def test_the_cookie_is_kept_from_scripts_and_other_sites(http: httpx.Client) -> None:
    found = SimpleCookie(http.post("/v1/session").headers["set-cookie"])["fewbits_session"]

    assert found["httponly"]
    assert (found["samesite"], found["path"]) == ("strict", "/")
    assert 0 < int(found["max-age"]) <= 12 * 3600


def test_a_browser_reads_with_the_cookie(tenant: Tenant, cookie: httpx.Client) -> None:
    assert cookie.get("/v1/me").json()["project"] == tenant.project
    assert cookie.get("/v1/jobs").status_code == 200
    assert cookie.head("/v1/blobs/" + "0" * 64).status_code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/jobs"),
        ("POST", "/v1/session"),
        ("DELETE", "/v1/session"),
        ("PATCH", "/v1/api-keys/key_1"),
        ("PUT", "/v1/blobs/" + "0" * 64),
        ("OPTIONS", "/v1/jobs"),
    ],
)
def test_the_cookie_changes_nothing(cookie: httpx.Client, method: str, path: str) -> None:
    problem(cookie.request(method, path, json={}), 401, "unauthenticated")


def test_a_wrong_key_is_not_saved_by_a_cookie(cookie: httpx.Client) -> None:
    problem(cookie.get("/v1/me", headers={"Authorization": "Bearer fb_a_b"}), 401, "unauthenticated")


def test_the_cookie_ends_when_its_key_says_so(tenant: Tenant, cookie: httpx.Client) -> None:
    answer = tenant.http.delete("/v1/session")

    assert answer.status_code == 204
    assert "fewbits_session=" in answer.headers["set-cookie"]
    problem(cookie.get("/v1/me"), 401, "unauthenticated")


def test_the_cookie_ends_with_its_key(service: Service, tenant: Tenant, cookie: httpx.Client) -> None:
    with service.database.writing() as db:
        db.get_one(ApiKey, tenant.http.get("/v1/me").json()["key"]).revoked_at = 1

    assert "revoked" in problem(cookie.get("/v1/me"), 401, "unauthenticated")["detail"]


def test_the_cookie_ends_after_its_time(service: Service, cookie: httpx.Client) -> None:
    with service.database.writing() as db:
        session = cookie.headers["cookie"].partition("=")[2].partition(".")[0]
        db.get_one(BrowserSession, session).expires_at = 1

    assert "over" in problem(cookie.get("/v1/me"), 401, "unauthenticated")["detail"]


@pytest.mark.parametrize("text", ["", "ses_1", "ses_1.x", "x", ".", "ses_1.x.y"])
def test_a_cookie_that_is_nonsense_is_refused(service: Service, text: str) -> None:
    answer = httpx.get(f"{service.url}/v1/me", headers={"Cookie": f"fewbits_session={text}"})

    problem(answer, 401, "unauthenticated")


def test_a_reader_may_open_a_session(service: Service) -> None:
    with new_tenant(service, ("read",)) as reader:
        assert reader.http.post("/v1/session").status_code == 201
