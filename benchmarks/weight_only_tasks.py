"""What `weight_only.py` measures on: sentence pairs for an encoder, running text for a decoder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from benchmarks.fidelity_models import sentence_pairs, spearman

Feed = dict[str, npt.NDArray[np.int64]]
Rows = npt.NDArray[np.float32]
WINDOW = 128  # tokens of running text at a time
EVERY = 10  # so many samples, of which one calibrates


@dataclass(frozen=True)
class Task:
    """Samples, and what a model that gives `found` loses to one that gives `reference`."""

    unit: str
    calibration: list[Feed]
    evaluation: list[Feed]
    lost: Callable[[Sequence[Rows], Sequence[Rows]], float]


def sentences(tokenizer: Tokenizer, path: Path, limit: int | None) -> Task:
    """Tab-separated pairs with a score in the fifth column; sentences are the mean of their rows."""
    calibration, evaluation, scores = sentence_pairs(tokenizer, path, limit)

    def lost(reference: Sequence[Rows], found: Sequence[Rows]) -> float:
        return spearman(reference, scores) - spearman(found, scores)

    return Task("points", calibration, evaluation, lost)


def text(tokenizer: Tokenizer, path: Path, limit: int | None) -> Task:
    """Running text in windows; a decoder takes ids and gives the logits of the next ones."""
    ids = np.array(tokenizer.encode(path.read_text(encoding="utf-8")).ids, np.int64)
    windows = [ids[i : i + WINDOW][None] for i in range(0, len(ids) - WINDOW, WINDOW)]
    rest = [window for i, window in enumerate(windows) if i % EVERY][:limit]

    def lost(reference: Sequence[Rows], found: Sequence[Rows]) -> float:
        before, after = (_perplexity(logits, rest) for logits in (reference, found))
        return 100 * (after / before - 1)

    feeds = [[{"input_ids": window} for window in part] for part in (windows[::EVERY], rest)]
    return Task("% of perplexity", feeds[0], feeds[1], lost)


TASKS = {"sentences": sentences, "text": text}


def _perplexity(logits: Sequence[Rows], windows: Sequence[npt.NDArray[np.int64]]) -> float:
    """Of each window's tokens but its first."""
    losses = []
    for rows, window in zip(logits, windows, strict=True):
        exact = rows[:-1].astype(np.float64)
        highest = exact.max(-1, keepdims=True)
        total = np.log(np.exp(exact - highest).sum(-1)) + highest[:, 0]
        losses.append(total - exact[np.arange(len(exact)), window[0, 1:]])
    return float(np.exp(np.concatenate(losses).mean()))
