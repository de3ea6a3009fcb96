"""Open models in ONNX Runtime; apart from reading them, so that a latency round does without `onnx`."""

import os
import re
from pathlib import Path

# The runtime reads this when it is imported: set later, it has no effect.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime as ort

from app.domain.errors import Refused

OUT_OF_MEMORY = "alloc"  # in its errors: a limit of this process, which says nothing about the model
_LOG_ERRORS = 3
_REASON_LENGTH = 400


def open_session(
    path: Path, threads: int = 1, *, optimize: bool = True, optimized_path: Path | None = None
) -> ort.InferenceSession:
    """Open a model on the CPU.

    Args:
        path: the model's main file.
        threads: threads inside one operator; operators run one after another.
        optimize: False runs the graph as it is written.
        optimized_path: where to save the graph that the runtime made of it, weights beside it.

    Raises:
        Refused: `model_not_loadable` with the runtime's reason.
    """
    options = ort.SessionOptions()
    options.log_severity_level = _LOG_ERRORS
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if optimized_path:
        options.optimized_model_filepath = str(optimized_path)
        key = "session.optimized_model_external_initializers"
        options.add_session_config_entry(f"{key}_file_name", optimized_path.name + ".data")
        options.add_session_config_entry(f"{key}_min_size_in_bytes", "1024")
    return _session(path, options)


def open_bytes(model: bytes) -> ort.InferenceSession:
    """Open a model that was made in memory, with one thread."""
    options = ort.SessionOptions()
    options.log_severity_level = _LOG_ERRORS
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _session(path: Path, options: ort.SessionOptions) -> ort.InferenceSession:
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors share no base class but this
        raise Refused(
            "model_not_loadable",
            f"ONNX Runtime {ort.__version__} cannot load {path.name}: {reason(error, path)}",
        ) from error


def reason(error: Exception, path: Path) -> str:
    """The sentence that matters: no codes, no folders of this host, no C++ signatures."""
    text = str(error).strip().replace(str(path), path.name).replace(str(path.parent), "")
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"^Load model from \S+ failed:", "", text)
    text = re.sub(r"/\S+\.(?:cc|h):\d+ \S.*?\) ", "", text)
    text = " ".join(text.split())
    return text if len(text) <= _REASON_LENGTH else text[:_REASON_LENGTH] + "…"
