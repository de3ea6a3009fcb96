"""Whether a dataset fits a version, over HTTP: answered from what inspections found."""

from dataclasses import replace
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from app.db.models import Dataset, IdempotencyKey, Version
from app.domain.report import ArrayInfo, TensorInfo
from app.services import datasets, models
from tests import factories
from tests.app.conftest import Service, Tenant
from tests.app.problems import pointers, problem

MODEL = replace(
    factories.EXAMINATION,
    inputs=(TensorInfo("x", "float32", ("batch", 1, 8, 8)),),
    outputs=(TensorInfo("scores", "float32", ("batch", 10)),),
)
DIGITS = replace(
    factories.SUMMARY,
    samples=1797,
    labels=1797,
    arrays=(ArrayInfo("images", "uint8", (8, 8), 0.0, 240.0),),
    label_range=(0, 9),
)


def inspected(service: Service, tenant: Tenant, summary: Any = DIGITS) -> tuple[str, str]:
    """A dataset and a version that a worker has looked at."""
    database = service.database
    version = factories.make_version(database, tenant.project, ready=False)
    dataset = factories.make_dataset(database, tenant.project, ready=False)
    claims = [
        factories.take(database, factories.step_of(database, version, "inspect_version").id),
        factories.take(database, factories.step_of(database, dataset, "inspect_dataset").id),
    ]
    factories.finish(database, claims[0], lambda db: models.accept(db, version, MODEL))
    factories.finish(database, claims[1], lambda db: datasets.accept(db, dataset, summary))
    return dataset, version


def check(http: httpx.Client, dataset: str, **body: Any) -> Any:
    answer = http.post(f"/v1/datasets/{dataset}/check", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_what_expired_does_not_fit(service: Service, tenant: Tenant, http: httpx.Client) -> None:
    dataset, version = inspected(service, tenant)
    with service.database.writing() as db:
        db.get_one(Dataset, dataset).expired_at = db.get_one(Version, version).expired_at = 1

    found = check(http, dataset, version=version)

    assert (found["fits"], [f["pointer"] for f in found["findings"]]) == (False, ["/dataset", "/version"])


def test_a_limit_that_no_job_takes_does_not_fit(service: Service, tenant: Tenant, http: httpx.Client) -> None:
    dataset, version = inspected(service, tenant)
    gate = {"max_accuracy_drop": 5}

    found = check(http, dataset, version=version, gate=gate)

    assert not found["fits"]
    refused = http.post("/v1/jobs", json={"version": version, "gate": gate})
    assert pointers(refused) == [f["pointer"] for f in found["findings"]] == ["/gate/max_accuracy_drop"]


def test_a_dataset_that_fits_says_how_small_a_drop_it_decides(
    service: Service, tenant: Tenant, http: httpx.Client
) -> None:
    dataset, version = inspected(service, tenant)

    found = check(http, dataset, version=version, gate={"max_accuracy_drop": 0.001, "min_speedup": 1.2})

    assert (found["fits"], [f["pointer"] for f in found["findings"]]) == (True, ["/gate/max_accuracy_drop"])
    assert found["decidable"]["samples"] == 1797 - 128
    assert [rate["flip_rate"] for rate in found["decidable"]["drops"]] == [0.01, 0.03, 0.05]
    (limit,) = found["decidable"]["limits"]
    assert (limit["name"], [one["enough"] for one in limit["needed"]]) == ("max_accuracy_drop", [False] * 3)
    shown = http.get(f"/v1/datasets/{dataset}").json()
    assert shown["links"]["check"] == f"/v1/datasets/{dataset}/check"


def test_a_check_creates_nothing_so_it_is_answered_anew_whatever_its_key(
    service: Service, tenant: Tenant, http: httpx.Client
) -> None:
    dataset, version = inspected(service, tenant)
    http.headers["Idempotency-Key"] = "the pipeline's run"

    few = check(http, dataset, version=version, gate={"max_accuracy_drop": 0.001})
    more = check(http, dataset, version=version, gate={"max_accuracy_drop": 0.5})

    assert few["findings"] != more["findings"]
    with service.database.reading() as db:
        chosen = select(IdempotencyKey).where(IdempotencyKey.project_id == tenant.project)
        assert db.scalars(chosen).all() == []


def test_a_dataset_that_does_not_fit_says_where(service: Service, tenant: Tenant, http: httpx.Client) -> None:
    dataset, version = inspected(service, tenant, replace(DIGITS, label_range=(1, 10)))

    found = check(http, dataset, version=version)

    assert found["fits"] is False
    assert [(f["level"], f["pointer"]) for f in found["findings"]] == [("error", "/labels")]


def test_a_rejected_dataset_does_not_fit_and_the_reason_is_told(
    service: Service, tenant: Tenant, http: httpx.Client
) -> None:
    database = service.database
    _, version = inspected(service, tenant)
    dataset = factories.make_dataset(database, tenant.project, ready=False)
    step = factories.step_of(database, dataset, "inspect_dataset")
    reason = factories.fail(database, service.storage, step.id, "bad")

    found = check(http, dataset, version=version)

    (finding,) = found["findings"]
    assert (found["fits"], finding["pointer"], found["decidable"]) == (False, "/dataset", None)
    assert reason.detail in finding["detail"]


def test_what_is_still_being_inspected_is_asked_for_later(
    service: Service, tenant: Tenant, http: httpx.Client
) -> None:
    dataset = factories.make_dataset(service.database, tenant.project, ready=False)
    version = factories.make_version(service.database, tenant.project)

    answer = http.post(f"/v1/datasets/{dataset}/check", json={"version": version})

    assert problem(answer, 409, "not_inspected")["retryable"] is True


def test_a_version_or_dataset_of_somebody_else_is_not_there(
    service: Service, tenant: Tenant, stranger: Tenant, http: httpx.Client
) -> None:
    dataset, version = inspected(service, tenant)
    foreign_dataset, foreign_version = inspected(service, stranger)

    mine = http.post(f"/v1/datasets/{dataset}/check", json={"version": foreign_version})
    foreign = http.post(f"/v1/datasets/{foreign_dataset}/check", json={"version": version})

    assert pointers(mine) == ["/version"]
    problem(foreign, 404, "not_found")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/version"),
        ({"version": "ver_1", "gate": {"min_speedup": "fast"}}, "/gate/min_speedup"),
        ({"version": "ver_1", "gate": {"against": "yesterday"}}, "/gate/against"),
        ({"version": "ver_1", "metric": "f7"}, "/metric"),
        ({"version": "ver_1", "candidates": 0}, "/candidates"),
        ({"version": "ver_1", "color": "red"}, "/color"),
    ],
)
def test_a_wrong_question_is_refused_where_it_is_wrong(
    service: Service, tenant: Tenant, http: httpx.Client, body: dict[str, Any], pointer: str
) -> None:
    dataset = factories.make_dataset(service.database, tenant.project)

    answer = http.post(f"/v1/datasets/{dataset}/check", json=body)

    assert pointers(answer) == [pointer]
