from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from app.domain.errors import Refused
from app.domain.recipe import Ranges
from tests.engine.graphs import build, convolution, feeds
from worker.engine.calibrate import (
    Extent,
    Statistics,
    collect,
    load_statistics,
    merge,
    ranges,
    save_statistics,
    sessions,
)
from worker.engine.calibrate.observers import observe
from worker.engine.load import save_model
from worker.engine.passes.inference import infer_shapes
from worker.engine.prepare import prepare_model

finite = st.floats(-1e6, 1e6, width=32)
wild = st.lists(st.floats(width=32), min_size=1, max_size=6).map(
    lambda v: observe(np.array([v], np.float32), axis=1)
)
plain = st.tuples(finite, finite, st.booleans()).map(lambda t: Extent(min(t[:2]), max(t[:2]), finite=t[2]))
extents = st.one_of(plain, wild)
some_statistics = st.builds(
    Statistics, st.integers(0, 9), st.dictionaries(st.sampled_from("abcd"), extents, max_size=4)
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    source, out = tmp_path / "source.onnx", tmp_path / "model.onnx"
    save_model(convolution(), source)
    prepare_model(source, out, feeds(1), {})
    return out


def test_ranges_are_the_exact_extremes_of_each_tensor(model: Path) -> None:
    samples = feeds(5)

    found = collect(model, samples)

    assert found.samples == 5
    assert set(found.tensors) == {"x", "a", "r", "y"}
    values = np.concatenate([feed["x"] for feed in samples])
    assert (found.tensors["x"].lowest, found.tensors["x"].highest) == (values.min(), values.max())
    assert found.tensors["r"].lowest == 0.0
    assert found.tensors["r"].highest == found.tensors["a"].highest


def test_tensors_may_be_called_what_counts_their_values(tmp_path: Path) -> None:
    model = convolution()
    model.graph.node[1].output[0] = model.graph.node[2].input[0] = "a__values"
    save_model(infer_shapes(model)[0], tmp_path / "model.onnx")

    assert set(collect(tmp_path / "model.onnx", feeds(1)).tensors) == {"x", "a", "a__values", "y"}


def test_statistics_do_not_depend_on_the_grouping(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = collect(model, feeds(3))
    monkeypatch.setattr(sessions, "BUDGET", 1)

    assert collect(model, feeds(3)) == whole


def test_statistics_of_parts_merge_into_those_of_the_whole(model: Path) -> None:
    samples = feeds(5)

    assert merge(collect(model, samples[:2]), collect(model, samples[2:])) == collect(model, samples)


def test_samples_are_taken_from_a_stream_one_by_one(model: Path) -> None:
    shares: list[float] = []
    stream = iter(feeds(4))

    collect(model, stream, progress=shares.append, total=4)

    assert shares == [0.25, 0.5, 0.75, 1.0]


def test_samples_may_differ_in_size(model: Path) -> None:
    samples = [*feeds(1), *feeds(1, shape=(3, 3, 16, 16))]

    assert collect(model, samples).samples == 2


def test_no_sample_is_refused(model: Path) -> None:
    with pytest.raises(Refused) as refusal:
        collect(model, [])

    assert refusal.value.code == "no_calibration_data"


def test_tensors_that_are_not_finite_are_named_and_get_no_range(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Log", ["x"], ["log"], "log"),
        helper.make_node("Neg", ["x"], ["y"], "neg"),
    ]
    made, _ = infer_shapes(build(nodes, {"x": [3]}, {"y": [3], "log": [3]}, {}))
    save_model(made, tmp_path / "model.onnx")

    found = collect(tmp_path / "model.onnx", [{"x": np.array([1, 0, np.e], np.float32)}])

    assert found.not_finite == ("log",)
    assert found.tensors["log"].lowest == 0.0
    assert found.tensors["log"].highest == pytest.approx(1)
    assert set(ranges(found, Ranges(method="minmax"))) == {"x", "y"}


def test_ranges_are_new_objects_each_time() -> None:
    statistics = Statistics(1, {"a": Extent(-1.5, 2.5)})

    first, second = ranges(statistics, Ranges(method="minmax")), ranges(statistics, Ranges(method="minmax"))

    assert first["a"] is not second["a"]
    assert first["a"].range_value == (-1.5, 2.5)
    assert first["a"].lowest.dtype == np.float32


def test_what_is_no_statistics_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"other")

    with pytest.raises(Refused) as refusal:
        load_statistics(tmp_path / "other")

    assert refusal.value.code == "invalid_statistics"


@given(some_statistics)
def test_statistics_survive_storage_and_equal_ones_give_equal_bytes(
    tmp_path_factory: pytest.TempPathFactory, statistics: Statistics
) -> None:
    folder = tmp_path_factory.mktemp("statistics")
    backwards = Statistics(statistics.samples, dict(reversed(list(statistics.tensors.items()))))
    save_statistics(statistics, folder / "one.npz")
    save_statistics(backwards, folder / "two.npz")

    assert load_statistics(folder / "one.npz") == statistics
    assert (folder / "one.npz").read_bytes() == (folder / "two.npz").read_bytes()


@given(some_statistics, some_statistics, some_statistics)
def test_merging_knows_no_order(one: Statistics, two: Statistics, three: Statistics) -> None:
    assert merge(one, two) == merge(two, one)
    assert merge(merge(one, two), three) == merge(one, merge(two, three))


@given(st.lists(st.integers(0, 100), max_size=30), st.integers(1, 120))
def test_groups_keep_the_order_and_fit_the_budget(sizes: Sequence[int], budget: int) -> None:
    names = [str(index) for index in range(len(sizes))]
    table = dict(zip(names, sizes, strict=True))

    groups = sessions.grouped(names, table, budget)

    assert [name for group in groups for name in group] == names
    assert all(len(group) == 1 or sum(table[name] for name in group) <= budget for group in groups)
    fuller = pairwise(groups)
    assert all(sum(table[name] for name in group) + table[then[0]] > budget for group, then in fuller)
