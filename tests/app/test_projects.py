"""Projects: opened by operators, held to their quotas, closed without losing anything."""

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from app.db.session import Database
from app.domain.quota import Quotas
from app.services import outcomes, quotas
from tests import factories
from tests.app.conftest import Service, Tenant, new_tenant
from tests.app.problems import problem


@pytest.fixture
def operator(service: Service) -> Iterator[httpx.Client]:
    with new_tenant(service, ("read", "operator")) as found:
        yield found.http


@pytest.fixture
def project(operator: httpx.Client) -> dict[str, Any]:
    answer = operator.post("/v1/projects", json={"name": f"team {secrets.token_hex(4)}"})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


@pytest.fixture
def team(service: Service, project: dict[str, Any]) -> Iterator[Tenant]:
    headers = {"Authorization": f"Bearer {project['key']['key']}"}
    with httpx.Client(base_url=service.url, headers=headers) as client:
        yield Tenant(project["id"], client)


def allow(operator: httpx.Client, project: str, **amounts: int) -> None:
    answer = operator.patch(f"/v1/projects/{project}", json={"quotas": amounts})
    assert answer.status_code == 200, answer.text


def test_a_new_project_comes_with_its_first_admin_key(project: dict[str, Any], team: Tenant) -> None:
    caller = team.http.get("/v1/me").json()

    assert (caller["project"], caller["project_name"]) == (project["id"], project["name"])
    assert caller["scopes"] == ["admin", "read", "write"]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("POST", ""), ("GET", "/prj_1"), ("PATCH", "/prj_1"), ("DELETE", "/prj_1")],
)
def test_only_an_operator_manages_projects(service: Service, method: str, path: str) -> None:
    with new_tenant(service, ("read", "write", "admin")) as user:
        found = problem(user.http.request(method, f"/v1/projects{path}", json={}), 403, "forbidden")

    assert "'operator'" in found["detail"]


def test_two_projects_cannot_have_one_name(operator: httpx.Client, project: dict[str, Any]) -> None:
    problem(operator.post("/v1/projects", json={"name": project["name"]}), 409, "conflict")
    other = operator.post("/v1/projects", json={"name": f"team {secrets.token_hex(4)}"}).json()["id"]
    problem(operator.patch(f"/v1/projects/{other}", json={"name": project["name"]}), 409, "conflict")


def test_a_closed_project_stops_and_can_be_opened_again(
    service: Service, operator: httpx.Client, team: Tenant
) -> None:
    job = factories.make_job(service.database, team.project)

    assert operator.delete(f"/v1/projects/{team.project}").status_code == 204

    assert "closed" in problem(team.http.get("/v1/me"), 401, "unauthenticated")["detail"]
    assert factories.job_row(service.database, job).state == "canceled"
    assert operator.get(f"/v1/projects/{team.project}").json()["closed_at"]
    assert operator.patch(f"/v1/projects/{team.project}", json={"closed": False}).json()["closed_at"] is None
    assert team.http.get(f"/v1/jobs/{job}").json()["state"] == "canceled"


def test_an_operator_cannot_close_their_own_project(operator: httpx.Client) -> None:
    own = operator.get("/v1/me").json()["project"]

    problem(operator.delete(f"/v1/projects/{own}"), 409, "conflict")


def test_an_unknown_project_is_not_found(operator: httpx.Client) -> None:
    for method, path in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("GET", "/usage")):
        problem(operator.request(method, f"/v1/projects/prj_1{path}", json={}), 404, "not_found")


def test_the_limits_and_the_usage_are_told(operator: httpx.Client, service: Service, team: Tenant) -> None:
    allow(operator, team.project, jobs_per_day=7)
    factories.make_job(service.database, team.project)

    limits, usage = team.http.get("/v1/limits").json(), team.http.get("/v1/usage").json()

    assert limits["quotas"] == usage["quotas"]
    assert limits["quotas"]["jobs_per_day"] == 7
    assert limits["max_upload_bytes"] > limits["max_json_bytes"] > 0
    assert (usage["jobs_today"], usage["unfinished_jobs"], usage["running_candidates"]) == (1, 1, 0)
    assert usage["bytes"] == {"total": 6, "models": 3, "datasets": 3, "artifacts": 0, "uploads": 0}
    assert operator.get(f"/v1/projects/{team.project}/usage").json() == usage


def upload(team: Tenant, content: bytes) -> httpx.Response:
    return team.http.post("/v1/models", files={"file": ("m.onnx", content)}, data={"name": "m"})


def test_more_bytes_than_the_quota_are_refused_and_leave_nothing(
    service: Service, operator: httpx.Client, team: Tenant
) -> None:
    allow(operator, team.project, bytes=100)
    content = secrets.token_bytes(90)
    assert upload(team, content).status_code == 201
    before = service.objects()

    found = problem(upload(team, secrets.token_bytes(11)), 413, "quota_exceeded")

    assert "100 bytes" in found["detail"]
    assert "101" in found["detail"]
    assert service.objects() == before
    assert upload(team, content).status_code == 201  # bytes that are here cost nothing
    assert team.http.get("/v1/usage").json()["bytes"]["total"] == 90


def test_two_uploads_at_once_cannot_pass_the_quota_together(operator: httpx.Client, team: Tenant) -> None:
    allow(operator, team.project, bytes=100)

    with ThreadPoolExecutor(4) as senders:
        answers = list(senders.map(lambda _: upload(team, secrets.token_bytes(60)).status_code, range(4)))

    assert sorted(answers) == [201, 413, 413, 413]


def test_uploads_of_the_same_bytes_wait_for_each_other_in_one_order(
    operator: httpx.Client, team: Tenant
) -> None:
    allow(operator, team.project, bytes=100_000_000, unfinished_jobs=1000)

    def send(number: int) -> int:
        data = ("data.npz", b"the same samples")
        if number % 2:
            return team.http.post("/v1/datasets", files={"file": data}).status_code
        model = ("model.onnx", b"model %d" % number)
        return team.http.post("/v1/quantize", files={"model": model, "data": data}).status_code

    with ThreadPoolExecutor(12) as pool:
        assert set(pool.map(send, range(36))) == {201, 202}


@pytest.mark.parametrize("quota", ["jobs_per_day", "unfinished_jobs"])
def test_more_jobs_than_the_quota_are_refused_with_a_time_to_try_again(
    service: Service, operator: httpx.Client, team: Tenant, quota: str
) -> None:
    version = factories.make_version(service.database, team.project)
    allow(operator, team.project, **{quota: 2})

    with ThreadPoolExecutor(4) as askers:
        answers = list(askers.map(lambda _: team.http.post("/v1/jobs", json={"version": version}), range(4)))

    assert sorted(answer.status_code for answer in answers) == [202, 202, 429, 429]
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert int(refused.headers["retry-after"]) > 0
    assert "2" in problem(refused, 429, "quota_exceeded")["detail"]


def test_a_canceled_job_makes_room(service: Service, operator: httpx.Client, team: Tenant) -> None:
    version = factories.make_version(service.database, team.project)
    allow(operator, team.project, unfinished_jobs=1)
    job = team.http.post("/v1/jobs", json={"version": version}).json()["id"]
    problem(team.http.post(f"/v1/jobs/{job}/retry"), 429, "quota_exceeded")

    team.http.post(f"/v1/jobs/{job}/cancel")

    assert team.http.post(f"/v1/jobs/{job}/retry").status_code == 202


def test_a_quota_of_running_candidates_keeps_builds_queued_and_hinders_nobody_else(
    database: Database,
) -> None:
    limit = Quotas(running_candidates=1)
    mine, other = (building(database) for _ in range(2))
    with database.writing() as db:
        first = outcomes.begin(db, mine[0], "a", limit)
    assert first is not None

    with database.writing() as db:
        assert outcomes.begin(db, mine[1], "b", limit) is None
        assert outcomes.begin(db, other[0], "b", limit) is not None
    with database.reading() as db:
        assert list(quotas.waiting_builds(db, first.project_id, limit)) == [mine[1]]

    factories.finish(database, first)

    with database.writing() as db:
        assert outcomes.begin(db, mine[1], "b", limit) is not None


def test_workers_that_claim_at_once_cannot_pass_the_quota(postgres_database: Database) -> None:
    steps, limit = building(postgres_database), Quotas(running_candidates=1)

    def claim(step: str) -> bool:
        with postgres_database.writing() as db:
            return outcomes.begin(db, step, "w", limit) is not None

    with ThreadPoolExecutor(2) as workers:
        assert sorted(workers.map(claim, steps)) == [False, True]


def building(database: Database) -> list[str]:
    """The build steps of a job with two candidates, in a project of its own."""
    job = factories.make_job(database, factories.make_project(database))
    factories.finish(database, factories.take(database, factories.step_of(database, job, "prepare").id))
    return [step.id for step in factories.steps_of(database, job, "build")]
