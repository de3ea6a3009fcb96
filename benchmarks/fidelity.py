"""Our default static recipe against ONNX Runtime, NNCF and onnxsim, on real models.

    python -m venv nncf && nncf/bin/pip install nncf==3.4.0 onnxruntime==1.31.1
    python -m venv onnxsim && onnxsim/bin/pip install onnxsim==0.8.1 onnxruntime==1.31.1
    .venv/bin/python benchmarks/fidelity.py --data ../shared/data --minilm minilm.onnx \
        --tokenizer tokenizer.json --nncf-python nncf/bin/python --onnxsim-python onnxsim/bin/python

All contenders get the same calibration samples, the others the model converted to opset 17 (they need 13).
SQNR and accuracy are measured on other samples; latency in rounds of fresh processes, all contenders in each.

A contender is eligible when it loads, is at least as fast as float, and does at least half as many of the
multiplications in integer kernels as ours. We lose a model when an eligible one's SQNR is more than 0.5 dB
above ours, at a speed at or above ours within the intervals. Exits 1 when a model is lost.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
from pydantic import TypeAdapter

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from app.domain.errors import Refused  # noqa: E402
from app.domain.intervals import median_interval  # noqa: E402
from app.domain.recipe import StaticInt8  # noqa: E402
from benchmarks.fidelity_models import MODELS, Array, Case, Feed, Sources  # noqa: E402
from benchmarks.fidelity_peers import CONTENDERS  # noqa: E402
from benchmarks.macs import integer_macs  # noqa: E402
from worker.engine.__main__ import detect_isa  # noqa: E402
from worker.engine.calibrate import collect  # noqa: E402
from worker.engine.compare import call  # noqa: E402
from worker.engine.evaluate.faithful import refuse_unfaithful  # noqa: E402
from worker.engine.evaluate.fidelity import Closeness, headline  # noqa: E402
from worker.engine.evaluate.ready import write_feeds  # noqa: E402
from worker.engine.methods import Setting, quantize  # noqa: E402
from worker.engine.passes.opset import PER_CHANNEL, CannotConvert, raise_opset  # noqa: E402
from worker.engine.passes.scopes import opset  # noqa: E402
from worker.engine.prepare import prepare_model  # noqa: E402
from worker.engine.requests import Round  # noqa: E402
from worker.engine.session import open_session  # noqa: E402

OURS = "Fewbits, default"
MARGIN_DB = 0.5
OPSETS = (17, 15, 13)
TIMED_FEEDS = 4
LEVEL = 0.025
ROUNDS = 9


@dataclass
class Row:
    """What one contender does on one model; `failure` says why there are no figures."""

    contender: str
    failure: str | None = None
    sqnr_db: float | None = None
    accuracy: float | None = None
    integer_macs: int = 0
    share: float = 0.0
    speedup: float | None = None
    interval: tuple[float, float] | None = None
    against_ours: tuple[float, float] | None = None  # its speed over ours, in the same rounds
    eligible: bool = False
    dominates: bool = False


@dataclass
class Result:
    """A model's rows; ours is the first."""

    model: str
    metric: str
    float_accuracy: float | None
    noise: tuple[float, float] | None
    calibration: int
    evaluation: int
    rows: list[Row]

    @property
    def lost(self) -> bool:
        """Whether another contender dominates ours."""
        return any(row.dominates for row in self.rows)


def main() -> int:
    """Run all models, print the table, write the JSON."""
    asked = _arguments()
    pythons = {"ONNX": Path(sys.executable), "NNCF": asked.nncf_python, "onnxsim": asked.onnxsim_python}
    sources = Sources(asked.data, asked.minilm, asked.tokenizer)
    print(f"load average {os.getloadavg()[0]:.1f}, {asked.rounds} rounds, {detect_isa()}", flush=True)
    results = []
    for name in asked.only or MODELS:
        try:
            case = MODELS[name](sources)
        except FileNotFoundError as missing:
            print(f"\n{name}: skipped, {missing}", flush=True)
            continue
        with tempfile.TemporaryDirectory(prefix="fidelity-") as temporary:
            folder = (asked.keep or Path(temporary)).absolute() / name.replace(" ", "-")
            folder.mkdir(parents=True, exist_ok=True)
            results.append(_run(name, case, folder, pythons, asked.rounds))
        _show(results[-1])
        asked.out.write_text(json.dumps([asdict(one) for one in results], indent=1), encoding="utf-8")
    lost = [one.model for one in results if one.lost]
    print(
        f"\n{len(results)} models, lost: {', '.join(lost) or 'none'}; load average {os.getloadavg()[0]:.1f}"
    )
    return 1 if lost else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="models, samples")
    parser.add_argument("--minilm", type=Path, help="an export of all-MiniLM-L6-v2")
    parser.add_argument("--tokenizer", type=Path, help="its tokenizer.json")
    parser.add_argument("--nncf-python", type=Path, help="a Python that has NNCF")
    parser.add_argument("--onnxsim-python", type=Path, help="a Python that has onnxsim")
    parser.add_argument("--only", action="append", choices=MODELS, help="run this model (repeatable)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of latency; 0 leaves it out")
    parser.add_argument("--keep", type=Path, help="a folder for the models; those of others are made once")
    parser.add_argument("--out", type=Path, default=Path("fidelity.json"), help="where the figures go")
    return parser.parse_args()


def _run(name: str, case: Case, folder: Path, pythons: Mapping[str, Path | None], rounds: int) -> Result:
    reference = list(_outputs(case, case.model, case.evaluation))
    calibration = list(_completed(case))
    rows = [_row(OURS, _ours(case, calibration, folder))]
    write_feeds(folder / "calibration.npz", calibration)
    problem = _convert(case.model, folder / "converted.onnx")
    for contender in CONTENDERS:
        python = pythons[contender.split(maxsplit=1)[0].rstrip(",")]
        failure = "skipped: its Python was not given" if python is None else problem
        rows.append(
            _row(contender, failure or _peer(contender, python, folder, transformer=case.transformer))
        )
    for row in rows:
        if row.failure is None:
            _measure(row, case, _file(folder, row.contender), reference)
    noise = _time(rows, case, folder, rounds) if rounds else None
    _judge(rows)
    accuracy = case.score(reference) if case.score else None
    return Result(name, case.metric, accuracy, noise, len(calibration), len(case.evaluation), rows)


def _row(contender: str, failure: str | None) -> Row:
    return Row(contender, failure)


def _file(folder: Path, contender: str) -> Path:
    return folder / f"{contender.replace(' ', '-').replace(',', '')}.onnx"


def _outputs(case: Case, model: Path, feeds: Sequence[Feed]) -> Iterator[list[Array]]:
    """The outputs of each sample; a state goes on until a sample brings its own."""
    session = open_session(model, threads=2)
    names = [value.name for value in session.get_outputs()]
    carried: Feed = {}
    for feed in feeds:
        found = session.run(None, carried | feed)
        carried = {target: found[names.index(source)] for source, target in case.state.items()}
        yield found


def _completed(case: Case) -> Iterator[Feed]:
    """The calibration samples with the states that the float model has there."""
    carried: Feed = {}
    names = [value.name for value in open_session(case.model).get_outputs()]
    for feed, found in zip(case.calibration, _outputs(case, case.model, case.calibration), strict=True):
        yield carried | feed
        carried = {target: found[names.index(source)] for source, target in case.state.items()}


def _ours(case: Case, calibration: list[Feed], folder: Path) -> str | None:
    prepared, recipe = folder / "prepared.onnx", StaticInt8()
    try:
        prepare_model(case.model, prepared, calibration, {})
        statistics = collect(prepared, calibration)
        setting = Setting(isa=detect_isa(), statistics=statistics, samples=lambda: calibration)
        quantize(prepared, _file(folder, OURS), recipe, setting)
    except Refused as refusal:
        return f"refused: {refusal.detail}"
    return None


def _convert(model: Path, out: Path) -> str | None:
    """Bring a model to a newer opset where it has an old one."""
    loaded = onnx.load(model)
    try:
        if opset(loaded) < PER_CHANNEL:
            loaded = raise_opset(loaded, OPSETS)
    except CannotConvert as why:
        return f"cannot be converted: {why}"
    onnx.save(loaded, out)
    return None


def _peer(contender: str, python: Path | None, folder: Path, *, transformer: bool) -> str | None:
    failure = _file(folder, contender).with_suffix(".txt")
    if failure.exists():
        return failure.read_text(encoding="utf-8")
    if _file(folder, contender).exists():
        return None
    script = str(Path(__file__).with_name("fidelity_peers.py"))
    files = [folder / "converted.onnx", folder / "calibration.npz", _file(folder, contender)]
    command = [str(python), script, contender, *map(str, files), *(["--transformer"] if transformer else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)  # noqa: S603
    if done.returncode:
        failure.write_text(f"failed: {(done.stderr.splitlines() or ['killed'])[-1][:150]}", encoding="utf-8")
        return failure.read_text(encoding="utf-8")
    return None


def _measure(row: Row, case: Case, model: Path, reference: Sequence[Sequence[Array]]) -> None:
    try:
        found = list(_outputs(case, model, case.evaluation))
    except Exception as error:  # noqa: BLE001 - whatever the runtime says of this file is the result
        row.failure = f"does not run: {' '.join(str(error).split())[:150]}"
        return
    names = [value.name for value in open_session(case.model).get_outputs()]
    closeness = {name: Closeness() for name in case.outputs or names}
    for wanted, got in zip(reference, found, strict=True):
        for index, name in enumerate(names):
            if name in closeness:
                closeness[name].add(wanted[index], got[index])
    fidelity = headline(closeness)[0]
    row.sqnr_db = fidelity.sqnr_db
    row.accuracy = case.score(found) if case.score else None
    row.integer_macs, every = integer_macs(model, case.evaluation[0])
    row.share = row.integer_macs / every if every else 0.0
    if row.contender == OURS:
        _refuse(row, fidelity)


def _refuse(row: Row, fidelity: Any) -> None:  # noqa: ANN401
    """What a job would refuse is shown with its figures."""
    try:
        refuse_unfaithful(StaticInt8(), fidelity)
    except Refused as refusal:
        row.failure = f"refused: {refusal.detail}"


def _time(rows: Sequence[Row], case: Case, folder: Path, rounds: int) -> tuple[float, float] | None:
    """Fill in speeds; returns the interval of float against itself."""
    timed = [row for row in rows if row.sqnr_db is not None]
    write_feeds(folder / "timed.npz", list(_completed_first(case)))
    models = [str(case.model), *(str(_file(folder, row.contender)) for row in timed)]
    arguments = {"models": models, "feeds": str(folder / "timed.npz")}
    adapter = TypeAdapter(Round)
    found = [
        adapter.validate_python(call("measure_round", arguments | {"seed": seed})) for seed in range(rounds)
    ]
    logs = np.array([[one.log_ratio for one in each.candidates] for each in found])
    for index, row in enumerate(timed):
        row.speedup, row.interval = math.exp(median(logs[:, index])), _interval(logs[:, index])
        if timed[0].contender == OURS:
            row.against_ours = _interval(logs[:, index] - logs[:, 0])
    return _interval([one.noise.log_ratio for one in found])


def _completed_first(case: Case) -> Iterator[Feed]:
    shapes = {name: value for name, value in case.evaluation[0].items() if name in case.state.values()}
    for feed in case.evaluation[:TIMED_FEEDS]:
        yield shapes | feed


def _interval(logs: Iterable[float]) -> tuple[float, float]:
    ratios = [math.exp(one) for one in logs]
    return median_interval(ratios, LEVEL) or (min(ratios), max(ratios))


def _judge(rows: Sequence[Row]) -> None:
    ours = rows[0]
    for row in rows[1:]:
        if row.failure or row.sqnr_db is None or row.interval is None:
            continue
        row.eligible = row.interval[1] >= 1 and 2 * row.integer_macs >= ours.integer_macs
        better = ours.sqnr_db is None or row.sqnr_db > ours.sqnr_db + MARGIN_DB
        as_fast = row.against_ours is None or row.against_ours[1] >= 1
        row.dominates = row.eligible and better and as_fast


def _show(result: Result) -> None:
    accuracy = "" if result.float_accuracy is None else f", {result.metric} {result.float_accuracy:.2f}"
    samples = f"{result.calibration} / {result.evaluation} samples"
    print(f"\n{result.model}: {samples}{accuracy}, A/A {_range(result.noise)}\n")
    print("| | SQNR, dB | accuracy | speed-up | against ours | integer MACs | |")
    print("|---|---:|---:|---|---|---:|---|")
    for row in result.rows:
        figures = [
            "–" if row.sqnr_db is None else f"{row.sqnr_db:.1f}",
            "–" if row.accuracy is None else f"{row.accuracy:.2f}",
            "–" if row.speedup is None else f"{row.speedup:.2f} ({_range(row.interval)})",
            _range(row.against_ours),
            f"{row.share:.0%}",
            row.failure or ("dominates" if row.dominates else "eligible" if row.eligible else ""),
        ]
        print(f"| {row.contender} | {' | '.join(figures)} |", flush=True)


def _range(pair: tuple[float, float] | None) -> str:
    return "–" if pair is None else f"{pair[0]:.2f} … {pair[1]:.2f}"


if __name__ == "__main__":
    sys.exit(main())
