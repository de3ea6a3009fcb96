from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import Refused
from tests.engine.graphs import convolution
from worker.engine.interface import KEY, Affine, affine_of, float_view
from worker.engine.session import open_session


@given(
    st.lists(st.floats(-100, 100, width=32), min_size=1), st.floats(0.0625, 8, width=32), st.integers(0, 255)
)
def test_rounding_is_off_by_half_a_step_or_saturated(values: list[float], scale: float, zero: int) -> None:
    affine = Affine(scale, zero, np.dtype(np.uint8))
    floats = np.array(values, np.float32)

    back = affine.dequantize(affine.quantize(floats))

    limits = affine.dequantize(np.array([0, 255], np.uint8))
    assert np.all(np.abs(back - np.clip(floats, *limits)) <= 0.501 * scale)


def test_a_model_that_tells_no_scales_is_left_alone(tmp_path: Path) -> None:
    onnx.save_model(convolution(), tmp_path / "model.onnx")
    session = open_session(tmp_path / "model.onnx")

    assert float_view(session) is session


@pytest.mark.parametrize("told", ["no json", '{"x": {}}', '{"x": {"scale": 1, "zero_point": 0}}', '{"x": 1}'])
def test_scales_that_do_not_fit_the_model_are_refused(tmp_path: Path, told: str) -> None:
    model = convolution()
    model.metadata_props.add(key=KEY, value=told)
    onnx.save_model(model, tmp_path / "model.onnx")

    with pytest.raises(Refused) as refusal:
        affine_of(open_session(tmp_path / "model.onnx"))

    assert refusal.value.code == "invalid_model"
