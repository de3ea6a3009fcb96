"""What the engine can be asked, by name: a table of requests and functions, with JSON in and out.

Each function imports what it needs when it is called: a latency round is a process of its own, and would
otherwise spend more time on importing the quantizer than on measuring.
"""
# ruff: noqa: PLC0415

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter

from app.domain.report import Examination, OpenVINO
from worker.engine.evaluate.progress import Progress
from worker.engine.requests import (
    Build,
    Built,
    ExamineDataset,
    ExaminedDataset,
    ExamineModel,
    MeasureMemory,
    MeasureRound,
    MemoryUse,
    Prepare,
    Prepared,
    Round,
    RunOpenVINO,
    Unpacked,
    UnpackModel,
)


def unpack_model(request: UnpackModel, _progress: Progress) -> Unpacked:
    """The files of a model that came in an archive."""
    from worker.engine.unpack import unpack

    return Unpacked(files=unpack(request.archive, request.out, request.limit))


def examine_model(request: ExamineModel, _progress: Progress) -> Examination:
    """What is in an uploaded model."""
    from worker.engine.examine import examine

    return examine(request.model)


def examine_dataset(request: ExamineDataset, _progress: Progress) -> ExaminedDataset:
    """What is in an uploaded dataset, and its first samples; reading it finds what is broken."""
    from worker.engine.data import open_dataset
    from worker.engine.data.dataset import summarize
    from worker.engine.data.preview import preview

    dataset = open_dataset(request.data)
    return ExaminedDataset(summary=summarize(dataset), preview=preview(dataset, request.data.preprocess))


def prepare(request: Prepare, progress: Progress) -> Prepared:
    """What all candidates of a job share."""
    from worker.engine.stages import prepare

    return prepare(request, progress)


def build(request: Build, progress: Progress) -> Built:
    """One candidate, and what it loses."""
    from worker.engine.stages import build

    return build(request, progress)


def measure_round(request: MeasureRound, _progress: Progress) -> Round:
    """One round of latency, in this process."""
    from worker.engine.latency import measure_round

    return measure_round(request)


def measure_memory(request: MeasureMemory, _progress: Progress) -> MemoryUse:
    """The peak memory of one model, in this process."""
    from worker.engine.memory import measure_memory

    return measure_memory(request)


def run_openvino(request: RunOpenVINO, _progress: Progress) -> OpenVINO:
    """One candidate in OpenVINO, in this process."""
    from worker.engine.elsewhere.run_openvino import run_openvino

    return run_openvino(request)


CALLS: dict[str, tuple[type[Any], Callable[[Any, Progress], Any]]] = {
    "unpack_model": (UnpackModel, unpack_model),
    "examine_model": (ExamineModel, examine_model),
    "examine_dataset": (ExamineDataset, examine_dataset),
    "prepare": (Prepare, prepare),
    "build": (Build, build),
    "measure_round": (MeasureRound, measure_round),
    "measure_memory": (MeasureMemory, measure_memory),
    "run_openvino": (RunOpenVINO, run_openvino),
}


def run_call(name: str, arguments: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Do one call by name, from JSON to JSON.

    Args:
        name: a key of `CALLS`.
        arguments: the request's fields.
        progress: told the share that is done, and what is going on.

    Raises:
        Refused: see the call.
        KeyError: there is no call of this name.
        pydantic.ValidationError: the arguments are none of this call.
    """
    request_type, function = CALLS[name]
    request = TypeAdapter(request_type).validate_python(dict(arguments))
    answer = function(request, progress)
    result: dict[str, Any] = TypeAdapter(type(answer)).dump_python(answer, mode="json")
    return result
