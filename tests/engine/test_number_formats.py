from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime.quantization.matmul_bnb4_quantizer import MatMulBnb4Quantizer

from app.domain.errors import Refused
from app.domain.recipe import LevelOverride, WeightOnly
from tests.engine.few_bits import IDS, Case, lookup, product, rows
from tests.engine.graphs import Array, build, dense, weights
from worker.engine.evaluate.layers import layers
from worker.engine.evaluate.stored_weights import unpack
from worker.engine.kernels import kernels
from worker.engine.methods import Setting, quantize
from worker.engine.methods.weight_only.bnb4 import (
    KINDS,
    Table,
    closest_values,
    largest_values,
    pack_pairs,
)
from worker.engine.passes.likeness import likeness_db
from worker.engine.passes.scopes import array
from worker.engine.requirements import requires
from worker.engine.session import open_session


def lost(matrix: Array, values: Array) -> float:
    return float(np.square(matrix - values).sum())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block_size", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("shape", [(48, 64), (48, 300), (7, 33)])
def test_codes_and_scales_are_those_of_onnx_runtime(
    kind: str, block_size: int, shape: tuple[int, int]
) -> None:
    """Zeros alone, blocks across rows and a last code without a partner included."""
    matrix = weights(*shape)
    matrix[0, :17] = 0
    theirs = MatMulBnb4Quantizer(onnx.ModelProto(), KINDS.index(kind), block_size)

    packed, scales = theirs.bnb4_block_quant(np.ascontiguousarray(matrix.T))

    ours = largest_values(matrix, Table(kind, block_size))
    assert np.array_equal(pack_pairs(ours), packed)
    assert np.array_equal(ours.scales, scales)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block_size", [16, 64, 256])
def test_the_runtime_reads_tables_as_they_were_written(tmp_path: Path, kind: Any, block_size: Any) -> None:
    case = Case(tmp_path, product(300), rows(300, 2))

    case.quantize(WeightOnly(number_format=kind, block_size=block_size, algorithm="rtn"))

    values = largest_values(np.ascontiguousarray(weights(300, 48).T), Table(kind, block_size)).values()
    session = open_session(case.out)
    expected = [[feed["x"] @ values.T] for feed in case.samples]
    assert likeness_db(expected, [session.run(None, feed) for feed in case.samples]) > 100


@pytest.mark.parametrize("kind", KINDS)
def test_searched_scales_beat_the_largest_values_and_are_worse_nowhere(kind: str) -> None:
    matrix, table = weights(64, 256), Table(kind, 32)
    matrix[0], matrix[1, 3] = 0, 100

    plain, searched = largest_values(matrix, table).values(), closest_values(matrix, table).values()

    assert lost(matrix[2:], searched[2:]) < 0.9 * lost(matrix[2:], plain[2:])
    for row in range(len(matrix)):
        assert lost(matrix[row], searched[row]) <= lost(matrix[row], plain[row]) * 1.001


def test_normal_floats_hold_normal_weights_better_than_integers(tmp_path: Path) -> None:
    case, found = Case(tmp_path, product(256), rows(256)), {}
    for number_format in ("int", "nf4"):
        recipe = WeightOnly(number_format=number_format, algorithm="rtn", symmetric=True, accuracy_level=0)
        case.quantize(recipe)
        found[number_format] = case.likeness()

    assert found["nf4"] > found["int"]


def test_what_a_table_becomes_is_said(tmp_path: Path) -> None:
    case = Case(tmp_path, product(64), rows(64))

    resolved = case.resolved(WeightOnly(number_format="nf4"))

    assert (resolved.bits, resolved.algorithm, resolved.symmetric) == (4, "awq", True)
    assert (resolved.accuracy_level, resolved.block_size) == (0, 32)
    assert case.quantize(WeightOnly(number_format="fp4")).recipe.algorithm == "kquant"  # type: ignore[union-attr]


def test_lookups_stay_integers_beside_products_of_tables(tmp_path: Path) -> None:
    case = Case(tmp_path, lookup(), IDS)

    quantized = case.quantize(WeightOnly(number_format="nf4"))

    assert len(case.nodes("GatherBlockQuantized")) == len(case.nodes("MatMulBnb4")) == 1
    assert case.likeness() > 15
    assert "in 4-bit integers, which alone can be looked up: lookup" in quantized.reasons


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"number_format": "nf4", "bits": 8}, "/bits"),
        ({"number_format": "ternary", "bits": 4}, "/bits"),
        ({"number_format": "ternary", "symmetric": False}, "/symmetric"),
        ({"number_format": "fp4", "symmetric": False}, "/symmetric"),
        ({"number_format": "nf4", "algorithm": "hqq"}, "/algorithm"),
        ({"number_format": "fp4", "algorithm": "gptq"}, "/algorithm"),
        ({"number_format": "nf4", "accuracy_level": 4}, "/accuracy_level"),
        (
            {"number_format": "nf4", "overrides": (LevelOverride(nodes=("product",), accuracy_level=0),)},
            "/overrides",
        ),
    ],
)
def test_what_a_format_cannot_do_is_refused_by_field(
    tmp_path: Path, fields: dict[str, Any], pointer: str
) -> None:
    with pytest.raises(Refused) as refusal:
        Case(tmp_path, product(64), rows(64)).resolved(WeightOnly(**fields))

    assert refusal.value.code == "unsupported_option"
    assert [error.pointer for error in refusal.value.errors] == [pointer]


def test_tables_need_the_release_that_knows_them(tmp_path: Path) -> None:
    case = Case(tmp_path, product(64), rows(64))
    case.quantize(WeightOnly(number_format="nf4"))

    assert requires(case.out).onnxruntime == "1.16"
    with pytest.raises(Refused) as refusal:
        quantize(
            case.prepared, case.out, WeightOnly(number_format="nf4"), Setting(isa="generic", runtime="1.15")
        )
    assert refusal.value.code == "target_too_old"


def test_the_layers_of_a_table_are_measured(tmp_path: Path) -> None:
    case = Case(tmp_path, dense(), [{"x": feed["x"][:, :32]} for feed in rows(64)])
    case.quantize(WeightOnly(number_format="nf4", algorithm="rtn"))

    found = layers(case.prepared, case.out, case.samples)

    assert found is not None
    assert len(found.layers) == 2
    for error in found.layers:
        assert error.weight_sqnr_db is not None
        assert 18 < error.weight_sqnr_db < 25


def test_tables_are_named_as_a_hindrance(tmp_path: Path) -> None:
    case = Case(tmp_path, product(64), rows(64))
    case.quantize(WeightOnly(number_format="nf4"))

    found = kernels(case.out).hindrances

    assert found == ("1 MatMulBnb4 widen their weights at each run: use number_format int",)


def ternary_weights() -> Array:
    """Zeros and one size with either sign, the size differing from block to block."""
    rng = np.random.default_rng(11)
    signs = rng.integers(-1, 2, size=(48, 8, 32)).astype(np.float32)
    sizes = rng.uniform(0.1, 2, size=(48, 8, 1)).astype(np.float32)
    return (signs * sizes).reshape(48, 256)


@pytest.mark.parametrize("algorithm", ["rtn", "hqq", "kquant", "gptq", "awq"])
def test_ternary_weights_are_kept_exactly(tmp_path: Path, algorithm: Any) -> None:
    model = product(256)
    del model.graph.initializer[:]
    made = build([], {}, {}, {"w": np.ascontiguousarray(ternary_weights().T)})
    model.graph.initializer.extend(made.graph.initializer)
    case = Case(tmp_path, model, rows(256, 64))
    found = {}
    for number_format in ("ternary", "int"):
        recipe = WeightOnly(
            number_format=number_format, bits=2, algorithm=algorithm, block_size=32, accuracy_level=0
        )
        case.quantize(recipe, with_samples=True)
        found[number_format] = case.likeness()

    assert found["ternary"] > 60
    if algorithm == "rtn":
        assert found["int"] < 20


@pytest.mark.parametrize("algorithm", ["rtn", "hqq", "kquant", "gptq", "awq"])
def test_ternary_codes_are_three(tmp_path: Path, algorithm: Any) -> None:
    case = Case(tmp_path, product(256), rows(256, 64))

    resolved = case.resolved(WeightOnly(number_format="ternary", algorithm=algorithm))

    assert (resolved.bits, resolved.symmetric) == (2, True)
    codes = next(t for t in onnx.load_model(case.out).graph.initializer if t.name.endswith("_codes"))
    assert set(np.unique(unpack(array(codes), 2))) == {1, 2, 3}
    assert case.likeness() > 5


def test_gptq_beats_rounding_of_ternary_weights_by_far(tmp_path: Path) -> None:
    case, found = Case(tmp_path, product(256), rows(256, 64)), {}
    for algorithm in ("rtn", "gptq"):
        case.resolved(WeightOnly(number_format="ternary", algorithm=algorithm))
        found[algorithm] = case.likeness()

    assert found["gptq"] > found["rtn"] + 3
