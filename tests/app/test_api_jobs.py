"""Jobs over HTTP: asked for, waited for, judged, downloaded, canceled. A test plays the worker."""

import io
import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from sqlalchemy import Engine, event, update

from app.db.models import Artifact
from app.domain.gate import Gate
from app.domain.report import Figures
from tests import factories
from tests.app.conftest import Service, Tenant
from tests.app.problems import problem
from tests.app.uploading import content


def undecided(_position: int) -> Figures:
    return replace(factories.figures(), latency=factories.latency(1.5, spread=0.4))


def finished(
    service: Service,
    tenant: Tenant,
    gate: Gate | None = None,
    measured: Callable[[int], Figures] = lambda _position: factories.figures(),
) -> str:
    """The id of a job that a worker has brought to its end."""
    job = factories.make_job(service.database, tenant.project, gate=gate)
    factories.work_off(service.database, service.storage, job, measured)
    return job


def spec(version: str, dataset: str) -> dict[str, Any]:
    return {
        "version": version,
        "evaluation": {"dataset": dataset},
        "recipes": [{"method": "dynamic_int8"}, {"method": "static_int8"}],
        "gate": {"min_speedup": 1.2},
        "labels": {"commit": "abc"},
    }


def test_a_job_is_accepted_and_can_be_polled(http: httpx.Client, version: str, dataset: str) -> None:
    answer = http.post("/v1/jobs", json=spec(version, dataset))

    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == job["links"]["self"] == f"/v1/jobs/{job['id']}"
    assert (job["state"], job["phase"], job["progress"]) == ("queued", "preparing", 0.0)
    assert (job["conclusion"], job["error"], job["best"]) == (None, None, None)
    assert job["baseline"]["name"] == "float"
    assert job["spec"]["labels"] == {"commit": "abc"}
    assert http.get(job["links"]["self"]).json() == job


def test_a_bare_job_is_enough(http: httpx.Client, version: str) -> None:
    answer = http.post("/v1/jobs", json={"version": version})

    assert answer.status_code == 202
    assert answer.json()["spec"]["gate"] is None


def test_every_step_of_the_way_is_shown(service: Service, tenant: Tenant) -> None:
    job = factories.make_job(service.database, tenant.project)
    seen = []
    for until in ("prepare", "build", "benchmark", "report", ""):
        factories.work_off(service.database, service.storage, job, until=until)
        seen.append(tenant.http.get(f"/v1/jobs/{job}").json())

    assert [s["phase"] for s in seen] == ["preparing", "building", "benchmarking", "reporting", None]
    assert [s["state"] for s in seen] == ["queued", "running", "running", "running", "succeeded"]
    progress = [s["progress"] for s in seen]
    assert progress == sorted(set(progress))
    assert (progress[0], progress[-1]) == (0.0, 1.0)
    steps = tenant.http.get(f"/v1/jobs/{job}/steps").json()["items"]
    assert {s["kind"]: s["state"] for s in steps} == dict.fromkeys(
        ("prepare", "build", "benchmark", "report"), "done"
    )
    assert all(s["attempt"] == 1 and s["losses"] == 0 and s["finished_at"] for s in steps)


def test_who_waits_gets_the_job_as_soon_as_it_ends(
    service: Service, tenant: Tenant, version: str, dataset: str
) -> None:
    job = tenant.http.post("/v1/jobs", json=spec(version, dataset)).json()["id"]
    worker = threading.Thread(target=factories.work_off, args=[service.database, service.storage, job])
    begun = time.monotonic()
    worker.start()

    answer = tenant.http.get(f"/v1/jobs/{job}", headers={"Prefer": "wait=50"})

    worker.join()
    assert (answer.status_code, answer.json()["state"]) == (200, "succeeded")
    assert answer.headers["preference-applied"] == "wait=50"
    assert time.monotonic() - begun < 40


def test_who_waits_in_vain_gets_the_job_as_it_is(http: httpx.Client, version: str) -> None:
    begun = time.monotonic()

    answer = http.post("/v1/jobs", json={"version": version}, headers={"Prefer": "wait=1"})

    assert (answer.status_code, answer.json()["state"]) == (202, "queued")
    assert time.monotonic() - begun >= 1


def test_a_job_that_has_ended_is_not_waited_for(service: Service, tenant: Tenant) -> None:
    job = finished(service, tenant)
    begun = time.monotonic()

    answer = tenant.http.get(f"/v1/jobs/{job}", headers={"Prefer": "wait=50"})

    assert answer.json()["state"] == "succeeded"
    assert time.monotonic() - begun < 10


def test_the_one_shot_makes_version_dataset_and_job_in_one_request(http: httpx.Client) -> None:
    model, data = content(), content()

    answer = http.post(
        "/v1/quantize",
        files={"data": ("val.npz", data), "model": ("m.onnx", model)},
        data={
            "spec": '{"recipes": [{"method": "static_int8"}], "gate": {"min_speedup": 1.2}}',
            "preprocess": "unit",
            "max_accuracy_drop": "0.01",
            "min_speedup": "1.5",
            "name": "digits",
            "labels": '{"a": "b"}',
        },
    )

    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert job["spec"]["gate"]["min_speedup"] == 1.5
    assert job["spec"]["gate"]["max_accuracy_drop"] == 0.01
    assert job["spec"]["recipes"][0]["method"] == "static_int8"
    assert job["spec"]["labels"] == {"a": "b"}
    version = http.get(f"/v1/versions/{job['spec']['version']}").json()
    assert (version["name"], version["state"]) == ("digits", "inspecting")
    assert http.get(version["links"]["content"]).content == model
    used = {job["spec"][use]["dataset"] for use in ("calibration", "evaluation")}
    assert len(used) == 1
    assert http.get(f"/v1/datasets/{used.pop()}").json()["name"] == "val.npz"


def test_the_fields_of_a_one_shot_may_be_files(http: httpx.Client) -> None:
    spec = io.BytesIO(b'{"recipes": [{"method": "dynamic_int8"}]}')

    answer = http.post("/v1/quantize", files={"model": ("m.onnx", content()), "spec": ("spec.json", spec)})

    assert answer.json()["spec"]["recipes"][0]["method"] == "dynamic_int8"


def test_a_recipe_that_needs_data_is_refused_in_a_one_shot_without(
    service: Service, http: httpx.Client
) -> None:
    before = service.objects()

    answer = http.post(
        "/v1/quantize",
        files={"model": ("m.onnx", content())},
        data={"spec": '{"recipes": [{"method": "static_int8"}]}'},
    )

    errors = problem(answer, 422, "invalid_input")["errors"]
    assert [error["pointer"] for error in errors] == ["/recipes/0"]
    assert service.objects() == before


def test_a_one_shot_that_is_not_waited_for_has_no_verdict_yet(http: httpx.Client) -> None:
    answer = http.post("/v1/quantize?status=http", files={"model": ("m.onnx", content())})

    assert problem(answer, 409, "job_not_finished")["retryable"]
    assert http.get(answer.headers["location"]).json()["state"] == "queued"


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

    answer = tenant.http.get(f"/v1/jobs/{job}/verdict?status=http", headers={"Prefer": "wait=50"})

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


def test_a_candidates_model_is_downloaded_once(service: Service, tenant: Tenant) -> None:
    job = finished(service, tenant)
    candidate = tenant.http.get(f"/v1/jobs/{job}/candidates").json()["items"][1]
    listed = {a["id"]: a for a in tenant.http.get(f"/v1/jobs/{job}/artifacts").json()["items"]}
    artifact = listed[candidate["artifact"]]

    first = tenant.http.get(candidate["links"]["content"])
    etag = first.headers["etag"]
    again = tenant.http.get(artifact["links"]["content"], headers={"If-None-Match": etag})
    other = tenant.http.get(artifact["links"]["content"], headers={"If-None-Match": '"x"'})

    assert (first.status_code, len(first.content)) == (200, artifact["size"])
    assert etag == f'"{artifact["sha256"]}"'
    name = "02-static_int8.onnx"
    assert first.headers["content-disposition"] == f"attachment; filename=\"{name}\"; filename*=UTF-8''{name}"
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert (other.status_code, other.content) == (200, first.content)


def test_a_candidate_that_has_no_model_cannot_be_downloaded(service: Service, tenant: Tenant) -> None:
    job = factories.make_job(service.database, tenant.project)
    factories.work_off(service.database, service.storage, job, until="build")
    candidate = tenant.http.get(f"/v1/jobs/{job}/candidates").json()["items"][0]

    assert "content" not in candidate["links"]
    answer = tenant.http.get(f"/v1/candidates/{candidate['id']}/content")
    assert "planned" in problem(answer, 404, "not_found")["detail"]


@pytest.mark.parametrize(
    "filename",
    ['a"b.onnx', "a\r\nSet-Cookie: x=y", "ünïcode ☃.onnx", "../../etc/passwd", "a;b=c.onnx", "%2e%2e"],
)
def test_a_hostile_name_stays_inside_its_header(service: Service, tenant: Tenant, filename: str) -> None:
    job = finished(service, tenant)
    artifact = tenant.http.get(f"/v1/jobs/{job}/artifacts").json()["items"][0]["id"]
    with service.database.writing() as db:
        db.execute(update(Artifact).where(Artifact.id == artifact).values(filename=filename))

    answer = tenant.http.get(f"/v1/artifacts/{artifact}/content")

    assert answer.status_code == 200
    assert "set-cookie" not in answer.headers
    kind, _, name = answer.headers["content-disposition"].partition("filename*=UTF-8''")
    assert re.fullmatch(r'attachment; filename="[A-Za-z0-9._ -]*"; ', kind)
    assert unquote(name) == filename
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789%._-~")


def test_names_from_uploads_cannot_become_markup_in_a_report(service: Service, tenant: Tenant) -> None:
    def measured(_position: int) -> Figures:
        return replace(factories.figures(), notes=("<script>alert(1)</script> | `x` [a](b)",))

    job = finished(service, tenant, measured=measured)

    text = tenant.http.get(f"/v1/jobs/{job}/report?format=md").text
    assert "<script>" not in text
    assert r"\[a\](b)" in text


def test_cancel_answers_the_canceled_job_and_409_from_then_on(service: Service, tenant: Tenant) -> None:
    job = factories.make_job(service.database, tenant.project)

    first = tenant.http.post(f"/v1/jobs/{job}/cancel")
    again = tenant.http.post(f"/v1/jobs/{job}/cancel")

    assert (first.status_code, first.json()["state"], first.json()["progress"]) == (200, "canceled", 1.0)
    assert first.json()["finished_at"]
    problem(again, 409, "job_finished")
    steps = tenant.http.get(f"/v1/jobs/{job}/steps").json()["items"]
    assert {s["state"] for s in steps} == {"canceled"}


def test_a_succeeded_job_cannot_be_canceled(service: Service, tenant: Tenant) -> None:
    job = finished(service, tenant)

    problem(tenant.http.post(f"/v1/jobs/{job}/cancel"), 409, "job_finished")


def test_a_retry_is_a_new_job_that_names_the_old_one(service: Service, tenant: Tenant) -> None:
    job = factories.make_job(service.database, tenant.project, gate=Gate(min_speedup=1.5))
    tenant.http.post(f"/v1/jobs/{job}/cancel")

    answer = tenant.http.post(f"/v1/jobs/{job}/retry")

    again = answer.json()
    assert (answer.status_code, answer.headers["location"]) == (202, f"/v1/jobs/{again['id']}")
    assert (again["retry_of"], again["state"]) == (job, "queued")
    assert again["spec"] == tenant.http.get(f"/v1/jobs/{job}").json()["spec"]


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


def test_what_another_project_has_does_not_exist(service: Service, tenant: Tenant, stranger: Tenant) -> None:
    job = finished(service, tenant)
    shown = tenant.http.get(f"/v1/jobs/{job}").json()
    candidate = tenant.http.get(f"/v1/jobs/{job}/candidates").json()["items"][0]
    version = tenant.http.get(f"/v1/versions/{shown['spec']['version']}").json()
    dataset = shown["spec"]["evaluation"]["dataset"]
    paths = [
        *shown["links"].values(),
        *candidate["links"].values(),
        version["links"]["self"],
        version["links"]["model"],
        f"/v1/models/{version['model']}/versions",
        f"/v1/versions/{version['id']}/content",
        f"/v1/datasets/{dataset}",
        f"/v1/artifacts/{candidate['artifact']}/content",
    ]

    assert len(paths) > 12
    for path in paths:
        problem(stranger.http.get(path), 404, "not_found")
    for path in (f"/v1/jobs/{job}/cancel", f"/v1/jobs/{job}/retry"):
        problem(stranger.http.post(path), 404, "not_found")
    for noun in ("jobs", "models", "datasets"):
        assert stranger.http.get(f"/v1/{noun}").json()["items"] == []
    problem(stranger.http.post("/v1/jobs", json={"version": version["id"]}), 422, "invalid_input")


def test_a_failed_job_carries_its_problem(service: Service, tenant: Tenant) -> None:
    job = factories.make_job(service.database, tenant.project)
    factories.work_off(service.database, service.storage, job, until="build")
    for step in factories.steps_of(service.database, job, "build"):
        factories.fail(service.database, service.storage, step.id, "nothing_to_quantize")

    shown = tenant.http.get(f"/v1/jobs/{job}").json()

    assert (shown["state"], shown["conclusion"]) == ("failed", None)
    assert shown["error"]["code"] == "no_candidate"
    candidates = tenant.http.get(f"/v1/jobs/{job}/candidates").json()["items"]
    assert {c["error"]["code"] for c in candidates} == {"nothing_to_quantize"}
    detail = problem(tenant.http.get(f"/v1/jobs/{job}/verdict"), 409, "job_not_succeeded")["detail"]
    assert shown["error"]["detail"] in detail


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
