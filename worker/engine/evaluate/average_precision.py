"""Mean average precision as COCO counts it: boxes of all sizes, at most 100 of a class in one image.

Lin et al., Microsoft COCO: Common Objects in Context, 2014; the evaluation is that of `COCOeval` in its
toolkit: precision at 101 recalls, made monotonic, over intersections of .5, .55, … .95.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from app.domain.errors import FieldError, Refused
from worker.engine.data.dataset import Array
from worker.engine.evaluate.boxes import BOX, Detections, mismatch, overlaps
from worker.engine.evaluate.metrics import Value

INTERSECTIONS = np.linspace(0.5, 0.95, 10)
METRICS = {"map": len(INTERSECTIONS), "map50": 1}  # how many of the intersections count
RECALLS = np.linspace(0.0, 1.0, 101)
MOST_OF_A_CLASS = 100
WITH_CROWD = BOX + 2
AT_ONCE = 2_000_000  # weights in memory
NO_HIT = -1.0


@dataclass(frozen=True)
class Matches:
    """The boxes found in one image, and which of them are right at each intersection."""

    classes: Array  # [n] int64
    scores: Array  # [n] float64
    hits: Array  # [10, n] bool
    ignored: Array  # [10, n] bool: they lie in a crowd
    objects: Array  # [classes] int64: how many there are to find


@dataclass(frozen=True)
class Ranking:
    """The boxes of one class in all images, the best first."""

    sample: Array  # [n] int64
    hits: Array  # [10, n] bool
    ignored: Array  # [10, n] bool
    objects: Array  # [samples] int64


def objects(target: Array, index: int) -> Array:
    """What is there in one image, [objects, 6] float64: left, top, right, bottom, class, crowd (1 or 0).

    Raises:
        Refused: `metric_mismatch`, the label has no such rows.
    """
    rows = np.asarray(target, np.float64)
    if rows.ndim != 2 or rows.shape[1] not in {BOX + 1, WITH_CROWD}:  # noqa: PLR2004 - objects, numbers
        detail = (
            f"the label of sample {index} has the shape {list(rows.shape)}; boxes are rows of left, top, "
            "right, bottom, class, and perhaps crowd"
        )
        raise mismatch(detail)
    return np.pad(rows, ((0, 0), (0, WITH_CROWD - rows.shape[1])))


def matches(found: Detections, rows: Array, classes: int, index: int) -> Matches:
    """Hold the boxes of one image against what is there.

    Args:
        found: what the model answers.
        rows: [objects, 6] float64, as `objects` gives them.
        classes: how many the model tells apart.
        index: the sample's place, for refusals.

    Raises:
        Refused: `labels_out_of_range`.
    """
    _check_classes(rows[:, BOX], classes, index)
    kind, crowd = rows[:, BOX].astype(np.int64), rows[:, BOX + 1] > 0
    best = [place for one in np.unique(found.classes) for place in _best(found.classes == one)]
    kept = np.sort(np.asarray(best, np.int64))
    mine = found.classes[kept]
    hits, ignored = np.zeros((2, len(INTERSECTIONS), len(kept)), bool)
    for one in np.intersect1d(mine, kind):
        boxes, wanted = np.flatnonzero(mine == one), kind == one
        shared = overlaps(found.boxes[kept][boxes], rows[wanted, :BOX], crowd[wanted])
        hits[:, boxes], ignored[:, boxes] = match(shared, crowd[wanted])
    return Matches(mine, found.scores[kept], hits, ignored, np.bincount(kind[~crowd], minlength=classes))


def match(shared: Array, crowd: Array) -> tuple[Array, Array]:
    """Give each box, the best first, the free object that it covers best.

    Args:
        shared: [boxes, objects] intersections over unions.
        crowd: [objects] bool: any number of boxes may lie in a crowd, and they do not count.

    Returns:
        Which boxes are right, and which do not count, both [10, boxes] bool.
    """
    enough = np.minimum(INTERSECTIONS, 1 - 1e-10)[:, None]
    free = np.ones((len(INTERSECTIONS), len(crowd)), bool)
    hits, ignored = np.zeros((2, len(INTERSECTIONS), len(shared)), bool)
    for box, row in enumerate(shared):
        fits = row >= enough
        own = np.where(fits & free & ~crowd, row, NO_HIT)
        best = len(crowd) - 1 - own[:, ::-1].argmax(1)  # the last of equal ones, as COCOeval
        hits[:, box] = own.max(1) > NO_HIT
        free[hits[:, box], best[hits[:, box]]] = False
        ignored[:, box] = ~hits[:, box] & (fits & crowd).any(1)
    return hits, ignored


def mean_average_precision(rows: Sequence[Matches], metric: str) -> Value:
    """The mean over the classes that there are objects of, and for `map` over intersections too."""
    rankings, count = list(_rankings(rows)), METRICS[metric]

    def value(weights: Array) -> Array:
        total, present = np.zeros((2, len(weights)))
        for ranking in rankings:
            there = weights @ ranking.objects
            total += np.where(there > 0, _precision(ranking, weights, np.maximum(there, 1), count), 0.0)
            present += there > 0
        return total / np.maximum(present, 1)

    return value


def _check_classes(given: Array, classes: int, index: int) -> None:
    if given.size and not 0 <= given.min() <= given.max() < classes:
        wrong = next(one for one in given if not 0 <= one < classes)
        detail = f"Sample {index} has a box of class {wrong:g}; the model's go from 0 to {classes - 1}."
        raise Refused("labels_out_of_range", detail, errors=(FieldError(f"/labels/{index}", detail),))


def _best(of_class: Array) -> Array:
    places: Array = np.flatnonzero(of_class)[:MOST_OF_A_CLASS]
    return places


def _rankings(rows: Sequence[Matches]) -> Iterator[Ranking]:
    sample = np.repeat(np.arange(len(rows)), [len(row.classes) for row in rows])
    classes, scores = (np.concatenate([getattr(row, name) for row in rows]) for name in ("classes", "scores"))
    hits, ignored = (np.concatenate([getattr(r, name) for r in rows], axis=1) for name in ("hits", "ignored"))
    objects = np.stack([row.objects for row in rows], axis=1)
    for one in np.flatnonzero(objects.sum(1)):
        mine = np.flatnonzero(classes == one)
        mine = mine[np.argsort(-scores[mine], kind="stable")]
        yield Ranking(sample[mine], hits[:, mine], ignored[:, mine], objects[one])


def _precision(ranking: Ranking, weights: Array, there: Array, count: int) -> Array:
    """The average precision of one class over the first `count` intersections, [resamples]."""
    step = max(1, AT_ONCE // max(len(ranking.sample), 1))
    parts = [
        _of_some(ranking, weights[start : start + step], there[start : start + step], count)
        for start in range(0, len(weights), step)
    ]
    return np.concatenate(parts)


def _of_some(ranking: Ranking, weights: Array, there: Array, count: int) -> Array:
    drawn = weights[:, ranking.sample]
    every = np.cumsum(drawn, axis=1)
    total = np.zeros(len(weights))
    for hits, ignored in zip(ranking.hits[:count], ranking.ignored[:count], strict=True):
        seen = np.cumsum(np.where(ignored, 0, drawn), axis=1) if ignored.any() else every
        total += _area(np.cumsum(drawn[:, hits], axis=1), seen[:, hits], there)
    return total / count


def _area(right: Array, seen: Array, there: Array) -> Array:
    """Precision at 101 recalls, where each is the best at this recall or a higher one.

    Precision is best just behind a right box, so the others need no looking at; a box of an image drawn
    several times counts so often.

    Args:
        right: [resamples, hits] how many boxes are right up to each hit.
        seen: [resamples, hits] how many there are up to each hit.
        there: [resamples] how many objects there are.
    """
    if not right.shape[1]:
        return np.zeros(len(right))
    precision = right / (seen + np.spacing(1))
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    reached = np.searchsorted(RECALLS, right / there[:, None], side="right")
    return np.asarray((best * np.diff(reached, axis=1, prepend=0)).sum(1) / len(RECALLS))
