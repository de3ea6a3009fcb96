"""The samples that flipped, served with the candidate whose build found them."""

import json
import secrets
from dataclasses import replace
from typing import Any

import httpx

from app.db.base import adapter
from app.domain.flips import Answer, Compared, Flips
from app.domain.recipe import DynamicInt8
from app.services import candidates
from tests import factories
from tests.app.conftest import Service, Tenant
from tests.app.problems import problem

LOST = Compared(7, 'cat/ä "1".png', 0, "cat", Answer(0, "cat", 0.9), Answer(1, "dog", 0.8), "lost", 21.5)
FOUND = Flips("top1", 500, 1, 0, 0, (LOST,))


def built(service: Service, tenant: Tenant, *, compared: bool = True) -> Any:
    """The shown candidate of a job whose build ended."""
    database, storage = service.database, service.storage
    job = factories.make_job(database, tenant.project, recipes=(DynamicInt8(),))
    factories.work_off(database, storage, job, until="build")
    (candidate,) = factories.candidates_of(database, job)
    claim = factories.take(database, factories.step_of(database, candidate.id, "build").id)
    model = factories.store(storage, secrets.token_bytes(8))
    more = {"flips": factories.store(storage, adapter(Flips).dump_json(FOUND))} if compared else {}
    figures = replace(factories.figures(), predictions=(LOST,) if compared else ())
    factories.finish(
        database,
        claim,
        lambda db: candidates.built(db, storage, candidate.id, DynamicInt8(), figures, model, more),
    )
    return tenant.http.get(f"/v1/candidates/{candidate.id}").json()


def test_a_candidate_links_to_the_samples_that_it_changed(
    service: Service, tenant: Tenant, http: httpx.Client
) -> None:
    candidate = built(service, tenant)

    answer = http.get(candidate["links"]["flips"])

    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == json.loads(adapter(Flips).dump_json(FOUND))
    assert candidate["predictions"] == answer.json()["items"]


def test_a_candidate_that_was_not_compared_has_no_flips(
    service: Service, tenant: Tenant, http: httpx.Client
) -> None:
    candidate = built(service, tenant, compared=False)

    assert "flips" not in candidate["links"]
    assert (
        "needs data"
        in problem(http.get(f"/v1/candidates/{candidate['id']}/flips"), 404, "not_found")["detail"]
    )


def test_the_float_model_has_no_flips(service: Service, tenant: Tenant, http: httpx.Client) -> None:
    job = http.get(built(service, tenant)["links"]["job"]).json()

    answer = http.get(f"/v1/candidates/{job['baseline']['id']}/flips")

    assert "float model" in problem(answer, 404, "not_found")["detail"]


def test_somebody_elses_flips_are_not_there(service: Service, tenant: Tenant, stranger: Tenant) -> None:
    candidate = built(service, tenant)

    problem(stranger.http.get(f"/v1/candidates/{candidate['id']}/flips"), 404, "not_found")


def test_the_report_shows_the_best_candidates_predictions(
    service: Service, tenant: Tenant, http: httpx.Client
) -> None:
    shown = replace(factories.figures(), predictions=(LOST, replace(LOST, name="<b>|x|", label=None)))
    job = factories.make_job(service.database, tenant.project)
    factories.work_off(service.database, service.storage, job, lambda _position: shown)

    document = http.get(f"/v1/jobs/{job}/report").json()
    text = http.get(f"/v1/jobs/{job}/report", params={"format": "md"}).text

    assert [one["change"] for one in document["candidates"][0]["predictions"]] == ["lost", "lost"]
    assert " | cat | cat | dog |" in text
    assert "<b>" not in text
    assert "\\|x\\| | – | cat | dog |" in text
