"""Two candidates side by side: what may be compared, what may not, and who is better."""

from dataclasses import replace

import pytest

from app.domain import comparison
from app.domain.comparison import Difference, Side
from app.domain.gate import Gate
from app.domain.report import Figures
from tests import factories
from tests.app.conftest import Service, Tenant
from tests.app.problems import problem


def side(figures: Figures, job: str = "job_1", version: str = "ver_1", data: str = "dst_1") -> Side:
    return Side(job, version, data, "a CPU", figures)


def difference(a: Side, b: Side, figure: str) -> Difference:
    (found,) = [row for row in comparison.compare(a, b) if row.figure == figure]
    return found


def paired(speedup: float, noise: tuple[float, ...]) -> Figures:
    """Rounds whose noise hits every candidate of the job alike."""
    ratios = tuple(speedup * n for n in noise)
    return replace(factories.figures(), latency=replace(factories.latency(speedup), ratios=ratios))


NOISE = tuple(1 + 0.3 * ((7 * i) % 12 - 6) / 6 for i in range(12))


def test_within_one_job_rounds_are_paired_and_their_noise_cancels() -> None:
    a, b = paired(2.0, NOISE), paired(2.2, NOISE)

    together = difference(side(a), side(b), "speedup")
    apart = difference(side(a), side(b, job="job_2"), "speedup")

    assert together.change == pytest.approx(1.1)
    assert together.ci == pytest.approx((1.1, 1.1))
    assert together.better == "b"
    assert apart.better is None
    assert apart.ci is not None
    assert apart.ci[0] < 1 < apart.ci[1]


def test_milliseconds_are_never_compared_across_jobs() -> None:
    a, b = factories.figures(speedup=2), factories.figures(speedup=3)

    for figure in ("p50_ms", "memory_bytes"):
        found = difference(side(a), side(b, job="job_2"), figure)
        assert (found.change, found.reason) == (None, comparison.SAME_JOB)
        assert difference(side(a), side(b), figure).change is not None
    assert difference(side(a), side(b, job="job_2"), "speedup").change == pytest.approx(1.5)


def test_other_threads_cannot_be_compared() -> None:
    four = replace(factories.figures(), latency=replace(factories.latency(3), threads=4))

    found = difference(side(factories.figures()), side(four), "speedup")

    assert found.change is None
    assert found.reason == "1 threads and batch 1 against 4 threads and batch 1"


def test_a_drop_is_only_told_apart_when_the_interval_does_it() -> None:
    a, near, far = (factories.figures(lost=lost, gained=0) for lost in (1, 3, 40))

    assert difference(side(a), side(near), "drop").better is None
    found = difference(side(a), side(far), "drop")
    assert found.change == pytest.approx(0.039)
    assert found.better == "a"
    assert difference(side(far), side(a), "drop").better == "b"
    assert difference(side(a), side(far, data="dst_2"), "drop").change is None


def test_size_is_exact_and_less_is_better() -> None:
    found = difference(side(factories.figures(ratio=0.5)), side(factories.figures(ratio=0.25)), "size_bytes")

    assert (found.change, found.better) == (0.5, "b")


def test_what_is_missing_has_a_reason() -> None:
    rows = comparison.compare(side(Figures()), side(factories.figures()))

    assert all(row.change is None and row.reason and row.better is None for row in rows)


def test_checks_flip_when_both_were_decided_differently(service: Service, tenant: Tenant) -> None:
    job = factories.make_job(service.database, tenant.project, gate=Gate(min_speedup=2.5, max_size_ratio=0.3))
    by_place = {1: factories.figures(speedup=2), 2: factories.figures(speedup=3)}
    factories.work_off(service.database, service.storage, job, lambda p: by_place.get(p, factories.figures()))
    a, b = (c.id for c in factories.candidates_of(service.database, job))

    shown = tenant.http.get("/v1/compare", params={"a": a, "b": b}).json()

    checks = {check["name"]: check for check in shown["checks"]}
    assert (checks["min_speedup"]["a"], checks["min_speedup"]["b"]) == ("fail", "pass")
    assert (checks["min_speedup"]["flips"], checks["max_size_ratio"]["flips"]) == (True, False)
    speedup = next(row for row in shown["differences"] if row["figure"] == "speedup")
    assert (speedup["change"], speedup["better"]) == (1.5, "b")
    assert (shown["a"]["id"], shown["b"]["id"], shown["notes"]) == (a, b, [])


def test_across_jobs_it_says_what_differs(service: Service, tenant: Tenant) -> None:
    found = []
    for _ in range(2):
        job = factories.make_job(service.database, tenant.project)
        factories.work_off(service.database, service.storage, job)
        found.append(factories.candidates_of(service.database, job)[0].id)

    notes = " ".join(
        tenant.http.get("/v1/compare", params=dict(zip("ab", found, strict=True))).json()["notes"]
    )

    assert "versions differ" in notes
    assert "data differ" in notes
    assert "jobs differ" in notes


def test_both_must_be_named_and_be_mine(service: Service, tenant: Tenant, stranger: Tenant) -> None:
    job = factories.make_job(service.database, tenant.project)
    factories.work_off(service.database, service.storage, job, until="build")
    mine = factories.candidates_of(service.database, job)[0].id

    missing = problem(tenant.http.get("/v1/compare", params={"a": mine}), 422, "invalid_input")
    assert missing["errors"][0]["pointer"] == "/b"
    nul = problem(tenant.http.get("/v1/compare?a=%00&b=%00"), 422, "invalid_input")
    assert [error["pointer"] for error in nul["errors"]] == ["/a", "/b"]
    problem(tenant.http.get("/v1/compare", params={"a": mine, "b": "cnd_none"}), 404, "not_found")
    problem(stranger.http.get("/v1/compare", params={"a": mine, "b": mine}), 404, "not_found")
    undone = tenant.http.get("/v1/compare", params={"a": mine, "b": mine}).json()
    assert all(row["reason"] for row in undone["differences"])
