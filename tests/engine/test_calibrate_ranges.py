"""Histograms that merge exactly, and the ranges that are read from them."""

from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from app.domain.errors import Refused
from app.domain.recipe import Ranges
from tests.engine.graphs import build, weights
from worker.engine.calibrate import Statistics, collect, load_statistics, ranges, save_statistics
from worker.engine.calibrate.histogram import BINS, SAMPLED, add, exponent_of, histogram, sampled
from worker.engine.calibrate.observers import Extent, observe, widen
from worker.engine.load import save_model

Array = np.ndarray[Any, Any]
Method = Literal["auto", "minmax", "percentile", "entropy", "mse"]
METHODS: tuple[Method, ...] = ("auto", "minmax", "percentile", "entropy", "mse")
singles = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20)


def spread(*values: float, kind: type = np.float32) -> Extent:
    extent = observe(np.array([values], kind), axis=1)
    assert extent is not None
    return extent


def pair(
    values: Array, method: Method, activation: str = "uint8", *, symmetric: bool = False
) -> tuple[float, float]:
    extent = observe(values)
    assert extent is not None
    found = ranges(Statistics(1, {"t": extent}), Ranges(method=method), activation, symmetric=symmetric)["t"]
    low, high = found.range_value
    return float(low), float(high)


def normal(size: int = SAMPLED) -> Array:
    return np.random.default_rng(3).normal(size=size).astype(np.float32)


@given(st.lists(singles, min_size=1, max_size=5), st.randoms())
def test_parts_merge_bit_by_bit_into_the_whole_in_any_order(parts: list[list[float]], random: Any) -> None:
    whole = spread(*[value for part in parts for value in part])
    random.shuffle(parts)

    merged = reduce(lambda one, other: widen(one, other) or one, [spread(*part) for part in parts])

    assert (merged.lowest, merged.highest, merged.histogram) == (whole.lowest, whole.highest, whole.histogram)


@given(singles, st.integers(0, 40))
def test_counting_over_a_wider_range_equals_joining_bins(values: list[float], wider: int) -> None:
    array = np.array(values, np.float32)
    exponent = exponent_of(float(np.abs(array).max()))

    joined = add(histogram(array, exponent), histogram(array[:0], exponent + wider))

    assert joined == histogram(array.astype(np.float64), exponent + wider)
    assert joined.counts.sum() == array.size


def test_what_is_drawn_of_a_batch_is_what_is_drawn_of_its_samples() -> None:
    samples = [
        np.random.default_rng(seed).normal(size=(1, 3, 160, 160)).astype(np.float32) for seed in range(4)
    ]

    batch = observe(np.concatenate(samples), axis=1, rows=4)

    assert batch == reduce(widen, [observe(sample, axis=1) for sample in samples])
    assert batch is not None
    assert batch.histogram is not None
    assert batch.histogram.counts.sum() == 4 * SAMPLED


def test_what_is_drawn_comes_from_every_channel_alike() -> None:
    values = np.tile(np.arange(64, dtype=np.float32), 4096)

    drawn = np.bincount(sampled(values, 1).astype(int), minlength=64)

    assert drawn.sum() == SAMPLED
    assert drawn.min() > 0.7 * SAMPLED / 64


def test_entropy_clips_rare_outliers_and_keeps_uniform_values() -> None:
    values = normal()
    values[:3] = (20, -20, 20)  # 0.01 %

    low, high = pair(values, "entropy")

    assert 3 < high < 8
    assert -8 < low < -3
    even = np.random.default_rng(5).uniform(-1, 1, SAMPLED).astype(np.float32)
    assert pair(even, "entropy") == pytest.approx((-1, 1), abs=0.02)


@pytest.mark.parametrize("symmetric", [False, True])
def test_mse_is_no_worse_than_any_other_range(symmetric: bool) -> None:
    values = np.random.default_rng(3).standard_t(3, size=SAMPLED).astype(np.float32)

    found = error(values, *pair(values, "mse", symmetric=symmetric))

    shares = np.geomspace(1, 0.02, 60) * np.abs(values).max()
    assert found <= 1.05 * min(error(values, -share, share) for share in shares)


def error(values: Array, low: float, high: float) -> float:
    step = (high - low) / 255
    zero = np.rint(-low / step)
    quantized = (np.clip(np.rint(values / step) + zero, 0, 255) - zero) * step
    return float(np.square(values - quantized).mean())


def test_sixteen_bits_clip_less_than_eight() -> None:
    values = np.random.default_rng(3).standard_t(3, size=SAMPLED).astype(np.float32)

    assert pair(values, "mse", "uint16")[1] > pair(values, "mse", "uint8")[1]
    assert pair(values, "entropy", "uint16") == pytest.approx(pair(values, "minmax"), rel=0.01)


@pytest.mark.parametrize("method", METHODS)
def test_one_sided_tensors_keep_their_end_at_zero(method: Method) -> None:
    assert pair(np.maximum(normal(), 0), method)[0] == 0.0
    assert pair(np.minimum(normal(), 0), method)[1] == 0.0


def test_a_percentile_cuts_the_same_share_on_both_sides() -> None:
    values = np.linspace(-1, 1, SAMPLED, dtype=np.float32)

    low, high = ranges(Statistics(1, {"t": spread(*values)}), Ranges(method="percentile", percentile=90))[
        "t"
    ].range_value

    assert (float(low), float(high)) == pytest.approx((-0.9, 0.9), abs=1e-3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "values",
    [
        [0.0],
        [0.0] * 9,
        [3.5] * 9,
        [-3.5] * 9,
        [1e30, -1e30, 1],
        [1e-42, -1e-45],
        [0, 1e-40],
        [3.4e38, -3.4e38],
    ],
)
def test_odd_tensors_get_a_range_within_their_values(method: Method, values: Sequence[float]) -> None:
    tensor = np.array([*values, 0], np.float32)

    low, high = pair(tensor[:-1], method)

    assert tensor.min() <= low <= high <= tensor.max()


def test_values_beyond_single_precision_get_no_range() -> None:
    found = ranges(Statistics(1, {"t": spread(1e300, 1, kind=np.float64)}), Ranges(method="mse"))

    assert list(found) == []


def test_values_that_are_not_finite_are_left_out_and_said() -> None:
    extent = observe(np.array([[np.nan, np.inf], [2.0, -1.0]], np.float32), axis=-1)

    assert extent is not None
    assert (extent.lowest, extent.highest, extent.finite) == (-1.0, 2.0, False)
    assert extent.channels is not None
    assert extent.channels.tolist() == [2.0, 1.0]
    assert observe(np.empty((0, 3), np.float32)) is None


def test_channels_are_kept_where_constant_weights_multiply_them(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "one"),
        helper.make_node("MatMul", ["a", "x"], ["y"], "two"),
    ]
    made = build(nodes, {"x": ["n", 8]}, {"y": ["n", 8], "a": ["n", "m"]}, {"w": weights(8, 2)})
    save_model(made, tmp_path / "m.onnx")
    x = normal(16).reshape(2, 8)

    found = collect(tmp_path / "m.onnx", [{"x": x}, {"x": -2 * x}], threads=2)

    largest = found.channel_maximum("x")
    assert largest is not None
    np.testing.assert_array_equal(largest, 2 * np.abs(x).max(axis=0))
    assert found.channel_maximum("a") is None


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_other_precisions_are_observed(kind: type) -> None:
    extent = observe(normal(100).astype(kind))

    assert extent is not None
    assert extent.histogram is not None
    assert extent.histogram.counts.sum() == 100
    assert extent.histogram.counts.size == BINS


def test_a_statistics_file_that_was_cut_or_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.npz"
    save_statistics(Statistics(1, {"t": spread(*normal(500))}), path)
    whole = path.read_bytes()
    np.save(tmp_path / "array.npy", normal(3))

    for index, data in enumerate(
        [whole[:-40], whole[: len(whole) // 2], b"", (tmp_path / "array.npy").read_bytes()]
    ):
        (tmp_path / str(index)).write_bytes(data)
        with pytest.raises(Refused):
            load_statistics(tmp_path / str(index))


def test_statistics_do_not_depend_on_threads(tmp_path: Path) -> None:
    save_model(
        build([helper.make_node("Relu", ["x"], ["y"], "r")], {"x": [4]}, {"y": [4]}, {}), tmp_path / "m.onnx"
    )
    samples = [{"x": normal(4) * number} for number in range(200)]

    assert collect(tmp_path / "m.onnx", samples, threads=1) == collect(
        tmp_path / "m.onnx", samples, threads=4
    )
