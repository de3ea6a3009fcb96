"""From a detector's output to boxes: declared forms, grids, and suppression."""

from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from app.domain.detection import Decoding
from app.domain.errors import Refused
from worker.engine.evaluate.boxes import class_count, detections, joined, overlaps, suppress


def decoded(rows: Any, *, logits: bool = False, **declared: Any) -> list[list[float]]:
    """Corners, class and score of each box."""
    decoding = Decoding(**{"size": (32, 64), **declared})
    answer = detections(np.asarray(rows, np.float32), decoding, logits=logits)
    found: list[list[float]] = (
        np.column_stack([answer.boxes, answer.classes, answer.scores]).round(4).tolist()
    )
    return found


@pytest.mark.parametrize(
    ("box", "declared"),
    [
        ([15, 10, 10, 20], {"boxes": "cxcywh"}),
        ([10, 0, 20, 20], {"boxes": "xyxy"}),
        ([10, 0, 10, 20], {"boxes": "xywh"}),
        ([15 / 64, 10 / 32, 10 / 64, 20 / 32], {"normalized": True}),
    ],
)
def test_four_numbers_are_a_box_as_declared(box: list[float], declared: dict[str, Any]) -> None:
    assert decoded([[[*box, 0.5, 0.25, 0.5]]], **declared) == [[10, 0, 20, 20, 1, 0.25]]


def test_without_objectness_scores_follow_at_once() -> None:
    assert decoded([[15, 10, 10, 20, 0.5, 0.25]], objectness=False) == [[10, 0, 20, 20, 0, 0.5]]


def test_a_transposed_output_has_a_column_for_each_box() -> None:
    rows = np.array([[15, 10, 10, 20, 0.5, 0.25], [40, 10, 4, 4, 0.1, 0.2]])

    assert decoded(rows.T[None], objectness=False, transposed=True) == decoded(rows, objectness=False)


def test_logits_go_through_a_sigmoid() -> None:
    (box,) = decoded([[15, 10, 10, 20, 0.0, 2.0]], logits=True)

    assert box[5] == pytest.approx(0.5 / (1 + np.exp(-2)), abs=1e-4)


@pytest.mark.parametrize(("background", "scores"), [("first", [0.3, 0.1, 0.6]), ("last", [0.1, 0.6, 0.3])])
def test_a_score_for_the_background_is_no_class(background: str, scores: list[float]) -> None:
    declared: dict[str, Any] = {"objectness": False, "background": background}
    rows = np.array([[15, 10, 10, 20, *scores]])

    assert decoded(rows, **declared) == [[10, 0, 20, 20, 1, 0.6]]
    assert class_count(rows, Decoding(**declared)) == 2
    rows[:, 4:] = np.log(rows[:, 4:]) + 3
    assert decoded(rows, logits=True, **declared) == [[10, 0, 20, 20, 1, 0.6]]


@pytest.mark.parametrize("transposed", [False, True])
def test_boxes_and_scores_of_two_outputs_are_joined(transposed: bool) -> None:
    boxes, scores = np.array([[[15, 10, 10, 20], [40, 10, 4, 4]]]), np.array([[[0.5, 0.25], [0.1, 0.2]]])
    decoding = Decoding(objectness=False, transposed=transposed, scores="s")
    mine, other = (part.swapaxes(1, 2) if transposed else part for part in (boxes, scores))

    rows = joined(mine, other, decoding)

    expected = decoded(np.concatenate([boxes, scores], axis=2), objectness=False)
    assert decoded(rows, objectness=False, transposed=transposed) == expected


@pytest.mark.parametrize(
    ("boxes", "scores"), [((1, 3, 4), (1, 2, 9)), ((1, 3, 5), (1, 3, 9)), ((3, 4), (3,))]
)
def test_outputs_of_other_boxes_are_not_joined(boxes: tuple[int, ...], scores: tuple[int, ...]) -> None:
    with pytest.raises(Refused) as refusal:
        joined(np.zeros(boxes), np.zeros(scores), Decoding(objectness=False, scores="s"))

    assert refusal.value.code == "metric_mismatch"


def test_strides_lay_grids_over_the_input_row_by_row() -> None:
    """32 x 64 pixels have 4 x 8 cells of 8, then 2 x 4 of 16."""
    rows = np.zeros((40, 6))
    rows[8 + 3] = [0.5, 0.25, np.log(2), 0, 1, 0.9]  # second row, fourth column
    rows[32 + 4 + 1] = [0, 0, 0, np.log(0.5), 1, 0.8]  # of the second grid

    assert decoded(rows, strides=(8, 16)) == [
        [20, 6, 36, 14, 0, 0.9],
        [8, 12, 24, 20, 0, 0.8],
    ]


def test_rows_that_are_not_the_cells_of_the_grids_are_refused() -> None:
    with pytest.raises(Refused, match=r"41 rows, but grids of the strides \[8, 16\] over 32 x 64") as refusal:
        decoded(np.zeros((41, 6)), strides=(8, 16))
    assert refusal.value.code == "metric_mismatch"
    assert refusal.value.errors[0].pointer == "/evaluation/decoding"


def test_an_output_without_rows_of_boxes_is_refused() -> None:
    for shape, says in (
        ((10,), "a row for each"),
        ((3, 5), "at least 6 numbers"),
        ((2, 3, 6), "a row for each"),
    ):
        with pytest.raises(Refused, match=says):
            decoded(np.zeros(shape))


def test_weak_boxes_are_left_out() -> None:
    rows = [[5, 5, 4, 4, 1, 0.3], [25, 5, 4, 4, 1, 0.29]]

    assert len(decoded(rows, min_score=0.3)) == 1


def test_boxes_that_overlap_a_better_one_of_their_class_are_suppressed() -> None:
    rows = [[10, 10, 10, 10, 1, 0.6, 0], [11, 10, 10, 10, 1, 0.9, 0], [10, 10, 10, 10, 1, 0, 0.5]]

    assert [box[5] for box in decoded(rows)] == [0.9, 0.5]
    assert len(decoded(rows, nms_iou=1.0)) == 3


def test_a_suppressed_box_suppresses_none() -> None:
    boxes = np.array([[0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]], np.float64)

    assert suppress(boxes, np.zeros(3, int), 0.3) == [0, 2]


def test_sizes_without_end_are_cut_off_and_boxes_of_nothing_overlap_nothing() -> None:
    (huge,) = decoded(np.concatenate([[[0, 0, 90, 90, 1, 0.9]], np.zeros((39, 6))]), strides=(8, 16))[:1]
    empty = np.zeros((1, 4))

    assert np.isfinite(huge).all()
    assert overlaps(empty, empty).tolist() == [[0]]


@pytest.mark.parametrize(
    "declared",
    [
        {"strides": [0]},
        {"size": [0, 4]},
        {"strides": [8], "normalized": True},
        {"strides": [8], "boxes": "xyxy"},
        {"background": "first"},
        {"nms_iou": 2.0},
        {"anchors": [1]},
    ],
)
def test_a_declaration_that_means_nothing_is_refused(declared: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Decoding).validate_python(declared)
