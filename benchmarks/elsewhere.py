"""What our recipes' results do in OpenVINO and under TensorRT's rules, on real models.

    python -m venv elsewhere && elsewhere/bin/pip install --no-deps -r requirements.lock
    elsewhere/bin/pip install openvino==2026.4.1
    elsewhere/bin/python benchmarks/elsewhere.py --data ../shared/data --minilm minilm.onnx \
        --tokenizer tokenizer.json

Inputs are 8 evaluation samples. OpenVINO is timed against ONNX Runtime with the same model, on one thread, in
paired rounds. A ratio above 1 says that OpenVINO is faster.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from app.domain.errors import Refused  # noqa: E402
from app.domain.job import Benchmark  # noqa: E402
from app.domain.processor import isa  # noqa: E402
from app.domain.recipe import DynamicInt8, Float16, Recipe, StaticInt8, Symmetric, WeightOnly  # noqa: E402
from app.domain.report import Fidelity, OpenVINO  # noqa: E402
from benchmarks.fidelity_models import MODELS, Case, Sources  # noqa: E402
from worker.engine.calibrate import collect  # noqa: E402
from worker.engine.compare import ask  # noqa: E402
from worker.engine.elsewhere.beside import Beside, openvino_beside  # noqa: E402
from worker.engine.elsewhere.tensorrt import tensorrt  # noqa: E402
from worker.engine.load import load_model  # noqa: E402
from worker.engine.methods import Setting, quantize  # noqa: E402
from worker.engine.prepare import prepare_model  # noqa: E402
from worker.engine.ready import write_feeds  # noqa: E402

RECIPES: Mapping[str, Recipe] = {
    "static int8": StaticInt8(),
    "static int8 for TensorRT": StaticInt8(
        activation="int8", weight="int8", symmetric=Symmetric(activation=True), quantize_bias=False
    ),
    "static int8, qoperator": StaticInt8(format="qoperator"),
    "static, uint16 activations": StaticInt8(activation="uint16"),
    "dynamic int8": DynamicInt8(),
    "4-bit weights": WeightOnly(bits=4),
    "float16": Float16(),
}
FEEDS = 8
HEAD = """\
| recipe | TensorRT's rules | OpenVINO | dB, ONNX Runtime | dB, OpenVINO | to each other | ratio (95 % CI) |
|---|---|---|---:|---:|---:|---:|"""


def main() -> None:
    """Print one table for each model."""
    asked = _arguments()
    sources = Sources(asked.data, asked.minilm, asked.tokenizer)
    print(f"load average {os.getloadavg()[0]:.1f}, {isa()}", flush=True)
    for name in asked.only:
        with tempfile.TemporaryDirectory(prefix="elsewhere-") as folder:
            print(f"\n{name}\n\n{HEAD}", flush=True)
            _table(MODELS[name](sources), Path(folder), asked.max_seconds)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="models, samples")
    parser.add_argument("--minilm", type=Path, help="an export of all-MiniLM-L6-v2")
    parser.add_argument("--tokenizer", type=Path, help="its tokenizer.json")
    parser.add_argument(
        "--only", action="append", choices=MODELS, required=True, help="this model (repeatable)"
    )
    parser.add_argument("--max-seconds", type=float, default=60, help="of rounds for each recipe")
    return parser.parse_args()


def _table(case: Case, folder: Path, max_seconds: float) -> None:
    prepared, feeds = folder / "prepared.onnx", folder / "feeds.npz"
    prepare_model(case.model, prepared, case.calibration[:2], {})
    write_feeds(feeds, case.evaluation[:FEEDS])
    statistics = collect(prepared, case.calibration)
    setting = Setting(isa=isa(), statistics=statistics, samples=lambda: case.calibration)
    shared = Beside(ask, case.model, feeds, Benchmark(max_seconds=max_seconds), 1)
    for name, recipe in RECIPES.items():
        out = folder / "candidate.onnx"
        try:
            quantize(prepared, out, recipe, setting)
        except Refused as refused:
            print(f"| {name} | {refused} | | | | | |", flush=True)
            continue
        found = openvino_beside(shared, out)
        print(f"| {name} | {tensorrt(load_model(out)).loads} | {_figures(found)} |", flush=True)


def _figures(found: OpenVINO) -> str:
    if found.loads != "yes":
        return f"{found.loads}: {found.reason} | | | |"
    close = " | ".join(_db(one) for one in (found.onnxruntime, found.fidelity, found.likeness))
    if found.latency is None:
        return f"yes | {close} | {found.reason}"
    low, high = found.latency.ci
    return f"yes | {close} | {found.latency.speedup:.2f} ({low:.2f}–{high:.2f})"


def _db(found: Fidelity | None) -> str:
    return f"{found.sqnr_db:.1f}" if found else "–"


if __name__ == "__main__":
    main()
