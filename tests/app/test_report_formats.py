"""A result in every format: right types and codes, and no name gets out of its place."""

import base64
import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree as ET

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from sqlalchemy import update

from app.api.formats.words import limit, number
from app.db.models import Candidate, Model, Version
from app.domain.errors import Problem
from app.domain.gate import Check, Gate
from app.domain.note import Note
from app.domain.report import (
    Example,
    ExampleInput,
    Figures,
    Obstacle,
    Requires,
    RunsElsewhere,
    TensorRT,
)
from tests import factories
from tests.app.conftest import Service, Tenant
from tests.app.problems import problem

HOSTILE = [
    "<script>alert(1)</script>",
    "]]></failure><!--",
    "a\" onload='x' `b` &amp; {{ 7*7 }} {% raw %}",
    "line\none\r\ntwo\u2028three\x1b[31m\x07",
    "| ![x](http://evil.example/x.png) @all #1 ~~x~~",
    "🦆" * 50 + "\u202e" + "é" * 100,
    "\\",
]
TYPES = {
    "json": "application/json",
    "html": "text/html; charset=utf-8",
    "md": "text/markdown; charset=utf-8",
    "junit": "application/xml; charset=utf-8",
    "openmetrics": "application/openmetrics-text; version=1.0.0; charset=utf-8",
}
VOID = {"meta", "line", "circle"}


class Page(HTMLParser):
    """What a browser would see: tags, attributes and text; every tag must be closed where it should."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def known(name: str) -> dict[str, Any]:
    """What figures say beside numbers, where everything is called that."""
    obstacle = Obstacle(name, 1, (name,), "activation: int8")
    example = Example((ExampleInput(name, "float32", (1, 4), (name, 4), 0),))
    return {
        "notes": (Note("recipe", name),),
        "requires": Requires(8, {"": 17}, "1.12"),
        "runs_elsewhere": RunsElsewhere(TensorRT("no", "TensorRT 10.15", (obstacle,))),
        "example": example,
    }


def judged(
    service: Service, tenant: Tenant, gate: Gate | None = None, name: str | None = None, speedup: float = 2.0
) -> str:
    """A job with one measured candidate and one that failed; with a name, everything is called that."""
    job = factories.make_job(service.database, tenant.project, gate=gate)
    factories.work_off(service.database, service.storage, job, until="build")
    broken = factories.steps_of(service.database, job, "build")[0]
    factories.fail(service.database, service.storage, broken.id, "nothing_to_quantize")

    def measured(_position: int) -> Figures:
        return replace(factories.figures(speedup=speedup), **known(name or "a note"))

    factories.work_off(service.database, service.storage, job, measured)
    if name:
        with service.database.writing() as db:
            db.execute(update(Candidate).where(Candidate.job_id == job).values(name=name))
            version = factories.job_row(service.database, job).version_id
            model = db.get_one(Version, version).model_id
            db.execute(update(Model).where(Model.id == model).values(name=f"{name}{job}"[-200:]))
            failed = Candidate.problem.is_not(None)
            hurt = Problem("nothing_to_quantize", name)
            db.execute(update(Candidate).where(Candidate.job_id == job, failed).values(problem=hurt))
    return job


def verdict(tenant: Tenant, job: str, form: str, **query: str) -> httpx.Response:
    return tenant.http.get(f"/v1/jobs/{job}/verdict", params={"format": form, **query})


GATES = [
    (None, 2.0, "none", 200),
    (Gate(min_speedup=1.2), 2.0, "pass", 200),
    (Gate(min_speedup=3), 2.0, "fail", 422),
    (Gate(max_accuracy_drop=0.0), 2.0, "inconclusive", 422),
    (Gate(max_accuracy_drop=0.0, on_inconclusive="pass"), 2.0, "inconclusive", 200),
]


@pytest.mark.parametrize(
    ("figure", "text"),
    [(None, "–"), (0.00123456, "0.001235"), (999.4, "999.4"), (999.96, "1,000"), (204803, "204,803")],
)
def test_figures_are_written_as_people_read_them(figure: float | None, text: str) -> None:
    assert number(figure) == text
    check = Check("cnd_0", "max_size_bytes", 100_000_000, figure, None, "pass")
    assert limit(check) == "bytes on disk ≤ 100,000,000"


@pytest.mark.parametrize(("gate", "speedup", "conclusion", "status"), GATES)
def test_every_format_has_its_type_and_the_status_of_the_verdict(
    service: Service, tenant: Tenant, gate: Gate | None, speedup: float, conclusion: str, status: int
) -> None:
    job = judged(service, tenant, gate, speedup=speedup)

    for form, kind in TYPES.items():
        plain, strict = verdict(tenant, job, form), verdict(tenant, job, form, status="http")
        assert (plain.status_code, strict.status_code) == (200, status), form
        assert plain.headers["content-type"] == kind
        assert plain.content == strict.content
    assert verdict(tenant, job, "json").json()["conclusion"] == conclusion


@pytest.mark.parametrize("form", [*TYPES, ""])
def test_without_a_result_every_format_answers_409(service: Service, tenant: Tenant, form: str) -> None:
    running = factories.make_job(service.database, tenant.project)
    canceled = factories.make_job(service.database, tenant.project)
    tenant.http.post(f"/v1/jobs/{canceled}/cancel")

    for job, code in ((running, "job_not_finished"), (canceled, "job_not_succeeded")):
        for query in ({}, {"status": "http"}):
            answer = tenant.http.get(
                f"/v1/jobs/{job}/verdict", params=query | ({"format": form} if form else {})
            )
            assert answer.status_code == 409
            if form == "html":
                assert "The job" in Page(answer.text).text
            else:
                problem(answer, 409, code)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/html"),
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("application/json, text/html", "application/json"),
        ("", "application/json"),
    ],
)
def test_a_browser_gets_the_page_from_the_link(
    service: Service, tenant: Tenant, accept: str, kind: str
) -> None:
    job = judged(service, tenant)
    links = tenant.http.get(f"/v1/jobs/{job}").json()["links"]

    for link in (links["report"], links["verdict"]):
        answer = tenant.http.get(link, headers={"Accept": accept})
        assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, kind)
    forced = tenant.http.get(links["report"], params={"format": "json"}, headers={"Accept": "text/html"})
    assert forced.headers["content-type"] == "application/json"


def test_the_page_needs_nothing_else_and_says_everything(service: Service, tenant: Tenant) -> None:
    job = judged(service, tenant, Gate(min_speedup=1.2))

    answer = tenant.http.get(f"/v1/jobs/{job}/report", params={"format": "html"})

    page = Page(answer.text)
    assert page.open == []
    assert {"script", "link", "img", "iframe", "form", "a", "object"}.isdisjoint(tag for tag, _ in page.tags)
    assert not [a for _, attributes in page.tags for a in attributes if a in {"style", "src", "href"}]
    assert "http" not in answer.text.partition("</style>")[0]
    style = answer.text.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = answer.headers["content-security-policy"]
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}';")
    for words in ("Passed", "2.00× as fast", "speed-up ≥ 1.2", "nothing_to_quantize", "a note", "a CPU", job):
        assert words in page.text
    assert "TensorRT: no: a note (1, mended by activation: int8)" in page.text
    assert "'a note': np.full((1, 4), 0, np.float32)" in page.text


def test_a_candidate_says_what_else_takes_it_and_how_to_run_it(service: Service, tenant: Tenant) -> None:
    job = judged(service, tenant)

    found = tenant.http.get(f"/v1/jobs/{job}/report", params={"format": "json"}).json()["candidates"]
    report = tenant.http.get(f"/v1/jobs/{job}/report", params={"format": "md"}).text

    measured = next(c for c in found if c["state"] == "measured")
    assert measured["runs_elsewhere"]["tensorrt"]["loads"] == "no"
    assert "model = '0" in measured["snippet"]
    assert [c["snippet"] for c in found if c["state"] == "failed"] == [None]
    assert f"```python\n{measured['snippet']}```" in report
    assert "TensorRT: no: a note (1, mended by activation: int8)" in report


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_no_name_gets_out_of_its_place(service: Service, tenant: Tenant, name: str) -> None:
    job = judged(service, tenant, Gate(min_speedup=3), name)
    plain = judged(service, tenant, Gate(min_speedup=3), "plain")

    pages = [Page(tenant.http.get(f"/v1/jobs/{j}/report?format=html").text) for j in (job, plain)]
    assert [tag for tag, _ in pages[0].tags] == [tag for tag, _ in pages[1].tags]
    assert pages[0].open == []
    trees = [ET.fromstring(verdict(tenant, j, "junit").content) for j in (job, plain)]  # noqa: S314
    assert [e.tag for e in trees[0].iter()] == [e.tag for e in trees[1].iter()]
    samples = [
        [(s.name, *s.labels) for f in families(text) for s in f.samples]
        for text in (verdict(tenant, j, "openmetrics").text for j in (job, plain))
    ]
    assert samples[0] == samples[1]
    reports = [tenant.http.get(f"/v1/jobs/{j}/report?format=md").text for j in (job, plain)]
    assert [line.count(" | ") for line in reports[0].splitlines() if line.startswith("|")] == [
        line.count(" | ") for line in reports[1].splitlines() if line.startswith("|")
    ]
    outside_code = re.sub(r"^```python\n.*?^```$", "", reports[0], flags=re.DOTALL | re.MULTILINE)
    assert not re.search(r"<script|(?<!\\)\]\(|https?://|@all", outside_code)


def cases(text: bytes) -> dict[str, str]:
    """What each case of a JUnit file shows: passed, failure, error or skipped."""
    found = {}
    for case in ET.fromstring(text).iter("testcase"):  # noqa: S314
        ways = [child.tag for child in case if child.tag != "system-out"]
        found[f"{case.get('classname')}: {case.get('name')}"] = ways[0] if ways else "passed"
    return found


@pytest.mark.parametrize(
    ("gate", "expected"),
    [
        (Gate(min_speedup=1.2), {"gate": "passed", "check": "passed", "build": "skipped"}),
        (Gate(min_speedup=3), {"gate": "failure", "check": "failure", "build": "error"}),
        (Gate(max_accuracy_drop=0), {"gate": "failure", "check": "skipped", "build": "error"}),
        (
            Gate(max_accuracy_drop=0, on_inconclusive="pass"),
            {"gate": "skipped", "check": "skipped", "build": "skipped"},
        ),
    ],
)
def test_junit_is_red_exactly_when_the_gate_blocks(
    service: Service, tenant: Tenant, gate: Gate, expected: dict[str, str]
) -> None:
    job = judged(service, tenant, gate)
    limit = "speed-up ≥" if gate.min_speedup else "accuracy drop ≤"

    found = cases(verdict(tenant, job, "junit").content)

    assert len(found) == 3
    assert found[f"gate: the gate of {job}"] == expected["gate"]
    assert next(way for case, way in found.items() if f": {limit}" in case) == expected["check"]
    assert next(way for case, way in found.items() if case.endswith(": build")) == expected["build"]


ATTRIBUTES = {
    "testsuites": {"name", "time", "tests", "failures", "errors"},
    "testsuite": {
        "name",
        "hostname",
        "time",
        "timestamp",
        "tests",
        "failures",
        "errors",
        "skipped",
    },
    "testcase": {"classname", "name", "time"},
    "failure": {"message", "type"},
    "error": {"message", "type"},
    "skipped": {"message"},
    "system-out": set[str](),
}
CHILDREN = {
    "testsuites": {"testsuite"},
    "testsuite": {"testcase"},
    "testcase": {"failure", "error", "skipped", "system-out"},
}


def test_junit_keeps_to_the_common_schema(service: Service, tenant: Tenant) -> None:
    job = judged(service, tenant, Gate(min_speedup=3, max_size_ratio=0.3))

    root = ET.fromstring(verdict(tenant, job, "junit").content)  # noqa: S314

    assert root.tag == "testsuites"
    for element in root.iter():
        assert set(element.attrib) == ATTRIBUTES[element.tag]
        assert {child.tag for child in element} <= CHILDREN.get(element.tag, set())
    (suite,) = root
    counted = {name: int(suite.get(name, "")) for name in ("tests", "failures", "errors", "skipped")}
    assert counted == {"tests": 4, "failures": 2, "errors": 1, "skipped": 0}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.get("timestamp", ""))
    assert all(float(element.get("time", "0")) >= 0 for element in root.iter())


def families(text: str) -> Iterator[Any]:
    """By the reference parser, which refuses what is no OpenMetrics."""
    return text_string_to_metric_families(text)  # type: ignore[no-any-return,no-untyped-call]


def samples_of(text: str) -> dict[tuple[Any, ...], float]:
    return {(s.name, *s.labels.values()): s.value for family in families(text) for s in family.samples}


def test_openmetrics_has_units_and_the_same_series_on_every_branch(service: Service, tenant: Tenant) -> None:
    texts = [verdict(tenant, judged(service, tenant, Gate(min_speedup=1.2)), "openmetrics").text]
    texts.append(verdict(tenant, judged(service, tenant, Gate(min_speedup=3)), "openmetrics").text)

    first, second = (samples_of(text) for text in texts)

    assert all(text.endswith("# EOF\n") for text in texts)
    assert first.keys() == second.keys()
    (place,) = {sample[1:] for sample in first if sample[0] == "fewbits_candidate_size_bytes"}
    assert first["fewbits_candidate_speedup_ratio", *place] == 2.0
    assert first["fewbits_candidate_latency_p50_seconds", *place] == 0.001
    assert "# UNIT fewbits_candidate_size_bytes bytes" in texts[0]
    assert (first["fewbits_gate", "pass"], second["fewbits_gate", "pass"]) == (1.0, 0.0)
    assert (first["fewbits_gate_blocking",], second["fewbits_gate_blocking",]) == (0.0, 1.0)
    checks = [s["fewbits_check_passed", place[0], "min_speedup", place[1]] for s in (first, second)]
    assert checks == [1.0, 0.0]
