"""Which array feeds which input: names, axes, dtypes, batches, and what a mismatch says."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.domain import fit
from app.domain.dataset import Preprocess
from app.domain.errors import Refused
from app.domain.report import Examination, TensorInfo
from tests.factories import EXAMINATION
from worker.engine.data import open_dataset
from worker.engine.data.bind import Binding, Input, arrange, bind, feed
from worker.engine.data.dataset import Dataset, summarize
from worker.engine.requests import Data


def wanted(name: str, shape: tuple[int | None, ...], dtype: str = "float32") -> Input:
    return Input(name, np.dtype(dtype), f"tensor({dtype})", shape)


def dataset_of(folder: Path, **arrays: Any) -> Dataset:
    np.savez(folder / "data.npz", **arrays)
    return open_dataset(Data(path=folder / "data.npz"))


def bound(dataset: Dataset, *inputs: Input, preprocess: Preprocess | None = None) -> Binding:
    return bind(inputs, dataset, preprocess or Preprocess(), None)


def fed(
    dataset: Dataset, *inputs: Input, preprocess: Preprocess | None = None, count: int = 1
) -> dict[str, Any]:
    binding = bound(dataset, *inputs, preprocess=preprocess)
    return feed(binding, [dataset.sample(i) for i in range(count)])


def test_arrays_go_to_the_inputs_of_their_names(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, b=np.ones((3, 2), np.float32), a=np.zeros((3, 2), np.float32))

    made = fed(dataset, wanted("a", (None, 2)), wanted("b", (1, 2)))

    assert made["a"].tolist() == [[0, 0]]
    assert made["b"].tolist() == [[1, 1]]


def test_one_array_that_is_left_over_goes_to_the_one_input_that_is(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, a=np.zeros((3, 2), np.float32), spare=np.ones((3, 4), np.float32))

    assert fed(dataset, wanted("a", (None, 2)), wanted("x", (None, 4)))["x"].shape == (1, 4)


def test_what_nothing_feeds_is_named_with_what_there_is(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, p=np.zeros((3, 2), np.float32), q=np.ones((3, 4), np.float32))

    with pytest.raises(Refused) as refused:
        bound(dataset, wanted("ids/0", (None, 4)))

    error = refused.value.errors[0]
    assert refused.value.code == "dataset_mismatch"
    assert error.pointer == "/inputs/ids~10"
    assert all(words in error.detail for words in ("float32 [?, 4]", "p float32 [2]", "q float32 [4]"))


def test_every_input_that_does_not_fit_is_listed_with_expected_and_found(tmp_path: Path) -> None:
    dataset = dataset_of(
        tmp_path, a=np.zeros((3, 5), np.float32), b=np.zeros((3, 2)), c=np.zeros((3, 2), np.float32)
    )

    with pytest.raises(Refused) as refused:
        bound(dataset, wanted("a", (None, 2)), wanted("b", (None, 2)), wanted("c", (None, 2), "int64"))

    assert [error.pointer for error in refused.value.errors] == ["/inputs/a", "/inputs/c"]
    assert "expected float32 [?, 2] per run, found float32 [5] per sample" in refused.value.errors[0].detail


@pytest.mark.parametrize(
    ("sample", "shape", "made"),
    [
        ((3, 8, 8), (1, 3, 8, 8), (1, 3, 8, 8)),
        ((3, 8, 8), (None, 3, None, None), (1, 3, 8, 8)),
        ((1, 3, 8, 8), (1, 3, 8, 8), (1, 3, 8, 8)),
        ((28, 28), (1, 1, 28, 28), (1, 1, 28, 28)),
        ((28, 28, 1), (None, 1, 28, 28), (1, 1, 28, 28)),
        ((784,), (1, 784, 1), (1, 784, 1)),
        ((5,), (1, 1, 1, 5), (1, 1, 1, 5)),
        ((), (None,), (1,)),
        ((), (), ()),
        ((2, 1, 4), (2, None, 4), (2, 1, 4)),
    ],
)
def test_axes_of_size_1_may_be_missing_or_extra(
    tmp_path: Path, sample: tuple[int, ...], shape: tuple[int | None, ...], made: tuple[int, ...]
) -> None:
    dataset = dataset_of(tmp_path, x=np.zeros((2, *sample), np.float32))

    assert fed(dataset, wanted("x", shape))["x"].shape == made


def test_values_keep_their_order_when_axes_are_added() -> None:
    array = np.arange(6).reshape(2, 3)

    arranged, lacks_batch = arrange(array, wanted("x", (1, 2, 3, 1)))

    assert lacks_batch
    assert arranged.ravel().tolist() == list(range(6))


def test_axes_are_never_swapped_to_make_things_fit() -> None:
    with pytest.raises(ValueError, match="expected"):
        arrange(np.zeros((3, 2), np.float32), wanted("x", (1, 2, 3)))


def test_a_uint8_image_with_channels_last_is_turned_and_a_note_says_so(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (2, 8, 6, 3)).astype(np.uint8)
    dataset = dataset_of(tmp_path, images=images)
    item = wanted("x", (1, 3, 8, 6))

    made = fed(dataset, item, preprocess=Preprocess(scale=1.0, mean=(1, 2, 3)))

    assert np.array_equal(
        made["x"][0], images[0].transpose(2, 0, 1).astype(np.float32) - [[[1]], [[2]], [[3]]]
    )
    assert "channels were moved" in bound(dataset, item).notes[0]


def test_uint8_takes_the_preprocessing_on_its_way_to_a_float_input_only(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, x=np.full((2, 4), 255, np.uint8))

    assert fed(dataset, wanted("x", (1, 4)))["x"].tolist() == [[1, 1, 1, 1]]
    assert fed(dataset, wanted("x", (1, 4), "uint8"))["x"].tolist() == [[255] * 4]
    assert fed(dataset, wanted("x", (1, 4), "int32"))["x"].tolist() == [[255] * 4]


@pytest.mark.parametrize(
    ("given", "dtype"),
    [("float64", "float32"), ("float32", "float16"), ("bool", "float32"), (">f4", "float32")],
)
def test_numbers_are_converted_where_nothing_is_lost(tmp_path: Path, given: str, dtype: str) -> None:
    made = fed(dataset_of(tmp_path, x=np.ones((2, 4), given)), wanted("x", (1, 4), dtype))["x"]

    assert made.dtype == np.dtype(dtype)
    assert made.tolist() == [[1, 1, 1, 1]]


@pytest.mark.parametrize(
    ("value", "given", "dtype"),
    [(0.5, "float32", "int64"), (2**40, "int64", "int32"), (1, "int64", "float32")],
)
def test_other_numbers_are_refused_with_what_was_expected(
    tmp_path: Path, value: float, given: str, dtype: str
) -> None:
    with pytest.raises(Refused, match=f"expected {dtype}"):
        bound(dataset_of(tmp_path, x=np.full((2, 4), value, given)), wanted("x", (1, 4), dtype))


def test_a_fixed_batch_takes_that_many_samples_and_repeats_the_last(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, x=np.arange(6, dtype=np.float32).reshape(3, 2))
    item = wanted("x", (4, 2))

    assert bound(dataset, item).batch == 4
    assert fed(dataset, item, count=3)["x"].tolist() == [[0, 1], [2, 3], [4, 5], [4, 5]]


def test_inputs_with_different_fixed_batches_are_refused(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, a=np.zeros((3, 2), np.float32), b=np.zeros((3, 2), np.float32))

    with pytest.raises(Refused, match="differ in their fixed batch"):
        bound(dataset, wanted("a", (4, 2)), wanted("b", (8, 2)))


def test_a_later_sample_of_another_shape_is_refused_when_it_comes(tmp_path: Path) -> None:
    arrays = {"x/000000": np.zeros((4, 2), np.float32), "x/000001": np.zeros((4, 3), np.float32)}
    dataset = dataset_of(tmp_path, **arrays)
    binding = bound(dataset, wanted("x", (None, None, 2)))

    with pytest.raises(Refused, match=r"float32 \[4, 3\]"):
        feed(binding, [dataset.sample(1)])


def test_an_image_input_that_the_model_does_not_have_is_refused(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, x=np.zeros((3, 2), np.float32))

    with pytest.raises(Refused, match="its inputs are a") as refused:
        bind([wanted("a", (None, 2))], dataset, Preprocess(), "picture")

    assert refused.value.errors[0].pointer == "/input"


def test_an_input_that_no_array_can_feed_is_refused(tmp_path: Path) -> None:
    text = Input("words", None, "tensor(string)", (None,))

    with pytest.raises(Refused, match=r"tensor\(string\)"):
        bound(dataset_of(tmp_path, x=np.zeros((3,), np.float32)), text)


def test_a_channel_axis_is_not_taken_for_a_batch(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="expected float32") as refused:
        bound(dataset_of(tmp_path, x=np.ones((2, 3, 8, 8), np.float32)), wanted("x", (None, 1, 8, 8)))

    assert refused.value.code == "dataset_mismatch"


def binds(dataset: Dataset, *inputs: Input) -> bool:
    try:
        bound(dataset, *inputs)
    except Refused:
        return False
    return True


def examined(*inputs: Input) -> Examination:
    told = tuple(TensorInfo(item.name, str(item.dtype), item.shape) for item in inputs)
    return replace(EXAMINATION, inputs=told)


SHAPES: list[tuple[int, ...]] = [
    (),
    (1,),
    (4,),
    (1, 4),
    (4, 1),
    (4, 3),
    (3, 4),
    (4, 4, 3),
    (3, 4, 4),
    (1, 3, 4, 4),
]


@pytest.mark.parametrize("shape", [*SHAPES, (None,), (None, 4), (None, 3, 4, 4), (2, 3, 4, 4)])
@pytest.mark.parametrize("dtype", ["float32", "uint8", "int64"])
def test_the_check_of_a_dataset_tells_what_binds(
    tmp_path: Path, shape: tuple[int | None, ...], dtype: str
) -> None:
    item = wanted("x", shape, dtype)
    for given in SHAPES:
        for kind in ("float64", "float16", "uint8", "int16", "bool"):
            dataset = dataset_of(tmp_path, x=np.ones((2, *given), kind))
            told = fit.check(examined(item), summarize(dataset), Preprocess(), fit.Question())

            assert told.fits == binds(dataset, item), (given, kind)


def test_the_check_of_a_dataset_tells_by_which_name_arrays_bind(tmp_path: Path) -> None:
    inputs = [wanted(name, (None, 4)) for name in ("a", "b")]
    for names in (("a", "b"), ("a", "c"), ("c", "d"), ("a", "c", "d"), ("a", "c", "input_ids"), ("a",)):
        dataset = dataset_of(tmp_path, **{name: np.ones((2, 4), np.float32) for name in names})
        told = fit.check(examined(*inputs), summarize(dataset), Preprocess(), fit.Question())

        assert told.fits == binds(dataset, *inputs), names
