"""Signal to noise, pooled and over samples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import Refused
from worker.engine.evaluate.fidelity import Closeness, headline

DRAW = np.random.default_rng(5)


def closeness(reference: np.ndarray, output: np.ndarray) -> Closeness:
    running = Closeness("y")
    for ref, out in zip(reference, output, strict=True):
        running.add(ref, out)
    return running


@given(st.integers(2, 20), st.floats(0.001, 1), st.integers(0, 2**31))
def test_sqnr_is_pooled_over_samples_in_float64(samples: int, noise: float, seed: int) -> None:
    draw = np.random.default_rng(seed)
    reference = (draw.normal(size=(samples, 7)) * draw.uniform(0.1, 100, (samples, 1))).astype(np.float32)
    output = (reference + noise * draw.normal(size=reference.shape)).astype(np.float32)

    ref, out = reference.astype(np.float64), output.astype(np.float64)
    expected = 10 * np.log10((ref**2).sum() / ((ref - out) ** 2).sum())

    assert closeness(reference, output).fidelity().sqnr_db == pytest.approx(expected, abs=1e-9)


def test_an_exact_match_is_200_db_without_error() -> None:
    same = DRAW.normal(size=(4, 5)).astype(np.float32)

    fidelity = closeness(same, same).fidelity()

    assert (fidelity.sqnr_db, fidelity.sqnr_p05_db, fidelity.sqnr_se_db) == (200, 200, 0)
    assert fidelity.cosine == pytest.approx(1)
    assert fidelity.agreement == 1


def test_the_fifth_percentile_shows_the_samples_that_suffer() -> None:
    reference = np.ones((100, 4))
    output = reference + np.where(np.arange(100) < 10, 0.5, 0.01)[:, None]

    fidelity = closeness(reference, output).fidelity()

    assert fidelity.sqnr_p05_db == pytest.approx(6.02, abs=0.01)
    assert fidelity.sqnr_db > 15


def test_the_standard_error_matches_the_spread_over_repetitions() -> None:
    def one(_: int) -> tuple[float, float]:
        reference = DRAW.normal(size=(200, 8)) * DRAW.lognormal(0, 0.5, (200, 1))
        output = reference + 0.1 * DRAW.normal(size=reference.shape) * DRAW.lognormal(0, 0.5, (200, 1))
        fidelity = closeness(reference, output).fidelity()
        return fidelity.sqnr_db, fidelity.sqnr_se_db

    found = np.array([one(i) for i in range(200)])

    assert found[:, 1].mean() == pytest.approx(found[:, 0].std(), rel=0.2)


def test_one_sample_leaves_the_standard_error_unknown() -> None:
    assert closeness(np.ones((1, 3)), np.full((1, 3), 1.1)).fidelity().sqnr_se_db == 100


def test_agreement_is_the_share_of_equal_top_1() -> None:
    reference = np.array([[0, 1.0], [1, 0.0], [0, 1.0], [1, 0.0]])
    output = np.array([[0, 1.0], [0, 1.0], [0, 1.0], [1, 0.0]])

    assert closeness(reference, output).fidelity().agreement == 0.75


def test_agreement_is_null_where_there_are_no_class_scores() -> None:
    images = DRAW.normal(size=(3, 2, 4, 4))

    assert closeness(images, images * 1.01).fidelity().agreement is None


def test_equal_infinities_are_no_noise_and_new_ones_are() -> None:
    reference = np.array([[1.0, 2.0, -np.inf]])

    assert closeness(reference, reference).fidelity().sqnr_db == 200
    assert closeness(reference[:, :2], np.array([[1.0, np.inf]])).fidelity().sqnr_db == -200


def test_of_several_outputs_the_lowest_is_the_headline_and_all_are_noted() -> None:
    reference = np.ones((5, 3))
    outputs = {
        "boxes": closeness(reference, reference * 1.1),
        "scores": closeness(reference, reference * 1.01),
    }

    fidelity, notes = headline(outputs)

    assert fidelity.sqnr_db == pytest.approx(20)
    assert "boxes 20.0 dB, scores 40.0 dB" in notes[0].text


def test_an_output_of_another_shape_is_refused() -> None:
    with pytest.raises(Refused, match=r"output 'boxes' has .* as behind NonMaxSuppression") as refused:
        Closeness("boxes").add(np.zeros((1, 10)), np.zeros((1, 11)))

    assert refused.value.code == "output_changed"
