"""Pixels to values: geometry, colour, layout and arithmetic."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from app.domain.dataset import PRESETS, Preprocess
from app.domain.errors import Refused
from worker.engine.data.preprocess import pixels, values

RED = Image.new("RGB", (4, 2), (255, 10, 0))


def test_layout_and_color_order_the_channels() -> None:
    assert pixels(RED, Preprocess()).shape == (3, 2, 4)
    assert pixels(RED, Preprocess(layout="NHWC")).shape == (2, 4, 3)
    assert pixels(RED, Preprocess(color="RGB"))[:, 0, 0].tolist() == [255, 10, 0]
    assert pixels(RED, Preprocess(color="BGR"))[:, 0, 0].tolist() == [0, 10, 255]


@pytest.mark.parametrize("color", ["GRAY", "Y"])
def test_one_channel_keeps_its_axis(color: str) -> None:
    spec = Preprocess(color=color)  # type: ignore[arg-type]

    assert pixels(RED, spec).shape == (1, 2, 4)
    assert 70 < pixels(RED, spec)[0, 0, 0] < 95


@pytest.mark.parametrize(
    ("fit", "shape"), [("short_side", (3, 8, 16)), ("stretch", (3, 8, 8)), ("letterbox", (3, 8, 8))]
)
def test_resize_fits_in_three_ways(fit: str, shape: tuple[int, ...]) -> None:
    assert pixels(RED, Preprocess(resize=8, fit=fit)).shape == shape  # type: ignore[arg-type]


@pytest.mark.parametrize(("fit", "red"), [("stretch", 6 * 20), ("letterbox", 6 * 12)])
def test_inputs_that_are_not_square_have_a_height_and_a_width(fit: str, red: int) -> None:
    made = pixels(RED, Preprocess(size=(6, 20), fit=fit))  # type: ignore[arg-type]

    assert made.shape == (3, 6, 20)
    assert (made[0] > 114).sum() == red


def test_letterbox_centres_the_image_between_grey_bars() -> None:
    made = pixels(RED, Preprocess(resize=8, fit="letterbox"))

    assert made[:, 0, 0].tolist() == [114, 114, 114]
    assert made[:, 4, 4].tolist() == [255, 10, 0]
    assert made[:, 7, 0].tolist() == [114, 114, 114]


def test_crop_takes_the_centre() -> None:
    ramp = Image.fromarray(np.tile(np.arange(10, dtype=np.uint8), (10, 1)))

    assert pixels(ramp, Preprocess(crop=4, color="GRAY"))[0, 0].tolist() == [3, 4, 5, 6]


def test_shrinking_filters_first() -> None:
    stripes = Image.fromarray(np.tile(np.array([0, 255], np.uint8), (64, 32)))

    made = pixels(stripes, Preprocess(resize=8, fit="stretch", color="GRAY"))

    assert np.ptp(made[0, 2:-2, 2:-2].astype(int)) < 30  # without the filter it is a pattern of 0 and 255


def test_exif_orientation_is_ignored() -> None:
    turned = RED.copy()
    turned.getexif()[0x0112] = 6

    assert pixels(turned, Preprocess()).shape == (3, 2, 4)


@given(
    pixel=st.integers(0, 255),
    scale=st.floats(0.001, 2),
    mean=st.floats(-200, 200),
    std=st.floats(0.1, 100),
)
def test_a_value_is_pixel_times_scale_minus_mean_over_std(
    pixel: int, scale: float, mean: float, std: float
) -> None:
    spec = Preprocess(scale=scale, mean=(mean,), std=(std,))

    made = values(np.full((1, 2, 2), pixel, np.uint8), spec)

    assert made.dtype == np.float32
    assert np.allclose(made, (pixel * scale - mean) / std, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("layout", "axis"), [("NCHW", 0), ("NHWC", 2)])
def test_mean_and_std_follow_the_channels(layout: str, axis: int) -> None:
    spec = Preprocess(layout=layout, scale=1.0, mean=(1, 2, 3), std=(1, 2, 4))  # type: ignore[arg-type]

    made = np.moveaxis(values(np.full((3, 3, 3), 11, np.uint8), spec), axis, 0)

    assert made[:, 0, 0].tolist() == [10, 4.5, 2]


def test_a_batch_axis_does_not_shift_the_channels() -> None:
    spec = Preprocess(scale=1.0, mean=(1, 2, 3))

    assert values(np.full((1, 3, 2, 2), 5, np.uint8), spec)[0, :, 0, 0].tolist() == [4, 3, 2]


@pytest.mark.parametrize("spec", [Preprocess(mean=(1, 2, 3)), Preprocess(std=(1, 2, 3))])
def test_numbers_that_do_not_match_the_channels_are_refused(spec: Preprocess) -> None:
    with pytest.raises(Refused) as refused:
        values(np.zeros((1, 4, 4), np.uint8), spec)

    assert refused.value.code == "invalid_preprocess"
    assert refused.value.errors[0].pointer.startswith("/preprocess/")


def test_the_presets_give_their_ranges() -> None:
    ends = np.array([0, 255], np.uint8).repeat(3).reshape(2, 3, 1).transpose(1, 0, 2)

    assert values(ends, PRESETS["unit"]).min() == 0
    assert np.isclose(values(ends, PRESETS["unit"]).max(), 1)
    assert np.allclose(
        [values(ends, PRESETS["signed"]).min(), values(ends, PRESETS["signed"]).max()], [-1, 1]
    )
    assert values(ends, PRESETS["raw"]).max() == 255


def test_uint8_values_are_rounded_and_clipped() -> None:
    spec = Preprocess(scale=2.0, dtype="uint8")

    assert values(np.array([[[3, 200]]], np.uint8), spec).tolist() == [[[6, 255]]]
