"""Our default static recipe against ONNX Runtime, NNCF and onnxsim, on real models.

    python -m venv nncf && nncf/bin/pip install nncf==3.4.0 onnxruntime==1.31.1
    python -m venv onnxsim && onnxsim/bin/pip install onnxsim==0.8.1 onnxruntime==1.31.1
    .venv/bin/python benchmarks/fidelity.py --data ../shared/data --minilm minilm.onnx \
        --tokenizer tokenizer.json --nncf-python nncf/bin/python --onnxsim-python onnxsim/bin/python

All contenders get the same calibration samples, the others the model converted to opset 17 (they need 13).
SQNR and accuracy are measured on other samples; latency in rounds of fresh processes, all contenders in each.
Models are kept in `--keep`, figures in `--out`: what is there already is not done again, unless named by
`--only`. With `--rounds 0` nothing is timed; a later run times what was measured.

A contender is eligible when it loads, is at least as fast as float, and does some multiplications in integer
kernels, at least half as many as ours. We lose a model when an eligible one's SQNR is more than 0.5 dB
above ours, at a speed at or above ours within the intervals. Exits 1 when a model is lost.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from pydantic import TypeAdapter

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from app.domain.errors import Refused  # noqa: E402
from app.domain.processor import isa  # noqa: E402
from app.domain.recipe import DynamicInt8, Recipe, StaticInt8, WeightOnly  # noqa: E402
from benchmarks.fidelity_models import MODELS, Array, Case, Feed, Sources  # noqa: E402
from benchmarks.fidelity_peers import CONTENDERS  # noqa: E402
from benchmarks.fidelity_results import (  # noqa: E402
    OURS,
    Result,
    Row,
    add_speeds,
    read,
    show,
    summarize,
    write,
)
from benchmarks.macs import integer_macs  # noqa: E402
from worker.engine.calibrate import collect  # noqa: E402
from worker.engine.compare import call  # noqa: E402
from worker.engine.evaluate.faithful import refuse_unfaithful  # noqa: E402
from worker.engine.evaluate.fidelity import Closeness, headline  # noqa: E402
from worker.engine.methods import Setting, quantize  # noqa: E402
from worker.engine.passes.opset import PER_CHANNEL, CannotConvert, raise_opset  # noqa: E402
from worker.engine.passes.scopes import opset  # noqa: E402
from worker.engine.prepare import prepare_model  # noqa: E402
from worker.engine.ready import write_feeds  # noqa: E402
from worker.engine.requests import Round  # noqa: E402
from worker.engine.session import open_session  # noqa: E402

RECIPES: Mapping[str, Recipe] = {OURS: StaticInt8()}
# The other ones that transformers get by default; shown, not judged.
FOR_TRANSFORMERS: Mapping[str, Recipe] = {
    "Fewbits, dynamic int8": DynamicInt8(),
    "Fewbits, 8-bit weights": WeightOnly(bits=8),
}
OPSETS = (17, 15, 13)
TIMED_FEEDS = 4
ROUNDS = 9


def main() -> int:
    """Measure and time what is not known yet, and print the tables."""
    asked = _arguments()
    pythons = {"ONNX": Path(sys.executable), "NNCF": asked.nncf_python, "onnxsim": asked.onnxsim_python}
    sources = Sources(asked.data, asked.minilm, asked.tokenizer)
    print(f"load average {os.getloadavg()[0]:.1f}, {asked.rounds} rounds, {isa()}", flush=True)
    results = read(asked.out)
    for name in asked.only or MODELS:
        folder = asked.keep.absolute() / name.replace(" ", "-")
        if asked.only or name not in results:
            try:
                results[name] = _run(name, MODELS[name](sources), folder, pythons)
            except FileNotFoundError as missing:
                print(f"\n{name}: skipped, {missing}", flush=True)
                continue
        if asked.rounds and results[name].noise is None:
            _time(results[name], folder, asked.rounds)
        show(results[name])
        write(results, asked.out)
    summarize(results)
    lost = [one.model for one in results.values() if one.lost]
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
    parser.add_argument("--only", action="append", choices=MODELS, help="run this model anew (repeatable)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of latency; 0 leaves it out")
    parser.add_argument("--keep", type=Path, default=Path("fidelity"), help="the folder for the models")
    parser.add_argument("--out", type=Path, default=Path("fidelity.json"), help="where the figures go")
    return parser.parse_args()


def _run(name: str, case: Case, folder: Path, pythons: Mapping[str, Path | None]) -> Result:
    folder.mkdir(parents=True, exist_ok=True)
    reference = list(_outputs(case, case.model, case.evaluation))
    calibration = list(_completed(case))
    rows = _ours(case, calibration, folder)
    write_feeds(folder / "calibration.npz", calibration)
    problem = _convert(case.model, folder / "converted.onnx")
    for contender in CONTENDERS:
        python = pythons[contender.split(maxsplit=1)[0].rstrip(",")]
        failure = "skipped: its Python was not given" if python is None else problem
        rows.append(Row(contender, failure or _peer(contender, python, folder, transformer=case.transformer)))
    for row in rows:
        if row.failure is None:
            _measure(row, case, _file(folder, row.contender), reference)
    shutil.copy(case.model, folder / "float.onnx")
    write_feeds(folder / "timed.npz", list(_timed(case)))
    accuracy = case.score(reference) if case.score else None
    return Result(name, case.metric, accuracy, None, len(calibration), len(case.evaluation), rows)


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


def _ours(case: Case, calibration: list[Feed], folder: Path) -> list[Row]:
    prepared = folder / "prepared.onnx"
    prepare_model(case.model, prepared, calibration, {})
    setting = Setting(isa=isa(), statistics=collect(prepared, calibration), samples=lambda: calibration)
    recipes = {**RECIPES, **(FOR_TRANSFORMERS if case.transformer else {})}
    return [
        Row(name, _quantize(prepared, _file(folder, name), recipe, setting))
        for name, recipe in recipes.items()
    ]


def _quantize(prepared: Path, out: Path, recipe: Recipe, setting: Setting) -> str | None:
    try:
        quantize(prepared, out, recipe, setting)
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
    closeness = {name: Closeness(name) for name in case.outputs or names}
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


def _time(result: Result, folder: Path, rounds: int) -> None:
    models = [str(folder / "float.onnx"), *(str(_file(folder, row.contender)) for row in result.timed)]
    arguments = {"models": models, "feeds": str(folder / "timed.npz")}
    adapter = TypeAdapter(Round)
    found = [
        adapter.validate_python(call("measure_round", arguments | {"seed": seed})) for seed in range(rounds)
    ]
    logs = np.array([[one.log_ratio for one in each.candidates] for each in found])
    add_speeds(result, logs, [one.noise.log_ratio for one in found])


def _timed(case: Case) -> Iterator[Feed]:
    """Samples from all over the evaluation: the first of a sorted file are alike."""
    shapes = {name: value for name, value in case.evaluation[0].items() if name in case.state.values()}
    for feed in case.evaluation[:: -(-len(case.evaluation) // TIMED_FEEDS)]:
        yield shapes | feed


if __name__ == "__main__":
    sys.exit(main())
