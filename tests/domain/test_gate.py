"""The verdict: three values, one level for all candidates, and nothing decided without evidence."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import gate
from app.domain.gate import Gate, decide
from app.domain.intervals import drop_interval, median_interval, normal_quantile
from app.domain.note import About, Note
from app.domain.power import samples_for
from app.domain.report import Accuracy, Fidelity, Figures, Size
from tests.factories import figures, latency


def accuracy(lost: int, gained: int, samples: int) -> Figures:
    drop = (lost - gained) / samples
    return Figures(accuracy=Accuracy("top1", 0.9 - drop, 0.9, drop, (0.0, 0.0), samples, lost, gained))


def sqnr(value: float, error: float = 0.0) -> Figures:
    return Figures(fidelity=Fidelity(value, value, error, 1.0, 1.0, 100))


def speed(speedup: float, spread: float = 0.0, rounds: int = 12) -> Figures:
    return Figures(latency=latency(speedup, spread=spread, rounds=rounds))


CASES = [
    (Gate(max_accuracy_drop=0.01), accuracy(10, 10, 10_000), "pass"),
    (Gate(max_accuracy_drop=0.01), accuracy(500, 10, 10_000), "fail"),
    (Gate(max_accuracy_drop=0.01), accuracy(100, 10, 10_000), "inconclusive"),
    (Gate(max_accuracy_drop=0.01), accuracy(0, 0, 10), "inconclusive"),
    (Gate(min_speedup=1.2), speed(1.5, 0.1), "pass"),
    (Gate(min_speedup=1.2), speed(1.1, 0.05), "fail"),
    (Gate(min_speedup=1.2), speed(1.2, 0.1), "inconclusive"),
    (Gate(max_size_ratio=0.3), Figures(size=Size(30, 0.3)), "pass"),
    (Gate(max_size_ratio=0.3), Figures(size=Size(31, 0.31)), "fail"),
    (Gate(min_sqnr_db=20), sqnr(20.0), "pass"),
    (Gate(min_sqnr_db=20), sqnr(19.0, 0.1), "fail"),
    (Gate(min_sqnr_db=20), sqnr(20.1, 1.0), "inconclusive"),
]


@pytest.mark.parametrize(("limits", "found", "conclusion"), CASES)
def test_a_limit_is_kept_broken_or_undecided(limits: Gate, found: Figures, conclusion: str) -> None:
    verdict = decide(limits, {"a": found})

    assert verdict.conclusion == conclusion
    assert [check.conclusion for check in verdict.checks] == [conclusion]
    assert verdict.best == "a"


@pytest.mark.parametrize(("limits", "found", "conclusion"), CASES)
def test_on_inconclusive_changes_what_blocks_and_nothing_else(
    limits: Gate, found: Figures, conclusion: str
) -> None:
    strict = decide(replace(limits, on_inconclusive="fail"), {"a": found})
    lenient = decide(replace(limits, on_inconclusive="pass"), {"a": found})

    assert replace(strict, blocking=lenient.blocking) == lenient
    assert (strict.blocking, lenient.blocking) == (conclusion != "pass", conclusion == "fail")


@pytest.mark.parametrize("limits", [None, Gate(), Gate(on_inconclusive="fail")])
def test_without_limits_there_is_a_best_candidate_and_no_verdict(limits: Gate | None) -> None:
    verdict = decide(limits, {"a": figures(speedup=2), "b": figures(speedup=3)})

    assert (verdict.conclusion, verdict.blocking, verdict.best, verdict.checks) == ("none", False, "b", ())


def test_a_passing_bound_is_the_one_sided_95_percent_bound() -> None:
    (check,) = decide(Gate(max_accuracy_drop=0.01), {"a": accuracy(30, 20, 10_000)}).checks

    assert check.value == 0.001
    assert check.bound == drop_interval(30, 20, 10_000, 0.05)[1]
    assert check.bound is not None
    assert check.value < check.bound <= check.limit


def test_a_failing_bound_is_the_opposite_one() -> None:
    (check,) = decide(Gate(max_accuracy_drop=0.001), {"a": accuracy(500, 20, 10_000)}).checks

    assert check.bound == drop_interval(500, 20, 10_000, 0.05)[0]
    assert check.bound is not None
    assert check.limit < check.bound < 0.048


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_bound_shares_the_error_of_all_candidates(count: int) -> None:
    found = {str(i): replace(accuracy(30, 20, 10_000), fidelity=sqnr(30, 1.0).fidelity) for i in range(count)}
    found = {name: replace(f, latency=latency(2.0, spread=0.5)) for name, f in found.items()}

    checks = decide(Gate(max_accuracy_drop=0.01, min_sqnr_db=10, min_speedup=1.1), found).checks

    level = 0.05 / count
    rounds = median_interval(latency(2.0, spread=0.5).ratios, level)
    assert rounds is not None
    expected = {
        "max_accuracy_drop": drop_interval(30, 20, 10_000, level)[1],
        "min_sqnr_db": 30 - normal_quantile(level),
        "min_speedup": rounds[0],
    }
    assert [check.bound for check in checks] == [expected[check.name] for check in checks]
    assert len(checks) == 3 * count


def test_trying_more_recipes_does_not_buy_a_pass() -> None:
    found = speed(1.5, 0.1, rounds=9)

    alone = decide(Gate(min_speedup=1.42), {"a": found})
    among_twenty = decide(Gate(min_speedup=1.42), {str(i): found for i in range(20)})

    assert alone.conclusion == "pass"
    assert among_twenty.conclusion == "inconclusive"


def test_too_few_rounds_for_the_level_are_inconclusive_and_say_so() -> None:
    found = {str(i): speed(9.0, rounds=9) for i in range(30)}

    verdict = decide(Gate(min_speedup=1.2), found)

    assert verdict.conclusion == "inconclusive"
    assert {check.reason for check in verdict.checks} == {"9 rounds are too few for 30 candidates"}


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("max_accuracy_drop", "accuracy"),
        ("min_speedup", "latency"),
        ("min_sqnr_db", "fidelity"),
    ],
)
def test_what_was_not_measured_is_inconclusive_with_the_reason_from_the_notes(name: str, word: About) -> None:
    other = Note("recipe", f"float, since {word} and memory of another size are kept so")
    noted = Figures(notes=(other, Note(word, "there is no data")))

    for found, reason in (
        (noted, f"{word}: there is no data"),
        (Figures(notes=(other,)), f"{word} was not measured"),
    ):
        verdict = decide(Gate(**{name: 1.0}), {"a": found})  # type: ignore[arg-type]

        (check,) = verdict.checks
        assert (check.conclusion, check.value, check.bound) == ("inconclusive", None, None)
        assert check.reason == reason
        assert verdict.conclusion == "inconclusive"


def test_a_negative_drop_is_an_improvement_and_passes() -> None:
    verdict = decide(Gate(max_accuracy_drop=0.0), {"a": accuracy(10, 200, 10_000)})

    assert verdict.conclusion == "pass"
    assert verdict.checks[0].value == pytest.approx(-0.019)


def test_a_negative_limit_asks_for_an_improvement() -> None:
    limits = Gate(max_accuracy_drop=-0.01)

    assert decide(limits, {"a": accuracy(10, 500, 10_000)}).conclusion == "pass"
    assert decide(limits, {"a": accuracy(10, 10, 10_000)}).conclusion == "fail"


def test_one_candidate_that_passes_everything_passes_the_gate_and_is_the_best() -> None:
    found = {"fast and wrong": figures(speedup=9, lost=200), "slow and right": figures(speedup=2)}

    verdict = decide(Gate(max_accuracy_drop=0.02, min_speedup=1.5), found)

    assert (verdict.conclusion, verdict.best) == ("pass", "slow and right")


def test_the_best_of_several_that_pass_is_the_fastest() -> None:
    found = {"b": figures(speedup=2), "a": figures(speedup=3), "c": figures(speedup=2.5)}

    assert decide(Gate(min_speedup=1.5), found).best == "a"


def test_the_gate_fails_only_when_every_candidate_fails() -> None:
    fails, undecided = figures(speedup=1.0), replace(figures(), latency=latency(1.5, spread=0.4))

    assert decide(Gate(min_speedup=1.5), {"a": fails, "b": fails}).conclusion == "fail"
    assert decide(Gate(min_speedup=1.5), {"a": fails, "b": undecided}).conclusion == "inconclusive"


def test_different_limits_may_fail_different_candidates() -> None:
    found = {"slow": figures(speedup=1.0), "big": figures(ratio=0.9)}

    assert decide(Gate(min_speedup=1.5, max_size_ratio=0.5), found).conclusion == "fail"


def test_the_best_is_the_fastest_among_the_close_ones() -> None:
    found = {"close": figures(speedup=2), "closer": figures(speedup=1.5, lost=0), "far": figures(lost=300)}

    assert gate.best_of(found) == "close"
    assert gate.best_of({"far": figures(lost=300), "farther": figures(speedup=9, lost=400)}) == "far"
    assert gate.best_of({}) is None


def test_without_labels_close_means_20_db_and_without_latency_small_wins() -> None:
    small = replace(sqnr(25), size=Size(1, 0.1))
    large = replace(sqnr(60), size=Size(9, 0.9))
    broken = replace(sqnr(3), size=Size(1, 0.01))

    assert gate.best_of({"small": small, "large": large, "broken": broken}) == "small"


def test_the_pareto_front_has_what_nothing_beats() -> None:
    found = {
        "fast": figures(speedup=3, lost=10),
        "right": figures(speedup=1, lost=1),
        "small": figures(speedup=1, lost=20, ratio=0.1),
        "beaten": figures(speedup=1, lost=10),
        "twin of right": figures(speedup=1, lost=1),
    }

    assert gate.pareto(found) == {"fast", "right", "small", "twin of right"}


@given(
    st.dictionaries(
        st.text(max_size=3),
        st.builds(
            figures,
            speedup=st.sampled_from([1.0, 2.0, 3.0]),
            ratio=st.sampled_from([0.25, 0.5]),
            lost=st.integers(0, 5),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_some_candidate_is_always_on_the_front_and_the_best_is(found: dict[str, Figures]) -> None:
    front = gate.pareto(found)

    assert front
    assert front <= set(found)
    assert gate.best_of(found) in found


def test_samples_needed_follow_the_flip_rate_and_the_limit() -> None:
    undecided = accuracy(4, 4, 200).accuracy
    assert undecided is not None

    assert gate.samples_needed(undecided, 0.01, 0.05) == samples_for(0.01, 9 / 201, 0.05)
    assert gate.samples_needed(undecided, 0.005, 0.01) == samples_for(0.005, 9 / 201, 0.01)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(80, 3000), st.floats(-0.2, 0.2))
def test_an_undecided_check_always_asks_for_more_samples(
    lost: int, gained: int, samples: int, limit: float
) -> None:
    (check,) = decide(Gate(max_accuracy_drop=limit), {"a": accuracy(lost, gained, samples)}).checks

    if check.conclusion == "inconclusive":
        assert check.samples_needed is not None
        assert check.samples_needed > samples
    else:
        assert check.samples_needed is None
