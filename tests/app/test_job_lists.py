"""Lists of jobs over HTTP: walked, filtered, and read with few statements."""

from typing import Any

from sqlalchemy import Engine, event

from tests.app.conftest import Service, Tenant, finished


def test_lists_are_walked_by_cursor_and_by_link(tenant: Tenant, version: str) -> None:
    made = [tenant.http.post("/v1/jobs", json={"version": version}).json()["id"] for _ in range(5)]

    by_cursor: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        query = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = tenant.http.get("/v1/jobs", params=query).json()
        assert len(page["items"]) <= 2
        by_cursor += [job["id"] for job in page["items"]]
        cursor = page["next_cursor"]
    by_link: list[str] = []
    url: str | None = "/v1/jobs?limit=2&state=queued"
    while url:
        answer = tenant.http.get(url)
        by_link += [job["id"] for job in answer.json()["items"]]
        url = answer.links.get("next", {}).get("url")

    assert by_cursor == by_link == sorted(made, reverse=True)


def test_jobs_are_filtered_by_state_and_version(service: Service, tenant: Tenant, version: str) -> None:
    queued = tenant.http.post("/v1/jobs", json={"version": version}).json()["id"]
    done = finished(service, tenant)

    def found(**query: str) -> set[str]:
        return {job["id"] for job in tenant.http.get("/v1/jobs", params=query).json()["items"]}

    assert found() == {queued, done}
    assert found(state="succeeded") == {done}
    assert found(version=version) == {queued}
    assert found(version=version, state="succeeded") == set()


def test_a_longer_list_of_jobs_asks_the_database_no_more_often(service: Service, tenant: Tenant) -> None:
    for _ in range(3):
        finished(service, tenant)
    asked: list[str] = []

    def note(*happened: Any) -> None:
        asked.append(happened[2])

    counts = []
    event.listen(Engine, "before_cursor_execute", note)
    try:
        for limit in (1, 3):
            asked.clear()
            found = tenant.http.get("/v1/jobs", params={"limit": limit}).json()["items"]
            assert len([job for job in found if job["baseline"]]) == limit
            counts.append(len([text for text in asked if "candidates" in text or "steps" in text]))
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    assert counts[0] == counts[1]
