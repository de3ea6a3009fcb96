"""A sandboxed child that plays the engine; all else is the real one: `python -m tests.faults.played`.

Importing ONNX Runtime takes a second of CPU, so hundreds of jobs would take an hour. A model is a JSON text
here, which says how the calls on it behave: `{"slow": {"build": 3}, "poison": "segfault"}`.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from worker import child

Arguments = Mapping[str, Any]
Script = Mapping[str, Any]
CONTESTANT = {"log_ratio": 0.5, "p50_ms": 1.0, "p90_ms": 1.1, "load_ms": 1.0, "cpu_ms": 1.0}
SAMPLES = 100
RESULT_BYTES = 4096


def script_of(model: str) -> Script:
    """What the model says of itself, also after it was prepared."""
    text = Path(model).read_bytes().partition(b"\n")[0]
    found: Script = json.loads(text)
    return found


def examine_model(arguments: Arguments) -> dict[str, Any]:
    return {
        "family": "dense",
        "inputs": [],
        "outputs": [],
        "ir": 8,
        "opsets": {"": 17},
        "producer": "a test",
        "nodes": 1,
        "op_types": {"Gemm": 1},
        "parameters": 10,
        "bytes": Path(arguments["model"]).stat().st_size,
        "quantizable": 1.0,
    }


def prepare(arguments: Arguments) -> dict[str, Any]:
    out = Path(arguments["out"])
    (out / "model.onnx").write_bytes(Path(arguments["model"]).read_bytes() + b"\n" + noise())
    (out / "feeds.npz").write_bytes(noise())
    nothing = dict.fromkeys(["statistics", "calibration_order", "reference", "metric"])
    return nothing | {
        "model": "model.onnx",
        "feeds": "feeds.npz",
        "calibration_samples": 0,
        "evaluation_samples": 0,
        "synthetic_feeds": True,
        "baseline": {"size": {"bytes": SAMPLES, "ratio": 1.0}},
        "notes": [],
    }


def build(arguments: Arguments) -> dict[str, Any]:
    """Different bytes at every attempt, so that a result that was written twice would be seen."""
    (Path(arguments["out"]) / "quantized.onnx").write_bytes(script_line(arguments) + b"\n" + noise())
    figures = {"size": {"bytes": RESULT_BYTES, "ratio": 0.25}, "notes": []}
    return {"model": "quantized.onnx", "recipe": arguments["recipe"], "figures": figures, "reasons": []}


def measure_memory(_arguments: Arguments) -> dict[str, Any]:
    return {"import_bytes": 1000, "peak_bytes": 2000}


def measure_round(arguments: Arguments) -> dict[str, Any]:
    candidates = [CONTESTANT] * (len(arguments["models"]) - 1)
    return {"noise": CONTESTANT, "baseline": CONTESTANT, "candidates": candidates, "throttled": False}


def segfault() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def hoard() -> None:
    """Take memory until the limit says no."""
    hoarded = []
    while True:
        hoarded.append(bytes(1 << 24))


def spin() -> None:
    while True:
        pass


def flood() -> None:
    """Write until the disk or the limit says no."""
    with Path("flood").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 20))


POISONS: dict[str, Callable[[], None]] = {
    poison.__name__: poison for poison in (segfault, hoard, spin, flood)
}
CALLS: dict[str, Callable[[Arguments], dict[str, Any]]] = {
    function.__name__: function for function in (examine_model, prepare, build, measure_memory, measure_round)
}


def noise() -> bytes:
    return os.urandom(RESULT_BYTES)


def script_line(arguments: Arguments) -> bytes:
    return Path(arguments["model"]).read_bytes().partition(b"\n")[0]


def call(name: str, arguments: Arguments, report: child.Progress) -> dict[str, Any]:
    report(0.5, "playing")
    script = script_of(arguments.get("model") or arguments["models"][0])
    time.sleep(script.get("slow", {}).get(name, 0))
    if name == script.get("poisoned", "prepare") and "poison" in script:
        POISONS[script["poison"]]()
    return CALLS[name](arguments)


if __name__ == "__main__":
    child._call = call
    sys.exit(child.main())
