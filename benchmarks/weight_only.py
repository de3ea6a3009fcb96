"""Weight-only quantization: bytes, what is lost, decibels and speed, ours beside other tools.

    export PYTHONPATH=.
    .venv/bin/python benchmarks/weight_only.py sentences minilm.onnx tokenizer.json stsb-dev.csv --keep models
    .venv/bin/python benchmarks/weight_only.py text decoder.onnx tokenizer.json held-out.txt

`sentences`: an encoder of input_ids, attention_mask and token_type_ids that gives a row per token; sentences
are the mean of their rows, pairs are compared by cosine, and Spearman points are lost. `text`: a decoder of
input_ids that gives logits; perplexity is lost. Every tenth sample calibrates, the others evaluate.

`--ort-python` and `--onnxsim-python` name the peers' environments: onnxruntime 1.31.1 with onnx_ir, and
onnxsim 0.8.1. Peers without one are left out. Models that `--keep` holds are not made anew. Speed is the
median over nine rounds, in each of which every candidate runs a block of samples and the float model the same
block, one thread; the load is printed beside it.

Limits (exit 1 when missed), on sentences: at 4 bits at most 16 MB and 0.5 points lost; at 2 bits gptq at
least 3 dB above the better round-to-nearest, in no more bytes. On both: at 4 bits awq and kquant come closer
than round-to-nearest, nf4 and fp4 closer than ONNX Runtime's in as many bytes, and with products alone
quantized ours comes closer than each peer at 4 bits. Speed has no limit.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.domain.errors import Refused
from app.domain.recipe import WeightOnly
from benchmarks.fidelity_models import unpadded
from benchmarks.weight_only_peers import CONTENDERS
from benchmarks.weight_only_tasks import TASKS, Feed, Rows, Task
from worker.engine.methods import Setting, quantize
from worker.engine.passes.likeness import likeness_db
from worker.engine.prepare import prepare_model
from worker.engine.session import open_session

LARGEST_MB, MOST_POINTS, LEAST_DB = 16.0, 0.5, 3.0
ROUNDS, SAMPLES = 9, 20
PEERS = Path(__file__).with_name("weight_only_peers.py")
Session = Any  # ONNX Runtime ships no types
RECIPES = {
    "8 bits, auto": WeightOnly(bits=8),
    "4 bits, rtn": WeightOnly(bits=4, algorithm="rtn"),
    "4 bits, hqq": WeightOnly(bits=4, algorithm="hqq"),
    "4 bits, kquant": WeightOnly(bits=4, algorithm="kquant"),
    "4 bits, awq": WeightOnly(bits=4, algorithm="awq"),
    "4 bits, kquant, products alone": WeightOnly(bits=4, algorithm="kquant", embeddings=False),
    "4 bits, awq, products alone": WeightOnly(bits=4, algorithm="awq", embeddings=False),
    "nf4, rtn, products alone": WeightOnly(number_format="nf4", algorithm="rtn", embeddings=False),
    "nf4, kquant, products alone": WeightOnly(number_format="nf4", algorithm="kquant", embeddings=False),
    "nf4, awq, products alone": WeightOnly(number_format="nf4", algorithm="awq", embeddings=False),
    "fp4, kquant, products alone": WeightOnly(number_format="fp4", algorithm="kquant", embeddings=False),
    "2 bits, rtn": WeightOnly(bits=2, algorithm="rtn"),
    "2 bits, rtn with zero points": WeightOnly(bits=2, algorithm="rtn", symmetric=False),
    "2 bits, hqq": WeightOnly(bits=2, algorithm="hqq"),
    "2 bits, kquant": WeightOnly(bits=2, algorithm="kquant"),
    "2 bits, awq": WeightOnly(bits=2, algorithm="awq"),
    "ternary, hqq": WeightOnly(number_format="ternary", algorithm="hqq"),
    "4 bits, auto": WeightOnly(bits=4),
    "2 bits, gptq": WeightOnly(bits=2, algorithm="gptq"),
    "2 bits, adaround": WeightOnly(bits=2, algorithm="adaround"),
    "4 bits, adaround": WeightOnly(bits=4, algorithm="adaround"),
    "4 bits, gptq, products alone": WeightOnly(bits=4, embeddings=False),
    "ternary, gptq": WeightOnly(number_format="ternary", algorithm="gptq"),
}


@dataclass
class Measured:
    """A quantized model's figures, or why there is none; `lost` in the task's unit, `speedup` over float."""

    megabytes: float = 0.0
    lost: float = 0.0
    decibels: float = 0.0
    seconds: float = 0.0  # of CPU to quantize
    speedup: float | None = None
    refused: str = ""
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bench:
    """The float model, its samples and outputs, and where candidates go."""

    model: Path
    task: Task
    folder: Path
    pythons: Mapping[str, Path]

    def out(self, name: str) -> Path:
        """Where a candidate lies."""
        return self.folder / f"{name.replace(', ', '-').replace(' ', '_')}.onnx"

    def make(self, name: str) -> Measured:
        """Quantize, unless the candidate is kept from before."""
        started = time.process_time()
        reasons: tuple[str, ...] = ()
        if not self.out(name).exists():
            if name in RECIPES:
                setting = Setting(isa="x86-vnni", samples=lambda: self.task.calibration)
                reasons = quantize(self.prepared(), self.out(name), RECIPES[name], setting).reasons
            else:
                started -= self._by_peer(name)
        return Measured(seconds=time.process_time() - started, reasons=reasons)

    def prepared(self) -> Path:
        """The prepared model."""
        path = self.folder / "prepared.onnx"
        if not path.exists():
            prepare_model(self.model, path, self.task.calibration[:2], {})
        return path

    def _by_peer(self, name: str) -> float:
        """CPU seconds of the peer's process."""
        calibration = self.folder / "calibration.npz"
        feeds = {f"{i:06}/{k}": v for i, feed in enumerate(self.task.calibration) for k, v in feed.items()}
        np.savez(calibration, allow_pickle=False, **feeds)
        before = os.times()
        python = self.pythons[tool(name)]
        arguments = [python, PEERS, name, self.model, calibration, self.out(name)]
        done = subprocess.run(  # noqa: S603 - a python that the caller names
            list(map(str, arguments)), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise Refused("peer_failed", (done.stderr.strip().splitlines() or ["no message"])[-1])
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system


def tool(contender: str) -> str:
    """Whose contender it is."""
    return contender.partition(", ")[0]


def outputs(model: Path, feeds: Iterable[Feed]) -> list[Rows]:
    """The model's rows of each sample."""
    session = open_session(model)
    return [session.run(None, feed)[0][0] for feed in feeds]


def measure(bench: Bench, name: str, reference: Sequence[Rows], earlier: Mapping[str, Any]) -> Measured:
    """Quantize, and hold the result against the float model; `earlier` tells how a kept one was made."""
    kept = bench.out(name).exists() and earlier
    try:
        one = bench.make(name)
        found = outputs(bench.out(name), bench.task.evaluation)
    except Exception as error:  # noqa: BLE001 - a peer may fail in any way: that is a result too
        return Measured(refused=f"{type(error).__name__}: {error}"[:200])
    if kept:
        one.seconds, one.reasons = earlier["seconds"], tuple(earlier["reasons"])
    one.megabytes = bench.out(name).stat().st_size / 1e6
    one.lost = bench.task.lost(reference, found)
    one.decibels = likeness_db([[rows] for rows in reference], [[rows] for rows in found])
    return one


def time_all(bench: Bench, measured: Mapping[str, Measured]) -> None:
    """Speedups from rounds in which every candidate has its turn beside the float model."""
    alive = [name for name, one in measured.items() if not one.refused]
    sessions = {name: open_session(bench.out(name)) for name in alive}
    float_session = open_session(bench.model)
    ratios: dict[str, list[float]] = {name: [] for name in alive}
    for turn in range(ROUNDS + 1):
        start = turn * SAMPLES % max(1, len(bench.task.evaluation) - SAMPLES)
        part = bench.task.evaluation[start : start + SAMPLES]
        for name, session in sessions.items():
            before, after = (_seconds(one, part) for one in (float_session, session))
            ratios[name].append(before / after)
    for name, found in ratios.items():
        measured[name].speedup = float(np.median(found[1:]))


def _seconds(session: Session, feeds: Sequence[Feed]) -> float:
    started = time.perf_counter()
    for feed in feeds:
        session.run(None, feed)
    return time.perf_counter() - started


def shown(name: str, one: Measured, unit: str) -> str:
    """A row of the table."""
    if one.refused:
        return f"| {name} | {one.refused} |"
    speed = "–" if one.speedup is None else f"{one.speedup:.2f}"
    cells = [f"{one.megabytes:.2f} MB", f"{one.lost:+.2f} {unit}", f"{one.decibels:.2f} dB", speed]
    return f"| {' | '.join([name, *cells, f'{one.seconds:.0f} s'])} |"


def checks(measured: Mapping[str, Measured], kind: str) -> dict[str, bool]:
    """The limits, and whether they hold; those whose models were not made are left out."""
    held = {}
    for better, plain in (
        ("4 bits, awq", "4 bits, rtn"),
        ("4 bits, kquant", "4 bits, rtn"),
        ("nf4, kquant, products alone", "ONNX Runtime, nf4, products alone"),
        ("nf4, awq, products alone", "ONNX Runtime, nf4, products alone"),
        ("fp4, kquant, products alone", "ONNX Runtime, fp4, products alone"),
        ("4 bits, kquant, products alone", "ONNX Runtime, 4 bits, k_quant, products alone"),
        *(("4 bits, gptq, products alone", peer) for peer in CONTENDERS if "4 bits" in peer),
    ):
        if all(name in measured and not measured[name].refused for name in (better, plain)):
            won = measured[better].decibels - measured[plain].decibels
            held[f"{better}: {won:+.2f} dB against {plain}"] = won > 0
    return held | (_sizes(measured) if kind == "sentences" else {})


def _sizes(measured: Mapping[str, Measured]) -> dict[str, bool]:
    if not {"4 bits, auto", "2 bits, gptq", "2 bits, rtn"} <= measured.keys():
        return {}
    four, tuned = measured["4 bits, auto"], measured["2 bits, gptq"]
    plain = max((m for name, m in measured.items() if name.startswith("2 bits, rtn")), key=_decibels)
    won = tuned.decibels - plain.decibels
    return {
        f"4 bits: {four.megabytes:.2f} MB of {LARGEST_MB:g} allowed": four.megabytes <= LARGEST_MB,
        f"4 bits: {four.lost:+.2f} points of {MOST_POINTS:g} allowed": four.lost <= MOST_POINTS,
        f"2 bits: {won:+.2f} dB of {LEAST_DB:g} asked": won >= LEAST_DB,
        f"2 bits: {tuned.megabytes:.2f} MB against {plain.megabytes:.2f}": tuned.megabytes <= plain.megabytes,
    }


def _decibels(measured: Measured) -> float:
    return measured.decibels


def main() -> int:
    """Measure every recipe and every peer, print a table, and hold the limits."""
    asked = _arguments()
    task = TASKS[asked.kind](unpadded(asked.tokenizer), asked.data, asked.evaluate)
    named = {"ONNX Runtime": asked.ort_python, "onnxsim": asked.onnxsim_python}
    pythons = {name: path for name, path in named.items() if path}
    made = [*RECIPES, *(name for name in CONTENDERS if tool(name) in pythons)]
    names = sorted(made, key=lambda name: "gptq" in name or name == "4 bits, auto")  # these take minutes
    earlier = json.loads(asked.out.read_text()) if asked.out and asked.out.exists() else {}
    measured: dict[str, Measured] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(asked.model, task, folder, pythons)
        reference = outputs(asked.model, task.evaluation)
        print(f"float: {asked.model.stat().st_size / 1e6:.2f} MB, {len(task.evaluation)} samples")
        for name in names:
            if not asked.only or asked.only in name:
                measured[name] = measure(bench, name, reference, earlier.get(name, {}))
                print(
                    shown(name, measured[name], task.unit), *measured[name].reasons, sep="\n    ", flush=True
                )
        if not asked.no_speed:
            print(f"load average while timing: {os.getloadavg()[0]:.1f} before")
            time_all(bench, measured)
            print(f"load average while timing: {os.getloadavg()[0]:.1f} after")
    print("| | size | lost | SQNR | speed | CPU time |", "|---|--:|--:|--:|--:|--:|", sep="\n")
    print(*(shown(name, one, task.unit) for name, one in measured.items()), sep="\n")
    if asked.out:
        asked.out.write_text(json.dumps({name: asdict(one) for name, one in measured.items()}, indent=1))
    held = checks(measured, asked.kind)
    for check, ok in held.items():
        print("held  " if ok else "MISSED", check)
    return 0 if all(held.values()) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=TASKS)
    parser.add_argument("model", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--evaluate", type=int, help="only so many of the pairs or windows that evaluate")
    parser.add_argument("--ort-python", type=Path)
    parser.add_argument("--onnxsim-python", type=Path)
    parser.add_argument("--keep", type=Path, help="a folder for the models, which are not made twice")
    parser.add_argument("--only", help="candidates whose name holds this")
    parser.add_argument("--no-speed", action="store_true")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
