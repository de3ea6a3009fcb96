"""Class scores, labels and warnings."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from app.domain.errors import Refused
from app.domain.report import Accuracy
from worker.engine.evaluate.accuracy import check_labels, class_scores, in_top, suspicion, top1

SCORES = arrays(np.float32, st.integers(2, 12), elements=st.integers(-3, 3).map(float))


@given(SCORES, st.data())
def test_top_k_is_the_rank_in_a_stable_descending_sort(scores: np.ndarray, data: st.DataObject) -> None:
    label = data.draw(st.integers(0, len(scores) - 1))
    k = data.draw(st.integers(1, 6))

    ranked = np.argsort(-scores, kind="stable")[:k]

    assert in_top(scores, label, k) == (label in ranked)


@pytest.mark.parametrize("shape", [(4,), (1, 4), (1, 4, 1, 1), (4, 1)])
def test_unit_axes_are_squeezed(shape: tuple[int, ...]) -> None:
    assert top1(np.array([0, 3, 1, 2.0]).reshape(shape)) == 1
    assert in_top(np.array([0, 3, 1, 2.0]).reshape(shape), 1, 1)


def test_the_lowest_index_wins_a_tie() -> None:
    assert top1(np.array([1.0, 2.0, 2.0])) == 1
    assert not in_top(np.array([1.0, 2.0, 2.0]), 2, 1)


@pytest.mark.parametrize("shape", [(2, 3), (1,), ()])
def test_what_holds_no_class_scores_has_no_top_1(shape: tuple[int, ...]) -> None:
    assert top1(np.zeros(shape)) is None


@pytest.mark.parametrize("label", [-1, 10, 1000])
def test_a_label_outside_the_classes_is_refused_with_sample_value_and_limit(label: int) -> None:
    with pytest.raises(
        Refused, match=f"Sample 2 has the label {label}, but the model tells 10 classes"
    ) as refused:
        check_labels([0, None, label], 10)

    assert refused.value.code == "labels_out_of_range"
    assert refused.value.errors[0].pointer == "/labels/2"


@pytest.mark.parametrize(
    ("right", "classes", "warned"),
    [(15, 10, True), (25, 10, False), (60, 2, True), (80, 2, False), (1, 1000, False)],
)
def test_an_accuracy_near_chance_makes_the_preprocessing_suspect(
    right: int, classes: int, warned: bool
) -> None:
    share = right / 100
    accuracy = Accuracy("top1", share, share, 0, (0, 0), 100, 0, 0)

    warning = suspicion(accuracy, classes)

    assert (warning is not None) == warned
    assert warning is None or warning.about == "preprocessing_suspect"


def test_a_weak_correlation_makes_the_preprocessing_suspect() -> None:
    weak, strong = (Accuracy("spearman", r, r, 0, (0, 0), 100) for r in (0.1, 0.8))

    assert "the float model's spearman is 0.10 on 100 samples" in str(suspicion(weak, 384))
    assert suspicion(strong, 384) is None


@pytest.mark.parametrize(
    ("value", "logits", "best"), [(0.4, False, 0), (0.6, False, 1), (0.4, True, 1), (-1, True, 0)]
)
def test_a_single_score_says_yes_above_its_threshold(value: float, logits: bool, best: int) -> None:
    assert class_scores(np.array([[value]]), logits=logits).argmax() == best
