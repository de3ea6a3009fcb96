"""Learned rounding: closer than closed-form rounding, never by heart, and the same each time."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from app.domain.errors import Refused
from app.domain.recipe import Correction, Mixed, Override, Ranges, StaticInt8
from tests.engine import graphs
from tests.engine.quantizing import Case, Samples
from worker.engine.corrections.relaxation import Between, Floats, settle_shares
from worker.engine.methods import Quantized, Setting, quantize
from worker.engine.passes.likeness import likeness_db
from worker.engine.session import open_session

FOUR_BITS: dict[str, Any] = {"weight": "int4", "activation": "uint16"}
WITHOUT: tuple[Correction, ...] = ("equalization", "smoothquant", "weight_clipping", "bias_correction")


def images(count: int, seed: int) -> Samples:
    """Images whose neighbouring pixels are alike."""
    noise = np.random.default_rng(seed).normal(size=(count, 1, 3, 14, 14)).astype(np.float32)
    smooth = np.mean([noise[..., i : i + 12, j : j + 12] for i in range(3) for j in range(3)], axis=0) * 3
    return [{"x": image} for image in smooth]


def rows(count: int, seed: int) -> Samples:
    """Rows of 32 values that hang together."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(9).normal(size=(32, 32)) / 6
    return [{"x": (rng.normal(size=(512, 32)) @ mixing).astype(np.float32)} for _ in range(count)]


def rare() -> onnx.ModelProto:
    """Gemm, Relu, Gemm; few of the values between them are above zero."""
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["a"], "first", transB=1),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        helper.make_node("Gemm", ["r", "w2"], ["y"], "second", transB=1),
    ]
    constants: dict[str, graphs.Array] = {
        "w1": graphs.weights(32, 32),
        "b1": np.full(32, -0.5, np.float32),
        "w2": graphs.weights(16, 32, seed=1),
    }
    return graphs.build(nodes, {"x": ["batch", 32]}, {"y": ["batch", 16]}, constants)


def separable(*, limit: float | None = None) -> onnx.ModelProto:
    """Conv, depthwise Conv, Conv; activation functions between them cut most of what they read."""
    between = "Relu" if limit is None else "Clip"
    bounds = [] if limit is None else ["zero", "limit"]
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], "first", pads=[1, 1, 1, 1]),
        helper.make_node(between, ["a", *bounds], ["ar"], "cut1"),
        helper.make_node("Conv", ["ar", "w2", "b2"], ["b"], "deep", pads=[1, 1, 1, 1], group=16),
        helper.make_node(between, ["b", *bounds], ["br"], "cut2"),
        helper.make_node("Conv", ["br", "w3"], ["y"], "last"),
    ]
    constants: dict[str, graphs.Array] = {
        "w1": graphs.weights(16, 3, 3, 3),
        "b1": np.full(16, -0.3, np.float32),
        "w2": graphs.weights(16, 1, 3, 3, seed=1),
        "b2": np.full(16, -0.1, np.float32),
        "w3": graphs.weights(8, 16, 1, 1, seed=2),
    }
    if limit is not None:
        constants |= {"zero": np.array(0, np.float32), "limit": np.array(limit, np.float32)}
    return graphs.build(nodes, {"x": [1, 3, 12, 12]}, {"y": [1, 8, 12, 12]}, constants)


def run(case: Case, *corrections: Correction, isa: str = "x86-vnni", **fields: Any) -> Quantized:
    setting = Setting(isa=isa, statistics=case.statistics, samples=lambda: case.samples)
    recipe = StaticInt8(**{"ranges": Ranges(method="minmax"), **fields}, corrections=corrections)
    return quantize(case.prepared, case.out, recipe, setting)


def decibels(case: Case, samples: Samples) -> float:
    """Of the outputs on these samples."""
    before, after = open_session(case.source), open_session(case.out)
    return likeness_db(
        [before.run(None, feed) for feed in samples], [after.run(None, feed) for feed in samples]
    )


def gain(case: Case, fresh: Samples, **fields: Any) -> float:
    """Decibels over closed-form rounding on samples that calibration did not see."""
    run(case, "rounding", **fields)
    closed = decibels(case, fresh)
    run(case, "adaround", **fields)
    return decibels(case, fresh) - closed


def told(answer: Quantized) -> str:
    return next(reason for reason in answer.reasons if reason.startswith("adaround"))


def test_what_activation_functions_cut_off_may_be_wrong(tmp_path: Path) -> None:
    assert gain(Case(tmp_path, rare(), rows(8, seed=1)), rows(8, seed=2), **FOUR_BITS) > 0.5


def test_convolutions_behind_clips_and_by_channel_are_learned(tmp_path: Path) -> None:
    case = Case(tmp_path, separable(limit=0.8), images(8, seed=1))
    assert gain(case, images(8, seed=2), **FOUR_BITS) > 0.3


def test_layers_make_up_for_those_before_them(tmp_path: Path) -> None:
    layers = [helper.make_node("MatMul", ["xabc"[i], f"w{i}"], ["abcy"[i]], f"layer{i}") for i in range(4)]
    constants = {f"w{i}": graphs.weights(32, 32, seed=i) for i in range(4)}
    model = graphs.build(layers, {"x": [1, 64, 32]}, {"y": [1, 64, 32]}, constants)
    case = Case(tmp_path, model, graphs.feeds(8, shape=(1, 64, 32)))
    assert gain(case, graphs.feeds(16, shape=(1, 64, 32))[8:], **FOUR_BITS) > 0.5


def test_descent_comes_close_to_what_trying_all_roundings_finds() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(64, 10)) @ rng.normal(size=(10, 10))
    square = (inputs.T @ inputs).astype(np.float32)
    lower, shares = np.zeros((1, 32, 10), np.float32), rng.uniform(size=(1, 32, 10)).astype(np.float32)
    between = Between(lower, np.ones((1, 32, 1), np.float32), shares)

    def errors(values: graphs.Array) -> graphs.Array:
        wrong = values - shares
        total: graphs.Array = np.einsum("grk,kl,grl->gr", wrong, square, wrong)
        return total

    nearest = errors(np.rint(shares))

    def slope(values: Floats) -> Floats:
        return np.asarray(2 * (values - shares) @ square / nearest[..., None], np.float32)

    found = settle_shares(between, slope, 500)
    every = np.array(list(itertools.product((0, 1), repeat=10)), np.float32)
    best = np.min([errors(np.broadcast_to(codes, shares.shape)) for codes in every], axis=0)
    assert set(np.unique(found)) == {0.0, 1.0}
    assert errors(found).sum() - best.sum() < 0.3 * (nearest.sum() - best.sum())


def test_samples_held_out_decide(tmp_path: Path) -> None:
    """What serves rows that are all alike would be learned by heart from three of four samples."""
    alike = [{"x": np.full((512, 32), value, np.float32)} for value in np.linspace(-1, 1, 8)]
    others = rows(8, seed=1)
    samples = [others[i] if i % 4 == 3 else alike[i] for i in range(8)]
    case = Case(tmp_path, rare(), samples)
    assert gain(case, samples[3::4], **FOUR_BITS) >= 0


def test_weights_that_several_nodes_read_are_not_learned(tmp_path: Path) -> None:
    case = Case(tmp_path, graphs.dense(shared=True), graphs.feeds(shape=(2, 32)))

    assert told(run(case, "adaround")) == "adaround finds no weight to learn"


def test_fewer_than_four_samples_leave_closed_form_rounding(tmp_path: Path) -> None:
    case = Case(tmp_path, rare(), rows(3, seed=1))
    run(case, "rounding", **FOUR_BITS)
    closed = case.out.read_bytes()
    answer = run(case, "adaround", **FOUR_BITS)
    assert told(answer) == "adaround holds out one sample in 4, and there are 3: the codes of rounding stay"
    assert case.out.read_bytes() == closed


@pytest.mark.parametrize(
    "fields",
    [
        {"weight": "uint8", "per_channel": False},
        {"reduce_range": True, "format": "qoperator"},
    ],
    ids=lambda fields: "-".join(map(str, (*fields, *fields.values()))),
)
def test_it_goes_with_all_other_corrections(tmp_path: Path, fields: dict[str, Any]) -> None:
    case = Case(tmp_path, separable(), images(8, seed=1))
    run(case, *WITHOUT, "rounding", **fields)
    closed = case.likeness()
    answer = run(case, *WITHOUT, "adaround", **fields)
    assert told(answer).startswith("adaround: outputs ")
    assert case.likeness() > closed - 0.5


def test_the_same_bytes_come_each_time(tmp_path: Path) -> None:
    case = Case(tmp_path, rare(), rows(8, seed=1))
    answer = run(case, "adaround", "bias_correction", ranges=Ranges(), **FOUR_BITS)
    first = case.out.read_bytes()
    setting = Setting(isa="x86-vnni", statistics=case.statistics, samples=lambda: case.samples)
    again = quantize(case.prepared, case.out, answer.recipe, setting)
    assert (again.recipe, case.out.read_bytes()) == (answer.recipe, first)


def test_models_in_float16_and_choices_by_hand_are_learned_too(tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    feeds = [{"x": feed["x"].astype(np.float16)} for feed in graphs.feeds(4)]
    assert "outputs" in told(run(Case(tmp_path / "half", graphs.half(), feeds), "adaround"))
    case = Case(tmp_path, rare(), rows(4, seed=1))
    setting = Setting(isa="x86-vnni", statistics=case.statistics, samples=lambda: case.samples)
    wide = (Override(nodes=("second",), activation="int16"),)
    quantize(case.prepared, case.out, Mixed(corrections=("adaround",), overrides=wide), setting)
    assert case.likeness() > 25


def test_it_is_refused_beside_closed_form_rounding_and_without_samples(tmp_path: Path) -> None:
    case = Case(tmp_path, separable(), images(4, seed=1))
    with pytest.raises(Refused, match="ask for adaround alone") as refused:
        run(case, "rounding", "adaround")
    assert (refused.value.code, refused.value.errors[0].pointer) == ("unsupported_option", "/corrections")
    with pytest.raises(Refused, match="corrections adaround: it needs calibration samples") as refused:
        case.quantize(StaticInt8(corrections=("adaround",)))
    assert refused.value.code == "no_calibration_data"
