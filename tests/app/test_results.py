"""What a finished job has to show over HTTP: candidates, the best of them, the report."""

from dataclasses import replace

from app.domain.gate import Gate
from app.domain.note import Note
from app.domain.report import Figures
from tests import factories
from tests.app.conftest import Service, Tenant, finished
from tests.app.problems import problem


def test_candidates_show_their_recipe_and_what_was_measured(service: Service, tenant: Tenant) -> None:
    job = finished(service, tenant)

    shown = tenant.http.get(f"/v1/jobs/{job}/candidates").json()["items"]

    assert [c["recipe"]["method"] for c in shown] == ["dynamic_int8", "static_int8"]
    first = shown[0]
    assert (first["state"], first["job"], first["pareto"], first["error"]) == ("measured", job, True, None)
    assert first["size"] == {"bytes": 250, "ratio": 0.25}
    assert first["accuracy"]["drop"] == 0.0
    assert first["fidelity"]["sqnr_db"] == 40.0
    assert first["latency"]["speedup"] == 2.0
    assert first["memory"]["model_bytes"] == 1000
    assert first["artifact"].startswith("art_")
    assert tenant.http.get(first["links"]["self"]).json() == first


def test_an_imported_model_is_shown_beside_the_recipes(service: Service, tenant: Tenant) -> None:
    database = service.database
    version, imported = (factories.make_version(database, tenant.project) for _ in range(2))
    spec = {"version": version, "recipes": [{"method": "dynamic_int8"}], "candidates": [imported]}
    job = tenant.http.post("/v1/jobs", json=spec).json()["id"]
    factories.work_off(database, service.storage, job)

    shown = tenant.http.get(f"/v1/jobs/{job}/candidates").json()["items"]

    assert shown[1]["recipe"] == {"method": "imported", "version": imported}
    for form in ("json", "md", "html"):
        assert tenant.http.get(f"/v1/jobs/{job}/report?format={form}").status_code == 200
    assert tenant.http.get(f"/v1/candidates/{shown[1]['id']}").json()["state"] == "measured"


def test_a_finished_job_names_its_best_candidate_and_its_conclusion(service: Service, tenant: Tenant) -> None:
    job = finished(
        service, tenant, Gate(min_speedup=1.5), lambda position: factories.figures(speedup=position + 1)
    )

    shown = tenant.http.get(f"/v1/jobs/{job}").json()
    candidates = tenant.http.get(f"/v1/jobs/{job}/candidates").json()["items"]

    assert shown["conclusion"] == "pass"
    assert shown["best"] == candidates[1]["id"]
    assert shown["baseline"]["name"] == "float"
    assert shown["environment"]["cpu"] == "a CPU"


def test_the_report_has_everything_in_one_document(service: Service, tenant: Tenant) -> None:
    job = finished(service, tenant, Gate(min_speedup=1.5))

    report = tenant.http.get(f"/v1/jobs/{job}/report").json()

    assert report["job"] == tenant.http.get(f"/v1/jobs/{job}").json()
    assert report["verdict"] == tenant.http.get(f"/v1/jobs/{job}/verdict").json()
    assert report["candidates"] == tenant.http.get(f"/v1/jobs/{job}/candidates").json()["items"]


def test_the_report_in_markdown_has_a_row_per_candidate(service: Service, tenant: Tenant) -> None:
    job = finished(service, tenant, Gate(min_speedup=1.5))

    answer = tenant.http.get(f"/v1/jobs/{job}/report?format=md")

    assert answer.headers["content-type"] == "text/markdown; charset=utf-8"
    assert "Gate passed" in answer.text
    rows = [line for line in answer.text.splitlines() if line.startswith("| static int8")]
    assert any("2.00 (2.00–2.00)" in row and "25 %" in row for row in rows)
    assert "| float |" in answer.text
    assert job in answer.text


def test_a_form_that_a_report_does_not_have_is_refused(service: Service, tenant: Tenant) -> None:
    job = finished(service, tenant)

    answer = tenant.http.get(f"/v1/jobs/{job}/report?format=pdf")

    assert problem(answer, 422, "invalid_input")["errors"][0]["pointer"] == "/format"


def test_names_from_uploads_cannot_become_markup_in_a_report(service: Service, tenant: Tenant) -> None:
    def measured(_position: int) -> Figures:
        return replace(factories.figures(), notes=(Note("recipe", "<script>alert(1)</script> | `x` [a](b)"),))

    job = finished(service, tenant, measured=measured)

    text = tenant.http.get(f"/v1/jobs/{job}/report?format=md").text
    assert "<script>" not in text
    assert r"\[a\](b)" in text
