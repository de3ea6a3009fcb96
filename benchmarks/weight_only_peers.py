"""Other tools' weight-only quantization, each run in a process of its own by `weight_only.py`.

    PYTHONPATH=. python benchmarks/weight_only_peers.py CONTENDER MODEL CALIBRATION.npz OUT

The calibration holds ready inputs under `<six digits>/<input>`. Blocks have 32 values wherever a tool lets
one choose. ONNX Runtime's HQQ, GPTQ and AWQ import torch and are left out.
"""
# ruff: noqa: PLC0415 - each environment has one of the tools

import argparse
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from benchmarks.fidelity_peers import Feeds, read_feeds

BLOCK = 32
PRODUCTS, TABLES_TOO = ("MatMul",), ("MatMul", "Gather")


def _nbits(model: Path, out: Path, *, config: Any, **choices: Any) -> None:  # noqa: ANN401 - it has no types
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(
        str(model), block_size=BLOCK, accuracy_level=4, algo_config=config, **choices
    )
    quantizer.process()
    quantizer.model.save_model_to_file(str(out))


def ort_rtn(model: Path, feeds: Feeds, out: Path, *, bits: int, operators: Iterable[str]) -> None:
    """Its default algorithm, with zero points."""
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig

    del feeds
    config = DefaultWeightOnlyQuantConfig(
        block_size=BLOCK, bits=bits, accuracy_level=4, op_types_to_quantize=tuple(operators)
    )
    _nbits(model, out, config=config, bits=bits)


def ort_kquant(model: Path, feeds: Feeds, out: Path) -> None:
    """Its `k_quant`, at 4 bits."""
    from onnxruntime.quantization.matmul_nbits_quantizer import KQuantWeightOnlyQuantConfig

    del feeds
    _nbits(model, out, config=KQuantWeightOnlyQuantConfig())


def ort_bnb4(model: Path, feeds: Feeds, out: Path, *, kind: int) -> None:
    """FP4 (0) or NF4 (1)."""
    from onnxruntime.quantization.matmul_bnb4_quantizer import MatMulBnb4Quantizer

    del feeds
    quantizer = MatMulBnb4Quantizer(onnx.load(model), kind, BLOCK)
    quantizer.process()
    quantizer.model.save_model_to_file(str(out))


def onnxsim_int4(model: Path, feeds: Feeds, out: Path, *, correction: str | None = None) -> None:
    """Its int4 blocks of 32, as they are or improved on the calibration samples."""
    import onnxsim  # type: ignore[import-not-found]

    source = onnx.version_converter.convert_version(onnx.load(model), 21)
    quantized = onnxsim.quantize_weight_only_int4(source)
    if correction:
        quantized = getattr(onnxsim, correction)(source, quantized, calibration_data=feeds)
    onnx.save(quantized, str(out))


def onnxsim_hqq(model: Path, feeds: Feeds, out: Path) -> None:
    """Its half-quadratic int4."""
    import onnxsim

    del feeds
    source = onnx.version_converter.convert_version(onnx.load(model), 21)
    onnx.save(onnxsim.quantize_weight_only_int4_hqq(source, block_size=BLOCK), str(out))


CONTENDERS: dict[str, Callable[[Path, Feeds, Path], None]] = {
    "ONNX Runtime, 8 bits, rtn": partial(ort_rtn, bits=8, operators=PRODUCTS),
    "ONNX Runtime, 4 bits, rtn": partial(ort_rtn, bits=4, operators=TABLES_TOO),
    "ONNX Runtime, 4 bits, rtn, products alone": partial(ort_rtn, bits=4, operators=PRODUCTS),
    "ONNX Runtime, 4 bits, k_quant, products alone": ort_kquant,
    "ONNX Runtime, nf4, products alone": partial(ort_bnb4, kind=1),
    "ONNX Runtime, fp4, products alone": partial(ort_bnb4, kind=0),
    "ONNX Runtime, 2 bits, rtn, products alone": partial(ort_rtn, bits=2, operators=PRODUCTS),
    "onnxsim, 4 bits, products alone": onnxsim_int4,
    "onnxsim, 4 bits, awq, products alone": partial(onnxsim_int4, correction="apply_awq"),
    "onnxsim, 4 bits, gptq, products alone": partial(onnxsim_int4, correction="apply_gptq"),
    "onnxsim, 4 bits, hqq, products alone": onnxsim_hqq,
}


def main() -> int:
    """Quantize one model with one tool."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("contender", choices=CONTENDERS)
    parser.add_argument("model", type=Path)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    CONTENDERS[asked.contender](asked.model, read_feeds(asked.calibration), asked.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
