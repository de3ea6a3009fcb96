"""TensorRT's rules for explicitly quantized models, on what our recipes write and on single pairs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from app.domain.recipe import DynamicInt8, Float16, Recipe, Selection, StaticInt8, Symmetric, WeightOnly
from app.domain.report import TensorRT
from tests.engine.graphs import attention, branches, build, convolution, feeds, residual, weights
from tests.engine.quantizing import Case
from worker.engine.choices.setting import Setting
from worker.engine.elsewhere.tensorrt import tensorrt
from worker.engine.kernels import kernels
from worker.engine.load import load_model
from worker.engine.methods import quantize

IMAGES = feeds()
FOR_TENSORRT = StaticInt8(
    activation="int8", weight="int8", symmetric=Symmetric(activation=True), quantize_bias=False
)


def looked_at(case: Case, recipe: Recipe) -> TensorRT:
    case.quantize(recipe)
    return tensorrt(load_model(case.out))


def mends(found: TensorRT) -> set[str | None]:
    return {obstacle.mend for obstacle in found.obstacles}


def pair(
    weight: np.ndarray[Any, Any], scale: Sequence[float], *, op_type: str = "Conv", **attributes: Any
) -> onnx.ModelProto:
    """One node whose weight, of int8, goes through DequantizeLinear."""
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["dw"], "stored", **attributes),
        helper.make_node(op_type, ["x", "dw"], ["y"], "node"),
    ]
    shape = [1, *"cdef"[: max(weight.ndim - 1, 1)]]
    constants = {"w": weight, "s": np.asarray(scale, np.float32)}
    return build(nodes, {"x": shape}, {"y": shape}, constants)


def test_a_float_model_and_one_in_float16_are_taken(tmp_path: Path) -> None:
    case = Case(tmp_path, residual(), IMAGES)

    assert tensorrt(load_model(case.source)).loads == "yes"
    assert looked_at(case, Float16()) == TensorRT("yes", "TensorRT 10.15")


def test_what_hinders_the_default_static_recipe_is_named_with_nodes_and_what_mends_it(tmp_path: Path) -> None:
    found = looked_at(Case(tmp_path, convolution(), IMAGES), StaticInt8())

    assert found.loads == "no"
    assert mends(found) == {"activation: int8", "symmetric.activation: true", "quantize_bias: false"}
    bias = next(o for o in found.obstacles if o.mend == "quantize_bias: false")
    assert (bias.count, bias.nodes) == (1, ("b1_DequantizeLinear",))


@pytest.mark.parametrize("model", [convolution, residual], ids=["bias", "sums"])
def test_the_recipe_that_the_mends_add_up_to_is_taken(tmp_path: Path, model: Any) -> None:
    case = Case(tmp_path, model(), IMAGES)

    assert looked_at(case, FOR_TENSORRT) == TensorRT("yes", "TensorRT 10.15")
    assert case.likeness() > 20


@pytest.mark.parametrize(
    ("recipe", "mend"),
    [
        (StaticInt8(format="qoperator"), "format: qdq"),
        (StaticInt8(activation="uint16"), "qdq_domain: onnx"),
        (StaticInt8(activation="uint16"), "activation: int8"),
        (StaticInt8(weight="uint8"), "weight: int8"),
        (StaticInt8(per_channel=False, symmetric=Symmetric(weight=False)), "symmetric.weight: true"),
        (StaticInt8(weight="int4", qdq_domain="onnx"), "weight: int8"),
        (DynamicInt8(include=Selection(op_types=("Conv",))), "method: static_int8"),
    ],
    ids=str,
)
def test_other_recipes_are_told_what_mends_them(tmp_path: Path, recipe: Recipe, mend: str) -> None:
    found = looked_at(Case(tmp_path, convolution(), IMAGES), recipe)

    assert (found.loads, mend in mends(found)) == ("no", True)


def test_weights_of_few_bits_are_operators_that_tensorrt_does_not_have(tmp_path: Path) -> None:
    rows = [{"x": np.ones((1, 8, 32), np.float32)}]
    case = Case(tmp_path, attention(), rows)
    quantize(case.prepared, case.out, WeightOnly(bits=4), Setting(isa="x86-vnni"))

    found = tensorrt(load_model(case.out))

    assert mends(found) == {"method: float16"}
    assert "com.microsoft MatMulNBits is no operator of ONNX" in {o.reason for o in found.obstacles}


BYTES = np.ones((4, 4, 3, 3), np.int8)
SCALES = [0.1, 0.2, 0.3, 0.4]


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (pair(BYTES, [0.0]), "a scale that is not above 0"),
        (pair(BYTES, SCALES, axis=1), "scales of Conv weights along another axis than its kernels take"),
        (
            pair(BYTES, SCALES, op_type="ConvTranspose", axis=1),
            "scales of ConvTranspose weights along another axis than its kernels take",
        ),
        (
            pair(np.ones((4, 4), np.int8), SCALES, op_type="MatMul", axis=0),
            "scales of MatMul weights along another axis than its kernels take",
        ),
    ],
)
def test_a_pair_that_breaks_a_rule_is_named(model: onnx.ModelProto, reason: str) -> None:
    found = tensorrt(model)

    assert [(o.reason, o.nodes) for o in found.obstacles] == [(reason, ("stored",))]


@pytest.mark.parametrize(
    "model",
    [
        pair(BYTES, SCALES, axis=0),
        pair(BYTES, SCALES, op_type="ConvTranspose", axis=0),
        pair(np.ones((4, 4), np.int8), SCALES, op_type="MatMul", axis=1),
        pair(BYTES, [0.1]),
    ],
    ids=["Conv", "ConvTranspose", "MatMul", "one scale"],
)
def test_weights_with_the_scales_that_kernels_take_are_fine(model: onnx.ModelProto) -> None:
    assert tensorrt(model).loads == "yes"


def test_blocks_of_four_bits_are_fine_in_the_sizes_that_tensorrt_takes() -> None:
    def loads(size: int) -> str:
        model = pair(np.zeros((128, 4), np.int8), [1.0], op_type="MatMul", axis=0, block_size=size)
        stored = helper.make_tensor("w", TensorProto.INT4, (128, 4), np.zeros(512, np.int8))
        scales = numpy_helper.from_array(np.ones((128 // size, 4), np.float32), "s")
        del model.graph.initializer[:]
        model.graph.initializer.extend([stored, scales])
        return tensorrt(model).loads

    assert [loads(size) for size in (32, 64, 128)] == ["no", "yes", "yes"]


def test_scales_that_are_computed_are_told() -> None:
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["s"], "largest", keepdims=0),
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "rounded"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], "restored"),
    ]
    model = build(nodes, {"x": [4]}, {"y": [4]}, {"z": np.zeros((), np.int8)})

    found = tensorrt(model)

    assert [(o.reason, o.nodes) for o in found.obstacles] == [
        ("scales that are computed", ("rounded", "restored"))
    ]


@pytest.mark.parametrize(("said", "loads"), [({"output_dtype": TensorProto.INT8}, "yes"), ({}, "no")])
def test_without_zero_points_the_type_is_what_the_quantizer_says_or_uint8(
    said: dict[str, int], loads: str
) -> None:
    nodes = [
        helper.make_node("Constant", [], ["s"], "scale", value_float=0.1),
        helper.make_node("QuantizeLinear", ["x", "s"], ["q"], "rounded", **said),  # type: ignore[arg-type]
        helper.make_node("DequantizeLinear", ["q", "s"], ["y"], "restored"),
    ]

    found = tensorrt(build(nodes, {"x": [4]}, {"y": [4]}, {}, opset=21))

    assert found.loads == loads
    assert [o.nodes for o in found.obstacles] == ([] if said else [("rounded", "restored")])


@pytest.mark.parametrize("kind", [np.int8, onnx.helper.tensor_dtype_to_np_dtype(TensorProto.INT4)])
def test_a_single_weight_with_several_scales_counts_as_a_row(kind: type[Any]) -> None:
    model = pair(np.array(3).astype(kind), [0.1, 0.2], op_type="MatMul", block_size=64)

    assert tensorrt(model).loads == "yes"


def test_constants_of_strings_are_passed_over() -> None:
    nodes = [
        helper.make_node("Constant", [], ["words"], "words", value_strings=["a", "b"]),
        helper.make_node("Identity", ["x"], ["y"], "identity"),
    ]

    assert tensorrt(build(nodes, {"x": [4]}, {"y": [4]}, {})).loads == "yes"


def test_nodes_in_branches_and_of_functions_are_looked_at() -> None:
    model = branches()
    model.opset_import.append(helper.make_opsetid("own", 1))
    inner = next(a.g for node in model.graph.node for a in node.attribute if a.name == "then_branch")
    inner.node.append(helper.make_node("Twice", ["x"], ["unused"], "inside", domain="own"))

    assert [o.nodes for o in tensorrt(model).obstacles] == [("inside",)]

    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    model.functions.append(
        helper.make_function("own", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    )
    assert tensorrt(model).loads == "yes"


@pytest.mark.parametrize(("version", "loads"), [(8, "no"), (9, "yes"), (24, "yes"), (25, "no")])
def test_the_opset_is_one_that_the_parser_takes(version: int, loads: str) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "product")
    model = build([node], {"x": [1, 4]}, {"y": [1, 4]}, {"w": weights(4, 4)}, opset=version)

    assert tensorrt(model).loads == loads


def test_biases_that_stay_float_run_in_integer_kernels_all_the_same(tmp_path: Path) -> None:
    case = Case(tmp_path, convolution(), IMAGES)
    case.quantize(StaticInt8(quantize_bias=False))

    assert case.weight_types()["b1"] == TensorProto.FLOAT
    assert kernels(case.out).integer == 2
