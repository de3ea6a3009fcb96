"""What each correction of static_int8 wins, in decibels of the outputs on data that calibration did not see.

    .venv/bin/python benchmarks/corrections.py --data ../shared/data

Rows of MiniLM are measured when `--minilm` and `--tokenizer` are given.

Each correction is held to a limit (exit 1 when missed) where it should help: equalization and bias correction
with one scale per weight, weight clipping and rounding with 4-bit weights, SmoothQuant behind a
LayerNormalization with outliers in two channels, and in a sentence encoder. Figures with the recipe's
defaults are printed beside them.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parent.parent))

from app.domain.recipe import Correction, Ranges, StaticInt8
from benchmarks.fidelity_models import MODELS, Array, Case, Sources
from worker.engine.calibrate import collect
from worker.engine.methods import Setting, quantize
from worker.engine.passes.likeness import Outputs, likeness_db
from worker.engine.prepare import prepare_model
from worker.engine.session import open_session

MINMAX = Ranges(method="minmax")
FOUR_BITS: dict[str, Any] = {"weight": "int4", "activation": "uint16"}
ONE_SCALE: dict[str, Any] = {"per_channel": False}
# model, correction, fields of the recipe, decibels that it must win; None is shown and not held to a limit
ROWS: tuple[tuple[str, Correction, dict[str, Any], float | None], ...] = (
    ("VWW", "equalization", ONE_SCALE, 1.0),
    ("VWW", "bias_correction", ONE_SCALE, 0.0),
    ("VWW", "weight_clipping", FOUR_BITS, 0.0),
    ("VWW", "rounding", FOUR_BITS, 1.0),
    ("ResNet8", "weight_clipping", FOUR_BITS, 0.0),
    ("ResNet8", "rounding", FOUR_BITS, 1.0),
    ("outliers", "smoothquant", {}, 3.0),
    ("MiniLM", "smoothquant", {}, 0.0),
    ("VWW", "equalization", {}, None),
    ("VWW", "bias_correction", {}, 0.0),
    ("ResNet8", "equalization", {}, None),
    ("ResNet8", "bias_correction", {}, 0.0),
    ("resnet_4b", "equalization", {}, None),
    ("resnet_4b", "bias_correction", {}, 0.0),
    ("ViT", "smoothquant", {}, None),
    ("ViT", "bias_correction", {}, 0.0),
)


def outliers(folder: Path) -> Case:
    """A product behind a LayerNormalization whose gain is forty times as large in two of 256 channels."""
    rng = np.random.default_rng(5)
    gain, weight = np.ones(256, np.float32), rng.normal(size=(256, 256)).astype(np.float32) / 16
    gain[[17, 200]], weight[[17, 200]] = 40.0, weight[[17, 200]] / 20
    zeros = np.zeros(256, np.float32)
    constants: dict[str, Array] = {"gain": gain, "shift": zeros, "weight": weight}
    nodes = [
        helper.make_node("LayerNormalization", ["x", "gain", "shift"], ["n"], "norm"),
        helper.make_node("MatMul", ["n", "weight"], ["y"], "product"),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 16, 256]) for name in "xy")
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "outliers", [x], [y], tensors)
    path = folder / "outliers.onnx"
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    feeds = [{"x": rng.normal(size=(1, 16, 256)).astype(np.float32)} for _ in range(160)]
    return Case(model=path, calibration=feeds[:64], evaluation=feeds[64:])


class Bench:
    """One model: prepared and calibrated once, then quantized many times."""

    def __init__(self, case: Case, folder: Path, samples: int) -> None:
        self.case, self.prepared, self.out = case, folder / "prepared.onnx", folder / "out.onnx"
        self.feeds = case.calibration[:samples]
        prepare_model(case.model, self.prepared, self.feeds[:2], {})
        self.setting = Setting(
            isa="x86-vnni", statistics=collect(self.prepared, self.feeds), samples=lambda: self.feeds
        )
        self.reference = self.outputs(case.model)

    def sqnr(self, corrections: Sequence[Correction], **fields: Any) -> float:  # noqa: ANN401
        """Decibels on the evaluation samples."""
        recipe = StaticInt8(**{"ranges": MINMAX, **fields}, corrections=tuple(corrections))
        quantize(self.prepared, self.out, recipe, self.setting)
        return likeness_db(self.reference, self.outputs(self.out))

    def outputs(self, model: Path) -> list[Outputs]:
        """What a model gives for each evaluation sample."""
        session = open_session(model)
        return [session.run(None, feed) for feed in self.case.evaluation]


def main() -> int:
    """Measure every row, print a table, and hold the limits."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder of models and data")
    parser.add_argument("--samples", type=int, default=64, help="that calibrate")
    parser.add_argument("--only", help="one model's name")
    parser.add_argument("--minilm", type=Path, help="an export of MiniLM")
    parser.add_argument("--tokenizer", type=Path)
    arguments = parser.parse_args()
    sources = Sources(arguments.data, arguments.minilm, arguments.tokenizer)
    wanted = [
        row for row in ROWS if arguments.only in {None, row[0]} and (arguments.minilm or row[0] != "MiniLM")
    ]
    missed = 0
    print("| model | correction | recipe | without | with | gain | limit |\n|---|---|---|--:|--:|--:|--:|")
    for name in dict.fromkeys(row[0] for row in wanted):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            case = outliers(folder) if name == "outliers" else MODELS[name](sources)
            bench = Bench(case, folder, arguments.samples)
            missed += sum(_row(bench, *row) for row in wanted if row[0] == name)
    return 1 if missed else 0


def _row(
    bench: Bench, name: str, correction: Correction, fields: dict[str, Any], limit: float | None
) -> bool:
    """Print one row; whether its limit was missed."""
    before, after = bench.sqnr((), **fields), bench.sqnr((correction,), **fields)
    recipe = ", ".join(f"{key} {value}" for key, value in fields.items()) or "auto, minmax"
    missed = limit is not None and after - before < limit
    asked = "–" if limit is None else f"{limit:g}" + (" MISSED" if missed else "")
    figures = f"{before:.2f} | {after:.2f} | {after - before:+.2f}"
    print(f"| {name} | {correction} | {recipe} | {figures} | {asked} |", flush=True)
    return missed


if __name__ == "__main__":
    sys.exit(main())
