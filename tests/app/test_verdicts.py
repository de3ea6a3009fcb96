"""Verdicts over HTTP: what a pipeline acts on."""

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from app.domain.gate import Gate
from app.domain.report import Figures
from tests import factories
from tests.app.conftest import Service, Tenant, finished
from tests.app.problems import problem


def undecided(_position: int) -> Figures:
    return replace(factories.figures(), latency=factories.latency(1.5, spread=0.4))


VERDICTS = [
    (Gate(min_speedup=1.5), None, "pass", 200),
    (Gate(min_speedup=9.0), None, "fail", 422),
    (Gate(min_speedup=9.0, on_inconclusive="pass"), None, "fail", 422),
    (Gate(min_speedup=1.5), undecided, "inconclusive", 422),
    (Gate(min_speedup=1.5, on_inconclusive="pass"), undecided, "inconclusive", 200),
    (None, None, "none", 200),
]


@pytest.mark.parametrize(("gate", "measured", "conclusion", "status"), VERDICTS)
def test_a_pipeline_stops_exactly_when_the_verdict_blocks(
    service: Service,
    tenant: Tenant,
    gate: Gate | None,
    measured: Callable[[int], Figures] | None,
    conclusion: str,
    status: int,
) -> None:
    job = finished(service, tenant, gate, measured or (lambda _position: factories.figures()))

    plain = tenant.http.get(f"/v1/jobs/{job}/verdict")
    strict = tenant.http.get(f"/v1/jobs/{job}/verdict?status=http")
    markdown = tenant.http.get(f"/v1/jobs/{job}/verdict?status=http&format=md")

    assert (plain.status_code, strict.status_code, markdown.status_code) == (200, status, status)
    assert plain.json() == strict.json()
    assert plain.json()["conclusion"] == conclusion
    assert plain.json()["blocking"] == (status == 422)
    assert plain.json()["job"] == job
    checks = plain.json()["checks"]
    assert len(checks) == (0 if gate is None else 2)
    assert {check["conclusion"] for check in checks} <= {conclusion}
    assert markdown.headers["content-type"] == "text/markdown; charset=utf-8"
    assert markdown.text.startswith("### ")


def test_a_verdict_can_be_waited_for(service: Service, tenant: Tenant) -> None:
    job = factories.make_job(service.database, tenant.project, gate=Gate(min_speedup=1.5))
    worker = threading.Thread(target=factories.work_off, args=[service.database, service.storage, job])
    worker.start()

    answer = tenant.http.get(f"/v1/jobs/{job}/verdict?status=http", headers={"Prefer": "wait=600"})

    worker.join()
    assert (answer.status_code, answer.json()["conclusion"]) == (200, "pass")


@pytest.mark.parametrize("path", ["verdict", "verdict?status=http", "verdict?format=md", "report"])
def test_a_job_that_is_under_way_has_no_verdict_yet(service: Service, tenant: Tenant, path: str) -> None:
    job = factories.make_job(service.database, tenant.project)

    answer = tenant.http.get(f"/v1/jobs/{job}/{path}")

    assert problem(answer, 409, "job_not_finished")["retryable"]


@pytest.mark.parametrize("path", ["verdict", "verdict?status=http", "report", "report?format=md"])
def test_a_canceled_job_has_no_verdict(service: Service, tenant: Tenant, path: str) -> None:
    job = factories.make_job(service.database, tenant.project)
    assert tenant.http.post(f"/v1/jobs/{job}/cancel").json()["state"] == "canceled"

    problem(tenant.http.get(f"/v1/jobs/{job}/{path}"), 409, "job_not_succeeded")
