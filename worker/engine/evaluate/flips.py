"""What a candidate answers beside the float model, gathered while both are compared."""

import hashlib
import heapq
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from app.domain.against import Outcomes, bitmap
from app.domain.flips import MOST_FLIPS, PREDICTIONS, Answer, Compared, Flips
from worker.engine.data.dataset import Array, Dataset, class_name
from worker.engine.evaluate.accuracy import TOP, in_top, scores, top1
from worker.engine.sqnr import sqnr

CHANGES = ("lost", "gained", "changed")


@dataclass
class Answers:
    """Running record over samples, from `add` to `flips`, `predictions` and `outcomes`."""

    dataset: Dataset
    metric: str | None
    output: str
    seen: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    first: list[Compared] = field(default_factory=list)
    changed: dict[str, list[Compared]] = field(default_factory=lambda: {name: [] for name in CHANGES})
    farthest: list[tuple[float, int, Compared]] = field(default_factory=list)  # a heap, the closest first
    right: list[tuple[bytes, bool]] = field(default_factory=list)  # content and label; right or wrong
    ranked: bool = False

    def add(self, index: int, label: int | None, baseline: Array, candidate: Array) -> None:
        """Take one sample in: its place in the dataset, its label, and both models' output."""
        change = self._change(index, label, baseline, candidate)
        one = self._compared(index, label, baseline, candidate, change)
        self.seen += 1
        if len(self.first) < PREDICTIONS:
            self.first.append(one)
        if change:
            self.counts[change] += 1
            if len(self.changed[change]) < MOST_FLIPS:
                self.changed[change].append(one)
        push = heapq.heappush if len(self.farthest) < MOST_FLIPS else heapq.heappushpop
        push(self.farthest, (-one.sqnr_db, -self.seen, one))

    def flips(self) -> Flips:
        """The samples that changed, or where no answer is right or wrong, those that differ most."""
        if not self.ranked:
            items = [one for *_, one in sorted(self.farthest, reverse=True)]
            return Flips(self.metric, self.seen, None, None, None, tuple(items))
        items = [one for name in CHANGES for one in self.changed[name]]
        lost, gained, changed = (self.counts[name] for name in CHANGES)
        return Flips(self.metric, self.seen, lost, gained, changed, tuple(items[:MOST_FLIPS]))

    def predictions(self) -> tuple[Compared, ...]:
        """The first 8 samples."""
        return tuple(self.first)

    def outcomes(self) -> Outcomes | None:
        """Right or wrong for each sample, in the order of their content; None where nothing is either."""
        if not self.right:
            return None
        ordered = sorted(self.right)
        digest = hashlib.blake2b(f"{self.metric}\0{self.output}\0".encode(), digest_size=16)
        for content, _ in ordered:
            digest.update(content)
        return Outcomes(digest.hexdigest(), len(ordered), bitmap([was_right for _, was_right in ordered]))

    def _change(self, index: int, label: int | None, baseline: Array, candidate: Array) -> str | None:
        if scores(baseline) is None:
            return None
        self.ranked = True
        if label is None or self.metric not in TOP:
            return None if top1(baseline) == top1(candidate) else "changed"
        was, now = (in_top(output, label, TOP[self.metric]) for output in (baseline, candidate))
        self.right.append((self.dataset.content_hash(index) + label.to_bytes(8, "big", signed=True), now))
        return None if was == now else ("lost" if was else "gained")

    def _compared(
        self, index: int, label: int | None, baseline: Array, candidate: Array, change: str | None
    ) -> Compared:
        classes = self.dataset.classes
        return Compared(
            index=index,
            name=self.dataset.file_name(index),
            label=label,
            label_name=None if label is None else class_name(classes, label),
            baseline=_answer(baseline, classes),
            candidate=_answer(candidate, classes),
            change=change,  # type: ignore[arg-type]
            sqnr_db=_sqnr(baseline, candidate),
        )


def _answer(output: Array, classes: Sequence[str]) -> Answer | None:
    found, best = scores(output), top1(output)
    if found is None or best is None:
        return None
    score = float(found[best])
    return Answer(best, class_name(classes, best), score if math.isfinite(score) else None)


def _sqnr(baseline: Array, candidate: Array) -> float:
    ref, out = (np.clip(array.ravel().astype(np.float64), -1e150, 1e150) for array in (baseline, candidate))
    return sqnr(float(ref @ ref), float((ref - out) @ (ref - out)))
