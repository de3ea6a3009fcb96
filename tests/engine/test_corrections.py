"""Each correction on a model made to need it, and all of them together."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from app.domain.errors import Refused
from app.domain.recipe import Correction, Ranges, StaticInt8, Symmetric
from tests.engine import graphs
from tests.engine.quantizing import Case
from worker.engine.calibrate import collect
from worker.engine.corrections import CORRECTIONS
from worker.engine.corrections.subject import Subject
from worker.engine.load import parse
from worker.engine.methods import Quantized, Setting, quantize
from worker.engine.methods.static_choices import resolve_static
from worker.engine.passes.likeness import likeness_db
from worker.engine.passes.scopes import array
from worker.engine.session import open_session

EVERY: tuple[Correction, ...] = (
    "equalization",
    "smoothquant",
    "weight_clipping",
    "rounding",
    "bias_correction",
)
MINMAX = Ranges(method="minmax")


def depthwise(*, between: str = "Relu", spread: float = 1.5) -> onnx.ModelProto:
    """Conv, depthwise Conv, Conv; channels differ in size by 10^±spread, which the next layer undoes."""
    rng = np.random.default_rng(3)
    sizes = 10 ** rng.uniform(-spread, spread, size=(2, 16)).astype(np.float32)
    first, last = graphs.weights(16, 3, 3, 3), graphs.weights(8, 16, 1, 1, seed=2)
    middle = graphs.weights(16, 1, 3, 3, seed=1)
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], "first", pads=[1, 1, 1, 1]),
        helper.make_node(between, ["a"], ["ar"], "act1"),
        helper.make_node("Conv", ["ar", "w2", "b2"], ["b"], "middle", pads=[1, 1, 1, 1], group=16),
        helper.make_node(between, ["b"], ["br"], "act2"),
        helper.make_node("Conv", ["br", "w3"], ["y"], "last"),
    ]
    constants = {
        "w1": first * sizes[0][:, None, None, None],
        "b1": rng.normal(size=16).astype(np.float32) * sizes[0],
        "w2": middle * (sizes[1] / sizes[0])[:, None, None, None],
        "b2": rng.normal(size=16).astype(np.float32) * sizes[1],
        "w3": last / sizes[1][None, :, None, None],
    }
    return graphs.build(nodes, {"x": [1, 3, 16, 16]}, {"y": [1, 8, 16, 16]}, constants)


def outliers(*, alone: bool = True) -> onnx.ModelProto:
    """LayerNormalization whose gain makes two channels forty times as large, then products; and Softmax."""
    gain = np.ones(64, np.float32)
    gain[[5, 40]] = 40.0
    read = "n" if alone else "d"
    nodes = [
        helper.make_node("LayerNormalization", ["x", "gain", "shift"], ["n"], "norm"),
        helper.make_node("Mul", ["n", "half"], ["d"], "copy"),
        helper.make_node("MatMul", ["n", "wq"], ["q"], "query"),
        helper.make_node("MatMul", [read, "wk"], ["k"], "key"),
        helper.make_node("Transpose", ["k"], ["kt"], "turn", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["scores"], "scores"),
        helper.make_node("Softmax", ["scores"], ["p"], "softmax"),
        helper.make_node("MatMul", ["p", "q"], ["m"], "mix"),
        helper.make_node("MatMul", ["m", "wo"], ["o"], "output"),
        helper.make_node("Add", ["o", "bo"], ["y"], "output_bias"),
    ]
    nodes = nodes[:1] + nodes[2:] if alone else nodes
    wide = graphs.weights(64, 64, seed=1)
    wide[[5, 40]] *= 0.05
    constants: dict[str, graphs.Array] = {
        "gain": gain,
        "shift": np.zeros(64, np.float32),
        "half": np.array(0.5, np.float32),
        "wq": wide,
        "wk": graphs.weights(64, 64, seed=2) * 0.2,
        "wo": graphs.weights(64, 64, seed=3),
        "bo": graphs.weights(64, 1, seed=4)[:, 0],
    }
    if alone:
        del constants["half"]
    return graphs.build(nodes, {"x": [1, 12, 64]}, {"y": [1, 12, 64]}, constants)


def shouting() -> onnx.ModelProto:
    """Products around a Softplus, of which one channel is thirty times as large as the others."""
    before, after = graphs.weights(16, 32, seed=1), graphs.weights(32, 8, seed=2)
    before[:, 7] *= 30
    after[7] /= 30
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"], "first"),
        helper.make_node("Softplus", ["a"], ["s"], "activation"),
        helper.make_node("MatMul", ["s", "w2"], ["y"], "second"),
    ]
    return graphs.build(nodes, {"x": [4, 16]}, {"y": [4, 8]}, {"w1": before, "w2": after})


def case_of(folder: Path, model: onnx.ModelProto, shape: tuple[int, ...] = (1, 3, 16, 16)) -> Case:
    return Case(folder, model, graphs.feeds(12, shape=shape))


def run(case: Case, isa: str = "x86-vnni", **fields: Any) -> Quantized:
    setting = Setting(isa=isa, statistics=case.statistics, samples=lambda: case.samples)
    return quantize(case.prepared, case.out, StaticInt8(**{"ranges": MINMAX, **fields}), setting)


def gain(case: Case, *corrections: Correction, **fields: Any) -> float:
    """Decibels that corrections win."""
    run(case, corrections=(), **fields)
    plain = case.likeness()
    run(case, corrections=corrections, **fields)
    return case.likeness() - plain


def corrected(case: Case, name: Correction, **fields: Any) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The float model that one correction leaves, and what it says."""
    model = parse(case.prepared)
    setting = Setting(isa="x86-vnni", statistics=case.statistics, samples=lambda: case.samples)
    recipe, _ = resolve_static(model, StaticInt8(**fields), "x86-vnni")
    nodes = [node.name for node in model.graph.node if node.op_type in {"Conv", "MatMul", "Gemm", "Relu"}]
    subject = Subject(model=model, nodes=nodes, recipe=recipe, setting=setting, statistics=case.statistics)
    return model, CORRECTIONS[name](subject).reasons


def float_likeness(case: Case, model: onnx.ModelProto) -> float:
    onnx.save_model(model, case.out)
    before, after = open_session(case.source), open_session(case.out)
    return likeness_db(
        [before.run(None, feed) for feed in case.samples], [after.run(None, feed) for feed in case.samples]
    )


@pytest.mark.parametrize("per_channel", [False, True])
def test_equalization_rescues_channels_of_unlike_sizes(tmp_path: Path, per_channel: bool) -> None:
    case = case_of(tmp_path, depthwise())
    assert gain(case, "equalization", per_channel=per_channel) > 6


@pytest.mark.parametrize("between", ["Relu", "LeakyRelu"])
def test_equalization_keeps_the_float_model(tmp_path: Path, between: str) -> None:
    case = case_of(tmp_path, depthwise(between=between))
    model, reasons = corrected(case, "equalization", per_channel=False)
    assert reasons[0].startswith("equalization of 2 pairs among first → middle, middle → last")
    assert float_likeness(case, model) > 80
    first = next(t for t in model.graph.initializer if t.name == "w1")
    assert not np.allclose(
        onnx.numpy_helper.to_array(first),
        onnx.numpy_helper.to_array(next(t for t in parse(case.prepared).graph.initializer if t.name == "w1")),
    )


def test_equalization_makes_rows_as_large_as_the_columns_behind_them(tmp_path: Path) -> None:
    model, _ = corrected(case_of(tmp_path, depthwise()), "equalization", per_channel=False)
    values = {t.name: np.abs(onnx.numpy_helper.to_array(t)) for t in model.graph.initializer}
    before, after = values["w2"].max(axis=(1, 2, 3)), values["w3"].max(axis=(0, 2, 3))
    assert np.ptp(np.log(before / after)) < 0.01


def test_equalization_leaves_what_a_clip_bounds_or_two_nodes_read(tmp_path: Path) -> None:
    bounded = depthwise()
    bounded.graph.node[1].CopyFrom(helper.make_node("Clip", ["a", "", "six"], ["ar"], "act1"))
    bounded.graph.initializer.append(onnx.numpy_helper.from_array(np.array(6, np.float32), "six"))
    (tmp_path / "clip").mkdir()
    _, reasons = corrected(case_of(tmp_path / "clip", bounded), "equalization", per_channel=False)
    assert reasons[0].startswith("equalization of 1 pairs among middle → last")
    assert reasons[1] == "equalization leaves what a Clip bounds: first"
    _, reasons = corrected(case_of(tmp_path, graphs.residual()), "equalization")
    assert reasons[0].startswith(("equalization of", "equalization finds no pair"))
    assert "stem → branch" not in reasons[0]


def test_equalization_leaves_channels_that_are_never_seen_as_small_as_they_are(tmp_path: Path) -> None:
    """Grown until they equal the others, their biases would fit no 32-bit integer at any useful scale."""
    model = depthwise(spread=1.0)
    values = {t.name: onnx.numpy_helper.to_array(t).copy() for t in model.graph.initializer}
    values["w1"][[2, 9]], values["b1"][[2, 9]] = 1e-20, -0.3
    for tensor in model.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(values[tensor.name], tensor.name))
    case = case_of(tmp_path, model)
    assert gain(case, "equalization", per_channel=False) > 6


def test_statistics_between_equalized_layers_are_observed_anew(tmp_path: Path) -> None:
    case = case_of(tmp_path, depthwise())
    model = parse(case.prepared)
    recipe, _ = resolve_static(model, StaticInt8(), "x86-vnni")
    setting = Setting(isa="x86-vnni", statistics=case.statistics, samples=lambda: case.samples)
    names = [node.name for node in model.graph.node]
    subject = Subject(model=model, nodes=names, recipe=recipe, setting=setting, statistics=case.statistics)
    found = CORRECTIONS["equalization"](subject).statistics
    onnx.save_model(model, case.out)
    direct = collect(case.out, case.samples)
    assert {n: found.tensors[n] for n in ("a", "ar", "b", "br")} == {
        n: direct.tensors[n] for n in ("a", "ar", "b", "br")
    }
    assert found.tensors["y"] == case.statistics.tensors["y"]


@pytest.mark.parametrize("alone", [True, False])
def test_smoothquant_moves_outliers_into_weights(tmp_path: Path, alone: bool) -> None:
    case = case_of(tmp_path, outliers(alone=alone), (1, 12, 64))
    assert gain(case, "smoothquant") > 3


def test_smoothquant_folds_into_the_norm_where_nothing_else_reads_it(tmp_path: Path) -> None:
    case = case_of(tmp_path, outliers(), (1, 12, 64))
    model, reasons = corrected(case, "smoothquant")
    assert any(reason.startswith("smoothquant scaled the LayerNormalization before n") for reason in reasons)
    assert float_likeness(case, model) > 80
    (tmp_path / "shared").mkdir()
    case = case_of(tmp_path / "shared", outliers(alone=False), (1, 12, 64))
    model, reasons = corrected(case, "smoothquant")
    assert any(reason.startswith("smoothquant added a Mul behind n") for reason in reasons)
    assert float_likeness(case, model) > 80


def test_smoothquant_divides_only_outlying_channels_where_no_normalization_wrote(tmp_path: Path) -> None:
    case = case_of(tmp_path, shouting(), (4, 16))
    assert gain(case, "smoothquant") > 3
    model, reasons = corrected(case, "smoothquant")
    assert "smoothquant added a Mul behind s" in reasons
    [factors] = [array(tensor) for tensor in model.graph.initializer if tensor.name == "s_smoothing"]
    assert 0.5 <= factors[7] < 0.6
    assert (factors == 1).any()
    assert float_likeness(case, model) > 80


def test_weight_clipping_narrows_ranges_that_a_few_values_stretch(tmp_path: Path) -> None:
    model = graphs.convolution(channels=64)
    second = next(t for t in model.graph.initializer if t.name == "w2")
    values = np.random.default_rng(0).normal(size=(8, 64, 1, 1)).astype(np.float32)
    values[:, 0] = 6.0
    second.CopyFrom(onnx.numpy_helper.from_array(values, "w2"))
    case = case_of(tmp_path, model)
    answer = run(case, corrections=("weight_clipping",), weight="int4")
    assert any(reason.startswith("weight_clipping: the ranges of") for reason in answer.reasons)
    assert gain(case, "weight_clipping", weight="int4") > 0


def test_rounding_brings_products_closer(tmp_path: Path) -> None:
    case = case_of(tmp_path, graphs.convolution(channels=32))
    assert gain(case, "rounding", weight="int4", activation="uint16") > 1


def test_rounded_codes_reach_the_file_exactly(tmp_path: Path) -> None:
    case = case_of(tmp_path, graphs.convolution())
    rounded, _ = corrected(case, "rounding")
    run(case, corrections=("rounding",))
    values = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load_model(case.out).graph.initializer}
    codes, scales = values["w2_quantized"].astype(np.float64), values["w2_scale"].reshape(-1, 1, 1, 1)
    wanted = next(onnx.numpy_helper.to_array(t) for t in rounded.graph.initializer if t.name == "w2")
    np.testing.assert_allclose(codes * scales, wanted, atol=1e-7)


@pytest.mark.parametrize("model", [depthwise(spread=1.0), graphs.dense()], ids=["convolutions", "products"])
def test_bias_correction_takes_out_the_mean_shift(tmp_path: Path, model: onnx.ModelProto) -> None:
    shape = (1, 32) if model.graph.input[0].type.tensor_type.shape.dim[0].dim_param else (1, 3, 16, 16)
    case = case_of(tmp_path, model, shape)
    run(case, corrections=(), per_channel=False)
    plain = _shift(case)
    answer = run(case, corrections=("bias_correction",), per_channel=False)
    assert any(reason.startswith("bias_correction of") for reason in answer.reasons)
    assert _shift(case) < 0.5 * plain


def _shift(case: Case) -> float:
    """The size of the mean error of the outputs, by channel."""
    before, after = open_session(case.source), open_session(case.out)
    errors = [after.run(None, feed)[0] - before.run(None, feed)[0] for feed in case.samples]
    mean = np.mean(errors, axis=0)
    return float(np.linalg.norm(mean.mean(axis=(0, 2, 3)) if mean.ndim == 4 else mean))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"per_channel": False},
        {"weight": "uint8", "per_channel": False},
        {"activation": "int8"},
        {"symmetric": Symmetric(activation=True, weight=True)},
        {"reduce_range": True},
        {"weight": "int4"},
        {"activation": "uint16"},
        {"format": "qoperator"},
    ],
    ids=lambda fields: "-".join(map(str, (*fields, *fields.values()))) or "default",
)
def test_all_corrections_together_are_right_for_every_type(tmp_path: Path, fields: dict[str, Any]) -> None:
    case = case_of(tmp_path, depthwise(spread=0.7))
    assert gain(case, *EVERY, **fields) > -0.5
    assert case.likeness() > (8 if fields.get("weight") == "int4" else 20)


@pytest.mark.parametrize("isa", ["x86-vnni", "x86-avx2", "arm64"])
def test_all_corrections_give_the_same_bytes_each_time(tmp_path: Path, isa: str) -> None:
    case = case_of(tmp_path, depthwise())
    answer = run(case, isa, corrections=EVERY)
    first = case.out.read_bytes()
    run(case, isa, corrections=EVERY)
    assert case.out.read_bytes() == first
    setting = Setting(isa=isa, statistics=case.statistics, samples=lambda: case.samples)
    again = quantize(case.prepared, case.out, answer.recipe, setting)
    assert (again.recipe, case.out.read_bytes()) == (answer.recipe, first)


def test_all_corrections_of_a_transformer(tmp_path: Path) -> None:
    case = case_of(tmp_path, outliers(alone=False), (1, 12, 64))
    assert gain(case, *EVERY) > 3


@pytest.mark.parametrize("name", [name for name in EVERY if name != "weight_clipping"])
def test_a_correction_that_needs_samples_is_refused_without(tmp_path: Path, name: Correction) -> None:
    case = case_of(tmp_path, depthwise())
    with pytest.raises(Refused, match=f"corrections {name}: it needs calibration samples") as refused:
        case.quantize(StaticInt8(corrections=(name,)))
    assert refused.value.code == "no_calibration_data"


def test_weight_clipping_needs_statistics_alone(tmp_path: Path) -> None:
    case = case_of(tmp_path, graphs.convolution())
    case.quantize(StaticInt8(corrections=("weight_clipping",)))
    assert case.likeness() > 20
