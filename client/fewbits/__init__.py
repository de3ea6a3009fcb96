"""Client of Fewbits, quantization as a service for ONNX models: a Python API and a command line."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fewbits.answers import (
        Candidate,
        Comparison,
        Dataset,
        Event,
        Fit,
        Job,
        Me,
        Model,
        Result,
        Step,
        Verdict,
        Version,
    )
    from fewbits.async_client import AsyncClient
    from fewbits.client import Client
    from fewbits.errors import (
        FewbitsError,
        InvalidInput,
        JobFailed,
        Refused,
        ServiceError,
        TimedOut,
        Unauthenticated,
    )
    from fewbits.progress import Progress

__version__ = "0.1.0"
__all__ = [
    "AsyncClient",
    "Candidate",
    "Client",
    "Comparison",
    "Dataset",
    "Event",
    "FewbitsError",
    "Fit",
    "InvalidInput",
    "Job",
    "JobFailed",
    "Me",
    "Model",
    "Progress",
    "Refused",
    "Result",
    "ServiceError",
    "Step",
    "TimedOut",
    "Unauthenticated",
    "Verdict",
    "Version",
]
_ERRORS = (
    *("FewbitsError", "InvalidInput", "JobFailed", "Refused"),
    *("ServiceError", "TimedOut", "Unauthenticated"),
)
_HOMES = dict.fromkeys(__all__, "answers") | dict.fromkeys(_ERRORS, "errors")
_HOMES |= {"Client": "client", "AsyncClient": "async_client", "Progress": "progress"}


def __getattr__(name: str) -> object:
    """Import what is asked for, when it is asked for: the command line starts without an HTTP library."""
    if name not in __all__:
        raise AttributeError(f"module 'fewbits' has no attribute {name!r}")
    return getattr(import_module(f"fewbits.{_HOMES[name]}"), name)
