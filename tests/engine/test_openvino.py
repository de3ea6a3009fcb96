"""Candidates in OpenVINO, where it is installed; without it, that is said and nothing is run."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import pytest
from pydantic import TypeAdapter

from app.domain.errors import Refused
from app.domain.job import Benchmark
from app.domain.recipe import StaticInt8
from app.domain.report import OpenVINO
from tests.engine.graphs import feeds, residual
from tests.engine.quantizing import Case
from worker import sandbox
from worker.confine import MIB, Limits
from worker.engine.calls import run_call
from worker.engine.elsewhere.beside import NOT_INSTALLED, Beside, of_refusal, openvino_beside
from worker.engine.elsewhere.openvino import compiled, release
from worker.engine.ready import write_feeds
from worker.engine.requests import MeasureRound, Round, RunOpenVINO
from worker.engine.session import open_session

ROOT = Path(__file__).parents[2]
installed = pytest.mark.skipif(release() is None, reason="OpenVINO is not installed here")
LIMITS = Limits(memory=8192 * MIB, cpu_s=6000, file=256 * MIB, folder=1024 * MIB, wall_s=600)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    write_feeds(tmp_path / "feeds.npz", feeds())
    return Case(tmp_path, residual(), feeds())


def asked(case: Case) -> RunOpenVINO:
    return RunOpenVINO(baseline=case.source, candidate=case.out, feeds=case.out.with_name("feeds.npz"))


def found(case: Case, **recipe: Any) -> OpenVINO:
    case.quantize(StaticInt8(**recipe))
    request = TypeAdapter(RunOpenVINO).dump_python(asked(case), mode="json")
    answer = run_call("run_openvino", request, lambda _share, _doing: None)
    return TypeAdapter(OpenVINO).validate_python(answer)


def never(*_: object) -> NoReturn:
    raise AssertionError("nothing is to be run")


@pytest.mark.skipif(release() is not None, reason="OpenVINO is installed here")
def test_without_openvino_nothing_is_run_and_the_result_says_so(tmp_path: Path) -> None:
    shared = Beside(never, tmp_path, tmp_path, Benchmark(), 1)

    assert openvino_beside(shared, tmp_path) == OpenVINO("not_checked", reason=NOT_INSTALLED)


@pytest.mark.parametrize(
    ("code", "loads"),
    [
        ("model_not_loadable", "no"),
        ("engine_crashed", "no"),
        ("memory_limit", "not_checked"),
        ("worker_lost", "not_checked"),
    ],
)
def test_a_crash_speaks_against_the_model_and_a_limit_does_not(code: str, loads: str) -> None:
    said = of_refusal(Refused(code, "What happened."))

    assert said.loads == loads
    assert str(said.reason).endswith("What happened.")


@installed
def test_a_candidate_is_held_against_float_and_against_itself(case: Case) -> None:
    said = found(case)

    assert (said.loads, said.release, said.reason) == ("yes", release(), None)
    assert said.fidelity
    assert said.onnxruntime
    assert said.likeness
    assert said.fidelity.sqnr_db > 20
    assert said.fidelity.samples == said.onnxruntime.samples == 8
    assert said.likeness.sqnr_db > said.fidelity.sqnr_db


@installed
def test_integer_inputs_are_fed_as_the_model_takes_them(case: Case) -> None:
    said = found(case, quantize_io=True)

    assert said.fidelity
    assert said.fidelity.sqnr_db > 20


@installed
def test_what_does_not_load_says_why(case: Case) -> None:
    said = found(case, format="qoperator")

    assert said.loads == "no"
    assert "QLinearConv" in str(said.reason)
    assert str(case.out.parent) not in str(said.reason)


@installed
def test_it_runs_in_the_sandbox_and_is_timed_there_against_onnx_runtime(case: Case) -> None:
    case.quantize(StaticInt8())
    folder = case.out.parent
    request = MeasureRound(models=(case.out,), openvino=True, feeds=folder / "feeds.npz", seconds=0.02)

    said = sandbox.run("run_openvino", asked(case), OpenVINO, folder=folder, limits=LIMITS)
    timed = sandbox.run("measure_round", request, Round, folder=folder, limits=LIMITS)

    assert said.loads == "yes"
    assert [one.p50_ms > 0 for one in (timed.noise, timed.baseline, *timed.candidates)] == [True] * 3
    assert not (folder / "intel").exists()  # where its telemetry would keep an id


@installed
def test_with_one_thread_it_computes_on_the_thread_that_calls_it(case: Case) -> None:
    case.quantize(StaticInt8())
    session, feed = compiled(case.out, open_session(case.out)), feeds()[0]
    session.run(None, feed)

    before = time.thread_time(), time.process_time()
    for _ in range(200):
        session.run(None, feed)
    mine, all_of_it = (time.thread_time() - before[0], time.process_time() - before[1])

    assert mine > 0.8 * all_of_it


@installed
def test_its_telemetry_is_never_imported() -> None:
    code = (
        "import sys; from worker.engine.elsewhere.openvino import runtime; runtime(); "
        "print([m for m in sys.modules if m.startswith('openvino_telemetry') and sys.modules[m]])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"
