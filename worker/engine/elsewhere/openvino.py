"""Models in OpenVINO on a CPU, where that is installed; it is imported by name, since it is an extra."""

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeAlias

from app.domain.errors import Refused

Session: TypeAlias = Any  # of ONNX Runtime, which ships no types
Runtime: TypeAlias = Any
DEVICE = "CPU"


class Compiled:
    """A model that OpenVINO compiled, to be called as a session of ONNX Runtime.

    What it takes and gives is described by such a session of the same file.
    """

    def __init__(self, compiled: Any, described: Session) -> None:  # noqa: ANN401
        self.precision = str(compiled.get_property("INFERENCE_PRECISION_HINT").to_string())
        self._request = compiled.create_infer_request()
        self._outputs = [output.name for output in described.get_outputs()]
        self.get_inputs, self.get_outputs = described.get_inputs, described.get_outputs
        self.get_modelmeta = described.get_modelmeta

    def run(self, names: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[Any]:
        """One run on this thread; inputs are not copied."""
        found = list(self._request.infer(feeds, share_inputs=True).values())
        return found if names is None else [found[self._outputs.index(name)] for name in names]


def release() -> str | None:
    """The release that is installed; None where there is none."""
    try:
        return version("openvino")
    except PackageNotFoundError:
        return None


def runtime() -> Runtime:
    """OpenVINO without its telemetry: what imports that gets the stub that OpenVINO keeps for its absence."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None refuses the import
    return import_module("openvino")


def compiled(path: Path, described: Session, threads: int = 1) -> Compiled:
    """Compile a model for one stream of this many threads, with the precision that OpenVINO chooses.

    Raises:
        Refused: `model_not_loadable` with OpenVINO's reason.
    """
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": "1",
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # the process is pinned already
    }
    try:
        return Compiled(runtime().Core().compile_model(str(path), DEVICE, settings), described)
    except Exception as error:  # its errors share no base class but this
        raise Refused("model_not_loadable", _reason(error, path)) from error


def _reason(error: Exception, path: Path) -> str:
    """The last line that says something: the ones above tell where in OpenVINO's source it was found."""
    lines = [line.strip("- ") for line in str(error).replace(str(path), path.name).splitlines()]
    told = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return " ".join((told or lines)[-1].split())[:300]
