"""Other tools' static quantization, each run in a process of its own by `fidelity.py`.

    python benchmarks/fidelity_peers.py CONTENDER MODEL CALIBRATION.npz OUT [--transformer]

The model has opset 13 or later; the calibration holds ready inputs under `<six digits>/<input>`.
"""
# ruff: noqa: PLC0415 - each environment has one of the tools

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

Feeds = list[dict[str, Any]]


def ort_default(model: Path, feeds: Feeds, out: Path, *, transformer: bool) -> None:
    """`quantize_static` with nothing said."""
    from onnxruntime.quantization import quantize_static

    del transformer
    quantize_static(str(model), str(out), _reader(feeds))


def ort_recommended(model: Path, feeds: Feeds, out: Path, *, transformer: bool) -> None:
    """What its documentation says for x86 with VNNI: pre-processing, U8S8, per channel."""
    from onnxruntime.quantization import QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    del transformer
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready.onnx"
        try:
            quant_pre_process(str(model), str(ready))
        except Exception:  # noqa: BLE001 - "Incomplete symbolic shape inference": it says to skip that
            quant_pre_process(str(model), str(ready), skip_symbolic_shape=True)
        quantize_static(str(ready), str(out), _reader(feeds), per_channel=True, **types)


def nncf_default(model: Path, feeds: Feeds, out: Path, *, transformer: bool) -> None:
    """`nncf.quantize` with nothing said but the number of samples."""
    import nncf  # type: ignore[import-not-found]

    del transformer
    onnx.save(nncf.quantize(onnx.load(model), nncf.Dataset(feeds), subset_size=len(feeds)), str(out))


def nncf_recommended(model: Path, feeds: Feeds, out: Path, *, transformer: bool) -> None:
    """Asymmetric activations; its transformer mode where the model is one."""
    import nncf

    kind = nncf.ModelType.TRANSFORMER if transformer else None
    quantized = nncf.quantize(
        onnx.load(model),
        nncf.Dataset(feeds),
        subset_size=len(feeds),
        preset=nncf.QuantizationPreset.MIXED,
        model_type=kind,
    )
    onnx.save(quantized, str(out))


def onnxsim_default(model: Path, feeds: Feeds, out: Path, *, transformer: bool) -> None:
    """Its documented `quantize_static`."""
    import onnxsim  # type: ignore[import-not-found]

    del transformer
    onnx.save(onnxsim.quantize_static(onnx.load(model), feeds), str(out))


def onnxsim_full(model: Path, feeds: Feeds, out: Path, *, transformer: bool) -> None:
    """Its whole-graph form, which the runtime fuses."""
    from onnxsim.full_qdq import quantize_full_qdq  # type: ignore[import-not-found]

    del transformer
    onnx.save(quantize_full_qdq(onnx.load(model), feeds), str(out))


CONTENDERS: dict[str, Callable[..., None]] = {
    "ONNX Runtime, default": ort_default,
    "ONNX Runtime, U8S8 per channel": ort_recommended,
    "NNCF, default": nncf_default,
    "NNCF, mixed or transformer": nncf_recommended,
    "onnxsim, default": onnxsim_default,
    "onnxsim, full graph": onnxsim_full,
}


def _reader(feeds: Feeds) -> Any:  # noqa: ANN401 - its base class has no types
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest = iter(feeds)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.rest, None)

    return Reader()


def read_feeds(path: Path) -> Feeds:
    """Inputs, sample by sample."""
    feeds: dict[str, dict[str, Any]] = {}
    with np.load(path) as archive:
        for key in sorted(archive.files):
            number, name = key.split("/", 1)
            feeds.setdefault(number, {})[name] = archive[key]
    return list(feeds.values())


def main() -> int:
    """Quantize one model with one tool."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("contender", choices=CONTENDERS)
    for name in ("model", "calibration", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--transformer", action="store_true")
    asked = parser.parse_args()
    CONTENDERS[asked.contender](
        asked.model, read_feeds(asked.calibration), asked.out, transformer=asked.transformer
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
