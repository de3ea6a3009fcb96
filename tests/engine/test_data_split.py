"""Splits are drawn by content: stratified, deterministic, and with equal samples on one side."""

from collections import Counter
from hashlib import blake2b
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import Refused
from worker.engine.data.split import check_disjoint, choose, split

Samples = list[tuple[int, int]]  # content and label
SAMPLES = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 4)), min_size=2, max_size=80).filter(
    lambda samples: len({content for content, _ in samples}) > 1
)


def content(number: int) -> bytes:
    return blake2b(str(number).encode(), digest_size=16).digest()


def halves(samples: Samples, calibration: int | None = None) -> tuple[list[int], list[int]]:
    return split([content(c) for c, _ in samples], [label for _, label in samples], calibration)


@given(SAMPLES)
def test_every_sample_is_on_one_side_and_equal_ones_on_the_same(samples: Samples) -> None:
    first, second = halves(samples)

    assert sorted(first + second) == list(range(len(samples)))
    assert first
    assert second
    assert not {samples[i][0] for i in first} & {samples[i][0] for i in second}


@given(SAMPLES, st.randoms(use_true_random=False))
def test_the_order_of_the_file_does_not_matter(samples: Samples, draw: Random) -> None:
    shuffled = draw.sample(samples, len(samples))

    assert _contents(samples) == _contents(shuffled)


def _contents(samples: Samples) -> Counter[int]:
    first, _ = halves(samples)
    return Counter(samples[i][0] for i in first)


def test_calibration_is_a_fifth_and_at_most_128() -> None:
    assert len(halves([(i, 0) for i in range(100)])[0]) == 20
    assert len(halves([(i, 0) for i in range(2000)])[0]) == 128
    assert len(halves([(i, 0) for i in range(2000)], 300)[0]) == 300
    assert len(halves([(i, 0) for i in range(100)], 300)[0]) == 20
    assert len(halves([(i, 0) for i in range(2)])[0]) == 1


@pytest.mark.parametrize("wanted", [50, 100, 150])
def test_every_label_has_its_share_on_both_sides(wanted: int) -> None:
    samples = [(i, 0 if i < 800 else 1 if i < 950 else 2) for i in range(1000)]  # sorted by label

    first, _ = halves(samples, wanted)

    counts = Counter(samples[i][1] for i in first)
    assert abs(counts[0] - 0.80 * wanted) <= 1
    assert abs(counts[1] - 0.15 * wanted) <= 1
    assert abs(counts[2] - 0.05 * wanted) <= 1


def test_a_capped_choice_is_stratified_too() -> None:
    labels = [i // 50 for i in range(500)]

    chosen = choose([content(i) for i in range(500)], labels, 100)

    assert Counter(labels[i] for i in chosen) == dict.fromkeys(range(10), 10)


def test_samples_that_are_all_equal_cannot_be_split() -> None:
    with pytest.raises(Refused) as refused:
        halves([(7, 0)] * 50)

    assert refused.value.code == "too_few_samples"


def test_datasets_that_share_a_sample_are_refused() -> None:
    check_disjoint([content(1), content(2)], [content(3)])

    with pytest.raises(Refused, match="1 of 2 evaluation samples") as refused:
        check_disjoint([content(1), content(2)], [content(3), content(2)])

    assert refused.value.code == "overlapping_datasets"
