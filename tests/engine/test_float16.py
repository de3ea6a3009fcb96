import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from app.domain.errors import Refused
from app.domain.recipe import BFloat16, Float16, Selection
from tests.engine.graphs import Array, build, convolution, dense, feeds, weights
from tests.engine.quantizing import Prepared, Samples
from worker.engine.load import save_model
from worker.engine.methods import Quantized, Setting, quantize
from worker.engine.passes.likeness import likeness_db
from worker.engine.session import open_session

ROWS = feeds(shape=(2, 32))


class Case(Prepared):
    """A model and its inputs, for halves of any kind."""

    def quantize(self, recipe: Float16 | BFloat16) -> Quantized:
        return quantize(self.prepared, self.out, recipe, Setting(isa="generic"))


Start = Callable[[onnx.ModelProto, Samples], Case]


@pytest.fixture
def case(tmp_path: Path) -> Start:
    return lambda model, samples: Case(tmp_path, model, samples)


def wide(values: Array) -> onnx.ModelProto:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "product")]
    return build(nodes, {"x": ["batch", 32]}, {"y": ["batch", values.shape[1]]}, {"w": values})


@pytest.mark.parametrize(
    ("recipe", "least"), [(Float16(), 60), (BFloat16(), 40), (Float16(compute="full"), 50)]
)
def test_a_model_takes_half_the_bytes_and_stays_close(
    case: Start, recipe: Float16 | BFloat16, least: float
) -> None:
    started = case(wide(weights(32, 512)), ROWS)

    started.quantize(recipe)

    assert started.likeness() > least
    assert started.out.stat().st_size < 0.52 * started.source.stat().st_size


@pytest.mark.parametrize("recipe", [Float16(), BFloat16()])
def test_storage_keeps_the_interface_the_opset_and_the_ir(case: Start, recipe: Float16 | BFloat16) -> None:
    started = case(convolution(), feeds())

    quantized = started.quantize(recipe)

    before, after = onnx.load_model(started.source), onnx.load_model(started.out)
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)
    assert (after.ir_version, after.opset_import) == (before.ir_version, before.opset_import)
    assert any("runs as float32 on a CPU" in reason for reason in quantized.reasons)


def test_storage_is_what_auto_becomes(case: Start) -> None:
    quantized = case(wide(weights(32, 64)), ROWS).quantize(Float16())

    assert quantized.recipe == Float16(compute="storage")


def test_values_beyond_float16_stay_float_and_bfloat16_takes_them(case: Start) -> None:
    values = weights(32, 64)
    values[3, 3] = 1e6
    started = case(wide(values), ROWS)

    with pytest.raises(Refused, match="float16 cannot hold its values: w"):
        started.quantize(Float16())
    started.quantize(BFloat16())

    assert started.weight_types() == {"w_bfloat16": onnx.TensorProto.BFLOAT16}


def test_values_too_small_for_float16_stay_float(case: Start) -> None:
    with pytest.raises(Refused, match="float16 cannot hold its values"):
        case(wide(weights(32, 64) * np.float32(1e-8)), ROWS).quantize(Float16())


def test_small_constants_stay_float(case: Start) -> None:
    started = case(dense(), ROWS)

    started.quantize(Float16())

    assert started.weight_types()["b"] == onnx.TensorProto.FLOAT


def test_excluded_nodes_keep_their_weights(case: Start) -> None:
    started = case(dense(), ROWS)

    quantized = started.quantize(Float16(exclude=Selection(nodes=("second",))))

    assert started.weight_types()["w2"] == onnx.TensorProto.FLOAT
    assert "w1_float16" in started.weight_types()
    assert "stays float, excluded: a node reads it: w2" in quantized.reasons


def test_full_computes_in_float16_between_casts(case: Start) -> None:
    started = case(convolution(), feeds())

    started.quantize(Float16(compute="full", exclude=Selection(nodes=("second",))))

    graph = onnx.load_model(started.out).graph
    assert {t.name: t.data_type for t in graph.initializer}["w1"] == onnx.TensorProto.FLOAT16
    assert {t.name: t.data_type for t in graph.initializer}["w2"] == onnx.TensorProto.FLOAT
    assert graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert started.likeness() > 40


def test_full_is_refused_where_no_constant_would_be_halved(case: Start) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"], "relu")]
    started = case(build(nodes, {"x": [2, 32]}, {"y": [2, 32]}, {}), ROWS)

    with pytest.raises(Refused, match="this model has none") as refusal:
        started.quantize(Float16(compute="full"))

    assert refusal.value.code == "nothing_to_quantize"


def test_full_is_refused_where_tensors_pass_through_sequences(case: Start) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["rows"], "product"),
        helper.make_node("SplitToSequence", ["rows"], ["parts"], "split", axis=1),
        helper.make_node("ConcatFromSequence", ["parts"], ["y"], "join", axis=1),
    ]
    started = case(build(nodes, {"x": [2, 32]}, {"y": [2, 64]}, {"w": weights(32, 64)}), ROWS)

    with pytest.raises(Refused, match="through sequences") as refusal:
        started.quantize(Float16(compute="full"))

    assert refusal.value.code == "unsupported_option"


def test_full_bfloat16_is_refused_for_there_are_no_kernels(case: Start) -> None:
    with pytest.raises(Refused, match="no bfloat16 kernels") as refusal:
        case(dense(), ROWS).quantize(BFloat16(compute="full"))

    assert refusal.value.code == "unsupported_option"


def test_the_runtime_indeed_has_no_bfloat16_product(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "x"], ["y"], "product")]
    model = build(nodes, {"x": [4, 4]}, {"y": [4, 4]}, {}, kind=onnx.TensorProto.BFLOAT16)
    save_model(model, tmp_path / "model.onnx")

    with pytest.raises(Refused, match="Could not find an implementation for MatMul"):
        open_session(tmp_path / "model.onnx")


def test_another_interface_is_refused(case: Start) -> None:
    with pytest.raises(Refused, match="keep_io") as refusal:
        case(dense(), ROWS).quantize(Float16(keep_io=False))

    assert refusal.value.code == "unsupported_option"


SCRIPT = """
import sys
from pathlib import Path
from app.domain.recipe import BFloat16, Float16
from worker.engine.methods import Setting, quantize
recipe = {"full": Float16(compute="full"), "float16": Float16(), "bfloat16": BFloat16()}[sys.argv[3]]
quantize(Path(sys.argv[1]), Path(sys.argv[2]), recipe, Setting(isa="generic"))
"""


@pytest.mark.parametrize("kind", ["full", "float16", "bfloat16"])
def test_two_processes_write_the_same_bytes(tmp_path: Path, kind: str) -> None:
    save_model(convolution(), tmp_path / "model.onnx")
    for seed in ("1", "2"):
        command = [sys.executable, "-c", SCRIPT, tmp_path / "model.onnx", tmp_path / f"{seed}.onnx", kind]
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": "."}
        subprocess.run(list(map(str, command)), check=True, env=environment)

    assert (tmp_path / "1.onnx").read_bytes() == (tmp_path / "2.onnx").read_bytes()


def test_full_leaves_bits_that_are_read_as_another_type_alone(case: Start) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "product"),
        helper.make_node("BitCast", ["a"], ["y"], "bits", to=onnx.TensorProto.INT32),
    ]
    model = build(nodes, {"x": [2, 32]}, {"y": [2, 8]}, {"w": weights(32, 8)}, opset=26, ir=13)
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT32
    model.graph.value_info.append(helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, [2, 8]))

    started = case(model, ROWS)

    started.quantize(Float16(compute="full"))

    before, after = (open_session(path).run(None, ROWS[0])[0] for path in (started.source, started.out))
    assert likeness_db([[before.view(np.float32)]], [[after.view(np.float32)]]) > 50


def test_full_keeps_scales_that_are_empty_as_a_roi_is(case: Start) -> None:
    """One empty constant serves for both, as some converters write it; a Cast would hide that it is empty."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Resize", ["a", "none", "none", "sizes"], ["y"], "larger", mode="linear"),
    ]
    constants = {
        "w": weights(4, 3, 3, 3),
        "none": np.zeros(0, np.float32),
        "sizes": np.array([1, 4, 32, 32], np.int64),
    }
    model = build(nodes, {"x": [1, 3, 16, 16]}, {"y": [1, 4, 32, 32]}, constants, opset=11)
    started = case(model, feeds())

    started.quantize(Float16(compute="full"))

    assert started.likeness() > 50


def moved_batch(kind: int = onnx.TensorProto.FLOAT) -> onnx.ModelProto:
    """A product of what a Transpose has moved the first dimension of."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], "turned", perm=[1, 2, 0]),
        helper.make_node("MatMul", ["t", "w"], ["y"], "product"),
    ]
    values = weights(32, 8).astype(helper.tensor_dtype_to_np_dtype(kind))
    return build(nodes, {"x": [32, 2, 7]}, {"y": [2, 7, 8]}, {"w": values}, kind=kind)


def test_full_moves_a_batch_before_a_product_in_float32(case: Start) -> None:
    samples = feeds(shape=(32, 2, 7))
    started = case(moved_batch(), samples)

    found = started.quantize(Float16(compute="full"))

    assert [reason for reason in found.reasons if "moved in float16" in reason and "turned" in reason]
    assert started.likeness() > 50


def test_the_runtime_indeed_crashes_on_a_batch_moved_in_float16(tmp_path: Path) -> None:
    save_model(moved_batch(onnx.TensorProto.FLOAT16), tmp_path / "model.onnx")
    opened = f"import onnxruntime; onnxruntime.InferenceSession({str(tmp_path / 'model.onnx')!r})"

    ended = subprocess.run([sys.executable, "-c", opened], check=False, capture_output=True)

    assert ended.returncode == -signal.SIGSEGV
