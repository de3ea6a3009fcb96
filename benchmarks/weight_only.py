"""Weight-only quantization of a sentence encoder: bytes, Spearman points, and decibels at 2 bits.

    .venv/bin/python benchmarks/weight_only.py minilm.onnx tokenizer.json stsb-dev.csv

The model takes input_ids, attention_mask and token_type_ids and gives a row per token; sentences are the mean
of their rows, pairs are compared by cosine. Every tenth pair calibrates, the others evaluate.

Limits (exit 1 when missed): at 4 bits at most 16 MB and 0.5 Spearman points lost; at 2 bits, gptq at least
3 dB above round-to-nearest with zero points, in no more bytes.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from app.domain.recipe import WeightOnly
from worker.engine.methods import Setting, quantize
from worker.engine.passes.likeness import likeness_db
from worker.engine.prepare import prepare_model
from worker.engine.session import open_session

LARGEST_MB, MOST_POINTS, LEAST_DB = 16.0, 0.5, 3.0
Feed = dict[str, npt.NDArray[np.int64]]
Rows = npt.NDArray[np.float32]
RECIPES = {
    "4 bits, auto": WeightOnly(bits=4),
    "4 bits, hqq": WeightOnly(bits=4, algorithm="hqq"),
    "2 bits, rtn": WeightOnly(bits=2, algorithm="rtn"),
    "2 bits, rtn with zero points": WeightOnly(bits=2, algorithm="rtn", symmetric=False),
    "2 bits, hqq": WeightOnly(bits=2, algorithm="hqq"),
    "2 bits, gptq": WeightOnly(bits=2, algorithm="gptq"),
}


@dataclass(frozen=True)
class Pairs:
    """Tokenized sentence pairs and their scores."""

    feeds: list[Feed]  # two for each pair
    scores: list[float]


def read(path: Path, tokenizer: Tokenizer) -> tuple[Pairs, Pairs]:
    """Pairs to calibrate on and pairs to evaluate."""
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    parts = [[row for i, row in enumerate(rows) if (i % 10 == 0) == first] for first in (True, False)]
    calibration, evaluation = (
        Pairs([_feed(tokenizer, text) for row in part for text in row[5:7]], [float(row[4]) for row in part])
        for part in parts
    )
    return calibration, evaluation


def _feed(tokenizer: Tokenizer, text: str) -> Feed:
    ids = np.array([tokenizer.encode(text).ids], np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def outputs(model: Path, feeds: Sequence[Feed]) -> Iterator[Rows]:
    """The model's rows of each sentence."""
    session = open_session(model, threads=2)
    return (session.run(None, feed)[0][0] for feed in feeds)


def spearman(found: Sequence[Rows], scores: Sequence[float]) -> float:
    """Rank correlation of cosines and scores, in points."""
    means = [rows.mean(0) / np.linalg.norm(rows.mean(0)) for rows in found]
    cosines = [float(a @ b) for a, b in zip(means[::2], means[1::2], strict=True)]
    return 100 * float(np.corrcoef(_ranks(cosines), _ranks(scores))[0, 1])


def _ranks(values: Sequence[float]) -> npt.NDArray[np.float64]:
    """Ranks, averaged where values are equal."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: npt.NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return ranks


def main() -> int:
    """Measure every recipe, print a table, and hold the limits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("tokenizer")
    parser.add_argument("pairs", type=Path)
    arguments = parser.parse_args()
    calibration, evaluation = read(arguments.pairs, Tokenizer.from_file(arguments.tokenizer))
    reference = list(outputs(arguments.model, evaluation.feeds))
    full = spearman(reference, evaluation.scores)
    print(f"float: {arguments.model.stat().st_size / 1e6:.2f} MB, {full:.2f} Spearman points")
    measured: dict[str, tuple[float, float, float]] = {}
    setting = Setting(isa="x86-vnni", samples=lambda: calibration.feeds)
    with tempfile.TemporaryDirectory() as folder:
        prepared, out = Path(folder) / "prepared.onnx", Path(folder) / "out.onnx"
        prepare_model(arguments.model, prepared, calibration.feeds[:2], {})
        for name, recipe in RECIPES.items():
            started = time.monotonic()
            quantize(prepared, out, recipe, setting)
            seconds = time.monotonic() - started
            found = list(outputs(out, evaluation.feeds))
            lost = full - spearman(found, evaluation.scores)
            decibels = likeness_db([[r] for r in reference], [[f] for f in found])
            measured[name] = (out.stat().st_size / 1e6, lost, decibels)
            print(
                f"{name}: {out.stat().st_size / 1e6:.2f} MB, {lost:+.2f} points lost, "
                f"{decibels:.2f} dB, quantized in {seconds:.0f} s",
                flush=True,
            )
    return _verdict(measured)


def _verdict(measured: dict[str, tuple[float, float, float]]) -> int:
    size, lost, _ = measured["4 bits, auto"]
    plain, tuned = measured["2 bits, rtn with zero points"], measured["2 bits, gptq"]
    checks = {
        f"4 bits: {size:.2f} MB of {LARGEST_MB:g} allowed": size <= LARGEST_MB,
        f"4 bits: {lost:+.2f} points of {MOST_POINTS:g} allowed": lost <= MOST_POINTS,
        f"2 bits: {tuned[2] - plain[2]:+.2f} dB of {LEAST_DB:g} asked": tuned[2] - plain[2] >= LEAST_DB,
        f"2 bits: {tuned[0]:.2f} MB against {plain[0]:.2f}": tuned[0] <= plain[0],
    }
    for check, held in checks.items():
        print("held  " if held else "MISSED", check)
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
