"""What learned rounding wins over closed-form rounding, and that over the nearest codes.

    .venv/bin/python benchmarks/rounding.py --data ../shared/data

Signal-to-noise ratios in decibels, and accuracy where there are labels, on samples that did not calibrate.
With 4-bit weights `adaround` is held to decibels that it must win over `rounding` (exit 1 when missed); with
8 bits its figures are shown alone. CPU time is that of `adaround`, evaluation included.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from app.domain.recipe import Correction
from benchmarks.corrections import FOUR_BITS, ONE_SCALE, Bench
from benchmarks.fidelity_models import MODELS, Sources

# model, fields of the recipe, decibels to win; None is shown and not held to a limit
ROWS: tuple[tuple[str, dict[str, Any], float | None], ...] = (
    ("ResNet8", FOUR_BITS, 1.0),
    ("VWW", FOUR_BITS, 1.0),
    ("SqueezeNet", FOUR_BITS, 0.0),
    ("UltraFace", FOUR_BITS, 0.0),
    ("VWW", ONE_SCALE, None),
    ("ResNet8", ONE_SCALE, None),
    ("ResNet8", {}, None),
    ("VWW", {}, None),
)
CONTESTANTS: tuple[tuple[Correction, ...], ...] = ((), ("rounding",), ("adaround",))


def main() -> int:
    """Measure every row, print a table, and hold the limits."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder of models and data")
    parser.add_argument("--samples", type=int, default=64, help="that calibrate")
    parser.add_argument("--evaluate", type=int, default=400, help="samples at most")
    parser.add_argument("--row", type=int, help="one row of ROWS, from 0")
    arguments = parser.parse_args()
    wanted = [row for number, row in enumerate(ROWS) if arguments.row in {None, number}]
    print("| model | recipe | nearest | rounding | adaround | gain | limit | CPU time |")
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    missed = 0
    for name, fields, limit in wanted:
        case = MODELS[name](Sources(arguments.data, None, None))
        del case.evaluation[arguments.evaluate :]
        with tempfile.TemporaryDirectory() as folder:
            missed += _row(Bench(case, Path(folder), arguments.samples), name, fields, limit)
    return 1 if missed else 0


def _row(bench: Bench, name: str, fields: dict[str, Any], limit: float | None) -> bool:
    """Print one row; whether its limit was missed."""
    decibels, shown, seconds = [], [], 0.0
    for corrections in CONTESTANTS:
        started = time.process_time()
        decibels.append(bench.sqnr(corrections, **fields))
        seconds = time.process_time() - started
        shown.append(f"{decibels[-1]:.2f}{_accuracy(bench)}")
    gain = decibels[2] - decibels[1]
    missed = limit is not None and gain < limit
    asked = "–" if limit is None else f"{limit:g}" + (" MISSED" if missed else "")
    recipe = ", ".join(f"{key} {value}" for key, value in fields.items()) or "8 bits, minmax"
    columns: Sequence[str] = (name, recipe, *shown, f"{gain:+.2f}", asked, f"{seconds:.0f} s")
    print(f"| {' | '.join(columns)} |", flush=True)
    return missed


def _accuracy(bench: Bench) -> str:
    """Of the model quantized last, where there are labels."""
    if bench.case.score is None:
        return ""
    return f" ({bench.case.score(bench.outputs(bench.out)):.1f} %)"


if __name__ == "__main__":
    sys.exit(main())
