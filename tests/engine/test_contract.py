"""What the engine uses of ONNX Runtime's insides: a release that changes one fails here first."""

import contextlib
import inspect
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import get_all_opkernel_def
from onnxruntime.quantization import QuantizationMode, QuantType
from onnxruntime.quantization.base_quantizer import BaseQuantizer
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import add_infer_metadata, model_has_infer_metadata
from onnxruntime.quantization.registry import IntegerOpsRegistry, QDQRegistry
from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference
from onnxruntime.transformers.float16 import (
    ALWAYS_FLOAT_INPUTS,
    DEFAULT_OP_BLOCK_LIST,
    convert_float_to_float16,
)

from tests.engine.graphs import attention, build, convolution, dense, weights
from worker.engine.choices.islands import ABSORBED, MOVERS, WEIGHTED
from worker.engine.float_nodes import name_of
from worker.engine.kernels import INTEGER
from worker.engine.passes.inference import infer_shapes
from worker.engine.passes.scopes import all_nodes
from worker.engine.requirements import RELEASES
from worker.engine.session import open_session

TAKEN_BY_BOTH = [
    "weight_qType",
    "activation_qType",
    "tensors_range",
    "nodes_to_quantize",
    "nodes_to_exclude",
    "op_types_to_quantize",
    "extra_options",
]


def parameters(function: object) -> list[str]:
    return list(inspect.signature(function).parameters)[1:]  # type: ignore[arg-type]


def test_the_runtime_is_the_pinned_one() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]

    pins = [line for line in project["dependencies"] if line.startswith("onnxruntime")]
    assert pins == [f"onnxruntime=={ort.__version__}"]


def test_the_static_quantizer_takes_what_it_is_given() -> None:
    assert parameters(QDQQuantizer.__init__) == [
        "model",
        "per_channel",
        "reduce_range",
        *TAKEN_BY_BOTH,
    ]


def test_the_dynamic_quantizer_takes_what_it_is_given() -> None:
    assert parameters(ONNXQuantizer.__init__) == [
        "model",
        "per_channel",
        "reduce_range",
        "mode",
        "static",
        *TAKEN_BY_BOTH,
    ]


def quantizer(ranges: TensorsData) -> QDQQuantizer:
    model, _ = infer_shapes(convolution())
    add_infer_metadata(model)
    types = QuantType.QInt8, QuantType.QUInt8
    nodes = ["first", "relu", "second"]
    return QDQQuantizer(model, True, False, *types, ranges, nodes, [], ["Conv", "Relu"], {})


def spans(**bounds: tuple[float, float]) -> TensorsData:
    data = {n: TensorData(lowest=np.float32(a), highest=np.float32(b)) for n, (a, b) in bounds.items()}
    return TensorsData(CalibrationMethod.MinMax, data)


def test_ranges_become_scales() -> None:
    made = quantizer(spans(x=(-1.0, 3.0), a=(-9.0, 9.0), r=(0.0, 2.0), y=(-1.0, 1.0)))

    made.quantize_model()

    scales = {t.name: onnx.numpy_helper.to_array(t) for t in made.model.model.graph.initializer}
    assert scales["x_scale"] == pytest.approx(4 / 255)
    assert scales["r_scale"] == pytest.approx(2 / 255)


def test_the_quantizer_changes_the_ranges_that_it_gets() -> None:
    given = spans(x=(-1.0, 3.0), a=(-9.0, 9.0), r=(0.0, 2.0), y=(-1.0, 1.0))

    quantizer(given)

    assert given["a"].range_value == (0.0, 2.0), "so every candidate needs ranges of its own"


def test_a_marked_model_is_not_inferred_again(monkeypatch: pytest.MonkeyPatch) -> None:
    module = inspect.getmodule(BaseQuantizer)
    monkeypatch.delattr(module, "save_and_reload_model_with_shape_infer")
    ranges = spans(x=(-1.0, 3.0), a=(-9.0, 9.0), r=(0.0, 2.0), y=(-1.0, 1.0))

    made = quantizer(ranges)

    assert model_has_infer_metadata(made.model.model)


def test_the_operators_that_are_quantized_are_known_to_the_quantizer() -> None:
    assert set(QDQRegistry) >= (WEIGHTED | ABSORBED | MOVERS)
    assert {"MatMul", "Conv", "LSTM", "Attention", "Gather"} <= set(IntegerOpsRegistry)


def test_symbolic_inference_has_the_steps_that_are_called() -> None:
    inference = SymbolicShapeInference(2**31 - 1, auto_merge=True, guess_output_rank=False, verbose=0)

    inference._preprocess(convolution())

    assert inference.run_ is True
    assert inference._infer_impl() is True
    assert inference.run_ is False
    assert {value.name for value in inference.out_mp_.graph.value_info} >= {"a", "r"}


@pytest.mark.parametrize(("newer", "loads"), [((0, 0), True), ((1, 0), False), ((0, 1), False)])
def test_the_last_row_of_the_table_is_what_the_runtime_loads(newer: tuple[int, int], loads: bool) -> None:
    _, opset, ir = RELEASES[-1]
    model = convolution(opset=opset + newer[0], ir=ir + newer[1]).SerializeToString()

    refusal = contextlib.nullcontext() if loads else pytest.raises(Exception, match=r"opset|IR version")
    with refusal:
        ort.InferenceSession(model, providers=["CPUExecutionProvider"])


def test_what_counts_as_an_integer_kernel_is_one_of_the_runtime() -> None:
    kernels = {
        kernel.op_name for kernel in get_all_opkernel_def() if kernel.provider == "CPUExecutionProvider"
    }

    assert kernels >= INTEGER


def paired(model: onnx.ModelProto, *, per_channel: bool = True, **options: Any) -> onnx.GraphProto:
    """What the static quantizer makes of a model whose tensors have these ranges."""
    model, _ = infer_shapes(model)
    add_infer_metadata(model)
    ranges = spans(x=(-1.0, 3.0), a=(-9.0, 9.0), r=(0.0, 2.0), y=(-1.0, 1.0))
    types = QuantType.QInt8, QuantType.QUInt8
    nodes, operators = ["first", "relu", "second"], ["Conv", "Gemm", "MatMul", "Relu"]
    made = QDQQuantizer(model, per_channel, False, *types, ranges, nodes, [], operators, options)
    made.quantize_model()
    graph: onnx.GraphProto = made.model.model.graph
    return graph


def values(graph: onnx.GraphProto) -> dict[str, Any]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}


def overridden(overrides: dict[str, Any], **options: Any) -> dict[str, onnx.TensorProto]:
    graph = paired(convolution(), TensorQuantOverrides=overrides, **options)
    return {t.name: t for t in graph.initializer}


def test_overrides_reach_types_axes_ranges_and_reduced_ranges() -> None:
    tensors = overridden(
        {
            "w1": [{"quant_type": QuantType.QInt8, "axis": 0, "reduce_range": True}],
            "w2": [{"quant_type": QuantType.QUInt8, "symmetric": True}],
            "y": [{"quant_type": QuantType.QUInt16, "rmin": np.float32(-2), "rmax": np.float32(2)}],
        },
        UseQDQContribOps=True,
    )

    assert np.abs(onnx.numpy_helper.to_array(tensors["w1_quantized"]).astype(int)).max() == 64
    assert list(tensors["w1_scale"].dims) == [16]
    assert (list(tensors["w2_scale"].dims), tensors["w2_quantized"].data_type) == ([], onnx.TensorProto.UINT8)
    assert onnx.numpy_helper.to_array(tensors["y_scale"]) == pytest.approx(4 / 65535)


def test_scales_and_zero_points_of_overrides_are_kept_exactly() -> None:
    rows = [{"axis": 0, "scale": np.float32(0.25), "zero_point": np.int8(0)} for _ in range(8)]

    tensors = overridden({"w2": [{**row, "quant_type": QuantType.QInt8} for row in rows]})

    assert onnx.numpy_helper.to_array(tensors["w2_scale"]).tolist() == [0.25] * 8


def test_a_relu_is_dropped_unless_it_is_to_be_kept() -> None:
    for keep in (False, True):
        graph = paired(convolution(), QDQKeepRemovableActivations=keep)

        assert ("Relu" in {node.op_type for node in graph.node}) is keep


def test_activations_are_symmetric_where_that_is_asked() -> None:
    for symmetric, zero_point in ((False, 64), (True, 128)):
        assert values(paired(convolution(), ActivationSymmetric=symmetric))["x_zero_point"] == zero_point


def test_weights_are_symmetric_where_that_is_asked() -> None:
    for symmetric in (False, True):
        graph = paired(convolution(), per_channel=False, WeightSymmetric=symmetric)

        assert bool(values(graph)["w1_zero_point"] == 0) is symmetric


def test_pairs_are_of_the_domain_that_is_asked() -> None:
    for contributed, domain in ((False, ""), (True, "com.microsoft")):
        graph = paired(convolution(), UseQDQContribOps=contributed)

        assert {n.domain for n in graph.node if n.op_type.endswith("eLinear")} == {domain}


def test_a_bias_stays_float_where_that_is_asked() -> None:
    for quantized in (False, True):
        graph = paired(convolution(), QuantizeBias=quantized)

        assert ("b1" not in values(graph)) is quantized


def test_nothing_is_rounded_behind_operators_that_are_named() -> None:
    for named in ([], ["MatMul", "Gemm"]):
        graph = paired(dense(), OpTypesToExcludeOutputQuantization=named)

        rounded = {name for node in graph.node if node.op_type == "QuantizeLinear" for name in node.input}
        last = next(node for node in graph.node if node.name == "second")
        assert (last.output[0] not in rounded) is bool(named)


def dynamic(model: onnx.ModelProto, nodes: list[str], **options: Any) -> onnx.GraphProto:
    """What the dynamic quantizer makes of the MatMuls of a model."""
    add_infer_metadata(model)
    mode, types = QuantizationMode.IntegerOps, (QuantType.QInt8, QuantType.QUInt8)
    made = ONNXQuantizer(model, False, False, mode, False, *types, None, nodes, [], ["MatMul"], options)
    made.quantize_model()
    graph: onnx.GraphProto = made.model.model.graph
    return graph


def products(graph: onnx.GraphProto) -> int:
    return sum(node.op_type == "MatMulInteger" for node in all_nodes(graph))


def test_products_of_activations_are_left_where_that_is_asked() -> None:
    model = attention()
    nodes = [node.name for node in model.graph.node if node.op_type == "MatMul"]

    assert products(dynamic(model, nodes, MatMulConstBOnly=True)) == 3
    assert products(dynamic(attention(), nodes)) == 5


def choice() -> onnx.ModelProto:
    """An If whose branches multiply by the same weights."""
    value = [onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [1, 4])]
    inner = [onnx.helper.make_node("MatMul", ["x", "w"], ["z"], "inner")]
    branches = {f"{name}_branch": onnx.helper.make_graph(inner, name, [], value) for name in ("then", "else")}
    node = onnx.helper.make_node("If", ["yes"], ["y"], "if", **branches)
    return build([node], {"x": [1, 4]}, {"y": [1, 4]}, {"w": weights(4, 4), "yes": np.ones((), bool)})


def test_branches_are_entered_where_that_is_asked() -> None:
    for enters in (False, True):
        assert products(dynamic(choice(), ["if", "inner"], EnableSubgraph=enters)) == 2 * enters


def test_the_dynamic_quantizer_has_a_type_for_what_inference_leaves_open() -> None:
    source = inspect.getsource(ONNXQuantizer._get_default_tensor_type)

    assert 'return self.extra_options["DefaultTensorType"]' in source


def test_the_float16_converter_takes_what_it_is_given() -> None:
    assert {"keep_io_types", "disable_shape_infer", "node_block_list"} <= set(
        inspect.signature(convert_float_to_float16).parameters
    )
    assert "TopK" in DEFAULT_OP_BLOCK_LIST
    assert ALWAYS_FLOAT_INPUTS["Resize"] == [2]

    half = convert_float_to_float16(
        convolution(), keep_io_types=True, disable_shape_infer=True, node_block_list=["second"]
    )

    kinds = {t.name: t.data_type for t in half.graph.initializer}
    assert kinds["w1"] == onnx.TensorProto.FLOAT16
    assert half.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    ONNXModel(half).topological_sort()


def test_pairs_become_integer_kernels_in_the_graph_that_the_runtime_saves(tmp_path: Path) -> None:
    made = quantizer(spans(x=(-1.0, 3.0), a=(-9.0, 9.0), r=(0.0, 2.0), y=(-1.0, 1.0)))
    made.quantize_model()
    onnx.save(made.model.model, tmp_path / "pairs.onnx")

    open_session(tmp_path / "pairs.onnx", optimized_path=tmp_path / "optimized.onnx")

    nodes = onnx.load(tmp_path / "optimized.onnx").graph.node
    convolutions = [node for node in nodes if node.op_type == "QLinearConv"]
    assert [name_of(node) for node in convolutions] == ["first", "second"]


def test_the_dynamic_quantizer_reshapes_the_weights_of_an_lstm_in_place() -> None:
    """So nodes that share them get copies; when this fails, the copies may go."""
    source = inspect.getsource(IntegerOpsRegistry["LSTM"].quantize)

    assert "del W.dims[0]" in source
    assert "model.get_initializer(node.input[1])" in source
