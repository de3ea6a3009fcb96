"""What can be read of a job while it runs and after: steps, logs, candidates, files, and lists of jobs."""

import re
from datetime import datetime
from typing import Any

import httpx
import pytest

from app.db.models import StepLog
from app.domain.gate import Gate
from tests import factories
from tests.app.conftest import Service, Tenant, finished
from tests.app.problems import problem


@pytest.fixture
def job(service: Service, tenant: Tenant) -> str:
    """A job that has succeeded."""
    return finished(service, tenant)


def every(http: httpx.Client, path: str, **params: str | int) -> list[list[str]]:
    """The ids on each page, by following `Link`."""
    pages, url = [], str(http.base_url.join(path).copy_merge_params(params))
    while url:
        answer = http.get(url)
        assert answer.status_code == 200
        pages.append([item["id"] for item in answer.json()["items"]])
        link = re.fullmatch(r'<(.+)>; rel="next"', answer.headers.get("link", ""))
        assert bool(link) == bool(answer.json()["next_cursor"])
        url = link[1] if link else ""
    return pages


@pytest.mark.parametrize("noun", ["steps", "candidates", "artifacts"])
def test_what_a_job_made_comes_in_pages(tenant: Tenant, job: str, noun: str) -> None:
    (whole,) = every(tenant.http, f"/v1/jobs/{job}/{noun}")

    pages = every(tenant.http, f"/v1/jobs/{job}/{noun}", limit=1)

    assert [one for page in pages for one in page] == whole
    assert len(pages) == len(whole) > 1


def test_a_step_says_what_it_was_about_and_how_long_it_took(tenant: Tenant, job: str) -> None:
    steps = tenant.http.get(f"/v1/jobs/{job}/steps").json()["items"]

    assert [s["kind"] for s in steps].count("build") == 2
    assert {s["name"] for s in steps if s["kind"] == "build"} == {"dynamic int8", "static int8"}
    assert {s["name"] for s in steps if s["kind"] != "build"} == {None}
    assert all(s["seconds"] >= 0 and s["worker"] == "a worker" for s in steps)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("steps?state=done", 5),
        ("steps?state=failed", 0),
        ("steps?kind=build", 2),
        ("candidates?state=measured", 2),
        ("candidates?state=failed", 0),
        ("artifacts?kind=candidate", 2),
        ("artifacts?kind=layers", 0),
    ],
)
def test_lists_are_filtered(tenant: Tenant, job: str, path: str, found: int) -> None:
    assert len(tenant.http.get(f"/v1/jobs/{job}/{path}").json()["items"]) == found


@pytest.mark.parametrize(
    ("path", "pointer"),
    [
        ("/v1/jobs?state=done", "/state"),
        ("/v1/jobs?conclusion=maybe", "/conclusion"),
        ("/v1/jobs/{job}/steps?state=ready", "/state"),
        ("/v1/jobs/{job}/steps?kind=bake", "/kind"),
        ("/v1/jobs/{job}/candidates?state=done", "/state"),
        ("/v1/jobs/{job}/logs?format=pdf", "/format"),
        ("/v1/jobs/{job}/logs?limit=0", "/limit"),
    ],
)
def test_a_filter_that_cannot_match_is_refused(tenant: Tenant, job: str, path: str, pointer: str) -> None:
    answer = tenant.http.get(path.format(job=job))

    assert problem(answer, 422, "invalid_input")["errors"][0]["pointer"] == pointer


def test_jobs_are_found_by_state_verdict_version_model_and_labels(service: Service, tenant: Tenant) -> None:
    version = factories.make_version(service.database, tenant.project)
    model = tenant.http.get(f"/v1/versions/{version}").json()["model"]
    labels = {"branch": "main", 'a "quoted" $.name': "x'y"}
    asked = {"version": version, "gate": {"min_speedup": 1.2}, "labels": labels}
    mine = tenant.http.post("/v1/jobs", json=asked).json()["id"]
    factories.work_off(service.database, service.storage, mine)
    other = factories.make_job(service.database, tenant.project, gate=Gate(min_speedup=9))

    def found(**query: str) -> list[str]:
        items = tenant.http.get("/v1/jobs", params=query).json()["items"]
        return [item["id"] for item in items]

    assert found() == [other, mine]
    assert found(state="succeeded") == found(conclusion="pass") == found(version=version) == [mine]
    assert found(model=model) == found(**{"label.branch": "main"}) == [mine]
    assert found(**{f"label.{name}": value for name, value in labels.items()}) == [mine]
    assert found(state="queued") == [other]
    assert found(conclusion="fail") == found(**{"label.branch": "dev"}) == []
    assert found(**{"label.branch": "main", "label.none": ""}) == []


def test_the_log_tells_events_steps_notes_and_what_was_printed(service: Service, tenant: Tenant) -> None:
    job = factories.make_job(service.database, tenant.project)
    factories.work_off(service.database, service.storage, job, until="build")
    broken, whole = factories.steps_of(service.database, job, "build")
    factories.fail(service.database, service.storage, broken.id, "engine_crashed")
    with service.database.writing() as db:
        db.add(StepLog(step_id=broken.id, attempt=1, text="warning: odd node\nterminate called\n"))
    factories.work_off(service.database, service.storage, job)

    lines = tenant.http.get(f"/v1/jobs/{job}/logs").json()["items"]

    times = [datetime.fromisoformat(line["at"]) for line in lines]
    assert times == sorted(times)
    assert (lines[0]["text"], lines[-1]["text"]) == ("job.queued", "job.succeeded")
    of_broken = [line for line in lines if line["step"] == broken.id]
    assert {line["name"] for line in of_broken} <= {"dynamic int8", "static int8"}
    printed = [line["text"] for line in of_broken if line["level"] == "printed"]
    assert printed == ["warning: odd node", "terminate called"]
    assert [line["text"] for line in of_broken if line["level"] == "error"] == [
        "build failed: This is engine_crashed. (engine_crashed)"
    ]
    assert f"build started on a worker, attempt {whole.attempt + 1}" in [line["text"] for line in lines]


def test_the_log_comes_in_pages_and_as_text(tenant: Tenant, job: str) -> None:
    whole = tenant.http.get(f"/v1/jobs/{job}/logs").json()["items"]
    items: list[dict[str, Any]] = []
    cursor = None
    while cursor or not items:
        params = {"limit": 7} | ({"cursor": cursor} if cursor else {})
        page = tenant.http.get(f"/v1/jobs/{job}/logs", params=params).json()
        items, cursor = items + page["items"], page["next_cursor"]
    text = tenant.http.get(f"/v1/jobs/{job}/logs", params={"format": "text"})

    assert items == whole
    assert text.headers["content-type"] == "text/plain; charset=utf-8"
    assert len(text.text.splitlines()) == len(whole)
    assert "info    [static int8] build done" in text.text


@pytest.mark.parametrize("path", ["steps", "logs", "artifacts", "candidates", "report", "verdict"])
def test_what_another_project_did_is_not_found(
    service: Service, stranger: Tenant, job: str, path: str
) -> None:
    assert service.database
    problem(stranger.http.get(f"/v1/jobs/{job}/{path}"), 404, "not_found")


def test_a_page_of_jobs_leaves_none_out(service: Service, tenant: Tenant) -> None:
    made = [factories.make_job(service.database, tenant.project) for _ in range(3)]

    pages = every(tenant.http, "/v1/jobs", limit=2, state="queued")

    assert [one for page in pages for one in page] == made[::-1]
