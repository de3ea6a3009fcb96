import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
from onnx import helper

from app.domain.errors import Refused
from app.domain.recipe import Selection, WeightOnly
from tests.engine.few_bits import IDS, Case, Feeds, lookup, product, rows
from tests.engine.graphs import attention, branch_feeds, branches, build, dense, weights
from worker.engine.corrections.columns import Columns, descended
from worker.engine.kernels import kernels
from worker.engine.load import save_model
from worker.engine.methods.weight_only.adaround import adaround
from worker.engine.methods.weight_only.blocks import Grid, round_to_nearest
from worker.engine.methods.weight_only.gptq import Sums, gptq
from worker.engine.passes.likeness import likeness_db
from worker.engine.session import open_session

Bits = Literal[2, 4, 8]
CLOSE = {2: 5.0, 4: 15.0, 8: 30.0}
Start = Callable[[onnx.ModelProto, Feeds], Case]


@pytest.fixture
def case(tmp_path: Path) -> Start:
    return lambda model, samples: Case(tmp_path, model, samples)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("block_size", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_runtime_reads_every_layout_as_it_was_written(
    case: Start, bits: Bits, block_size: Any, symmetric: bool
) -> None:
    """Codes, scales and zero points of a product whose last block is filled up, in float arithmetic."""
    started = case(product(300), rows(300, 2))
    recipe = WeightOnly(
        bits=bits, block_size=block_size, symmetric=symmetric, algorithm="rtn", accuracy_level=0
    )

    started.quantize(recipe)

    blocks = round_to_nearest(weights(300, 48).T, Grid(bits, block_size, symmetric))
    expected = [[feed["x"] @ blocks.values().T] for feed in started.samples]
    session = open_session(started.out)
    assert likeness_db(expected, [session.run(None, feed) for feed in started.samples]) > 100


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("algorithm", ["rtn", "hqq", "gptq", "adaround", "awq", "kquant"])
def test_every_algorithm_stays_close_with_integer_kernels(case: Start, bits: Bits, algorithm: Any) -> None:
    started = case(dense(), [{"x": feed["x"][:, :32]} for feed in rows(64)])

    quantized = started.quantize(WeightOnly(bits=bits, algorithm=algorithm), with_samples=True)

    assert isinstance(quantized.recipe, WeightOnly)
    assert quantized.recipe.accuracy_level == 4
    assert len(started.nodes("MatMulNBits")) == 2
    assert started.likeness() > CLOSE[bits]


def test_half_quadratic_beats_rounding_to_nearest(case: Start) -> None:
    started = case(product(256), rows(256))
    found = {}
    for algorithm in ("rtn", "hqq"):
        started.quantize(WeightOnly(bits=2, block_size=32, symmetric=False, algorithm=algorithm))
        found[algorithm] = started.likeness()

    assert found["hqq"] > found["rtn"] + 1


def test_gptq_beats_rounding_to_nearest_by_far_on_inputs_that_hang_together(case: Start) -> None:
    started = case(product(256), rows(256, 64))
    found = {}
    for algorithm in ("rtn", "gptq"):
        started.quantize(WeightOnly(bits=2, algorithm=algorithm), with_samples=True)
        found[algorithm] = started.likeness()

    assert found["gptq"] > found["rtn"] + 3


def test_learned_rounding_beats_gptq_at_two_bits(case: Start) -> None:
    mixing = np.random.default_rng(3).normal(size=(256, 256)).astype(np.float32) / 16
    hanging = [{"x": feed["x"] @ mixing} for feed in rows(256, 96)]
    started = case(product(256), hanging[:64])
    found = {}
    for algorithm in ("gptq", "adaround"):
        started.quantize(WeightOnly(bits=2, algorithm=algorithm, accuracy_level=0), with_samples=True)
        found[algorithm] = started.likeness()

    assert found["adaround"] > found["gptq"] + 0.1


def test_learned_rounding_without_samples_held_out_is_gptq() -> None:
    inputs = np.concatenate([feed["x"] for feed in rows(64)]).astype(np.float64)
    square, layer, grid = inputs.T @ inputs, weights(64, 48).T, Grid(4, 32, symmetric=False)
    none = np.zeros_like(square)
    found = adaround(layer, Sums(square, square), Sums(none, none), grid)
    assert np.array_equal(found.values(), gptq(layer, Sums(square, square), grid).values())


def test_gptq_makes_up_for_errors_of_the_layers_before() -> None:
    """Where quantized layers have halved the inputs, weights of twice the size serve best."""
    before = np.concatenate([feed["x"] for feed in rows(64)]).astype(np.float64)
    now, layer, grid = before / 2, weights(64, 48).T, Grid(4, 32, symmetric=False)
    square, cross = now.T @ now, before.T @ now

    lost = [
        np.square(before @ layer.T - now @ gptq(layer, Sums(square, other), grid).values().T).sum()
        for other in (square, cross)
    ]

    assert lost[1] < lost[0] / 10


def test_coordinate_descent_finds_codes_whose_products_are_closer() -> None:
    inputs = np.concatenate([feed["x"] for feed in rows(64)]).astype(np.float64)
    hessian, layer = inputs.T @ inputs + np.eye(64), weights(64, 48).astype(np.float64)
    columns = Columns(np.full((64, 48), 0.1), np.full((64, 48), 2.0), 3)
    codes = np.clip(np.rint(layer / 0.1 + 2), 0, 3)
    better = descended(codes, layer, columns, hessian)

    errors = [layer - 0.1 * (found - 2) for found in (codes, better)]
    before, after = (np.sum(error * (hessian @ error)) for error in errors)
    assert after < before / 2
    assert set(np.unique(better)) <= {0.0, 1.0, 2.0, 3.0}


def test_gptq_is_chosen_with_samples_and_hqq_without(case: Start) -> None:
    started = case(product(64), rows(64))

    assert started.quantize(WeightOnly(), with_samples=True).recipe.algorithm == "gptq"  # type: ignore[union-attr]
    assert started.quantize(WeightOnly()).recipe.algorithm == "hqq"  # type: ignore[union-attr]


@pytest.mark.parametrize("algorithm", ["gptq", "adaround", "awq"])
def test_what_needs_samples_is_refused_without(case: Start, algorithm: Any) -> None:
    with pytest.raises(Refused) as refusal:
        case(product(64), rows(64)).quantize(WeightOnly(algorithm=algorithm))

    assert refusal.value.code == "no_calibration_data"


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_table_is_looked_up_in_few_bits(case: Start, bits: Bits) -> None:
    started = case(lookup(), IDS)

    quantized = started.quantize(WeightOnly(bits=bits, block_size=32))

    assert len(started.nodes("GatherBlockQuantized")) == 1
    assert started.likeness() > CLOSE[bits]
    assert isinstance(quantized.recipe, WeightOnly)
    assert quantized.recipe.embeddings is True


def test_what_follows_a_table_of_integers_counts_as_the_float_that_it_is(case: Start) -> None:
    started = case(lookup(), IDS)

    started.quantize(WeightOnly(bits=4))
    found = kernels(started.out)

    assert (found.integer, found.float) == (0, 1)
    assert [(left.op_type, left.count) for left in found.left_float] == [("MatMulNBits", 1)]


def test_tables_stay_float_when_embeddings_are_off(case: Start) -> None:
    started = case(lookup(), IDS)

    quantized = started.quantize(WeightOnly(embeddings=False))

    assert not started.nodes("GatherBlockQuantized")
    assert "stays float, embeddings are off: lookup" in quantized.reasons


def test_a_gemm_with_factors_keeps_its_result(case: Start) -> None:
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], "gemm", alpha=0.5, beta=3.0, transB=1)]
    made = {"w": weights(24, 64), "b": weights(24, 1, seed=1)[:, 0]}
    started = case(build(nodes, {"x": ["batch", 64]}, {"y": ["batch", 24]}, made), rows(64))

    started.quantize(WeightOnly(bits=8, block_size=32, accuracy_level=0))

    assert started.likeness() > CLOSE[8]


def test_a_weight_that_two_nodes_share_is_stored_once(case: Start) -> None:
    started = case(dense(shared=True), [{"x": feed["x"][:, :32]} for feed in rows(64)])

    started.quantize(WeightOnly(), with_samples=True)

    first, second = started.nodes("MatMulNBits")
    assert list(first.input[1:]) == list(second.input[1:])
    names = [tensor.name for tensor in onnx.load_model(started.out).graph.initializer]
    assert len([name for name in names if name.endswith("_codes")]) == 1


def test_products_in_subgraphs_are_quantized(case: Start) -> None:
    started = case(branches(), branch_feeds())

    quantized = started.quantize(WeightOnly(bits=8, block_size=16))

    assert started.likeness() > CLOSE[8]
    assert isinstance(quantized.recipe, WeightOnly)


def test_products_of_activations_stay_float(case: Start) -> None:
    words = [{"x": np.random.default_rng(1).normal(size=(1, 8, 32)).astype(np.float32)}]
    started = case(attention(), words)

    quantized = started.quantize(WeightOnly())

    assert {node.name for node in started.nodes("MatMulNBits")} == {"query", "key", "value"}
    assert "stays float, its weights are computed: scores, mix" in quantized.reasons


def test_include_and_exclude_choose_nodes(case: Start) -> None:
    words = [{"x": np.random.default_rng(1).normal(size=(1, 8, 32)).astype(np.float32)}]
    started = case(attention(), words)

    quantized = started.quantize(
        WeightOnly(include=Selection(op_types=("MatMul",)), exclude=Selection(nodes=("key",)))
    )

    assert {node.name for node in started.nodes("MatMulNBits")} == {"query", "value"}
    assert "stays float, excluded: key" in quantized.reasons


def test_two_bits_in_blocks_without_integer_kernels_compute_in_float(case: Start) -> None:
    quantized = case(product(256), rows(256)).quantize(WeightOnly(bits=2, block_size=16))

    assert quantized.recipe.accuracy_level == 0  # type: ignore[union-attr]
    assert any("2-bit integer kernels take blocks of 32, 64 or 128" in why for why in quantized.reasons)


def test_a_matrix_that_blocks_would_not_shrink_stays(case: Start) -> None:
    with pytest.raises(Refused, match="blocks would take no fewer bytes") as refusal:
        case(product(4, outputs=8), [{"x": np.ones((1, 4), np.float32)}]).quantize(WeightOnly())

    assert refusal.value.code == "nothing_to_quantize"


def test_the_interface_and_the_opset_stay(case: Start) -> None:
    started = case(dense(), [{"x": feed["x"][:, :32]} for feed in rows(64)])

    started.quantize(WeightOnly())

    before, after = onnx.load_model(started.source), onnx.load_model(started.out)
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)
    assert after.ir_version == before.ir_version
    assert {o.domain: o.version for o in after.opset_import} == {"": 17, "com.microsoft": 1}


SCRIPT = """
import json
import sys
from pathlib import Path
import numpy as np
from app.domain.recipe import WeightOnly
from worker.engine.methods import Setting, quantize
rng = np.random.default_rng(7)
feeds = [{"x": rng.normal(size=(8, 256)).astype(np.float32)} for _ in range(8)]
for i, fields in enumerate(json.loads(sys.argv[3])):
    setting = Setting(isa="generic", samples=lambda: feeds)
    quantize(Path(sys.argv[1]), Path(sys.argv[2]) / f"{i}.onnx", WeightOnly(**fields), setting)
"""
REPEATED = (
    {"algorithm": "gptq", "bits": 4},
    {"algorithm": "adaround", "bits": 2},
    {"algorithm": "hqq", "bits": 2},
    {"algorithm": "rtn", "bits": 8},
    {"algorithm": "awq", "bits": 4},
    {"algorithm": "kquant", "bits": 4},
    {"algorithm": "awq", "number_format": "nf4"},
    {"algorithm": "gptq", "number_format": "ternary"},
)


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    save_model(product(256), tmp_path / "model.onnx")
    for seed in ("1", "2"):
        (tmp_path / seed).mkdir()
        arguments = [str(tmp_path / "model.onnx"), str(tmp_path / seed), json.dumps(REPEATED)]
        command = [sys.executable, "-c", SCRIPT, *arguments]
        subprocess.run(command, check=True, env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."})

    for i in range(len(REPEATED)):
        assert (tmp_path / "1" / f"{i}.onnx").read_bytes() == (tmp_path / "2" / f"{i}.onnx").read_bytes()
