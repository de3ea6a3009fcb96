"""How many samples decide how small a drop, and that the gate and the check of a dataset say the same."""

import pytest

from app.domain.dataset import Preprocess
from app.domain.fit import Question, check
from app.domain.gate import Gate, decide
from app.domain.intervals import drop_interval
from app.domain.power import deciding_factor, samples_for, smallest_drop
from app.domain.report import Accuracy, DatasetSummary, Figures
from tests import factories

LEVEL = 0.05


@pytest.mark.parametrize(("candidates", "factor"), [(1, 6.18), (2, 7.85), (6, 10.46)])
def test_the_factor_grows_with_the_candidates_that_share_the_error(candidates: int, factor: float) -> None:
    assert deciding_factor(LEVEL / candidates) == pytest.approx(factor, rel=0.01)


@pytest.mark.parametrize("candidates", [1, 2, 6])
def test_the_gate_asks_for_as_many_samples_as_the_check_of_the_dataset_did(candidates: int) -> None:
    gate = Gate(max_accuracy_drop=0.01)
    summary = DatasetSummary(format="text", samples=199, arrays=(), labels=199, classes=())
    told = check(factories.EXAMINATION, summary, Preprocess(), Question(gate=gate, candidates=candidates))

    # with the one to come, 10 of 200 flip
    found = Figures(accuracy=Accuracy("top1", 0.895, 0.9, 0.005, (0.0, 0.0), 199, lost=5, gained=4))
    checks = decide(gate, {f"cnd_{i}": found for i in range(candidates)}).checks

    assert told.decidable is not None
    assert [one.flip_rate for one in told.decidable.limits[0].needed][-1] == 0.05
    assert {one.samples_needed for one in checks} == {told.decidable.limits[0].needed[-1].samples}


def test_the_smallest_drop_follows_the_flip_rate_the_samples_and_the_candidates() -> None:
    assert smallest_drop(10_000, 0.03, LEVEL) == pytest.approx((6.18 * 0.03 / 10_000) ** 0.5, rel=0.01)
    assert smallest_drop(40_000, 0.03, LEVEL) == pytest.approx(
        smallest_drop(10_000, 0.03, LEVEL) / 2, rel=0.01
    )
    assert smallest_drop(10_000, 0.03, 0.05 / 5) > smallest_drop(10_000, 0.03, LEVEL)
    assert smallest_drop(1, 0.01, LEVEL) <= 1


@pytest.mark.parametrize("samples", [10, 100, 1000])
def test_no_smaller_drop_is_promised_than_the_bound_when_nothing_flips(samples: int) -> None:
    assert smallest_drop(samples, 0.0001, LEVEL) == pytest.approx(
        drop_interval(0, 0, samples, 0.05)[1], rel=1e-6
    )


@pytest.mark.parametrize("limit", [0.002, 0.01, 0.05])
@pytest.mark.parametrize("flip_rate", [0.01, 0.05])
@pytest.mark.parametrize("level", [0.05, 0.05 / 6])
def test_the_samples_for_a_limit_decide_that_limit(limit: float, flip_rate: float, level: float) -> None:
    samples = samples_for(limit, flip_rate, level)

    assert smallest_drop(samples, flip_rate, level) <= limit
    assert smallest_drop(samples - 2, flip_rate, level) > limit
