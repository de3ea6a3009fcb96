"""All four range methods from one pass, against ONNX Runtime's calibrators and NNCF, on a MobileNetV2.

    python benchmarks/calibration.py [--nncf /path/to/python]

Each contender runs in a fresh process that counts its CPU seconds and its peak memory (VmHWM). CPU time says
what a contender costs where other work shares the cores. Limits: at 200 samples ours costs at most twice
ONNX Runtime's MinMax and at most a fifth of its Percentile; our peak at 1000 samples is at most 1.05 times
that at 50. ONNX Runtime's Percentile and Entropy keep all activations of all samples (52 MB each): they run
under a cap of memory, and a run that passes it is shown as such. Exits 1 when a limit is missed.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

SAMPLES = (50, 200, 1000)
SLOW_SAMPLES = (50, 200)
CAP = 14_000_000_000
BINS = 2048
MINMAX_LIMIT, PERCENTILE_LIMIT, MEMORY_LIMIT = 2.0, 0.2, 1.05
METHODS: tuple[Literal["minmax", "percentile", "entropy", "mse"], ...] = (
    "minmax",
    "percentile",
    "entropy",
    "mse",
)
Feed = dict[str, npt.NDArray[Any]]
Result = dict[str, float]


def main() -> int:
    """Run all, print a table and the ratios."""
    arguments = _arguments()
    if arguments.contender:
        return _measure(arguments.contender, arguments.model, arguments.samples)
    from benchmarks.mobilenet import mobilenet_v2  # noqa: PLC0415 - the peers' environments lack what it needs

    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        model = Path(folder) / "mobilenet.onnx"
        mobilenet_v2(model)
        found = {pair: _run(*pair, model, arguments.nncf) for pair in _pairs(arguments.nncf)}
    return _verdict(found)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nncf", type=Path, help="a Python that has NNCF")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--samples", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def _pairs(nncf: Path | None) -> list[tuple[str, int]]:
    fast = [(name, samples) for samples in SAMPLES for name in ("ours", "ort-minmax")]
    slow = [(name, samples) for samples in SLOW_SAMPLES for name in ("ort-percentile", "ort-entropy")]
    return fast + slow + ([("nncf", samples) for samples in SLOW_SAMPLES] if nncf else [])


def _run(name: str, samples: int, model: Path, nncf: Path | None) -> Result | None:
    python = str(nncf) if name == "nncf" else sys.executable
    words = ["--contender", name, "--model", str(model), "--samples", str(samples)]
    done = subprocess.run([python, __file__, *words], capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        print(
            f"{name:15} {samples:5}  did not end: {(done.stderr.splitlines() or ['killed'])[-1][:90]}",
            flush=True,
        )
        return None
    result: Result = json.loads(done.stdout.splitlines()[-1])
    shown = f"{result['cpu']:8.1f} s CPU {result['wall']:8.1f} s {result['peak'] / 1e6:8.0f} MB"
    print(f"{name:15} {samples:5} {shown}", flush=True)
    return result


def _measure(name: str, model: Path, samples: int) -> int:
    resource.setrlimit(resource.RLIMIT_AS, (CAP, CAP))
    wall, cpu = time.perf_counter(), time.process_time()
    CONTENDERS[name](model, samples)
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    print(json.dumps({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "peak": peak}))
    return 0


def feeds(samples: int) -> Iterator[Feed]:
    """Normal images whose size varies."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(1, 3, 224, 224)).astype(np.float32)
    for number in range(samples):
        yield {"images": np.roll(image, number, axis=3) * np.float32(rng.uniform(0.5, 2))}


def _ours(model: Path, samples: int) -> None:
    from app.domain.recipe import Ranges  # noqa: PLC0415
    from worker.engine.calibrate import collect, ranges  # noqa: PLC0415

    statistics = collect(model, feeds(samples))
    for method in METHODS:
        ranges(statistics, Ranges(method=method))


def _ort(kind: str, model: Path, samples: int) -> None:
    from onnxruntime.quantization import calibrate  # noqa: PLC0415

    reader = type(
        "Reader", (calibrate.CalibrationDataReader,), {"get_next": lambda self: next(self.feeds, None)}
    )()
    reader.feeds = feeds(samples)
    options = {} if kind == "MinMax" else {"num_bins": BINS}
    with tempfile.TemporaryDirectory() as folder:
        calibrator = calibrate.create_calibrator(
            str(model),
            augmented_model_path=f"{folder}/augmented.onnx",
            calibrate_method=calibrate.CalibrationMethod[kind],
            extra_options=options,
        )
        calibrator.collect_data(reader)
        calibrator.compute_data()


def _nncf(model: Path, samples: int) -> None:
    import nncf  # type: ignore[import-not-found]  # noqa: PLC0415
    import onnx  # noqa: PLC0415

    nncf.quantize(onnx.load(model), nncf.Dataset(list(feeds(samples))), subset_size=samples)


CONTENDERS = {
    "ours": _ours,
    "ort-minmax": lambda model, samples: _ort("MinMax", model, samples),
    "ort-percentile": lambda model, samples: _ort("Percentile", model, samples),
    "ort-entropy": lambda model, samples: _ort("Entropy", model, samples),
    "nncf": _nncf,
}


def _verdict(found: dict[tuple[str, int], Result | None]) -> int:
    few, middle, many = (found["ours", samples] for samples in SAMPLES)
    minmax, percentile = found["ort-minmax", 200], found["ort-percentile", 200]
    if not (few and middle and many and minmax):
        return 1
    ratios = [("CPU time, ours / ONNX Runtime MinMax, 200", middle["cpu"] / minmax["cpu"], MINMAX_LIMIT)]
    ratios.append(("peak memory, ours, 1000 / 50 samples", many["peak"] / few["peak"], MEMORY_LIMIT))
    if percentile:
        share = middle["cpu"] / percentile["cpu"]
        ratios.append(("CPU time, ours / ONNX Runtime Percentile, 200", share, PERCENTILE_LIMIT))
    for what, ratio, limit in ratios:
        print(f"{what:48} {ratio:6.2f}  limit {limit}  {'ok' if ratio <= limit else 'MISSED'}")
    return int(any(ratio > limit for _, ratio, limit in ratios))


if __name__ == "__main__":
    sys.exit(main())
