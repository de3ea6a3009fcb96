"""What there is to choose from: targets, recipes; and what is known of a candidate's layers."""

import json
from typing import get_args

import httpx
import pytest

from app.api.schemas.specs import AnyRecipe
from app.db.models import Job
from app.domain.target import RULES
from app.services import artifacts
from tests import factories
from tests.app.conftest import Service, Tenant
from tests.app.problems import problem


def test_every_target_has_its_rules_and_their_reason(http: httpx.Client) -> None:
    items = http.get("/v1/targets").json()["items"]

    assert [item["isa"] for item in items] == list(RULES)
    assert all(item["reason"] == RULES[item["isa"]].reason for item in items)


def test_every_recipe_that_a_job_takes_is_described(http: httpx.Client) -> None:
    items = {item["method"]: item for item in http.get("/v1/recipes").json()["items"]}

    assert len(items) == len(get_args(get_args(AnyRecipe)[0]))
    assert (items["static_int8"]["needs_data"], items["dynamic_int8"]["needs_data"]) == (True, False)
    assert items["static_int8"]["defaults"]["ranges"] == {
        "method": "auto",
        "percentile": 99.99,
        "clipping": 1.0,
    }
    for item in items.values():
        assert item["description"]
        assert item["json_schema"]["properties"]["method"]["const"] == item["method"]
        assert item["json_schema"]["additionalProperties"] is False


def test_the_defaults_are_a_recipe_that_a_job_takes(service: Service, tenant: Tenant) -> None:
    version = factories.make_version(service.database, tenant.project)
    items = tenant.http.get("/v1/recipes").json()["items"]
    recipes = [item["defaults"] for item in items if not item["needs_data"] and item["method"] != "imported"]

    answer = tenant.http.post("/v1/jobs", json={"version": version, "recipes": recipes})

    assert answer.status_code == 202
    assert answer.json()["spec"]["recipes"] == recipes


@pytest.fixture
def candidate(service: Service, tenant: Tenant) -> str:
    job = factories.make_job(service.database, tenant.project)
    factories.work_off(service.database, service.storage, job)
    return factories.candidates_of(service.database, job)[0].id


def test_layers_nobody_looked_at_are_not_found(tenant: Tenant, candidate: str) -> None:
    problem(tenant.http.get(f"/v1/candidates/{candidate}/layers"), 404, "no_layers")
    problem(tenant.http.get("/v1/candidates/cnd_none/layers"), 404, "not_found")


def test_layers_are_served_as_they_were_found(
    service: Service, tenant: Tenant, stranger: Tenant, candidate: str
) -> None:
    layers = {"layers": [{"name": "conv1", "sqnr_db": 31.5}]}
    with service.database.writing() as db:
        job = db.get_one(Job, tenant.http.get(f"/v1/candidates/{candidate}").json()["job"])
        stored = factories.store(service.storage, json.dumps(layers).encode())
        artifacts.add(db, service.storage, job, candidate, "layers", "layers.json", stored)

    answer = tenant.http.get(f"/v1/candidates/{candidate}/layers")

    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == layers
    problem(stranger.http.get(f"/v1/candidates/{candidate}/layers"), 404, "not_found")
