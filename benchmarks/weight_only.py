"""Weight-only quantization of a sentence encoder: bytes, Spearman points, decibels at 2 bits, and speed.

    PYTHONPATH=. .venv/bin/python benchmarks/weight_only.py minilm.onnx tokenizer.json stsb-dev.csv

The model takes input_ids, attention_mask and token_type_ids and gives a row per token; sentences are the mean
of their rows, pairs are compared by cosine. Every tenth pair calibrates, the others evaluate. Speed is the
median of nine blocks of sentences, each run by the float model and by the quantized one in turn.

Limits (exit 1 when missed): at 4 bits at most 16 MB and 0.5 Spearman points lost; at 2 bits, gptq at least
3 dB above the better round-to-nearest, with zero points or without, in no more bytes. Speed has no limit.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from app.domain.recipe import WeightOnly
from worker.engine.methods import Setting, quantize
from worker.engine.passes.likeness import likeness_db
from worker.engine.prepare import prepare_model
from worker.engine.session import open_session

LARGEST_MB, MOST_POINTS, LEAST_DB = 16.0, 0.5, 3.0
BLOCKS, SENTENCES = 9, 20
Session = Any  # ONNX Runtime ships no types
Feed = dict[str, npt.NDArray[np.int64]]
Rows = npt.NDArray[np.float32]
RECIPES = {
    "2 bits, rtn": WeightOnly(bits=2, algorithm="rtn"),
    "2 bits, rtn with zero points": WeightOnly(bits=2, algorithm="rtn", symmetric=False),
    "2 bits, gptq": WeightOnly(bits=2, algorithm="gptq"),
    "4 bits, auto": WeightOnly(bits=4),
    "2 bits, hqq": WeightOnly(bits=2, algorithm="hqq"),
    "4 bits, hqq": WeightOnly(bits=4, algorithm="hqq"),
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
    session = open_session(model)
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


@dataclass(frozen=True)
class Measured:
    """One recipe's figures; `lost` in Spearman points, `speedup` over float."""

    megabytes: float
    lost: float
    decibels: float
    speedup: float
    seconds: float  # to quantize


@dataclass(frozen=True)
class Reference:
    """The float model, and what it gives."""

    model: Path
    evaluation: Pairs
    rows: list[Rows]

    def points(self) -> float:
        """Its rank correlation."""
        return spearman(self.rows, self.evaluation.scores)


def measure(out: Path, reference: Reference, seconds: float) -> Measured:
    """Hold a quantized model against the float one."""
    found = list(outputs(out, reference.evaluation.feeds))
    return Measured(
        out.stat().st_size / 1e6,
        reference.points() - spearman(found, reference.evaluation.scores),
        likeness_db([[r] for r in reference.rows], [[f] for f in found]),
        speedup(reference.model, out, reference.evaluation.feeds),
        seconds,
    )


def speedup(model: Path, candidate: Path, feeds: Sequence[Feed]) -> float:
    """Median over blocks of float time by candidate time, one thread, after a block of warm-up."""
    sessions = [open_session(path) for path in (model, candidate)]
    ratios = []
    for block in range(BLOCKS + 1):
        part = feeds[block * SENTENCES : (block + 1) * SENTENCES]
        before, after = (_seconds(session, part) for session in sessions)
        ratios.append(before / after)
    return float(np.median(ratios[1:]))


def _seconds(session: Session, feeds: Sequence[Feed]) -> float:
    started = time.perf_counter()
    for feed in feeds:
        session.run(None, feed)
    return time.perf_counter() - started


def main() -> int:
    """Measure every recipe, print a table, and hold the limits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("tokenizer")
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--evaluate", type=int, help="only so many (100 or more) of the pairs that evaluate")
    arguments = parser.parse_args()
    calibration, evaluation = read(arguments.pairs, Tokenizer.from_file(arguments.tokenizer))
    if arguments.evaluate:
        evaluation = Pairs(
            evaluation.feeds[: 2 * arguments.evaluate], evaluation.scores[: arguments.evaluate]
        )
    reference = Reference(arguments.model, evaluation, list(outputs(arguments.model, evaluation.feeds)))
    print(f"float: {arguments.model.stat().st_size / 1e6:.2f} MB, {reference.points():.2f} Spearman points")
    setting = Setting(isa="x86-vnni", samples=lambda: calibration.feeds)
    measured: dict[str, Measured] = {}
    with tempfile.TemporaryDirectory() as folder:
        prepared, out = Path(folder) / "prepared.onnx", Path(folder) / "out.onnx"
        prepare_model(arguments.model, prepared, calibration.feeds[:2], {})
        for name, recipe in RECIPES.items():
            started = time.monotonic()
            quantize(prepared, out, recipe, setting)
            one = measured[name] = measure(out, reference, time.monotonic() - started)
            print(
                f"{name}: {one.megabytes:.2f} MB, {one.lost:+.2f} points lost, {one.decibels:.2f} dB, "
                f"{one.speedup:.2f} times float's speed, quantized in {one.seconds:.0f} s",
                flush=True,
            )
    return _verdict(measured)


def _verdict(measured: dict[str, Measured]) -> int:
    four, tuned = measured["4 bits, auto"], measured["2 bits, gptq"]
    plain = max((m for name, m in measured.items() if name.startswith("2 bits, rtn")), key=_decibels)
    won = tuned.decibels - plain.decibels
    checks = {
        f"4 bits: {four.megabytes:.2f} MB of {LARGEST_MB:g} allowed": four.megabytes <= LARGEST_MB,
        f"4 bits: {four.lost:+.2f} points of {MOST_POINTS:g} allowed": four.lost <= MOST_POINTS,
        f"2 bits: {won:+.2f} dB of {LEAST_DB:g} asked": won >= LEAST_DB,
        f"2 bits: {tuned.megabytes:.2f} MB against {plain.megabytes:.2f}": tuned.megabytes <= plain.megabytes,
    }
    for check, held in checks.items():
        print("held  " if held else "MISSED", check)
    return 0 if all(checks.values()) else 1


def _decibels(measured: Measured) -> float:
    return measured.decibels


if __name__ == "__main__":
    sys.exit(main())
