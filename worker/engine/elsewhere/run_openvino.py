"""One candidate in OpenVINO and in ONNX Runtime, on the same inputs."""

from app.domain.errors import Refused
from app.domain.report import OpenVINO
from worker.engine.elsewhere.openvino import compiled, release
from worker.engine.evaluate.faithful import fidelity_between
from worker.engine.interface import float_view
from worker.engine.ready import read_feeds
from worker.engine.requests import RunOpenVINO
from worker.engine.session import open_session


def run_openvino(request: RunOpenVINO) -> OpenVINO:
    """Whether a candidate loads and runs in OpenVINO, and how close its outputs come.

    Raises:
        Refused: ONNX Runtime does not run the models.
    """
    feeds = read_feeds(request.feeds)
    float_model, mine = open_session(request.baseline), open_session(request.candidate)
    try:
        theirs = compiled(request.candidate, mine)
        shown, ours = float_view(theirs), float_view(mine)
        fidelity = fidelity_between(float_model, shown, feeds)
        likeness = fidelity_between(ours, shown, feeds)
    except Refused as refused:
        return OpenVINO("no", release(), reason=str(refused))
    return OpenVINO(
        "yes",
        release(),
        theirs.precision,
        fidelity=fidelity,
        onnxruntime=fidelity_between(float_model, ours, feeds),
        likeness=likeness,
    )
