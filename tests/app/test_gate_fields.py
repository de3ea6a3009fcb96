"""A gate over HTTP: its fields in a job and in a form, and what it compares with."""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from app.db.models import Job
from app.domain.gate import Gate
from app.domain.job import Evaluation, JobSpec
from app.domain.report import Figures
from app.services import gates, jobs
from tests import factories
from tests.app.conftest import Service, Tenant
from tests.app.problems import pointers

EVERY = {
    "against": "latest:branch=main",
    "max_accuracy_drop": "0.01",
    "max_relative_drop": "0.02",
    "min_speedup": "1.2",
    "max_latency_ms": "5",
    "max_size_ratio": "0.5",
    "max_size_bytes": "1000000",
    "max_memory_ratio": "0.9",
    "max_memory_bytes": "50000000",
    "min_sqnr_db": "20",
    "on_inconclusive": "pass",
}


def one_shot(http: httpx.Client, data: dict[str, str]) -> httpx.Response:
    files = {"model": ("m.onnx", b"a model"), "data": ("d.npz", b"data")}
    return http.post("/v1/quantize", files=files, data=data)


def test_every_field_of_the_gate_is_a_form_field(http: httpx.Client) -> None:
    gate = one_shot(http, EVERY).json()["spec"]["gate"]

    assert set(gate) == set(EVERY) == {field.name for field in fields(Gate)}
    assert {name: str(value) for name, value in gate.items() if isinstance(value, str)} == {
        "against": "latest:branch=main",
        "on_inconclusive": "pass",
    }
    assert {name: float(value) for name, value in gate.items() if not isinstance(value, str)} == {
        name: float(text) for name, text in EVERY.items() if name not in {"against", "on_inconclusive"}
    }


def test_form_fields_come_before_the_specs_and_leave_its_others(http: httpx.Client) -> None:
    spec = {"gate": {"min_speedup": 1.1, "min_sqnr_db": 20}}

    gate = one_shot(http, {"spec": json.dumps(spec), "min_speedup": "1.5"}).json()["spec"]["gate"]

    assert (gate["min_speedup"], gate["min_sqnr_db"], gate["against"]) == (1.5, 20, "float")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("against", "yesterday"),
        ("against", "latest:branch"),
        ("against", "cnd_1"),
        ("max_accuracy_drop", ""),
        ("max_relative_drop", "inf"),
        ("min_speedup", "0"),
        ("max_latency_ms", "-1"),
        ("max_size_ratio", "nan"),
        ("max_size_bytes", "1.5"),
        ("max_size_bytes", "1" + "0" * 30),
        ("max_memory_bytes", "0"),
        ("on_inconclusive", "maybe"),
    ],
)
def test_a_wrong_form_field_is_named(http: httpx.Client, name: str, text: str) -> None:
    assert pointers(one_shot(http, {name: text})) == [f"/{name}"]


def test_every_wrong_form_field_is_named_at_once(http: httpx.Client) -> None:
    answer = one_shot(http, {"min_speedup": "0", "max_size_ratio": "x", "max_size_bytes": "9"})

    assert pointers(answer) == ["/min_speedup", "/max_size_ratio"]


def test_against_must_be_of_this_model_and_project(
    service: Service, tenant: Tenant, stranger: Tenant, http: httpx.Client
) -> None:
    mine, other = (factories.make_version(service.database, tenant.project) for _ in range(2))
    foreign = factories.make_version(service.database, stranger.project)
    foreign_job = factories.make_job(service.database, stranger.project)
    other_job = factories.make_job(service.database, tenant.project, version=other)

    for against in (other, foreign, foreign_job, other_job, "ver_0", "job_0"):
        answer = http.post("/v1/jobs", json={"version": mine, "gate": {"against": against}})
        assert pointers(answer) == ["/gate/against"], against
    itself = http.post("/v1/jobs", json={"version": mine, "gate": {"against": mine}})
    assert itself.status_code == 202


def run(
    service: Service,
    tenant: Tenant,
    version: str,
    gate: Gate | None = None,
    labels: dict[str, str] | None = None,
    measured: Callable[[int], Figures] = lambda _position: factories.figures(),
) -> str:
    """The id of a job that a worker has brought to its end."""
    dataset = factories.make_dataset(service.database, tenant.project)
    spec = JobSpec(
        version=version,
        evaluation=Evaluation(dataset=dataset),
        recipes=factories.TWO_RECIPES,
        gate=gate,
        labels=labels or {},
        reuse="never",
    )
    with service.database.writing() as db:
        job = jobs.create(db, tenant.project, spec).id
    factories.work_off(service.database, service.storage, job, measured)
    return job


def verdict(http: httpx.Client, job: str) -> Any:
    return http.get(f"/v1/jobs/{job}/verdict").json()


def faster(speedup: float, ratio: float = 0.25) -> Callable[[int], Figures]:
    return lambda _position: factories.figures(speedup=speedup, ratio=ratio)


def test_speed_and_size_are_held_against_an_earlier_version(
    service: Service, tenant: Tenant, http: httpx.Client
) -> None:
    version = factories.make_version(service.database, tenant.project)
    before = factories.job_row(service.database, run(service, tenant, version, measured=faster(2.0, 0.2)))
    limits = Gate(against=version, min_speedup=0.9, max_size_ratio=1.1)

    same = verdict(http, run(service, tenant, version, limits, measured=faster(1.9, 0.21)))
    slower = verdict(
        http, run(service, tenant, version, Gate(against=before.id, min_speedup=0.9), measured=faster(1.5))
    )

    assert same["conclusion"] == "pass"
    assert {check["against"] for check in same["checks"]} == {before.best_id}
    assert [check["value"] for check in same["checks"]][:2] == [pytest.approx(0.95), pytest.approx(1.05)]
    assert slower["conclusion"] == "fail"


def test_the_latest_job_with_these_labels_is_what_counts(
    service: Service, tenant: Tenant, http: httpx.Client
) -> None:
    version = factories.make_version(service.database, tenant.project)
    odd = {'bran"ch': "feature/ä,b=c%", "x": "1"}
    wanted = factories.job_row(service.database, run(service, tenant, version, labels=odd))
    run(service, tenant, version, labels={'bran"ch': "main"})
    text = ",".join(f"{quote(key, safe='')}={quote(value, safe='')}" for key, value in odd.items())

    found = verdict(http, run(service, tenant, version, Gate(against=f"latest:{text}", min_speedup=0.9)))

    assert {check["against"] for check in found["checks"]} == {wanted.best_id}


def test_the_first_job_of_a_model_has_nothing_to_protect_and_says_so(
    service: Service, tenant: Tenant, http: httpx.Client
) -> None:
    version = factories.make_version(service.database, tenant.project)
    limits = Gate(against="latest:branch=main", max_accuracy_drop=0.001, min_sqnr_db=20)

    job = run(service, tenant, version, limits)

    found = verdict(http, job)
    assert (found["conclusion"], {check["name"] for check in found["checks"]}) == ("pass", {"min_sqnr_db"})
    assert any("first job" in note for note in http.get(f"/v1/jobs/{job}").json()["notes"])


def test_labels_that_match_nothing_are_inconclusive_once_there_are_jobs(
    service: Service, tenant: Tenant, http: httpx.Client
) -> None:
    version = factories.make_version(service.database, tenant.project)
    run(service, tenant, version, labels={"branch": "main"})

    found = verdict(http, run(service, tenant, version, Gate(against="latest:brnach=main", min_speedup=1)))

    assert (found["conclusion"], found["blocking"]) == ("inconclusive", True)
    assert all(check["reason"].startswith("no_reference") for check in found["checks"])
    assert "brnach=main" in found["checks"][0]["reason"]


def test_a_named_version_or_job_that_never_succeeded_is_inconclusive(
    service: Service, tenant: Tenant, http: httpx.Client
) -> None:
    version = factories.make_version(service.database, tenant.project)
    canceled = factories.make_job(service.database, tenant.project, version=version)
    assert http.post(f"/v1/jobs/{canceled}/cancel").status_code == 200

    for against in (canceled, version):
        found = verdict(http, run(service, tenant, version, Gate(against=against, max_size_ratio=1.0)))
        version_has_a_job = against == version
        assert found["conclusion"] == ("pass" if version_has_a_job else "inconclusive")
        reason = found["checks"][0]["reason"]
        assert version_has_a_job or reason.startswith("no_reference")


def test_a_job_is_never_compared_with_itself_or_a_later_one(service: Service, tenant: Tenant) -> None:
    version = factories.make_version(service.database, tenant.project)
    first, second = (run(service, tenant, version, Gate(against="latest", min_speedup=1)) for _ in range(2))

    with service.database.reading() as db:
        compared = [gates.compared(db, db.get_one(Job, job)) for job in (first, second)]

    assert getattr(compared[0], "first", None) is True
    best = factories.job_row(service.database, first).best_id
    assert getattr(compared[1], "candidate", None) == best


@pytest.mark.parametrize("form", ["json", "md", "junit", "openmetrics", "html"])
def test_a_verdict_on_every_limit_is_shown_in_every_format(
    service: Service, tenant: Tenant, http: httpx.Client, form: str
) -> None:
    version = factories.make_version(service.database, tenant.project)
    limits = {"max_size_bytes": 10**18, "max_memory_bytes": 10**18, "max_latency_ms": 1e9, "min_sqnr_db": -5}
    gate = Gate(**limits, max_accuracy_drop=0.1, max_relative_drop=0.1, min_speedup=1, max_memory_ratio=2)  # type: ignore[arg-type]
    before = run(service, tenant, version)

    job = run(service, tenant, version, replace(gate, max_size_ratio=2.0, against=before))

    assert http.get(f"/v1/jobs/{job}/verdict", params={"format": form}).status_code == 200
    assert http.get(f"/v1/jobs/{job}/verdict").json()["conclusion"] == "pass"
