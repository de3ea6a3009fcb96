"""Keys: made once, shown once, rotated without a gap, never worth more than who made them."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from app.db.keys import ApiKey
from tests import factories
from tests.app.conftest import Service, Tenant, new_key, new_tenant
from tests.app.problems import problem
from tests.waiting import SECONDS, in_time

ALL = ("read", "write", "admin")


@pytest.fixture
def admin(service: Service, tenant: Tenant) -> httpx.Client:
    """A client of the tenant that may manage keys."""
    tenant.http.headers["Authorization"] = f"Bearer {new_key(service, tenant.project, ALL)}"
    return tenant.http


def make(admin: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = admin.post("/v1/api-keys", json={"name": "ci", **fields})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def ask(service: Service, key: str, path: str = "/v1/me", method: str = "GET") -> httpx.Response:
    return httpx.request(
        method, service.url + path, headers={"Authorization": f"Bearer {key}"}, timeout=SECONDS
    )


def test_a_key_is_shown_once_and_works(service: Service, tenant: Tenant, admin: httpx.Client) -> None:
    made = make(admin)

    caller = ask(service, made["key"]).json()
    assert (caller["key"], caller["project"]) == (made["id"], tenant.project)
    assert caller["scopes"] == made["scopes"] == ["read", "write"]
    shown = admin.get(f"/v1/api-keys/{made['id']}")
    assert "key" not in shown.json()
    assert made["key"].rpartition("_")[2] not in shown.text + admin.get("/v1/api-keys").text


def test_keys_are_listed_in_pages(admin: httpx.Client) -> None:
    made = [make(admin, name=f"key {i}")["id"] for i in range(3)]

    first = admin.get("/v1/api-keys?limit=2").json()
    second = admin.get(f"/v1/api-keys?limit=2&cursor={first['next_cursor']}").json()

    assert [key["id"] for key in first["items"] + second["items"]][:3] == made[::-1]


@pytest.mark.parametrize("scopes", [("read", "write"), ("read", "operator")])
@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("POST", ""), ("DELETE", "/key_1")])
def test_only_an_admin_manages_keys(
    service: Service, scopes: tuple[str, ...], method: str, path: str
) -> None:
    with new_tenant(service, scopes) as user:
        found = problem(user.http.request(method, f"/v1/api-keys{path}", json={}), 403, "forbidden")

    assert "'admin'" in found["detail"]


def test_nobody_grants_what_they_do_not_have(admin: httpx.Client) -> None:
    refused = admin.post("/v1/api-keys", json={"name": "more", "scopes": ["read", "operator"]})
    less = make(admin)
    raised = admin.patch(f"/v1/api-keys/{less['id']}", json={"scopes": ["operator"]})

    assert "operator" in problem(refused, 403, "forbidden")["detail"]
    problem(raised, 403, "forbidden")
    assert admin.get(f"/v1/api-keys/{less['id']}").json()["scopes"] == ["read", "write"]


def test_an_admin_cannot_get_an_operators_rights_by_rotating_its_key(
    service: Service, tenant: Tenant, admin: httpx.Client
) -> None:
    operator = ask(service, new_key(service, tenant.project, ("read", "operator"))).json()["key"]

    problem(admin.post(f"/v1/api-keys/{operator}/rotate"), 403, "forbidden")


def test_an_admin_cannot_end_or_restrict_an_operators_key(
    service: Service, tenant: Tenant, admin: httpx.Client
) -> None:
    operator = ask(service, new_key(service, tenant.project, ("read", "operator"))).json()["key"]
    at = f"/v1/api-keys/{operator}"

    problem(admin.delete(at), 403, "forbidden")
    problem(admin.patch(at, json={"scopes": ["read"]}), 403, "forbidden")
    problem(admin.patch(at, json={"expires_at": "2999-01-01T00:00:00Z"}), 403, "forbidden")
    assert admin.get(at).json()["revoked_at"] is None


def test_a_revoked_key_stops_at_once_and_says_so_only_to_who_has_it(
    service: Service, admin: httpx.Client
) -> None:
    made = make(admin)

    assert admin.delete(f"/v1/api-keys/{made['id']}").status_code == 204

    assert "revoked" in problem(ask(service, made["key"]), 401, "unauthenticated")["detail"]
    assert "revoked" not in problem(ask(service, made["key"] + "x"), 401, "unauthenticated")["detail"]
    assert admin.get(f"/v1/api-keys/{made['id']}").json()["revoked_at"]
    assert admin.delete(f"/v1/api-keys/{made['id']}").status_code == 204


def test_an_expired_key_says_so_only_to_who_has_it(service: Service, admin: httpx.Client) -> None:
    made = make(admin, expires_at=(datetime.now(UTC) + timedelta(hours=1)).isoformat())
    assert ask(service, made["key"]).status_code == 200
    with service.database.writing() as db:
        db.get_one(ApiKey, made["id"]).expires_at = 1

    assert "expired" in problem(ask(service, made["key"]), 401, "unauthenticated")["detail"]
    assert "expired" not in problem(ask(service, made["key"] + "x"), 401, "unauthenticated")["detail"]


def test_a_key_cannot_expire_in_the_past(admin: httpx.Client) -> None:
    answer = admin.post("/v1/api-keys", json={"name": "late", "expires_at": "2020-01-01T00:00:00Z"})

    found = problem(answer, 422, "invalid_input")
    assert [error["pointer"] for error in found["errors"]] == ["/expires_at"]


def test_a_key_cannot_expire_after_the_last_time_that_can_be_shown(admin: httpx.Client) -> None:
    answer = admin.post("/v1/api-keys", json={"name": "late", "expires_at": "9999-12-31T23:00:00-14:00"})

    found = problem(answer, 422, "invalid_input")
    assert [error["pointer"] for error in found["errors"]] == ["/expires_at"]
    assert admin.get("/v1/api-keys").status_code == 200


def test_a_key_does_not_end_or_restrict_itself(admin: httpx.Client) -> None:
    mine = f"/v1/api-keys/{admin.get('/v1/me').json()['key']}"

    problem(admin.delete(mine), 409, "conflict")
    problem(admin.patch(mine, json={"scopes": ["read"]}), 409, "conflict")
    problem(admin.patch(mine, json={"expires_at": "2099-01-01T00:00:00Z"}), 409, "conflict")
    assert admin.patch(mine, json={"name": "renamed"}).json()["name"] == "renamed"


def test_a_rotated_key_and_its_successor_both_work_for_a_while(service: Service, admin: httpx.Client) -> None:
    old = make(admin, scopes=["read"])

    new = admin.post(f"/v1/api-keys/{old['id']}/rotate", json={"overlap_s": 3600}).json()

    assert (new["name"], new["scopes"], new["expires_at"]) == (old["name"], ["read"], None)
    assert ask(service, old["key"]).status_code == ask(service, new["key"]).status_code == 200
    ends = datetime.fromisoformat(admin.get(f"/v1/api-keys/{old['id']}").json()["expires_at"])
    assert timedelta(minutes=59) < ends - datetime.now(UTC) <= timedelta(hours=1)


def test_a_key_that_expires_is_followed_by_one_that_expires_then_too(admin: httpx.Client) -> None:
    old = make(admin, expires_at=(datetime.now(UTC) + timedelta(hours=1)).isoformat())

    new = admin.post(f"/v1/api-keys/{old['id']}/rotate").json()

    assert new["expires_at"] == old["expires_at"]
    assert admin.get(f"/v1/api-keys/{old['id']}").json()["expires_at"] == old["expires_at"]


def test_what_is_revoked_cannot_be_rotated_back(admin: httpx.Client) -> None:
    made = make(admin)
    admin.delete(f"/v1/api-keys/{made['id']}")

    problem(admin.post(f"/v1/api-keys/{made['id']}/rotate"), 409, "conflict")
    problem(admin.patch(f"/v1/api-keys/{made['id']}", json={"name": "again"}), 409, "conflict")


def test_the_last_use_is_noted_once_a_minute(service: Service, admin: httpx.Client) -> None:
    made = make(admin)
    assert made["last_used_at"] is None
    ask(service, made["key"])

    def seen() -> int | None:
        with service.database.reading() as db:
            return db.get_one(ApiKey, made["id"]).last_used_at

    assert in_time(lambda: seen() is not None)
    first = seen()
    for _ in range(3):
        ask(service, made["key"])
        time.sleep(0.01)
    assert seen() == first


def test_what_happened_to_a_key_is_known(admin: httpx.Client) -> None:
    me, made = admin.get("/v1/me").json()["key"], make(admin)
    admin.patch(f"/v1/api-keys/{made['id']}", json={"scopes": ["read"]})
    admin.delete(f"/v1/api-keys/{made['id']}")

    found = admin.get("/v1/events", params={"subject": made["id"]}).json()["items"]

    assert [event["type"] for event in found] == ["key.revoked", "key.changed", "key.created"]
    assert {event["actor"] for event in found} == {me}
    assert made["key"] not in str(found)


def test_a_key_that_is_revoked_during_a_wait_gets_no_answer(
    service: Service, tenant: Tenant, admin: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.api.live.RECHECK_S", 0.0)
    job, made = factories.make_job(service.database, tenant.project), make(admin)
    headers = {"Authorization": f"Bearer {made['key']}", "Prefer": "wait=600"}
    with ThreadPoolExecutor(1) as waiter:
        waiting = waiter.submit(httpx.get, f"{service.url}/v1/jobs/{job}", headers=headers, timeout=SECONDS)
        assert in_time(lambda: admin.get(f"/v1/api-keys/{made['id']}").json()["last_used_at"])
        admin.delete(f"/v1/api-keys/{made['id']}")
        admin.post(f"/v1/jobs/{job}/cancel")
        answer = waiting.result()

    assert "revoked" in problem(answer, 401, "unauthenticated")["detail"]


def test_a_stream_ends_soon_after_its_key(
    service: Service, tenant: Tenant, admin: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.api.live.RECHECK_S", 0.0)
    monkeypatch.setattr("app.api.stream.HEARTBEAT_SECONDS", 0.05)
    job, made = factories.make_job(service.database, tenant.project), make(admin)
    headers = {"Authorization": f"Bearer {made['key']}"}

    url = f"{service.url}/v1/jobs/{job}/events"
    with httpx.stream("GET", url, headers=headers, timeout=SECONDS) as stream:
        lines = stream.iter_lines()
        assert next(lines).startswith("retry")
        admin.delete(f"/v1/api-keys/{made['id']}")
        rest = list(lines)  # ends, although the job does not

    assert not any("job.canceled" in line for line in rest)
    assert factories.job_row(service.database, job).state != "canceled"
