"""Nodes that compute in float16 stay as they are: scales are float32, and no integer kernel reads float16."""

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from app.domain.errors import Refused
from app.domain.recipe import DynamicInt8, Mixed, Override, Recipe, Selection, StaticInt8
from tests.engine.graphs import build, feeds, half
from tests.engine.quantizing import Case, Samples
from worker.engine.calibrate import collect
from worker.engine.load import save_model
from worker.engine.methods import Setting, quantize
from worker.engine.prepare import prepare_model

HALVES: Samples = [{"x": feed["x"].astype(np.float16)} for feed in feeds()]
CONV = Selection(op_types=("Conv",))


def test_a_sum_in_float16_that_is_asked_for_is_refused(tmp_path: Path) -> None:
    images = [1, 3, 16, 16]
    nodes = [helper.make_node("Add", ["x", "x"], ["y"], "add")]
    case = Case(tmp_path, build(nodes, {"x": images}, {"y": images}, {}, kind=TensorProto.FLOAT16), HALVES)

    with pytest.raises(Refused) as refusal:
        case.quantize(Mixed(overrides=(Override(nodes=("*",)),)))

    assert refusal.value.code == "unsupported_option"
    assert "it computes in float16 (add)" in refusal.value.detail


@pytest.mark.parametrize("recipe", [StaticInt8(), StaticInt8(include=CONV), DynamicInt8(include=CONV)])
def test_weights_that_could_not_be_widened_are_not_quantized(tmp_path: Path, recipe: Recipe) -> None:
    source, prepared, out = (tmp_path / f"{name}.onnx" for name in ("source", "prepared", "out"))
    save_model(half(), source)
    prepare_model(source, prepared, [], {})

    with pytest.raises(Refused) as refusal:
        quantize(prepared, out, recipe, Setting(isa="x86-vnni", statistics=collect(prepared, HALVES)))

    assert refusal.value.code == "nothing_to_quantize"
    assert "it computes in float16: conv" in refusal.value.detail
