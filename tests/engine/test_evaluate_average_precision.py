"""Mean average precision: cases done by hand, and figures of COCO's own toolkit."""

from typing import Any

import numpy as np
import pytest

from app.domain.errors import Refused
from worker.engine.evaluate.average_precision import Matches, match, mean_average_precision, objects
from worker.engine.evaluate.average_precision import matches as matches_of
from worker.engine.evaluate.boxes import Detections

Array = Any


def found(*rows: tuple[float, float, float, float, int, float]) -> Detections:
    """Left, top, right, bottom, class, score of each box."""
    table = np.asarray(rows, np.float64).reshape(-1, 6)
    table = table[np.argsort(-table[:, 5], kind="stable")]
    return Detections(table[:, :4], table[:, 4].astype(int), table[:, 5])


def matches(answer: Detections, target: Array, classes: int, index: int) -> Matches:
    return matches_of(answer, objects(target, index), classes, index)


def value(rows: list[Matches], metric: str = "map", weights: Array = None) -> float:
    ones = np.ones((1, len(rows))) if weights is None else np.asarray(weights, np.float64)[None]
    return float(mean_average_precision(rows, metric)(ones)[0])


SQUARE = (0, 0, 10, 10)
ASIDE = (20, 0, 30, 10)
OBJECTS = np.array([[*SQUARE, 0], [*ASIDE, 0]], np.float64)


def test_every_object_found_exactly_is_1() -> None:
    row = matches(found((*SQUARE, 0, 0.9), (*ASIDE, 0, 0.8)), OBJECTS, 2, 0)

    assert value([row]) == pytest.approx(1)


def test_a_wrong_box_before_a_right_one_and_a_missed_object_by_hand() -> None:
    """Precision is 1/2 at a recall of 1/2, so at 51 of the 101 recalls, and 0 at the others."""
    row = matches(found((40, 40, 50, 50, 0, 0.9), (*SQUARE, 0, 0.8)), OBJECTS, 1, 0)

    assert value([row], "map50") == pytest.approx(0.5 * 51 / 101)


def test_a_box_counts_at_the_intersections_that_it_reaches() -> None:
    """8 of 10 columns: an intersection of .8, which is enough at .5 to .8, so at 7 of the 10."""
    row = matches(found((0, 0, 8, 10, 0, 0.9)), np.array([[*SQUARE, 0]]), 1, 0)

    assert value([row], "map50") == pytest.approx(1)
    assert value([row]) == pytest.approx(0.7)


def test_an_object_is_found_once_and_the_second_box_is_wrong() -> None:
    hits, _ = match(np.array([[0.9], [0.95]]), np.array([False]))

    assert hits[0].tolist() == [True, False]


def test_boxes_in_a_crowd_count_neither_for_nor_against() -> None:
    crowd = np.array([[*SQUARE, 0, 0], [100, 100, 200, 200, 0, 1]], np.float64)
    inside = found((*SQUARE, 0, 0.5), (110, 110, 120, 120, 0, 0.9), (130, 130, 140, 140, 0, 0.8))

    assert value([matches(inside, crowd, 1, 0)]) == pytest.approx(1)


def test_classes_without_objects_do_not_count_and_all_others_alike() -> None:
    row = matches(found((*SQUARE, 0, 0.9), (*ASIDE, 2, 0.9)), np.array([[*SQUARE, 0], [*ASIDE, 1]]), 3, 0)

    assert value([row]) == pytest.approx(0.5)


def test_only_a_hundred_boxes_of_a_class_count() -> None:
    wrong = [(40.0, 40.0, 50.0, 50.0, 0, 0.9)] * 100

    assert value([matches(found(*wrong, (*SQUARE, 0, 0.1)), OBJECTS, 1, 0)]) == 0


def test_nothing_found_is_0() -> None:
    assert value([matches(found(), OBJECTS, 1, 0)]) == 0


def drawn(seed: int, images: int) -> list[tuple[Detections, Array]]:
    """Objects of three classes, and boxes near them or anywhere; every fifth object is a crowd."""
    draw = np.random.default_rng(seed)
    made = []
    for _ in range(images):
        count = int(draw.integers(0, 7))
        corner, size = draw.integers(0, 80, (count, 2)), draw.integers(5, 40, (count, 2))
        kind, crowd = draw.integers(0, 3, count), (draw.random(count) < 0.2).astype(int)
        target = np.column_stack([corner, corner + size, kind, crowd]).astype(np.float64).reshape(-1, 6)
        near = np.repeat(target, 3, axis=0)
        boxes = near[:, :4] + draw.integers(-6, 7, (len(near), 4))
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        kinds = np.where(draw.random(len(near)) < 0.8, near[:, 4], draw.integers(0, 3, len(near)))
        scores = np.round(draw.random(len(near)), 2)
        made.append((found(*np.column_stack([boxes, kinds, scores]).tolist()), target))
    return made


@pytest.mark.parametrize(
    ("seed", "images", "expected"),
    [
        (1, 20, (0.12275179822337447, 0.37935073351314186)),
        (2, 60, (0.07889857950664216, 0.29713520975089247)),
        (3, 7, (0.07578861778260976, 0.24700196910447347)),
    ],
)
def test_figures_are_those_of_cocos_toolkit(seed: int, images: int, expected: tuple[float, float]) -> None:
    """By `COCOeval` of pycocotools 2.0.11 on the same boxes."""
    rows = [matches(answer, target, 3, i) for i, (answer, target) in enumerate(drawn(seed, images))]

    assert (value(rows), value(rows, "map50")) == pytest.approx(expected, abs=1e-9)


def test_weights_are_images_drawn_several_times() -> None:
    rows = [matches(answer, target, 3, i) for i, (answer, target) in enumerate(drawn(5, 12))]
    weights = np.array([0, 1, 2, 3, 0, 1, 1, 2, 0, 1, 1, 0])
    again = [row for row, times in zip(rows, weights, strict=True) for _ in range(times)]

    assert value(rows, weights=weights) == pytest.approx(value(again), abs=1e-12)


def test_labels_that_are_no_boxes_are_refused() -> None:
    with pytest.raises(Refused, match=r"sample 3 has the shape \[2, 4\]") as refusal:
        objects(OBJECTS[:, :4], 3)
    assert refusal.value.code == "metric_mismatch"


def test_a_class_that_the_model_has_not_is_refused() -> None:
    with pytest.raises(Refused, match="box of class 7; the model's go from 0 to 1") as refusal:
        matches(found(), np.array([[*SQUARE, 7]]), 2, 0)
    assert refusal.value.code == "labels_out_of_range"
