"""This host, as far as a measurement depends on it."""

import platform
from importlib.metadata import version

from app.domain import processor
from worker.engine.elsewhere import openvino


def describe() -> dict[str, str]:
    """CPU, system and versions, kept with every job's result."""
    versions = {name: version(name) for name in ("onnxruntime", "onnx", "numpy")}
    if found := openvino.release():
        versions["openvino"] = found
    return {
        "cpu": processor.cpu_info("model name") or platform.processor() or platform.machine(),
        "isa": processor.isa(),
        "cores": str(processor.allowed_cores()),
        "system": platform.platform(),
        "python": platform.python_version(),
        **versions,
    }
