"""Rounds: what they measure, when they stop, and when there is no figure."""

import dataclasses
import math
import os
import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from app.domain import processor
from app.domain.note import Note
from app.domain.report import Latency
from tests.engine.graphs import build, weights
from worker.engine.latency import measure_round
from worker.engine.ready import write_feeds
from worker.engine.requests import Contestant, MeasureRound, Round
from worker.engine.rounds import LEAST_ROUNDS, MOST_ROUNDS, measure, summarize
from worker.engine.session import open_session


def contestant(ratio: float, p50: float = 2.0) -> Contestant:
    return Contestant(log_ratio=math.log(ratio), p50_ms=p50, p90_ms=p50 * 1.1, load_ms=5, cpu_ms=p50)


def one_round(*ratios: float, noise: float = 1.0, throttled: bool = False) -> Round:
    candidates = tuple(contestant(ratio) for ratio in ratios)
    return Round(
        noise=contestant(noise), baseline=contestant(1, 4.0), candidates=candidates, throttled=throttled
    )


def scattered(center: float, width: float, count: int) -> list[float]:
    draw = random.Random(3)  # noqa: S311
    return [center * (1 + draw.uniform(-width, width)) for _ in range(count)]


def figure(rounds: Sequence[Round]) -> Latency:
    found = summarize(rounds, 0, 1, 1, cores=1)
    assert isinstance(found, Latency)
    return found


def reason(rounds: Sequence[Round], **more: int) -> str:
    found = summarize(rounds, 0, more.get("threads", 1), 1, max_seconds=7, cores=more.get("cores", 1))
    assert isinstance(found, Note)
    return str(found)


def test_the_estimate_is_the_median_of_rounds_and_the_interval_the_2nd_to_the_8th() -> None:
    found = figure([one_round(ratio) for ratio in (1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 9.0)])

    assert found.speedup == pytest.approx(1.5)
    assert found.ci == pytest.approx((1.2, 1.8))
    assert found.noise == pytest.approx((1, 1))
    assert (found.rounds, len(found.ratios)) == (9, 9)
    assert (found.p50_ms, found.baseline_p50_ms) == (2, 4)


def test_each_candidate_has_its_own_figure() -> None:
    rounds = [one_round(2.0, 0.5) for _ in range(9)]

    second = summarize(rounds, 1, 1, 1, cores=1)

    assert isinstance(second, Latency)
    assert second.speedup == pytest.approx(0.5)


def test_too_few_rounds_give_a_reason_and_no_figure() -> None:
    assert reason([one_round(2.0)] * 5) == "latency: 5 of 9 rounds fit into max_seconds 7"


def test_throttled_rounds_do_not_count() -> None:
    rounds = [one_round(2.0)] * 9 + [one_round(1.0, throttled=True)] * 3

    assert figure(rounds).speedup == pytest.approx(2)
    assert "throttled in 3 of 11 rounds" in reason(rounds[1:])


@pytest.mark.parametrize(("noise", "told"), [(1.03, True), (0.97, True), (1.015, False), (0.985, False)])
def test_a_baseline_that_differs_from_itself_voids_the_latency(noise: float, told: bool) -> None:
    found = summarize([one_round(2.0, noise=noise)] * 9, 0, 1, 1, cores=1)

    assert isinstance(found, Note) == told


def test_a_wide_noise_interval_around_1_is_no_reason_to_void() -> None:
    assert figure([one_round(2.0, noise=noise) for noise in scattered(1, 0.1, 15)]).noise[0] < 0.97


def test_more_threads_than_cores_give_a_reason() -> None:
    assert "4 threads exceed the 2 cores" in reason([one_round(2.0)] * 9, threads=4, cores=2)


def test_every_reason_says_that_it_is_about_latency() -> None:
    reasons = [
        reason([one_round(2.0)]),
        reason([one_round(2.0, throttled=True)] * 9),
        reason([one_round(2.0, noise=2)] * 9),
        reason([one_round(2.0)] * 9, threads=2),
    ]

    assert all("latency" in each for each in reasons)


Rounds = Callable[[int], Round]


def steady(*ratios: float, width: float = 0.0) -> Rounds:
    series = [scattered(ratio, width, 100) for ratio in ratios]
    return lambda seed: one_round(*(values[seed] for values in series))


def count(run: Rounds, limit: float | None, candidates: int = 1, max_seconds: float = 60) -> int:
    return len(measure(run, candidates, max_seconds, limit, lambda _share, _what: None))


def test_nine_rounds_are_enough_when_they_agree() -> None:
    assert count(steady(1.5, width=0.001), None) == LEAST_ROUNDS


def test_without_a_limit_rounds_that_scatter_go_on_to_the_cap() -> None:
    assert count(steady(1.5, width=0.3), None) == MOST_ROUNDS


@pytest.mark.parametrize(("ratio", "limit"), [(1.5, 1.2), (1.5, 1.9)])
def test_a_limit_that_is_cleared_on_either_side_ends_it(ratio: float, limit: float) -> None:
    assert count(steady(ratio, width=0.05), limit) == LEAST_ROUNDS


def a_second_each(run: Rounds, monkeypatch: pytest.MonkeyPatch) -> Rounds:
    now = 0.0

    def timed(seed: int) -> Round:
        nonlocal now
        now += 1.0
        return run(seed)

    monkeypatch.setattr("worker.engine.rounds.time", SimpleNamespace(monotonic=lambda: now))
    return timed


def test_rounds_go_on_while_one_candidate_is_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    run = a_second_each(steady(3.0, 1.21, width=0.05), monkeypatch)

    assert count(run, 1.2, candidates=2, max_seconds=15) == 30


def test_a_spent_budget_ends_it_and_candidates_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    run = a_second_each(steady(1.5, 1.5), monkeypatch)

    assert count(run, None, candidates=2, max_seconds=2) == 4


def test_one_round_is_run_even_without_any_time() -> None:
    assert count(steady(1.5), None, max_seconds=1e-9) == 1


def products(size: int, repeats: int) -> onnx.ModelProto:
    names = ["x", *(f"h{i}" for i in range(repeats - 1)), "y"]
    nodes = [helper.make_node("MatMul", [a, "w"], [b]) for a, b in pairwise(names)]
    return build(nodes, {"x": [1, size]}, {"y": [1, size]}, {"w": weights(size, size)})


@pytest.fixture
def request_(tmp_path: Path) -> MeasureRound:
    onnx.save(products(256, 400), tmp_path / "slow.onnx")
    onnx.save(products(256, 1), tmp_path / "fast.onnx")
    write_feeds(tmp_path / "feeds.npz", [{"x": np.ones((1, 256), np.float32)}] * 2)
    models = (tmp_path / "slow.onnx", tmp_path / "fast.onnx", tmp_path / "slow.onnx")
    return MeasureRound(models=models, feeds=tmp_path / "feeds.npz", seconds=0.1)


def test_a_round_tells_a_fast_model_from_an_equal_one(request_: MeasureRound) -> None:
    found = measure_round(request_)

    fast, equal = found.candidates
    assert fast.log_ratio > math.log(4)
    assert fast.log_ratio > equal.log_ratio + math.log(4)
    assert fast.log_ratio > found.noise.log_ratio + math.log(4)
    assert found.baseline.log_ratio == 0
    assert 0 < found.baseline.p50_ms <= found.baseline.p90_ms
    assert min(found.baseline.load_ms, found.baseline.cpu_ms) > 0


class Told:
    """A session whose loading and runs take the seconds told, by clocks that nothing else moves."""

    def __init__(self, clocks: "Clocks", session: Any, seconds: tuple[float, float]) -> None:
        self.clocks, self.session, self.seconds = clocks, session, seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def run(self, names: None, feed: dict[str, np.ndarray]) -> Any:
        self.clocks.pass_by(*self.seconds)
        return self.session.run(names, feed)


class Clocks:
    """The clocks of a process in which runs take the CPU and wall seconds told, in order of loading."""

    def __init__(self, *runs: tuple[float, float]) -> None:
        self.runs = iter(runs)
        self.cpu = self.wall = 0.0

    def pass_by(self, cpu: float, wall: float) -> None:
        self.cpu += cpu
        self.wall += wall

    def open(self, path: Path, threads: int) -> Told:
        self.pass_by(0.05, 0.05)
        return Told(self, open_session(path, threads), next(self.runs))

    def thread_time(self) -> float:
        return self.cpu

    process_time = thread_time

    def perf_counter(self) -> float:
        return self.wall


@pytest.fixture
def told(request_: MeasureRound, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Round]:
    """A round in which runs of the baseline, of it again, and of the two candidates take these seconds."""

    def run(*runs: tuple[float, float], threads: int = 1) -> Round:
        clocks = Clocks(*runs)
        monkeypatch.setattr("worker.engine.latency.time", clocks)
        monkeypatch.setattr("worker.engine.latency.open_session", clocks.open)
        return measure_round(dataclasses.replace(request_, threads=threads))

    return run


def ratios(found: Round) -> list[float]:
    return [math.exp(one.log_ratio) for one in (found.noise, *found.candidates)]


def test_ratios_are_what_the_baseline_takes_over_what_the_other_takes(told: Callable[..., Round]) -> None:
    found = told((0.008, 0.008), (0.010, 0.010), (0.002, 0.002), (0.008, 0.008))

    assert ratios(found) == pytest.approx([0.8, 4, 1])
    fast = found.candidates[0]
    assert (fast.p50_ms, fast.p90_ms, fast.load_ms, fast.cpu_ms) == pytest.approx((2, 2, 50, 2))


def test_one_thread_is_compared_by_its_cpu_time_and_told_in_wall_time(told: Callable[..., Round]) -> None:
    found = told((0.004, 0.004), (0.004, 0.016), (0.001, 0.008), (0.004, 0.012))

    assert ratios(found) == pytest.approx([1, 4, 1])
    assert [one.p50_ms for one in found.candidates] == pytest.approx([8, 12])


def test_more_threads_are_compared_by_wall_time(told: Callable[..., Round]) -> None:
    found = told((0.008, 0.004), (0.008, 0.008), (0.008, 0.001), (0.008, 0.004), threads=2)

    assert ratios(found) == pytest.approx([0.5, 4, 1])


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system cannot pin")
def test_a_round_runs_on_as_many_cores_as_threads_and_gives_them_back(
    request_: MeasureRound, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.sched_getaffinity(0)
    seen: list[set[int]] = []

    def spy(path: Path, threads: int) -> object:
        seen.append(os.sched_getaffinity(0))
        return open_session(path, threads)

    monkeypatch.setattr("worker.engine.latency.open_session", spy)
    measure_round(request_)

    assert {len(cores) for cores in seen} == {1}
    assert os.sched_getaffinity(0) == before


def hosted(folder: Path, monkeypatch: pytest.MonkeyPatch, own: str, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "own").write_text(own)
    monkeypatch.setattr(processor, "CGROUPS", folder)
    monkeypatch.setattr(processor, "OWN", folder / "own")


def test_throttling_and_quota_are_read_from_cgroups_of_version_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"a__cpu_dot_stat": "usage_usec 5\nnr_throttled 7\n", "a__cpu_dot_max": "100000 100000\n"}
    hosted(tmp_path, monkeypatch, "0::/a\n", **files)

    assert processor.throttled_periods() == 7
    assert processor.allowed_cores() == 1


def test_throttling_and_quota_are_read_from_cgroups_of_version_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "cpu__b__cpu_dot_stat": "nr_periods 9\nnr_throttled 4\n",
        "cpu__b__cpu_dot_cfs_quota_us": "150000\n",
        "cpu__b__cpu_dot_cfs_period_us": "100000\n",
    }
    hosted(tmp_path, monkeypatch, "4:memory:/x\n3:cpu,cpuacct:/b\n", **files)

    assert processor.throttled_periods() == 4
    assert processor.allowed_cores() == 1


def test_without_a_quota_all_cores_are_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hosted(tmp_path, monkeypatch, "0::/a\n", a__cpu_dot_max="max 100000\n")

    assert processor.throttled_periods() == 0
    assert processor.allowed_cores() == (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    )
