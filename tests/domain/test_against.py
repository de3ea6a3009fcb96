"""What a gate compares with: parsed, paired, and held against limits without pretending to know more."""

import base64
import math
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from app.domain.against import Earlier, NoEarlier, Outcomes, bitmap, pair, parse
from app.domain.gate import Check, Gate, decide
from app.domain.intervals import difference_interval, drop_interval, median_interval
from app.domain.report import Accuracy, Figures, Memory, Size
from tests.factories import figures, latency

LABEL = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)


def outcomes(right: list[bool], key: str = "k") -> Outcomes:
    return Outcomes(key, len(right), bitmap(right))


def check(gate: Gate, now: Figures, earlier: Earlier | NoEarlier | None) -> Check:
    (found,) = decide(gate, {"now": now}, earlier).checks
    return found


@given(st.dictionaries(LABEL, LABEL, min_size=1, max_size=4))
def test_any_labels_survive_being_written_and_read(labels: dict[str, str]) -> None:
    text = "latest:" + ",".join(f"{quote(k, safe='')}={quote(v, safe='')}" for k, v in labels.items())

    assert TypeAdapter(Gate).validate_python({"against": text}).against == text
    assert parse(text).labels == labels


@pytest.mark.parametrize(
    "text", ["", "FLOAT", "latest:", "latest:x", "latest:=1", "cnd_1", "latest:a=1,", "ver_"]
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Gate).validate_python({"against": text})


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=70))
def test_pairing_counts_what_changed(samples: list[tuple[bool, bool]]) -> None:
    before, after = ([pair_[i] for pair_ in samples] for i in (0, 1))

    found = pair(outcomes(before), outcomes(after))

    assert found is not None
    assert found.lost == sum(was and not now for was, now in samples)
    assert found.gained == sum(now and not was for was, now in samples)
    assert found.samples == len(samples)


def test_other_samples_are_not_paired() -> None:
    one = outcomes([True, False])

    assert pair(one, outcomes([True, False], key="other")) is None
    assert pair(one, replace(one, right=None)) is None
    assert pair(None, one) is None


def test_a_drop_from_an_earlier_candidate_is_paired_where_it_can_be() -> None:
    before, after = [True] * 95 + [False] * 5, [False] * 3 + [True] * 97
    earlier = Earlier("old", figures(), outcomes=outcomes(before), now={"now": outcomes(after)})

    found = check(Gate(max_accuracy_drop=0.01), figures(), earlier)

    assert (found.value, found.against) == (-0.02, "old")
    assert found.bound == drop_interval(3, 5, 100, 0.05)[1]


def test_without_the_same_samples_the_bound_is_wider_and_says_so() -> None:
    now, earlier = figures(lost=5, gained=5), Earlier("old", figures(lost=5, gained=5))

    found = check(Gate(max_accuracy_drop=0.01), now, earlier)
    paired = check(Gate(max_accuracy_drop=0.01), now, None)

    expected = difference_interval(0.9, 1000, 0.9, 1000, 0.05)
    assert expected is not None
    assert found.bound == expected[1] > (paired.bound or 1)
    assert found.reason is not None
    assert "not paired" in found.reason


def test_another_metric_cannot_be_compared() -> None:
    accuracy = figures().accuracy
    assert accuracy is not None
    earlier = Earlier("old", replace(figures(), accuracy=replace(accuracy, metric="top5")))

    found = check(Gate(max_accuracy_drop=0.5), figures(), earlier)

    assert (found.conclusion, found.reason) == (
        "inconclusive",
        "the earlier job measured top5, this one top1",
    )


def bootstrapped(drop: float, width: float) -> Figures:
    quantiles = tuple(drop + width * (i / 100 - 1) for i in range(201))
    return Figures(accuracy=Accuracy("mse", 3.0 + drop, 3.0, drop, (0, 0), 400, quantiles=quantiles))


def test_metrics_that_are_no_shares_are_judged_by_their_bootstrap() -> None:
    assert check(Gate(max_accuracy_drop=2.0), bootstrapped(1.0, 0.5), None).conclusion == "pass"
    assert check(Gate(max_accuracy_drop=0.4), bootstrapped(1.0, 0.5), None).conclusion == "fail"
    undecided = check(Gate(max_accuracy_drop=1.1), bootstrapped(1.0, 0.5), None)
    assert undecided.conclusion == "inconclusive"
    assert undecided.samples_needed is not None
    assert undecided.samples_needed > 400


def test_two_bootstrapped_drops_are_subtracted_only_on_the_same_samples() -> None:
    same = Outcomes("k", 400)
    earlier = Earlier("old", bootstrapped(1.0, 0.1), outcomes=same, now={"now": same})

    found = check(Gate(max_accuracy_drop=0.5), bootstrapped(1.2, 0.1), earlier)
    apart = check(Gate(max_accuracy_drop=0.5), bootstrapped(1.2, 0.1), replace(earlier, now={}))

    assert found.value == pytest.approx(0.2)
    assert found.bound == pytest.approx(1.2 + 0.095 - (1.0 - 0.095), abs=0.011)
    assert (apart.conclusion, apart.value) == ("inconclusive", None)


def test_samples_of_streams_are_not_paired_one_by_one() -> None:
    kept = outcomes([True] * 400)
    shares = Accuracy(
        "top1", 0.9, 0.9, 0.0, (0, 0), 400, 0, 0, tuple(0.1 * (i / 100 - 1) for i in range(201))
    )
    earlier = Earlier("old", Figures(accuracy=shares), outcomes=kept, now={"now": kept})

    found = check(Gate(max_accuracy_drop=0.01), Figures(accuracy=shares), earlier)

    assert found.conclusion == "inconclusive"
    assert found.bound == pytest.approx(2 * 0.095, abs=0.011)


def test_a_relative_drop_is_a_share_of_what_it_is_compared_with() -> None:
    found = check(Gate(max_relative_drop=0.5), bootstrapped(0.3, 0.1), None)
    zero = Figures(accuracy=Accuracy("mse", 0.1, 0.0, 0.1, (0, 0), 9, quantiles=(0.1,) * 201))

    assert found.value == pytest.approx(0.1)
    assert found.bound == pytest.approx(0.39 / 3, abs=0.001)
    assert check(Gate(max_relative_drop=0.5), zero, None).conclusion == "inconclusive"


def test_a_speedup_over_an_earlier_one_is_a_ratio_of_ratios_with_both_errors() -> None:
    now, before = latency(2.0, spread=0.1), latency(1.6, spread=0.1)
    earlier = Earlier("old", Figures(latency=before))

    found = check(Gate(min_speedup=1.0), Figures(latency=now), earlier)

    mine, its = median_interval(now.ratios, 0.025), median_interval(before.ratios, 0.025)
    assert mine is not None
    assert its is not None
    assert (found.value, found.bound) == (1.25, mine[0] / its[1])


def test_speed_and_memory_of_another_host_are_not_compared() -> None:
    earlier = Earlier("old", figures(), same_host=False)

    for gate in (Gate(min_speedup=0.1), Gate(max_memory_ratio=9)):
        found = check(gate, figures(), earlier)
        assert (found.conclusion, found.bound) == ("inconclusive", None)
        assert "another kind of host" in str(found.reason)
    assert check(Gate(max_size_ratio=1.0), figures(), earlier).conclusion == "pass"


def test_bytes_milliseconds_and_decibels_are_never_compared_with_an_earlier_job() -> None:
    limits = Gate(max_size_bytes=250, max_memory_bytes=1000, max_latency_ms=1.0, min_sqnr_db=30)

    for earlier in (None, Earlier("old", Figures()), NoEarlier("none"), NoEarlier("none", first=True)):
        checks = decide(limits, {"now": figures()}, earlier).checks
        assert [one.conclusion for one in checks] == ["pass"] * 4
        assert {one.against for one in checks} == {None}


@pytest.mark.parametrize(
    ("limits", "conclusion"),
    [
        (Gate(max_size_bytes=250), "pass"),
        (Gate(max_size_bytes=249), "fail"),
        (Gate(max_memory_bytes=1000), "pass"),
        (Gate(max_memory_bytes=999), "fail"),
        (Gate(max_memory_ratio=0.25), "pass"),
        (Gate(max_memory_ratio=0.2), "fail"),
        (Gate(max_latency_ms=1.0), "pass"),
        (Gate(max_latency_ms=0.9), "fail"),
    ],
)
def test_a_limit_on_cost_is_kept_or_broken(limits: Gate, conclusion: str) -> None:
    assert check(limits, figures(), None).conclusion == conclusion


def test_milliseconds_that_vary_around_the_limit_are_undecided() -> None:
    varied = replace(latency(2.0), p50_ms=1.0, p50s_ms=tuple(0.9 + i / 50 for i in range(12)))

    found = check(Gate(max_latency_ms=1.0), Figures(latency=varied), None)

    assert (found.conclusion, found.value) == ("inconclusive", 1.0)
    assert "host" in str(found.reason)


def test_without_an_earlier_job_comparing_limits_are_undecided_and_say_why() -> None:
    found = decide(
        Gate(max_accuracy_drop=0.5, min_sqnr_db=1), {"now": figures()}, NoEarlier("no_reference: none")
    )

    assert [one.conclusion for one in found.checks] == ["inconclusive", "pass"]
    assert found.checks[0].reason == "no_reference: none"
    assert (found.conclusion, found.blocking) == ("inconclusive", True)


def test_on_a_models_first_job_comparing_limits_are_left_out() -> None:
    first = NoEarlier("none", first=True)

    only_comparing = decide(Gate(max_accuracy_drop=0.0), {"now": figures()}, first)
    with_others = decide(Gate(max_accuracy_drop=0.0, max_size_bytes=1), {"now": figures()}, first)

    assert (only_comparing.conclusion, only_comparing.blocking, only_comparing.checks) == ("none", False, ())
    assert [one.name for one in with_others.checks] == ["max_size_bytes"]


EVERY = Gate(
    max_accuracy_drop=0.1,
    max_relative_drop=0.1,
    min_speedup=1.0,
    max_latency_ms=10,
    max_size_ratio=1,
    max_size_bytes=10**9,
    max_memory_ratio=1,
    max_memory_bytes=10**9,
    min_sqnr_db=1,
)


@pytest.mark.parametrize(
    "earlier", [None, Earlier("old", figures()), Earlier("old", Figures()), NoEarlier("x")]
)
@pytest.mark.parametrize("count", [1, 100])
def test_a_gate_with_every_field_answers_for_every_candidate(earlier: Any, count: int) -> None:
    found = decide(EVERY, {str(i): figures() for i in range(count)}, earlier)

    assert len(found.checks) == 9 * count
    assert found.conclusion in {"pass", "inconclusive"}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_finite_number_is_undecided_and_not_shown(value: float) -> None:
    fidelity = figures().fidelity
    accuracy = figures().accuracy
    assert fidelity is not None
    assert accuracy is not None
    broken = Figures(
        size=Size(1, value),
        accuracy=replace(accuracy, drop=value, quantiles=(value,) * 201),
        fidelity=replace(fidelity, sqnr_db=value),
        memory=Memory(1, 1, 0),
        latency=replace(
            latency(1.0), speedup=value, ratios=(value,) * 12, p50s_ms=(value,) * 12, p50_ms=value
        ),
    )
    limits = replace(EVERY, max_size_bytes=None, max_memory_bytes=None)

    for one in decide(limits, {"now": broken}).checks:
        assert (one.conclusion, one.value, one.bound) == ("inconclusive", None, None), one


@pytest.mark.parametrize(("lost", "samples"), [(0, 0), (0, 1), (1, 1), (50, 50)])
def test_no_sample_one_sample_and_all_flipped_are_no_reason_to_crash(lost: int, samples: int) -> None:
    drop = lost / samples if samples else 0.0
    found = Figures(accuracy=Accuracy("top1", 1 - drop, 1.0, drop, (0, 0), samples, lost, 0))

    conclusion = check(Gate(max_accuracy_drop=0.01), found, None).conclusion

    assert conclusion == ("fail" if samples == 50 else "inconclusive")


def test_the_bitmap_keeps_its_order_and_leading_zeros() -> None:
    assert base64.b64decode(bitmap([False] * 9 + [True])) == bytes([0, 1])
    assert base64.b64decode(bitmap([])) == b"\0"
