"""What a target can load and add up exactly."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from app.domain.errors import Refused
from app.domain.recipe import DynamicInt8, Recipe, StaticInt8
from app.domain.target import RULES, release_number
from tests.engine.graphs import build, convolution, dense, feeds, weights
from tests.engine.quantizing import Case
from worker.engine.choices.saturation import can_saturate, full_range
from worker.engine.contrib import MICROSOFT
from worker.engine.load import INLINE_LIMIT
from worker.engine.methods import Setting, quantize
from worker.engine.passes.scopes import initializers
from worker.engine.requirements import requires

SEPARABLE = "depth"


def separable() -> onnx.ModelProto:
    """A depthwise and a pointwise convolution."""
    nodes = [
        helper.make_node("Conv", ["x", "wd"], ["d"], SEPARABLE, group=8, pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["d", "wp"], ["y"], "point"),
    ]
    constants = {"wd": weights(8, 1, 3, 3), "wp": weights(16, 8, 1, 1, seed=1)}
    return build(nodes, {"x": [1, 8, 16, 16]}, {"y": [1, 16, 16, 16]}, constants)


def multiply_add(activations: np.ndarray, row: np.ndarray) -> int:
    """A dot product by VPMADDUBSW: neighbouring products are added in 16 bits, with saturation."""
    padding = (0, len(row) % 2)
    products = np.pad(activations.astype(np.int64) * row.astype(np.int64), padding).reshape(-1, 2).sum(1)
    return int(np.clip(products, -32768, 32767).sum())


@given(
    row=st.lists(st.integers(-127, 127), min_size=1, max_size=9),
    seed=st.integers(0, 1000),
)
@settings(max_examples=200, deadline=None)
def test_saturation_is_foreseen_exactly(row: list[int], seed: int) -> None:
    weight = np.array(row, np.int8)
    node = helper.make_node("MatMul", ["a", "w"], ["y"])
    rng = np.random.default_rng(seed)
    extremes = [np.where(weight > 0, 255, 0), np.where(weight < 0, 255, 0)]
    tried = [*extremes, *rng.integers(0, 256, size=(20, len(row)))]

    exact = all(multiply_add(a, weight) == int(a @ weight.astype(np.int64)) for a in tried)

    assert can_saturate(node, weight[:, None]) is not exact


def test_seven_bits_never_saturate() -> None:
    node = helper.make_node("MatMul", ["a", "w"], ["y"])

    assert not can_saturate(node, np.full((64, 4), 64, np.int8))
    assert can_saturate(node, np.full((64, 4), 65, np.int8))


def test_full_range_is_what_the_quantizer_stores(tmp_path: Path) -> None:
    case = Case(tmp_path, dense(), feeds(shape=(2, 32)))
    case.quantize(StaticInt8())
    stored = initializers(onnx.load_model(case.out).graph)["w2_quantized"]

    ours = full_range(weights(32, 32, seed=2), 0)

    assert np.abs(ours.astype(int) - numpy_helper.to_array(stored).astype(int)).max() <= 1
    assert (ours == numpy_helper.to_array(stored)).mean() > 0.99


def stored(case: Case, name: str) -> int:
    tensors = initializers(onnx.load_model(case.out).graph)
    return int(np.abs(numpy_helper.to_array(tensors[f"{name}_quantized"]).astype(int)).max())


@pytest.mark.parametrize("isa", ["x86-avx2", "generic"])
def test_ranges_are_reduced_only_where_sums_can_saturate(tmp_path: Path, isa: str) -> None:
    case = Case(tmp_path, separable(), feeds(shape=(1, 8, 16, 16)))

    found = case.quantize(StaticInt8(), isa)

    assert (stored(case, "wd"), stored(case, "wp")) == (127, 64)
    assert f"full range, for their sums cannot saturate: {SEPARABLE}" in found.reasons
    assert not any("can saturate on" in reason for reason in found.reasons)


def heavy_tailed() -> onnx.ModelProto:
    """A product whose few large weights lie side by side along what is summed."""
    halves = np.random.default_rng(5).laplace(size=(512, 32)).astype(np.float32) * 0.05
    values = np.repeat(halves, 2, axis=0)
    values[:2] = np.abs(values).max(0) * 2.2
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "product")]
    return build(nodes, {"x": ["batch", 1024]}, {"y": ["batch", 32]}, {"w": values})


@pytest.mark.parametrize("isa", ["x86-avx2", "generic"])
def test_narrowed_weights_keep_to_seven_bits(tmp_path: Path, isa: str) -> None:
    case = Case(tmp_path, heavy_tailed(), feeds(shape=(4, 1024)))

    found = case.quantize(StaticInt8(corrections=("weight_clipping",)), isa)

    assert "weight_clipping: the ranges of 1 weights were narrowed" in found.reasons
    assert stored(case, "w") == 64
    assert not any("can saturate on" in reason for reason in found.reasons)


def test_weights_of_all_bits_are_not_narrowed_until_they_saturate(tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(0.03, 0.0503, size=(8192, 4)).astype(np.float32)
    values[0], values[1] = 0.1, 0.0  # to clip it is closer, but brings the others to 65
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "product")]
    model = build(nodes, {"x": ["batch", 8192]}, {"y": ["batch", 4]}, {"w": values})
    case = Case(tmp_path, model, feeds(shape=(4, 8192)))

    found = case.quantize(StaticInt8(corrections=("weight_clipping",)), "x86-avx2")

    assert "full range, for their sums cannot saturate: product" in found.reasons
    assert any(
        reason.startswith("weight_clipping leaves the whole range, for 16") for reason in found.reasons
    )
    assert not any("can saturate on" in reason for reason in found.reasons)


def test_full_ranges_that_can_saturate_are_named(tmp_path: Path) -> None:
    case = Case(tmp_path, separable(), feeds(shape=(1, 8, 16, 16)))

    found = case.quantize(StaticInt8(reduce_range=False), "x86-avx2")

    expected = "16-bit sums can saturate on x86-avx2, so results may differ from other CPUs: point"
    assert expected in found.reasons


def test_a_resolved_recipe_gives_the_same_bytes_again(tmp_path: Path) -> None:
    case = Case(tmp_path, separable(), feeds(shape=(1, 8, 16, 16)))
    for isa in RULES:
        resolved = case.quantize(StaticInt8(), isa).recipe
        first = case.out.read_bytes()

        assert case.quantize(resolved, isa).recipe == resolved
        assert case.out.read_bytes() == first


def test_dynamic_sums_that_can_saturate_are_told(tmp_path: Path) -> None:
    case = Case(tmp_path, dense(), feeds(shape=(2, 32)))

    found = case.quantize(DynamicInt8(reduce_range=False), "generic")

    assert any(reason.startswith("reduce_range off: 16-bit sums can saturate") for reason in found.reasons)


@pytest.mark.parametrize(
    ("recipe", "needed"),
    [
        (StaticInt8(), "1.12"),
        (DynamicInt8(), "1.12"),
        (StaticInt8(activation="uint16"), "1.17"),
        (StaticInt8(activation="uint16", qdq_domain="onnx"), "1.18"),
        (StaticInt8(weight="int4"), "1.19"),
    ],
)
def test_what_the_target_cannot_load_is_refused(tmp_path: Path, recipe: Recipe, needed: str) -> None:
    case = Case(tmp_path, dense(), feeds(shape=(2, 32)))
    older = f"1.{release_number(needed)[1] - 1}"

    def on(runtime: str) -> None:
        setting = Setting(isa="x86-vnni", runtime=runtime, statistics=case.statistics)
        quantize(case.prepared, case.out, recipe, setting)

    with pytest.raises(Refused) as refusal:
        on(older)

    assert refusal.value.code == "target_too_old"
    assert f"needs ONNX Runtime {needed}; the target has {older}" in refusal.value.detail
    on(f"{needed}.3")
    assert requires(case.out).onnxruntime == needed


@pytest.mark.parametrize("inline_limit", [INLINE_LIMIT, 0])
def test_what_is_refused_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inline_limit: int
) -> None:
    case = Case(tmp_path, dense(), feeds(shape=(2, 32)))
    setting = Setting(isa="x86-vnni", runtime="1.4", statistics=case.statistics)
    before = set(tmp_path.iterdir())
    monkeypatch.setattr("worker.engine.load.INLINE_LIMIT", inline_limit)

    with pytest.raises(Refused):
        quantize(case.prepared, case.out, StaticInt8(), setting)

    assert set(tmp_path.iterdir()) == before


def test_operators_of_the_runtime_have_a_first_release(tmp_path: Path) -> None:
    bits = {4: "1.17", 8: "1.22", 2: "1.24"}
    for number, release in bits.items():
        node = helper.make_node("MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", bits=number)
        graph = helper.make_graph([node], "g", [], [], [helper.make_tensor("w", TensorProto.UINT8, [1], [0])])
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        path = tmp_path / f"{number}.onnx"
        onnx.save_model(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)

        assert requires(path).onnxruntime == release


def test_a_small_model_of_an_old_opset_runs_on_an_old_runtime(tmp_path: Path) -> None:
    case = Case(tmp_path, convolution(opset=13, ir=7), feeds())

    case.quantize(StaticInt8(quantize_bias=False))
    without = requires(case.out).onnxruntime
    case.quantize(StaticInt8())

    assert (without, requires(case.out).onnxruntime) == ("1.6", "1.7")  # which dequantizes biases of int32


def needed(
    folder: Path,
    node: onnx.NodeProto,
    *,
    domains: Mapping[str, int],
    functions: Sequence[onnx.FunctionProto] = (),
) -> str:
    """The release that a model of opset 11 with this one node needs."""
    graph = helper.make_graph([node], "g", [], [])
    opsets = [helper.make_opsetid(domain, version) for domain, version in {"": 11, **domains}.items()]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=6, functions=functions)
    onnx.save_model(model, folder / "model.onnx")
    return requires(folder / "model.onnx").onnxruntime


@pytest.mark.parametrize(
    ("operator", "fields", "inputs", "release"),
    [
        ("QLinearAdd", {}, 8, "1.4"),
        ("QLinearMul", {}, 8, "1.5"),
        ("MatMulIntegerToFloat", {}, 7, "1.4"),
        ("Attention", {"num_heads": 2}, 4, "1.3"),
        ("Attention", {"num_heads": 2, "do_rotary": 1}, 4, "1.17"),
        ("GroupQueryAttention", {"num_heads": 2}, 7, "1.18"),
        ("GroupQueryAttention", {"num_heads": 2, "softcap": 30.0}, 7, "1.20"),
        ("MatMulNBits", {}, 6, "1.19"),
        ("Gelu", {}, 1, "1.0"),
    ],
)
def test_operators_of_the_runtime_need_the_release_that_loads_them(
    tmp_path: Path, operator: str, fields: dict[str, Any], inputs: int, release: str
) -> None:
    names = [f"i{place}" for place in range(inputs)]
    node = helper.make_node(operator, names, ["y"], domain=MICROSOFT, **fields)

    assert needed(tmp_path, node, domains={MICROSOFT: 1}) == release


def test_an_operator_that_no_table_names_needs_the_release_in_use(tmp_path: Path) -> None:
    node = helper.make_node("SparseAttention", ["x"], ["y"], domain=MICROSOFT)

    assert needed(tmp_path, node, domains={MICROSOFT: 1}) == ort.__version__


@pytest.mark.parametrize(("version", "release"), [(1, "1.0"), (3, "1.12"), (4, "1.17"), (5, "1.18")])
def test_an_opset_of_classic_models_needs_its_release_even_if_no_node_uses_it(
    tmp_path: Path, version: int, release: str
) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])

    assert needed(tmp_path, node, domains={"ai.onnx.ml": version}) == release


def test_what_functions_call_counts_with_the_attributes_of_the_call(tmp_path: Path) -> None:
    inner = helper.make_node("MatMulNBits", ["x", "w", "s"], ["y"], domain=MICROSOFT)
    inner.attribute.add(name="bits", type=onnx.AttributeProto.INT, ref_attr_name="width")
    opsets = [helper.make_opsetid("", 11), helper.make_opsetid(MICROSOFT, 1)]
    function = helper.make_function("own", "Product", ["x", "w", "s"], ["y"], [inner], opsets, ["width"])
    node = helper.make_node("Product", ["x", "w", "s"], ["y"], domain="own", width=8)

    assert needed(tmp_path, node, domains={MICROSOFT: 1, "own": 1}, functions=[function]) == "1.22"
